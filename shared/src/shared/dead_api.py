"""Dead events at the internal port: list, show, hand to the consumer again, discard."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.consumer import Consumer
from shared.errors import GiveUp, Malformed, Refused, UnknownType
from shared.store import Database
from shared.web import json_response, row_number


def dead_routes(db: Database, consumer: Consumer | None) -> list[Route]:
    """Return what operators may do with dead events; `consumer` is the one that may read them again."""
    columns = """id, consumer, topic, partition, "offset", key, error_class, error_text, attempts,
                 first_at, last_at, state"""

    async def listing(request: Request) -> Response:
        state = request.query_params.get("state", "open")
        rows = await db.fetch(
            f"select {columns} from dead_event where state = $1 order by id limit 500",  # noqa: S608
            state,
        )
        return json_response({"dead": [dict(r) for r in rows]})

    async def show(request: Request) -> Response:
        row = await db.fetchrow(
            f"select {columns}, headers, value from dead_event where id = $1",  # noqa: S608
            row_number(request),
        )
        if row is None:
            raise Refused(404, "not_found", "no dead event has this number")
        value = row["value"]
        body = dict(row) | {
            "headers": orjson.loads(row["headers"]),
            "value": None if value is None else bytes(value).decode(errors="replace"),
        }
        return json_response(body)

    async def again(request: Request) -> Response:
        if consumer is None:
            raise Refused(409, "no_consumer", "this service reads no topic")
        try:
            done = await consumer.replay(row_number(request))
        except (GiveUp, Malformed, UnknownType) as error:
            raise Refused(409, "still_dead", str(error)) from None
        if not done:
            raise Refused(404, "not_found", "no open dead event of the consumer has this number")
        return json_response({"state": "replayed"})

    async def discard(request: Request) -> Response:
        tag = await db.execute(
            "update dead_event set state = 'discarded' where id = $1 and state = 'open'",
            row_number(request),
        )
        if tag.endswith(" 0"):
            raise Refused(404, "not_found", "no open dead event has this number")
        return json_response({"state": "discarded"})

    return [
        Route("/v1/dead", listing),
        Route("/v1/dead/{id}", show),
        Route("/v1/dead/{id}/replay", again, methods=["POST"]),
        Route("/v1/dead/{id}/discard", discard, methods=["POST"]),
    ]
