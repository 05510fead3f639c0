import json
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.tracking.deliveries import at, only, read, said

from shared.calendars import day_expected
from shared.errors import Unusable
from tracking.adapters import aftership
from tracking.adapters.reading import Call, Outcome

POINT = {
    "slug": "dhl",
    "city": "Leipzig",
    "state": None,
    "country_region_name": "Germany",
    "message": "Ana Novak, Slovenska cesta 1",
    "tag": "InTransit",
    "subtag": "InTransit_003",
    "checkpoint_time": "2026-11-23T08:00:00+01:00",
}
TRACKING: dict[str, Any] = {
    "tracking_number": "AB123456789SI",
    "slug": "dhl",
    "tag": "InTransit",
    "subtag": "InTransit_003",
    "order_id": "1042",
    "order_number": "#7",
    "updated_at": "2026-11-23T08:30:00+00:00",
    "created_at": "2026-11-20T08:30:00+00:00",
    "checkpoints": [POINT],
}
TS = int(at("2026-11-23T09:00").timestamp())

# The table of states, whole: every tag, and every subtag by its number.
STATES = {
    "unknown": {"Pending": [0, 1, 6]},
    "label_created": {"InfoReceived": [0, 1]},
    "in_transit": {"InTransit": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
    "out_for_delivery": {"OutForDelivery": [0, 1, 3, 4]},
    "ready_for_pickup": {"AvailableForPickup": [0, 1]},
    "delivery_attempted": {"AttemptFail": [0, 1, 2, 3]},
    "delayed": {"Exception": [4, 5, 16, 17]},
    "exception": {"Exception": [0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 18]},
    "delivered": {"Delivered": [0, 1, 2, 3, 4, 5]},
    "returning": {"Exception": [10]},
    "returned": {"Exception": [11]},
    "expired": {"Expired": [0, 1]},
}
WORDS = [
    (state, tag, f"{tag}_{number:03}" if number else None)
    for state, tags in STATES.items()
    for tag, numbers in tags.items()
    for number in numbers
]


def update(event: str = "tracking_update", ts: int = TS, **changes: Any) -> dict[str, Any]:
    return {"event": event, "event_id": "e-1", "msg": TRACKING | changes, "ts": ts}


@pytest.mark.parametrize(("state", "tag", "subtag"), WORDS)
def test_every_tag_and_subtag_has_its_state(state: str, tag: str, subtag: str | None) -> None:
    scan = only(read(aftership, update(tag=tag, subtag=subtag, checkpoints=[])))
    assert scan.state == state
    assert scan.reason != "unmapped"
    assert scan.raw_status == (f"{tag}/{subtag}" if subtag else tag)


@pytest.mark.parametrize(
    ("subtag", "reason", "action"),
    [
        ("AttemptFail_002", "consignee_not_available", False),
        ("AttemptFail_003", "consignee_business_closed", False),
        ("Delivered_003", "signed", False),
        ("Delivered_005", "neighbour", False),
        ("Exception_003", "consignee_refused", False),
        ("Exception_004", "customs_delay", False),
        ("Exception_006", None, True),
        ("Exception_007", "consignee_incorrect_address", True),
        ("Exception_012", "carrier_damaged_parcel", False),
        ("Exception_013", "carrier_parcel_lost", False),
        ("Exception_017", "weather_delay", False),
        ("Exception_018", "customs_documentation", True),
    ],
)
def test_a_subtag_tells_the_reason(subtag: str, reason: str | None, *, action: bool) -> None:
    tag = subtag.partition("_")[0]
    scan = only(read(aftership, update(tag=tag, subtag=subtag, checkpoints=[])))
    assert said(scan)[1:] == (reason, action)


def test_an_unheard_of_word_is_unknown_and_says_so_its_subtag_falls_back_to_the_tag() -> None:
    scan = only(read(aftership, update(tag="Teleported", subtag=None, checkpoints=[])))
    assert said(scan) == ("unknown", "unmapped", False)
    scan = only(read(aftership, update(tag="Exception", subtag="Exception_099", checkpoints=[])))
    assert said(scan) == ("exception", None, False)


@pytest.mark.parametrize(("state", "tag", "subtag"), [w for w in WORDS if w[2]])
def test_a_subtag_says_its_tag_where_that_is_missing(state: str, tag: str, subtag: str) -> None:
    scan = only(read(aftership, update(tag=None, subtag=subtag, checkpoints=[])))
    assert scan.state == state
    assert scan.raw_status == subtag


def test_what_was_delivered_to_the_sender_is_returned() -> None:
    stated = update(tag="Delivered", subtag="Delivered_001", return_to_sender=True, checkpoints=[])
    assert only(read(aftership, stated)).state == "returned"


@pytest.mark.parametrize(
    "ts", [TS, f" {TS} ", TS * 1000, "2026-11-23T09:00:00Z", "2026-11-23T10:00+01:00"]
)
def test_the_time_of_a_delivery_is_read_however_it_is_written(ts: Any) -> None:
    bare = update(ts=ts, checkpoints=[], updated_at=None, created_at=None)
    assert only(read(aftership, bare)).occurred_at == at("2026-11-23T09:00")


@pytest.mark.parametrize("written", ["2026-11-23T08:00+01:00", "1795417200", 1_795_417_200_000])
def test_the_time_of_a_checkpoint_is_exact_where_it_names_its_zone(written: Any) -> None:
    scan = only(read(aftership, update(checkpoints=[POINT | {"checkpoint_time": written}])))
    assert (scan.occurred_at, scan.precision) == (at("2026-11-23T07:00"), "second")


def test_a_pending_parcel_without_any_time_tells_nothing() -> None:
    tracking = {"tracking_number": "1", "tag": "Pending", "checkpoints": []}
    assert read(aftership, {"event": "tracking_update", "msg": tracking}).ignored


def test_a_checkpoint_becomes_a_scan_with_its_own_time_and_town() -> None:
    report = read(aftership, update())
    scan = only(report)
    assert (report.topic, report.delivery_id) == ("tracking_update", "e-1")
    assert scan.occurred_at == at("2026-11-23T07:00")
    assert scan.precision == "second"
    assert scan.place == "Leipzig, Germany"
    assert (scan.carrier, scan.order_id, scan.source) == ("dhl", "1042", "aftership")
    assert scan.tracking_number == "AB123456789SI"


def test_no_name_and_no_street_leaves_a_checkpoint() -> None:
    inside = [POINT | {"city": None, "country_region_name": None, "location": "Main Street 5"}]
    report = read(aftership, update(checkpoints=inside, signed_by="Ana Novak"))
    written = "".join(scan.model_dump_json() for scan in report.scans)
    assert "Novak" not in written
    assert "Street" not in written


def test_a_time_without_an_offset_is_a_date_in_the_shops_zone() -> None:
    points = [POINT | {"checkpoint_time": "2026-11-22T23:30:00"}]
    day, exact = read(aftership, update(checkpoints=points), "Europe/Ljubljana").scans
    assert day.precision == "day"
    assert day.occurred_at == at("2026-11-21T23:00")
    assert exact.precision == "second"
    assert exact.occurred_at == at("2026-11-23T09:00")


def test_a_tag_that_the_checkpoints_do_not_show_is_told_behind_them() -> None:
    first, last = read(aftership, update(tag="Delivered", subtag="Delivered_003")).scans
    assert first.state == "in_transit"
    assert said(last) == ("delivered", "signed", False)
    assert last.occurred_at == at("2026-11-23T09:00")
    wrong_clock = update(tag="Delivered", ts=TS - 86_400)
    assert read(aftership, wrong_clock).scans[-1].occurred_at > first.occurred_at


@pytest.mark.parametrize(
    ("tag", "state"),
    [("Delivered", "delivered"), ("Expired", "expired"), ("Exception", "exception")],
)
def test_a_tag_long_after_the_checkpoints_counts_whatever_was_expected(
    tag: str, state: str
) -> None:
    late = update(tag=tag, subtag=None, ts=TS + 86_400, expected_delivery="2026-11-24")
    first, last = read(aftership, late).scans
    assert (first.state, last.state) == ("in_transit", state)
    assert last.eta is not None


def test_the_same_checkpoint_is_the_same_scan_in_every_delivery() -> None:
    later = POINT | {"checkpoint_time": "2026-11-24T08:00:00+01:00", "tag": "OutForDelivery"}
    [first] = read(aftership, update()).scans
    both = read(aftership, update(tag="OutForDelivery", checkpoints=[later, POINT], ts=TS + 90_000))
    assert both.scans[0] == first
    assert [s.state for s in both.scans] == ["in_transit", "out_for_delivery"]


def test_scans_come_out_in_order_of_time_however_they_are_listed() -> None:
    points = [POINT | {"checkpoint_time": f"2026-11-{day}T08:00:00Z"} for day in (21, 23, 20, 22)]
    days = [scan.occurred_at.day for scan in read(aftership, update(checkpoints=points)).scans]
    assert days == [20, 21, 22, 23]


def test_a_pending_tag_adds_nothing_to_what_was_seen() -> None:
    assert only(read(aftership, update(tag="Pending", subtag=None))).state == "in_transit"


def test_a_moved_date_is_news_of_its_own_time() -> None:
    eta = {"type": "specific", "datetime": "2026-11-27", "datetime_min": None}
    report = read(aftership, update("edd_revise", latest_estimated_delivery=eta))
    point, news = report.scans
    assert point.eta is None
    assert news.eta is not None
    assert (news.eta.from_, news.eta.to) == (at("2026-11-27"), at("2026-11-27T23:59:59"))
    assert news.occurred_at == at("2026-11-23T09:00")
    assert news.state == "in_transit"


@pytest.mark.parametrize(
    ("fields", "first", "last"),
    [
        ({"expected_delivery": "2026-11-27"}, "2026-11-27", "2026-11-27T23:59:59"),
        (
            {"courier_estimated_delivery_date": {"estimated_delivery_date": "2026-11-27"}},
            "2026-11-27",
            "2026-11-27T23:59:59",
        ),
        (
            {
                "latest_estimated_delivery": {
                    "datetime": None,
                    "datetime_min": "2026-11-27T09:00:00+01:00",
                    "datetime_max": "2026-11-27T13:00:00+01:00",
                }
            },
            "2026-11-27T08:00",
            "2026-11-27T12:00",
        ),
        ({"expected_delivery": "2026-11-27T09:00+01:00"}, "2026-11-27T08:00", "2026-11-27T08:00"),
        ({"expected_delivery": 1_795_766_400}, "2026-11-27T08:00", "2026-11-27T08:00"),
        (
            {
                "aftership_estimated_delivery_date": {
                    "estimated_delivery_date": "2026-11-27",
                    "estimated_delivery_date_min": "2026-11-26",
                    "estimated_delivery_date_max": "2026-11-28",
                }
            },
            "2026-11-26",
            "2026-11-28T23:59:59",
        ),
    ],
)
def test_the_expected_delivery_is_read_however_it_is_written(
    fields: dict[str, Any], first: str, last: str
) -> None:
    eta = only(read(aftership, update(**fields))).eta
    assert eta is not None
    assert (eta.from_, eta.to) == (at(first), at(last))


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("written", ["2026-11-27", "2026-11-27T00:00:00", "2026-11-27T00:00:00Z"])
def test_an_expected_day_is_the_same_day_wherever_the_shop_is(zone: str, written: str) -> None:
    eta = only(read(aftership, update(expected_delivery=written), zone)).eta
    assert eta is not None
    customers = [ZoneInfo(name) for name in ("Asia/Tokyo", "Europe/Ljubljana", zone)]
    days = {day_expected(one, there) for one in (eta.from_, eta.to) if one for there in customers}
    assert days == {date(2026, 11, 27)}


def test_the_shops_own_date_is_no_news_to_the_shop() -> None:
    own = {"source": "Custom EDD", "datetime": "2026-11-27"}
    assert only(read(aftership, update(latest_estimated_delivery=own))).eta is None


def test_what_is_not_about_a_parcel_is_ignored() -> None:
    assert read(aftership, {"event": "return.created", "id": "1"}).ignored
    assert read(aftership, update("tracking_pending_time")).ignored


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "tracking_number"),
        ({"event": "tracking_update"}, "tracking_number"),
        (update(tag=None, subtag=None), "tag"),
        (update(tracking_number="---"), "tracking_number"),
        ({"data": {"tracking": {"tracking_number": "1", "tag": "InTransit"}}}, "time"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(aftership, value)


# -- calls ---------------------------------------------------------------------------------------


def answer(code: int, data: object, status: int | None = None) -> Outcome:
    body = json.dumps({"meta": {"code": code}, "data": data}).encode()
    return aftership.read_answer(status or code, body)


def test_the_calls_name_number_carrier_and_order() -> None:
    body = {"tracking_number": "AB1", "slug": "gls", "order_id": "1042"}
    assert aftership.registration("AB1", "gls", "1042") == Call("POST", "/trackings", json=body)
    assert aftership.registration("AB1", None, "1042").json == {
        "tracking_number": "AB1",
        "order_id": "1042",
    }
    params = {"tracking_numbers": "AB1"}
    assert aftership.question("AB1", "gls") == Call("GET", "/trackings", params=params)
    assert aftership.headers("k")["as-api-key"] == "k"


@pytest.mark.parametrize(
    ("carrier", "slug"),
    [
        ("gls", "gls"),
        ("GLS", "gls"),
        ("gls-slovenia", "gls-slovenia"),
        ("Pošta Slovenije", "post-slovenia"),
        ("posta-slovenije", "post-slovenia"),
        ("DHL Express", "dhl"),
        ("dhl-express", "dhl"),
        ("DHL", None),
        ("dhl", None),
        ("Česká pošta", "ceska-posta"),
        ("Cousin Jure", None),
        ("Почта", None),
        ("", None),
        (None, None),
    ],
)
def test_a_carrier_is_named_only_when_its_name_there_is_sure(
    carrier: str | None, slug: str | None
) -> None:
    call = aftership.registration("AB1", carrier, "1042")
    assert call.json is not None
    assert call.json.get("slug") == slug


def test_of_a_number_registered_under_two_carriers_the_one_that_is_seen_counts() -> None:
    wrong = TRACKING | {"slug": "gls", "tag": "Pending", "subtag": None, "checkpoints": []}
    both = answer(200, {"trackings": [wrong, TRACKING]}), answer(200, {"trackings": [TRACKING]})
    assert both[0] == both[1]
    assert both[0].scans


def test_registering_twice_is_done_already() -> None:
    assert answer(4003, {}, 400).verdict == "already"
    assert answer(201, TRACKING | {"tag": "Pending", "subtag": None, "checkpoints": []}) == Outcome(
        "ok"
    )


@pytest.mark.parametrize(
    ("code", "status", "verdict", "reason"),
    [
        (401, 401, "retry", "key_refused"),
        (429, 429, "retry", "rate_limited"),
        (503, 503, "retry", "http_503"),
        (4005, 400, "give_up", "4005"),
        (4012, 400, "give_up", "carrier_unknown"),
        (4004, 404, "give_up", "4004"),
    ],
)
def test_a_refusal_is_for_later_or_for_good(
    code: int, status: int, verdict: str, reason: str
) -> None:
    assert answer(code, {}, status) == Outcome(verdict, reason)


@pytest.mark.parametrize("data", [TRACKING, {"tracking": TRACKING}, {"trackings": [TRACKING]}])
def test_an_answer_brings_the_same_scans_as_the_webhook(data: object) -> None:
    assert answer(200, data).scans == read(aftership, update()).scans


def test_asking_twice_without_news_brings_the_same_scans() -> None:
    again = TRACKING | {"updated_at": "2026-11-29T08:30:00+00:00"}
    for changes in ({}, {"tag": "Delivered"}, {"expected_delivery": "2026-11-30"}):
        assert answer(200, TRACKING | changes).scans == answer(200, again | changes).scans


def test_an_unreadable_answer_is_asked_again() -> None:
    assert aftership.read_answer(200, b"<html>") == Outcome("retry", "unreadable")
    assert aftership.read_answer(404, b"<html>") == Outcome("give_up", "http_404")
    assert aftership.read_answer(502, b"<html>").verdict == "retry"
    assert answer(200, {"trackings": []}) == Outcome("ok")


def test_the_status_stands_directly_behind_the_newest_scan_of_an_answer() -> None:
    point, last = answer(200, TRACKING | {"tag": "Delivered", "subtag": None}).scans
    assert last.occurred_at - point.occurred_at == timedelta(microseconds=1)
