"""The operator's side of the command line: asks the services' internal ports and prints."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from rich.console import Console
from rich.table import Table

from afterglow import settings
from afterglow.up import CONNECTION_FILES
from shared.errors import AfterglowError

_TIMEOUT_SECONDS = 30.0
_FIRST_ERROR_STATUS = 400
_NOT_FOUND = 404


class OperatorError(AfterglowError):
    """A service cannot be asked or refused the request; the message is for the operator."""


@dataclass(frozen=True, slots=True, repr=False)
class Operator:
    """Where the services' internal ports are and the key they take."""

    internal: Mapping[str, str]
    key: str

    def ask(self, service: str, method: str, path: str, body: object = None) -> Any:
        """Send one request and return the answer's JSON. Raises OperatorError."""
        return asyncio.run(self._ask(service, method, path, body))

    async def _ask(self, service: str, method: str, path: str, body: object) -> Any:
        base = self.internal.get(service)
        if base is None:
            known = ", ".join(self.internal)
            raise OperatorError(f"no service {service} is known here, only {known}")
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        data = None if body is None else orjson.dumps(body)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, base + path, headers=headers, data=data) as answer,
            ):
                content = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OperatorError(f"{service} does not answer at {base}") from error
        told = _json(content)
        if status >= _FIRST_ERROR_STATUS:
            detail = told.get("detail") if isinstance(told, dict) else None
            missing = NotFound if status == _NOT_FOUND else OperatorError
            raise missing(f"{service} answered {status}: {detail or 'no reason given'}")
        return told


class NotFound(OperatorError):
    """The service does not know what was asked for."""


def connect(data: Path, env: Mapping[str, str]) -> Operator:
    """Find the services: OPERATOR_KEYS and INTERNAL_URLS if set, else what runs from this folder."""
    if key := settings.operator_key(env):
        return Operator(settings.internal_urls(env), key)
    for name in CONNECTION_FILES:
        try:
            found = orjson.loads((data / name).read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OperatorError(f"cannot read {data / name}: {error.strerror}") from error
        return Operator(found["internal"], found["operator_key"])
    raise OperatorError(
        f"nothing runs from {data}: start `afterglow up` there, name its folder with --data, "
        "or set OPERATOR_KEYS and INTERNAL_URLS"
    )


def show_order(operator: Operator, shop: str, order_id: str, console: Console) -> None:
    """Print what every service knows about an order. Raises NotFound when none does."""
    path = f"/v1/orders/{quote(shop, safe='')}/{quote(order_id, safe='')}"
    known = False
    for service in operator.internal:
        console.rule(service)
        try:
            told = operator.ask(service, "GET", path)
        except NotFound:
            console.print("does not know this order")
            continue
        except OperatorError as error:
            console.print(str(error), markup=False)
            continue
        known = True
        console.print_json(orjson.dumps(told).decode(), indent=2)
    if not known:
        raise NotFound(f"no service knows order {order_id} of shop {shop}")


def print_rows(told: Any, console: Console) -> None:
    """Print a list of objects as a table, anything else as JSON."""
    rows = _rows(told)
    if rows is None:
        console.print_json(orjson.dumps(told).decode(), indent=2)
        return
    if not rows:
        console.print("none")
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")  # an id that is cut is no id
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(table)


def _rows(told: Any) -> list[dict[str, Any]] | None:
    """Return the list in an answer such as `{"dead": [...]}`; None when there is no such list."""
    if isinstance(told, dict) and len(told) == 1:
        told = next(iter(told.values()))
    if isinstance(told, list) and all(isinstance(row, dict) for row in told):
        return told
    return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
