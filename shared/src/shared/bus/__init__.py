"""The seam between the services and whatever carries their events.

Two buses implement it: `kafka` (production) and `postgres` (one machine, no broker). Nothing outside
this package knows which one is used; both pass the same conformance tests.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from shared.errors import AfterglowError
from shared.events import MAX_BODY_BYTES, TOPICS, Record
from shared.settings import Settings
from shared.store import Database, Tx

VALUE_BYTES_MAX = MAX_BODY_BYTES
_BARE_SERVERS = re.compile(r"[A-Za-z0-9.-]+:\d+(,[A-Za-z0-9.-]+:\d+)*")
HEADER_BYTES_MAX = 32 * 1024  # names and values together, with the key


class Subscription(Protocol):
    """One member of a consumer group: gets some partitions, shares them, takes them over."""

    async def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """Return the next records, in order within each partition; empty after the timeout."""

    async def commit(self, records: Sequence[Record]) -> None:
        """Store the position after these records. A late or fenced commit is dropped, never applied."""

    async def rewind(self, records: Sequence[Record]) -> None:
        """Hand these records out again: the transaction that was to hold them failed."""

    async def lag(self) -> dict[tuple[str, int], int]:
        """Return, for the partitions held, how many records are still to be read."""

    async def close(self) -> None:
        """Leave the group at once, so that the others take over without waiting."""


class Bus(Protocol):
    """Carries records from the relay to the consumers, in order for each key."""

    async def start(self) -> None:
        """Connect and make sure that the topics exist."""

    async def stop(self) -> None:
        """Let go of everything within a few seconds, whatever state the other side is in."""

    async def ready(self) -> None:
        """Return when the bus answers; raise BusUnavailable when it does not."""

    async def publish(self, tx: Tx, records: Sequence[Record]) -> dict[int, str]:
        """Store the records; durable on return, or with the commit of `tx`.

        Returns index → reason for the records that the bus refuses for ever (too large). Raises
        BusUnavailable when nothing is known to be stored; publishing all of them again is safe,
        because consumers recognise an event by its id.
        """

    async def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        """Join a consumer group."""

    async def erase(self, tx: Tx, keys: Sequence[str], topics: Sequence[str] | None = None) -> None:
        """Blank the stored bodies of these keys, where the bus can; a broker's retention does the rest.

        `topics` are those whose records the caller may blank: others may stand there, unread, that are
        newer than what is to be forgotten. None means all.
        """


def refusal(record: Record) -> str | None:
    """Return why no bus will ever take this record, or None when it can be stored.

    Asked before anything is sent: one record that a broker refuses spoils an idempotent producer.
    """
    if record.value is not None and len(record.value) > VALUE_BYTES_MAX:
        return f"its body has {len(record.value)} bytes, {VALUE_BYTES_MAX} are allowed"
    if not record.key or "\0" in record.key:
        return "its key is empty or holds a NUL"
    try:
        size = len(record.key.encode())
        for name, value in record.headers:
            size += len(name.encode()) + len(value)
    except UnicodeEncodeError:
        return "its key or a header name is not valid text"
    if size > HEADER_BYTES_MAX:
        return f"its key and headers have {size} bytes, {HEADER_BYTES_MAX} are allowed"
    return None


def open_bus(settings: Settings, db: Database, *, topics: Sequence[str] = TOPICS) -> Bus:
    """Return the bus that BUS_URL names: `kafka://host:port,host:port`, or `postgres:` for `db` itself.

    Servers without a scheme are Kafka's, as its own tools write them. Nothing is connected yet. Raises
    AfterglowError for any other address.
    """
    scheme, _, servers = settings.bus_url.partition(":")
    servers = servers.strip("/")
    if _BARE_SERVERS.fullmatch(settings.bus_url):
        scheme, servers = "kafka", settings.bus_url
    if scheme in {"postgres", "postgresql"}:
        # Each bus loads its client library only when it is used.
        from shared.bus.postgres import PostgresBus  # noqa: PLC0415

        return PostgresBus(db, topics, partitions=settings.kafka_partitions)
    if scheme == "kafka" and servers:
        from shared.bus.kafka import KafkaBus, KafkaSecurity  # noqa: PLC0415

        password = settings.kafka_sasl_password
        security = KafkaSecurity(
            tls=settings.kafka_tls,
            ca_file=settings.kafka_tls_ca_file,
            cert_file=settings.kafka_tls_cert_file,
            key_file=settings.kafka_tls_key_file,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_sasl_username,
            password=password.get_secret_value() if password else None,
        )
        return KafkaBus(
            servers,
            topics,
            partitions=settings.kafka_partitions,
            replication=settings.kafka_replication,
            security=security,
        )
    raise AfterglowError("BUS_URL must be kafka://host:port[,host:port] or postgres:")
