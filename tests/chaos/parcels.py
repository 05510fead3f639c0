"""What carriers do in a run: parcels leave, two sources scan them; they arrive, fall silent or go back.

All of a parcel's scans happened before its journey began; what differs is when, how often, in which order
and on which way they are told: single, in arrays, as webhooks of an aggregator, through the shop platform;
before the order, beside the statement of the parcel, after it.
"""

import hmac
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.chaos.posts import Journey, Post, Shop

LATELY = timedelta(seconds=90)  # an order with parcels was placed so long ago
STEP = timedelta(seconds=10)
OTHER_CLOCK = (2.0, 4.0)  # seconds by which the second source is late
LINES = (("1", "2"), ("2", "1"))  # of an order told by API: line and quantity

_WAY = ("label_created", "in_transit", "in_transit", "out_for_delivery")
_STORIES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.62, (*_WAY, "delivered")),
    (0.08, (*_WAY, "delivery_attempted", "out_for_delivery", "delivered")),
    (0.06, (*_WAY, "delivered", "exception", "delivered")),
    (0.06, (*_WAY, "delivery_attempted", "returning", "returned")),
    (0.18, ("label_created", "in_transit")),
)
_EASYPOST = {
    "label_created": ("pre_transit", "label_created"),
    "in_transit": ("in_transit", "arrived_at_facility"),
    "out_for_delivery": ("out_for_delivery", "out_for_delivery"),
    "delivered": ("delivered", "arrived_at_destination"),
}
_SHOPIFY = {
    "label_created": "label_printed", "in_transit": "in_transit", "delivered": "delivered",
    "out_for_delivery": "out_for_delivery",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of the source that tells all of a parcel's story."""

    number: str
    shipment_id: str
    state: str
    at: datetime
    last: bool

    @property
    def noted(self) -> tuple[str, str, bool]:
        return (self.number, self.state, self.last)


class Carriers:
    """Lets parcels leave and be scanned; all dice are the journey's own."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def by_api(
        self, journey: Journey, order_id: str, at: datetime, dice: random.Random, *, lines: bool
    ) -> Journey:
        """Add one or two parcels that the shop states by API; `lines`: it knows what is in them."""
        count = 2 if dice.random() < 0.25 else 1
        sure = lines or dice.random() < 0.7
        stated: list[Post] = []
        scans: list[Post] = []
        for n in range(1, count + 1):
            number = f"CH{order_id}P{n}".upper()
            shipment_id = f"{order_id}-s{n}"
            items = None
            if lines:
                own = LINES if count == 1 else (LINES[n - 1],)
                items = [{"line_id": line, "quantity": quantity} for line, quantity in own]
            data = {
                "order_id": order_id, "shipment_id": shipment_id, "carrier": "hermes",
                "tracking_number": number, "number_of_order": f"{n} of {count}", "items": items,
                "final": "yes" if sure and n == count else "unknown",
                "shipped_at": (at + STEP / 2).isoformat(),
            }  # fmt: skip
            event = self.shop.event("order.shipped.v1", order_id, at + STEP / 2, data, f"s{n}")
            parcel = (self.shop.key(order_id), shipment_id, number, count, sure)
            stated.append(self.shop.post("shipped", event, owed=False, shipped=(parcel,)))
            scans += self._scanned(order_id, shipment_id, number, at, dice)
        return self._mixed(journey, stated, scans, dice)

    def by_shopify(
        self, journey: Journey, order_id: str, at: datetime, dice: random.Random, order: Any
    ) -> Journey:
        """Add a parcel that Shopify states; Shopify tells its scans too, or the carrier does.

        What is in it need not be what the order's last snapshot says, so it may not be known to be all.
        """
        fulfilment, number = f"9{order_id}", f"CH{order_id}F"
        left = (at + STEP / 2).isoformat(timespec="seconds")
        body = {
            "id": int(fulfilment), "order_id": int(order_id), "status": "success",
            "created_at": left, "updated_at": left, "tracking_company": "Hermes",
            "tracking_number": number, "line_items": order["line_items"],
        }  # fmt: skip
        parcel = (self.shop.key(order_id), f"{fulfilment}/1", number, 1, False)
        stated = self._hook("fulfillments/create", order_id, body, "1", shipped=(parcel,))
        if dice.random() < 0.5:
            scans = self._scanned(order_id, f"{fulfilment}/1", number, at, dice)
            return self._mixed(journey, [stated], scans, dice)
        told = [s for s in self._story(number, "", at, dice) if s.state in _SHOPIFY]
        posts = []
        for n, scan in enumerate(told):
            said = {
                "id": int(fulfilment) + n, "fulfillment_id": int(fulfilment),
                "order_id": int(order_id), "status": _SHOPIFY[scan.state],
                "happened_at": scan.at.isoformat(timespec="seconds"),
            }  # fmt: skip
            topic = "fulfillment_events/create"
            posts.append(self._hook(topic, order_id, said, str(n), scanned=(scan.noted,)))
        return self._mixed(journey, [stated], posts, dice)

    def _hook(self, topic: str, order_id: str, body: Any, tag: str, **noted: Any) -> Post:
        headers = {"X-Shopify-Topic": topic, "X-Shopify-Event-Id": f"{order_id}-{topic}-{tag}"}
        told = self.shop.signed("shopify", json.dumps(body).encode(), headers)
        return Post(f"shopify {topic}", *told, (self.shop.key(order_id),), **noted)

    # ------------------------------------------------------------ scans

    def _story(
        self, number: str, shipment_id: str, at: datetime, dice: random.Random
    ) -> list[Scan]:
        shares, ways = zip(*_STORIES, strict=True)
        way = dice.choices(ways, shares)[0]
        return [
            Scan(number, shipment_id, state, at + STEP * (n + 1), last=n == len(way) - 1)
            for n, state in enumerate(way)
        ]

    def _scanned(
        self, order_id: str, shipment_id: str, number: str, at: datetime, dice: random.Random
    ) -> list[Post]:
        """Return the posts that tell one parcel's story, in order of happening."""
        story = self._story(number, shipment_id, at, dice)
        if dice.random() < 0.3 and all(scan.state in _EASYPOST for scan in story):
            posts = [self._easypost(order_id, story[: n + 1]) for n in range(len(story))]
        elif dice.random() < 0.4:  # several at once
            cut = dice.randint(1, len(story))
            parts = [part for part in (story[:cut], story[cut:]) if part]
            posts = [self._told(order_id, part, shuffled=dice) for part in parts]
        else:
            posts = [self._told(order_id, [scan]) for scan in story]
        if dice.random() < 0.4:
            late = timedelta(seconds=dice.uniform(*OTHER_CLOCK))
            copies = [scan for scan in story if dice.random() < 0.5]
            posts += [self._other_source(order_id, copies, late)] if copies else []
        return posts

    def _told(
        self, order_id: str, scans: Sequence[Scan], shuffled: random.Random | None = None
    ) -> Post:
        bodies = [
            {
                "tracking_number": scan.number, "carrier": "hermes", "state": scan.state,
                "occurred_at": scan.at.isoformat(), "source": "hermes", "place": "Maribor",
                "reason": "hand" if scan.state == "delivered" else None,
                "raw_status": f"H-{scan.state}",
            }
            for scan in scans
        ]  # fmt: skip
        if shuffled is not None:
            bodies += bodies[:1]  # the same one twice in one request
            shuffled.shuffle(bodies)
        body = bodies if shuffled is not None else bodies[0]
        return self._scans("scans" if shuffled else "scan", order_id, body, scans)

    def _other_source(self, order_id: str, scans: Sequence[Scan], late: timedelta) -> Post:
        """Tell scans once more, as another source saw and spells them."""
        bodies = [
            {
                "tracking_number": " ".join((scan.number[:2], scan.number[2:])).lower(),
                "state": scan.state, "occurred_at": (scan.at + late).isoformat(),
                "source": "parcelwatch", "raw_status": scan.state[:5],
            }
            for scan in scans
        ]  # fmt: skip
        return self._scans("scans of another source", order_id, bodies, ())

    def _scans(self, way: str, order_id: str, body: Any, scans: Sequence[Scan]) -> Post:
        headers = {"Content-Type": "application/json"} | self.shop.bearer()
        said = json.dumps(body).encode()
        noted = tuple(scan.noted for scan in scans)
        key = (self.shop.key(order_id),)
        return Post(way, "/v1/scans", headers, said, key, to="tracking", scanned=noted)

    def _easypost(self, order_id: str, story: Sequence[Scan]) -> Post:
        """Tell a parcel's story so far as EasyPost does: each event repeats all that came before."""
        details = [
            {
                "object": "TrackingDetail", "status": _EASYPOST[scan.state][0],
                "status_detail": _EASYPOST[scan.state][1], "message": scan.state,
                "datetime": scan.at.isoformat(), "source": "Hermes",
                "tracking_location": {"city": "Graz", "country": "AT"},
            }
            for scan in story
        ]  # fmt: skip
        tracker = {
            "object": "Tracker", "id": f"trk_{story[0].number}", "carrier": "Hermes",
            "tracking_code": story[0].number, "status": details[-1]["status"],
            "status_detail": details[-1]["status_detail"], "tracking_details": details,
            "updated_at": story[-1].at.isoformat(),
        }  # fmt: skip
        event = {
            "object": "Event", "id": f"evt_{story[0].number}_{len(story)}", "result": tracker,
            "description": "tracker.updated",
        }  # fmt: skip
        body = json.dumps(event).encode()
        digest = hmac.digest(self.shop.easypost_secret.encode(), body, "sha256").hex()
        headers = {
            "Content-Type": "application/json",
            "X-Hmac-Signature": f"hmac-sha256-hex={digest}",
        }
        return Post(
            "easypost", f"/webhooks/{self.shop.id}/easypost", headers, body,
            (self.shop.key(order_id),), to="tracking", scanned=(story[-1].noted,),
        )  # fmt: skip

    # ------------------------------------------------------------ how it is told

    def _mixed(
        self, journey: Journey, stated: list[Post], scans: list[Post], dice: random.Random
    ) -> Journey:
        """Put the parcels and their scans into the journey's rounds: early, at once, or one by one."""
        scans = scans + [post for post in scans if dice.random() < 0.2]
        if dice.random() < 0.2:
            stated = stated * 2
        roll = dice.random()
        if roll < 0.15:  # before anybody knows the order
            journey.rounds.insert(0, stated)
            journey.pauses.insert(0, 0.0)
        elif roll < 0.45:  # the parcel and all its scans at the same moment
            dice.shuffle(scans)
            journey.rounds.append([*stated, *scans])
            journey.pauses.append(dice.random())
            return journey
        elif roll < 0.6:  # scans of a number that nobody knows yet
            journey.rounds.insert(0, scans[:2])
            journey.pauses.insert(0, 0.0)
            journey.rounds.append(stated)
            journey.pauses.append(dice.random())
            scans = scans[2:]
        else:
            journey.rounds.append(stated)
            journey.pauses.append(dice.random())
        if dice.random() < 0.5:
            dice.shuffle(scans)
        size = max(1, len(scans) // 3)
        for start in range(0, len(scans), size):
            journey.rounds.append(scans[start : start + size])
            journey.pauses.append(dice.random() * 1.5)
        return journey
