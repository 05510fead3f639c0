"""What a shop file that can be used leaves out, told by `afterglow check`: what the shop will miss by it."""

from collections.abc import Iterator
from typing import Final

from shared.shops import Shop

# Aggregators that are told of parcels and asked about them.
_ASKED: Final = ("aftership", "easypost")
_TELL_SCANS: Final = frozenset({
    *_ASKED, "shippo", "seventeentrack", "shipengine", "sendcloud", "shopify",
})  # fmt: skip
_NO_PROMISE: Final = (
    "none: where an order brings no promised day of its own, nobody is told that it was not sent, "
    "and its parcels are late only against what is usual"
)
_NO_HOLIDAYS: Final = (
    "not set, nor calendars.default.holidays: "
    "the public holidays where parcels leave count as working days"
)
_NO_SCANS: Final = "no scan can come in, so neither a parcel's delay nor its delivery is seen"
_OWN_SCANS: Final = (
    "nobody is asked where parcels are: the shop's own systems must report every scan"
)
_ONLY_ASKED: Final = "none: parcels are followed only by asking, after 12 hours of silence"
_ONLY_TOLD: Final = "none: the shop itself must register its parcels there, and a webhook that is lost is not noticed"


def advice(shop: Shop) -> Iterator[str]:
    """Yield what to think about, each as `shops.<id>.<key>: …`; nothing here stops a start."""
    for key, text in _gaps(shop):
        yield f"shops.{shop.id}.{key}: {text}"


def _gaps(shop: Shop) -> Iterator[tuple[str, str]]:
    if not shop.promises:
        yield "promises", _NO_PROMISE
    if not shop.delays.ship_from and not shop.calendar("default").holidays:
        yield "delays.ship_from", _NO_HOLIDAYS
    asked = next((name for name in shop.providers if name in _ASKED), None)
    told = _TELL_SCANS.intersection(shop.webhooks)
    if asked is not None:
        if asked not in told:
            yield f"webhooks.{asked}", _ONLY_ASKED
    elif not told:
        yield "providers", _OWN_SCANS if shop.api_keys or shop.sources else _NO_SCANS
    else:
        for name in told.intersection(_ASKED):
            yield f"providers.{name}", _ONLY_TOLD
