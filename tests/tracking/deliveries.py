"""What the tests of all adapters share: a shop, and a body read by one of them."""

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

from shared.events import ScanReported
from shared.shops import Shop, parse
from tracking.domain.model import Report


@cache
def shop(zone: str = "UTC") -> Shop:
    """A shop in a time zone."""
    found = parse(f"""
[shops.demo]
name = "Demo"
reply_to = "help@demo.example.com"
time_zone = "{zone}"
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
""")
    return next(iter(found))


def read(adapter: Any, value: object, zone: str = "UTC") -> Report:
    """What the adapter makes of a body."""
    report = adapter.read(json.dumps(value).encode(), {}, shop(zone))
    assert isinstance(report, Report)
    return report


def only(report: Report) -> ScanReported:
    """The one scan of a report."""
    [scan] = report.scans
    return scan


def said(scan: ScanReported) -> tuple[str, str | None, bool]:
    """What a scan means: state, reason, whether somebody has to act."""
    return scan.state, scan.reason, scan.action_required


def at(text: str) -> datetime:
    """A time in UTC: `2026-11-23T12:00` and longer."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
