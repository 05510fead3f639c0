"""What may be true of an order when its customer opens the page: one function for each situation."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from shared.events import OrderShipped, ScanReported, number_ref
from shared.facts import add, fact
from shared.shops import Shop, parse
from shared.testing import placed
from tracking.adapters.story import Subject
from tracking.domain.advance import look
from tracking.domain.episodes import open_
from tracking.domain.model import Order, Parcel, Track, about, scan_fact, shipment_ref
from tracking.domain.pace import Pace

NOW = datetime(2026, 11, 24, 13, 30, tzinfo=UTC)  # a Tuesday, half past two in Ljubljana
SHOPS = parse("""
[shops.tea]
name = "Leaf & Kettle"
sender = { name = "Leaf & Kettle", address = "tea@leafandkettle.example" }
reply_to = "help@leafandkettle.example"
mode = "live"
live_from = 2026-01-01T00:00:00Z
time_zone = "Europe/Ljubljana"
[shops.tea.support]
phone = "+386 1 555 01 23"
mail = "help@leafandkettle.example"
hours = { en = "Mon–Fri 9:00–17:00", ru = "пн–пт 9:00–17:00", pl = "pn.–pt. 9:00–17:00", sl = "pon–pet 9:00–17:00" }
reply_time = { en = "one working day", ru = "один рабочий день", pl = "jeden dzień roboczy", sl = "en delovni dan" }
faq = "https://leafandkettle.example/questions"
chat = "https://leafandkettle.example/chat"
returns = { url = "https://leafandkettle.example/returns", days = 30 }
[shops.tea.brand]
color = "#1f5f4a"
site = "https://leafandkettle.example"
imprint = "Leaf & Kettle d.o.o., Slovenska cesta 1, 1000 Ljubljana"
[shops.bare]
name = "Corner"
sender = { name = "Corner", address = "orders@corner.example" }
reply_to = "hello@corner.example"
[shops.bare.brand]
color = "#ffe14d"
""")
TEA, BARE = SHOPS.get("tea"), SHOPS.get("bare")
TEAS = {
    "en": ("Sencha, first harvest, 100 g", "Cast-iron kettle", "Two cups"),
    "ru": ("Сенча, первый сбор, 100 г", "Чугунный чайник", "Две чашки"),
    "pl": ("Sencha, pierwszy zbiór, 100 g", "Żeliwny czajnik", "Dwie filiżanki"),
    "sl": ("Senča, prva žetev, 100 g", "Čajnik iz litega železa", "Dve skodelici"),
}


def ago(**how_long: float) -> datetime:
    return NOW - timedelta(**how_long)


def order(language: str = "en", **changes: Any) -> Order:
    names = TEAS[language]
    body = {
        "number": "LK-10452",
        "placed_at": "2026-11-20T09:12:00Z",
        "customer": {"name": "Ana Novak", "email": "ana@example.com", "locale": language},
        "ship_to": {
            "name": "Ana Novak",
            "lines": ["Tavčarjeva ulica 7"],
            "city": "Kranj",
            "country": "SI",
        },
        "items": [
            {"line_id": str(n), "name": name, "quantity": q, "unit_price": 1250}
            for n, (name, q) in enumerate(zip(names, ("2", "1", "1"), strict=True), 1)
        ],
        "promise": {"from": "2026-11-25", "to": "2026-11-27", "source": "shop"},
    } | changes
    made = Order("tea", "1001", ago(days=5), about=about(placed("1001", **body)))
    return told(made, "order.placed.v1", datetime(2026, 11, 20, 9, 12, tzinfo=UTC))


def told(one: Order, type_: str, at: datetime, **extra: Any) -> Order:
    said = uuid5(NAMESPACE_OID, f"{type_}{at}{extra}")
    one.facts = add(one.facts, [fact(type_, at, said, **extra)])
    return one


def ship(
    one: Order, shipment_id: str = "1", *, at: datetime | None = None, **changes: Any
) -> Order:
    at = at or ago(days=1, hours=5)
    body = {
        "order_id": "1001",
        "shipment_id": shipment_id,
        "carrier": "posta-slovenije",
        "tracking_number": f"LJ12345678{shipment_id}SI",
        "tracking_url": f"https://carrier.example/{shipment_id}",
        "items": [{"line_id": str(n), "quantity": q} for n, q in enumerate(("2", "1", "1"), 1)],
        "final": "yes",
        "shipped_at": at,
    } | changes
    data = OrderShipped.model_validate(body)
    one.parcels[shipment_id] = Parcel(shipment_id, data, (at, 40, shipment_id), shipped_at=at)
    return one


def scan(one: Order, state: str, at: datetime, shipment_id: str = "1", **changes: Any) -> Order:
    number = one.parcels[shipment_id].body.tracking_number
    ref = number_ref(number) or shipment_ref(shipment_id)
    body = {"state": state, "occurred_at": at, "tracking_number": number or "x", "source": "demo"}
    body["raw_status"] = "RAW WORDS OF A CARRIER"
    data = ScanReported.model_validate(body | changes)
    track = one.tracks.setdefault(ref, Track(one.shop, ref))
    said = uuid5(NAMESPACE_OID, f"{shipment_id}{state}{at}{changes}")
    track.scans = add(track.scans, [scan_fact(data, said, at)])
    return one


def late(
    one: Order,
    cause: str,
    shipment_id: str = "1",
    *,
    new: tuple[str, str] | None = ("2026-11-28", "2026-12-01"),
    contact: datetime | None = NOW + timedelta(days=2),
    number: int = 1,
) -> Order:
    one.told.setdefault("episodes", {})[shipment_id] = {
        "open": True,
        "n": number,
        "cause": cause,
        "old": ["2026-11-25", "2026-11-27"],
        "new": list(new) if new else None,
        "at": ago(hours=3).isoformat(),
        "contact": contact.isoformat() if contact else None,
    }
    return one


def subject(one: Order, shop: Shop = TEA, now: datetime = NOW) -> Subject:
    state, shipments = look(one)
    return Subject(one, state, shipments, open_(one), shop, now, Pace(one.known_since))


Situation = Callable[[str], Order]


def _on_the_way(language: str) -> Order:
    one = ship(order(language))
    scan(one, "label_created", ago(days=1, hours=6))
    scan(one, "in_transit", ago(days=1, hours=1), place="Ljubljana")
    return scan(one, "in_transit", ago(hours=7), place="Kranj")


def _out(language: str) -> Order:
    eta = {"from": "2026-11-24T13:00:00Z", "to": "2026-11-24T16:00:00Z"}
    return scan(_on_the_way(language), "out_for_delivery", ago(hours=6), eta=eta, place="Kranj")


def _several(language: str) -> Order:
    one = ship(order(language), "1", items=[{"line_id": "1", "quantity": "2"}], final="no")
    ship(
        one,
        "2",
        items=[{"line_id": "2", "quantity": "1"}],
        final="no",
        carrier="dpd",
        at=ago(hours=20),
    )
    scan(one, "in_transit", ago(days=1), place="Ljubljana")
    scan(one, "delivered", ago(hours=3), reason="neighbour", place="Kranj")
    scan(one, "in_transit", ago(hours=9), "2", place="Graz")
    return one


def _delivered(how: str | None) -> Situation:
    return lambda language: scan(_out(language), "delivered", ago(hours=1, minutes=25), reason=how)


def _state(state: str, **changes: Any) -> Situation:
    return lambda language: scan(_on_the_way(language), state, ago(hours=2), **changes)


def _late(cause: str, **changes: Any) -> Situation:
    return lambda language: late(_on_the_way(language), cause, **changes)


def _asked(wish: str, answer: str | None = None, **changes: Any) -> Situation:
    def situation(language: str) -> Order:
        one = late(_on_the_way(language), "silence", **changes)
        asked = {
            "wish": wish,
            "shipment": "1",
            "episode": 1,
            "at": ago(hours=1).isoformat(),
            "words": None,
        }
        one.told["choices"] = [asked]
        return told(one, answer, ago(minutes=20), partial=True) if answer else one

    return situation


def _assumed(language: str) -> Order:
    one = ship(order(language), at=ago(days=4))
    given = {"state": "unknown", "delivered": ago(hours=4).isoformat(), "how": "assumed"}
    one.told["parcels"] = {"1": given}
    return one


def _all_different(language: str) -> Order:
    one = order(language)
    for n in ("1", "2", "3"):
        ship(one, n, items=[{"line_id": n, "quantity": "1"}])
    scan(one, "in_transit", ago(hours=5))
    scan(one, "ready_for_pickup", ago(hours=2), "2", place="Paketomat DPD, Koroška 5")
    return scan(one, "exception", ago(hours=4), "3", reason="carrier_parcel_lost")


SITUATIONS: dict[str, Situation] = {
    "received": order,
    "packing": lambda lg: told(order(lg), "order.preparing.v1", ago(hours=4)),
    "no_promise": lambda lg: order(lg, promise=None),
    "not_shipped": lambda lg: late(order(lg), "not_shipped", ""),
    "backorder": lambda lg: told(
        order(lg), "order.delayed.v1", ago(hours=4), promise="2026-12-02/2026-12-04"
    ),
    "no_data": lambda lg: ship(order(lg)),
    "no_number": lambda lg: ship(
        order(lg), tracking_number=None, carrier=None, tracking_url=None, items=None
    ),
    "label": lambda lg: scan(ship(order(lg)), "label_created", ago(hours=5)),
    "on_the_way": _on_the_way,
    "out": _out,
    "pickup": _state("ready_for_pickup", place="Paketomat Mercator, Gosposvetska 12"),
    "pickup_nowhere": _state("ready_for_pickup"),
    "attempted": _state("delivery_attempted", reason="consignee_not_home", place="Kranj"),
    "delayed": _state("delayed", reason="weather_delay", place="Graz"),
    "damaged": _state("exception", reason="carrier_damaged_parcel"),
    "lost": _state("exception", reason="carrier_parcel_lost"),
    "customs": _state("exception", reason="customs_documentation", action_required=True),
    "problem": _state("exception"),
    "returning": _state("returning", reason="consignee_refused"),
    "returned": _state("returned"),
    "parcel_cancelled": _state("cancelled"),
    "expired": _state("expired"),
    "delivered": _delivered("neighbour"),
    "delivered_locker": _delivered("locker"),
    "delivered_plain": _delivered(None),
    "assumed": _assumed,
    "taken_back": lambda lg: scan(
        _delivered("hand")(lg), "delivery_attempted", ago(minutes=30), reason="consignee_not_home"
    ),
    "late": _late("silence"),
    "late_no_date": _late("exception", new=None, contact=None),
    "late_eta": _late("eta_changed", new=("2026-11-30", "2026-11-30")),
    "late_lost": lambda lg: late(
        _state("exception", reason="carrier_parcel_lost")(lg), "exception", new=None
    ),
    "late_returning": lambda lg: late(
        _state("returning", reason="consignee_refused")(lg), "returning", new=None
    ),
    "asked_wait": _asked("wait"),
    "asked_cancel": _asked("cancel"),
    "asked_change": _asked("change"),
    "asked_call": _asked("call_me"),
    "answered_cancel": _asked("cancel", "order.cancelled.v1"),
    "answered_change": _asked("change", "order.updated.v1"),
    "answered_call": _asked("call_me", "contact.logged.v1"),
    "several": _several,
    "several_late": lambda lg: late(_several(lg), "promise_date", "2"),
    "all_different": _all_different,
    "both_late": lambda lg: late(
        late(ship(ship(order(lg)), "2"), "silence"),
        "silence",
        "2",
        new=("2026-11-30", "2026-11-30"),
    ),
    "cancelled_on_its_way": lambda lg: told(_on_the_way(lg), "order.cancelled.v1", ago(hours=5)),
    "cancelled": lambda lg: told(
        told(order(lg), "order.cancelled.v1", ago(hours=5)), "order.refunded.v1", ago(hours=4)
    ),
    "return": lambda lg: told(
        _delivered("hand")(lg), "order.return_requested.v1", ago(minutes=30), subject="r1"
    ),
}
