"""Scans from outside: a shop's own system states them, aggregators and carriers post them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared import ingest
from shared.clock import now
from shared.errors import Refused, Unusable
from shared.events import Inbound, ScanReported, from_bare, number_ref
from shared.reading import parse, text
from shared.security import media_type, read_json
from shared.shops import Shop, Shops
from tracking.adapters import aftership, easypost, sendcloud, seventeentrack, shipengine, shippo
from tracking.domain.model import SCAN
from tracking.handlers import Answer, Choice, Delivery

API: Final = "api"  # the source of what a shop's own system states
_BARE: Final = "application/json"
_ALLOWED: Final = frozenset({SCAN})
_SOURCES: Mapping[str, Any] = {
    "aftership": aftership,
    "easypost": easypost,
    "sendcloud": sendcloud,
    "seventeentrack": seventeentrack,
    "shipengine": shipengine,
    "shippo": shippo,
}
_REASONS: Final = {
    "no_signature": "there is no signature of this source, and no token in the address",
    "bad_signature": "the signature does not fit the body, or the token in the address is wrong",
    "stale": "the signature is too old, or from the future",
}
_NUMBERS: Final = ("tracking_number", "tracking_code", "number", "trackingNumber")
_LOOK_AT_MAX: Final = 200  # objects of a body that nobody understands

Submit = Callable[[Delivery | Choice], Awaitable[Answer]]


def public_routes(submit: Submit, shops: Shops) -> list[Route]:
    """Return what shops' systems, carriers and aggregators may call."""
    ways = _Ingest(submit, shops)
    return [
        Route("/v1/scans", ways.scans, methods=["POST"]),
        Route("/webhooks/{shop}/{source}", ways.webhook, methods=["POST"]),
    ]


class _Ingest:
    """The two ways in. Each ends with `submit`, which returns when the transaction is durable."""

    def __init__(self, submit: Submit, shops: Shops) -> None:
        self._submit = ingest.in_time(submit)
        self._shops = shops

    async def scans(self, http: Request) -> Response:
        """Take one scan or up to BATCH_MAX, as bare bodies or as CloudEvents; all or none."""
        shop = ingest.caller(http, self._shops)
        allowed = (_BARE, ingest.SINGLE, ingest.BATCH)
        kind = media_type(http.headers.get("content-type"), allowed)
        stated = read_json(await http.body())
        if kind == _BARE:
            inbound = _bare(stated)
        else:
            inbound = ingest.read_events(kind, stated, shop, _ALLOWED)
        scans = tuple(i.data for i in inbound if isinstance(i.data, ScanReported))
        for index, scan in enumerate(scans):
            _check_eta(scan, index if isinstance(stated, list) else None)
        answer = await self._submit(Delivery(shop, API, scans, log=False))
        return ingest.accepted(answer)

    async def webhook(self, http: Request) -> Response:
        """Take a delivery: verified on the raw bytes, then kept whatever it says."""
        shop, source, secrets = ingest.webhook_address(http, self._shops, _SOURCES)
        body = await http.body()
        query = _single(http.query_params)
        refusal = _SOURCES[source].verify(body, http.headers, query, secrets, now())
        if refusal is not None:
            raise ingest.refuse_signature(source, refusal, _REASONS.get(refusal))
        hook = read_webhook(source, body, http.headers, shop)

        def unusable(reason: str) -> Delivery:
            return replace(hook, scans=(), body=body, unusable=reason)

        answer = await ingest.submit_or_quarantine(self._submit, hook, source, unusable)
        return ingest.webhook_taken(answer)


def _bare(stated: Any) -> list[Inbound]:
    if not isinstance(stated, list):
        return [from_bare(SCAN, stated, allowed=_ALLOWED)]
    return [
        from_bare(SCAN, one, allowed=_ALLOWED, index=index)
        for index, one in enumerate(ingest.batch(stated))
    ]


def _check_eta(scan: ScanReported, index: int | None) -> None:
    eta = scan.eta
    if eta and eta.from_ and eta.to and eta.to < eta.from_:
        detail = "eta.to: must not lie before eta.from"
        raise Refused(422, "invalid_event", detail, field="eta.to", index=index)


def _single(query: QueryParams) -> dict[str, str]:
    """Return the parameters of an address; one that stands there twice vouches for nothing."""
    if len(query.multi_items()) != len(query):
        raise Refused(400, "invalid_request", "a parameter stands in the address twice")
    return dict(query)


def read_webhook(source: str, body: bytes, headers: Mapping[str, str], shop: Shop) -> Delivery:
    """Read a delivery that somebody vouched for; what nobody understands says so, and is kept."""
    try:
        report = _SOURCES[source].read(body, headers, shop)
    except Exception as error:  # noqa: BLE001 - no body of a carrier may end as an error at the carrier
        reason = ingest.fault(error, source)
        return Delivery(shop, source, body=body, unusable=reason, ref=_ref_in(body))
    return Delivery(
        shop,
        source,
        report.scans,
        topic=report.topic,
        delivery_id=report.delivery_id,
        body=body,
        ignored=report.ignored,
    )


def _ref_in(body: bytes) -> str | None:
    """Return under which number a body that was not understood belongs, as well as can be guessed."""
    try:
        waiting = _containers([parse(body)])
    except Unusable:
        return None
    for _ in range(_LOOK_AT_MAX):
        if not waiting:
            break
        one = waiting.pop(0)
        if isinstance(one, dict):
            found = number_ref(text(*(one.get(name) for name in _NUMBERS), max_chars=100))
            if found:
                return found
        waiting += _containers(one.values() if isinstance(one, dict) else one)
    return None


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]
