"""The operator's side of the command line: asks the services' internal ports and prints."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from afterglow import settings
from afterglow.up import CONNECTION_FILES
from shared.errors import AfterglowError

Data = Annotated[Path, typer.Option(help="The folder that everything is kept in.")]

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

    def copy(self, service: str, path: str, out: IO[bytes]) -> int:
        """Write an answer of any length as it comes and return its bytes. Raises OperatorError."""
        return asyncio.run(self._copy(service, path, out))

    async def _ask(self, service: str, method: str, path: str, body: object) -> Any:
        data = None if body is None else orjson.dumps(body)
        patience = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with self._answer(service, method, path, patience, data) as answer:
            return _json(await answer.read())

    async def _copy(self, service: str, path: str, out: IO[bytes]) -> int:
        size = 0
        patience = aiohttp.ClientTimeout(
            total=None, sock_connect=_TIMEOUT_SECONDS, sock_read=_TIMEOUT_SECONDS
        )
        async with self._answer(service, "GET", path, patience) as answer:
            async for part in answer.content.iter_any():
                out.write(part)
                size += len(part)
        out.flush()
        return size

    @asynccontextmanager
    async def _answer(
        self,
        service: str,
        method: str,
        path: str,
        patience: aiohttp.ClientTimeout,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        base = self.internal.get(service)
        if base is None:
            known = ", ".join(self.internal)
            raise OperatorError(f"no service {service} is known here, only {known}")
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=patience) as session,
                session.request(method, base + path, headers=headers, data=data) as answer,
            ):
                if answer.status >= _FIRST_ERROR_STATUS:
                    told = _json(await answer.read())
                    detail = told.get("detail") if isinstance(told, dict) else None
                    missing = NotFound if answer.status == _NOT_FOUND else OperatorError
                    reason = detail or "no reason given"
                    raise missing(f"{service} answered {answer.status}: {reason}")
                yield answer
        except aiohttp.ClientPayloadError as error:
            raise OperatorError(f"the answer of {service} broke off: it is not whole") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OperatorError(f"{service} does not answer at {base}") from error


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


def find_order(operator: Operator, shop: str, order_id: str) -> tuple[dict[str, Any], list[str]]:
    """Return what each service knows about an order, and why others could not say.

    Raises NotFound when none knows it, OperatorError when nobody answers.
    """
    path = f"/v1/orders/{quote(shop, safe='')}/{quote(order_id, safe='')}"
    known: dict[str, Any] = {}
    silent: list[str] = []
    for service in operator.internal:
        try:
            known[service] = operator.ask(service, "GET", path)
        except NotFound:
            continue
        except OperatorError as error:
            silent.append(str(error))
    if not known and silent:
        raise OperatorError("; ".join(silent))
    if not known:
        raise NotFound(f"no service knows order {order_id} of shop {shop}")
    return known, silent


def print_rows(told: Any, console: Console) -> None:
    """Print a list of objects as a table, anything else as JSON."""
    rows = _rows(told)
    if rows is None:
        console.print_json(orjson.dumps(told).decode(), indent=2)
        return
    if not rows:
        console.print("none")
        return
    # A column in which nothing stands only makes the others narrow.
    columns = list(
        dict.fromkeys(n for row in rows for n, value in row.items() if value is not None)
    )
    table = Table(show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")  # an id that is cut is no id
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in columns))
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
