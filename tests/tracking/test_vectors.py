"""Real deliveries of aggregators become the right scans, or are set aside with a reason."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests import vectors
from tests.tracking.deliveries import shop

from shared.errors import Unusable
from shared.events import OrderShipped, ScanReported
from tracking.adapters import aftership, easypost, sendcloud, seventeentrack, shipengine, shippo
from tracking.adapters.reading import SCANS_MAX
from tracking.domain.fold import fold
from tracking.domain.model import Parcel, Report, scan_fact

PLATFORMS: dict[str, Any] = {
    "aftership": aftership,
    "easypost": easypost,
    "shippo": shippo,
    "17track": seventeentrack,
    "shipengine": shipengine,
    "sendcloud": sendcloud,
}
# The collection's carriers are written as the source does; where it says how to find one, the result.
CARRIERS = {"ups (only in resource_url query)": "ups"}
RECEIVED = datetime(2026, 11, 23, tzinfo=UTC)

PAYLOADS = [e for e in vectors.entries(PLATFORMS) if e["kind"] == "payload"]
SIGNATURES = [e for e in vectors.entries(PLATFORMS) if e["kind"] == "signature"] or [{}]
ACCEPTED = [e for e in PAYLOADS if e["expect"]["disposition"] == "accept"] or [{}]
MAPPED = [e for e in PAYLOADS if "suggested_mapping" in e["expect"]] or [{}]


def _read(entry: dict[str, Any], body: bytes | None = None) -> Report:
    body = vectors.body(entry) if body is None else body
    report = PLATFORMS[entry["platform"]].read(body, vectors.headers(entry), shop())
    assert isinstance(report, Report)
    return report


@vectors.needs_vectors
@pytest.mark.parametrize("entry", PAYLOADS or [{}], ids=vectors.name)
def test_each_delivery_is_told_ignored_or_set_aside_as_expected(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]["disposition"]
    if wanted in {"quarantine", "reject", "reference"}:
        with pytest.raises(Unusable):
            _read(entry)
        return
    report = _read(entry)
    assert bool(report.scans) == (wanted == "accept")
    assert bool(report.ignored) == (wanted == "ignore")


@vectors.needs_vectors
@pytest.mark.parametrize("entry", ACCEPTED, ids=vectors.name)
def test_the_newest_scan_says_state_parcel_carrier_and_order(entry: dict[str, Any]) -> None:
    wanted, scans = entry["expect"], _read(entry).scans
    newest = scans[-1]
    assert newest.state == wanted["status"]
    assert {s.tracking_number for s in scans} == set(wanted["tracking_numbers"] or [None])
    assert newest.carrier == CARRIERS.get(wanted["carrier"], wanted["carrier"].lower())
    if wanted.get("order_id"):
        assert newest.order_id == wanted["order_id"]
    if not wanted["tracking_numbers"]:
        assert newest.shipment_id == wanted["shipment_id"]


@vectors.needs_vectors
@pytest.mark.parametrize("entry", ACCEPTED, ids=vectors.name)
def test_the_words_and_times_of_the_source_are_kept(entry: dict[str, Any]) -> None:
    wanted, scans = entry["expect"], _read(entry).scans
    newest = scans[-1]
    written = [str(word).rpartition("=")[2] for word in wanted["raw_status"] if word is not None]
    assert set((newest.raw_status or "").split("/")) <= set(written)
    if "occurred_at" in wanted:
        assert newest.occurred_at == datetime.fromisoformat(wanted["occurred_at"])
    if "occurred_at_unix" in wanted:
        assert newest.occurred_at.timestamp() == wanted["occurred_at_unix"]
    if "checkpoints" in wanted:
        # the parcel's own state may stand behind its scans, where they do not say it
        assert len(scans) - wanted["checkpoints"] in {0, 1}
    if "estimated_delivery" in wanted:
        assert newest.eta is not None
        assert newest.eta.from_ == datetime.fromisoformat(wanted["estimated_delivery"]).replace(
            tzinfo=UTC
        )


@vectors.needs_vectors
@pytest.mark.parametrize("entry", ACCEPTED, ids=vectors.name)
def test_the_parcel_ends_in_the_expected_state(entry: dict[str, Any]) -> None:
    scans = _read(entry).scans
    number = scans[0].tracking_number
    body = OrderShipped(order_id="1", shipment_id="1/1", tracking_number=number, final="unknown")
    parcel = Parcel("1/1", body, (RECEIVED, 0, ""))
    facts = [scan_fact(scan, n, RECEIVED) for n, scan in enumerate(scans)]
    assert fold(parcel, facts).state == entry["expect"]["status"]


@vectors.needs_vectors
@pytest.mark.parametrize("entry", MAPPED, ids=vectors.name)
def test_sendclouds_numbers_mean_what_the_collection_suggests(entry: dict[str, Any]) -> None:
    suggested = entry["expect"]["suggested_mapping"]
    ours: dict[str, str] = {str(k): m.state for k, m in sendcloud.STATUSES.items()}
    asked = {str(number): "unchanged" for number in sendcloud.ASKED}
    assert (ours | asked) == suggested | {"0": "label_created"}


@vectors.needs_vectors
@pytest.mark.parametrize("entry", SIGNATURES, ids=vectors.name)
def test_published_signatures_are_told_from_false_ones(entry: dict[str, Any]) -> None:
    adapter = PLATFORMS[entry["platform"]]
    for case in vectors.cases(entry):
        secrets = [case["secret"].encode()]
        body = case["body_utf8"].encode()
        refusal = adapter.verify(body, case["headers"], {}, secrets, RECEIVED)
        assert (refusal is None) is case["valid"], case["name"]


def check_damaged(entry: dict[str, Any], body: Any, data: st.DataObject) -> None:
    """Whatever a damaged body becomes are scans that travel, or `Unusable`."""
    damaged = json.dumps(vectors.damage(body, data)).encode()
    try:
        report = _read(entry, damaged)
    except Unusable:
        return
    assert bool(report.ignored) != bool(report.scans)
    assert len(report.scans) <= SCANS_MAX
    for scan in report.scans:
        assert ScanReported.model_validate_json(scan.model_dump_json()) == scan


@vectors.needs_vectors
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_delivery_becomes_scans_that_travel_or_is_set_aside(data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(PAYLOADS))
    check_damaged(entry, json.loads(vectors.body(entry)), data)


@pytest.mark.parametrize("platform", PLATFORMS)
@settings(deadline=None)
@given(
    body=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_scans_ignored_or_unusable(platform: str, body: bytes) -> None:
    try:
        PLATFORMS[platform].read(body, {}, shop())
    except Unusable:
        return


@vectors.needs_vectors
def test_thousands_of_checkpoints_are_cut_to_the_newest() -> None:
    entry = next(e for e in PAYLOADS if e["file"] == "aftership/tracking_delivered_jp.json")
    body = json.loads(vectors.body(entry))
    tracking = body["data"]["tracking"]
    point = tracking["checkpoints"][1]
    tracking["checkpoints"] += [
        point | {"checkpoint_time": f"2018-07-2{d}T{h:02}:{m:02}:00+00:00"}
        for d in (1, 2)
        for h in range(24)
        for m in range(30)
    ]
    scans = _read(entry, json.dumps(body).encode()).scans
    assert len(scans) == SCANS_MAX
    assert scans[-1].state == "delivered"
