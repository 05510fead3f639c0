"""Gathers what was written down during a run into the history that the checker judges."""

import json
from typing import Any

from pydantic import SecretStr
from tests.chaos.checker import READS
from tests.chaos.history import (
    Accepted,
    Ack,
    Change,
    Dead,
    History,
    InTopic,
    Message,
    Outgoing,
    Parcel,
    Scanned,
    Shipped,
)
from tests.chaos.load import address, read_log
from tests.chaos.rig import SCHEMAS, SECRET, Rig

from shared.bus import open_bus
from shared.events import TOPICS
from shared.settings import Settings
from shared.store import Database

READ_SECONDS_EMPTY = 1.0
OVERDUE_SECONDS = 3.0  # longer than a sweep takes
GIVEN_UP_DAYS = 80  # after so many days under way the aggregator need not follow a parcel
SAID: dict[str, tuple[str, ...]] = {
    "shipment.status_changed.v1": ("state", "reason", "action_required", "eta"),
    "shipment.delayed.v1": ("episode", "cause", "new"),
    "shipment.delay_update.v1": ("episode", "round"),
    "shipment.recovered.v1": ("episode",),
}
"""What makes two events of a type about the same parcel the same news."""


async def gather(rig: Rig) -> History:
    """Read every memory there is; the services may be up or down."""
    acks: list[Ack] = []
    refused: list[tuple[float, str, int, str]] = []

    def line(said: dict[str, Any]) -> None:
        if said["status"] == 202:
            acks.append(
                Ack(
                    said["at"], said["way"], tuple(said["orders"]), tuple(said["ids"]),
                    tuple(said["owed"]), said["to"],
                    tuple(Shipped(*parcel) for parcel in said["shipped"]),
                    tuple(Scanned(*scan) for scan in said["scanned"]),
                )
            )  # fmt: skip
        else:
            refused.append((said["at"], said["orders"][0], said["status"], said["body"]))

    read_log(rig.api_log, line)
    conn = await rig.connect()
    try:
        tables = await _tables(conn, rig)
    finally:
        await conn.close()
    keys = {o.key for o in tables["outbox"]}
    mails = [json.loads(text) for text in rig.record.read_text().splitlines()]
    return History(
        acks=acks,
        refused=refused,
        topic=await _topics(rig),
        accepted=[Accepted(m["at"], m["message_id"], m["rcpt"]) for m in mails],
        addresses={key: address(key.partition(":")[2]) for key in keys},
        unknown_max=rig.unknown_max(),
        crashes=[crash for process in rig.services for crash in process.crashes],
        **tables,
    )


async def _tables(conn: Any, rig: Rig) -> dict[str, Any]:
    outbox, dead = [], []
    for service in SCHEMAS:
        rows = await conn.fetch(
            f"""select seq, event_id::text, topic, key,
                      exists (select from {service}.outbox_unpublished u where u.seq = o.seq) as waits,
                      headers::text,
                      case when topic in ('shipments', 'deliveries', 'messages')
                             or headers::text like '%order.shipped.v1%' then value end as value,
                       extract(epoch from created_at)::float8 as at
                from {service}.outbox o order by seq"""
        )
        outbox += [_outgoing(service, row) for row in rows]
        rows = await conn.fetch(f"select key, error_class, error_text from {service}.dead_event")
        dead += [Dead(service, *r) for r in rows if r["key"].startswith(f"{rig.shop.id}:")]
    inboxes = {
        reader: frozenset(
            r[0]
            for r in await conn.fetch(
                f"select event_id::text from {reader}.inbox where consumer = $1", reader
            )
        )
        for reader in READS
    }
    changes = await conn.fetch(
        """select message, old, new, attempt, extract(epoch from at)::float8,
                  extract(epoch from pg_xact_commit_timestamp(xmin))::float8
           from chaos.change order by id"""
    )
    known = await conn.fetch(
        """select shop || ':' || order_id,
                  extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from chaos.cancelled"""
    )
    rows = await conn.fetch(
        """select id, shop || ':' || order_id as order, kind, state, reason, message_id, attempt,
                  subject
           from notifier.message order by id"""
    )
    return {
        **await _tracked(conn, rig),
        "outbox": outbox,
        "dead": dead,
        "inboxes": inboxes,
        "changes": [Change(*r) for r in changes],
        "cancelled": {r[0]: r[1] for r in known},
        "messages": [
            Message(
                r["id"], r["order"], r["kind"], r["state"], r["reason"],
                r["message_id"], r["attempt"], r["subject"],
            )
            for r in rows
        ],
    }  # fmt: skip


def _outgoing(service: str, row: Any) -> Outgoing:
    kind = dict(json.loads(row["headers"])).get("ce_type", "")
    body = json.loads(row["value"]) if row["value"] else {}
    about = body.get("shipment_id") or ""
    if row["topic"] == "messages":
        about = "|".join(str(body.get(part)) for part in ("kind", "subject", "role", "round"))
    return Outgoing(
        service, row["seq"], row["event_id"], row["topic"], row["key"], kind, not row["waits"],
        row["at"], about,
        tuple(f"{name}={body.get(name)}" for name in SAID.get(kind, ())),
    )  # fmt: skip


async def _tracked(conn: Any, rig: Rig) -> dict[str, Any]:
    """Return what tracking has at the end: its scans and parcels, and the checks that it missed."""
    scans = await conn.fetch(
        "select scan ->> 3 from tracking.track cross join jsonb_array_elements(scans) scan"
    )
    parcels = await conn.fetch(
        """select p.shop || ':' || p.order_id, p.shipment_id, coalesce(p.number_ref, ''), p.state,
                  p.number_ref is null or t.provider is not null or o.about is null
                    or p.state in ('delivered', 'returned', 'cancelled', 'expired')
                    or p.shipped_at < now() - make_interval(secs => $1)
           from tracking.parcel p join tracking.orders o using (shop, order_id)
           left join tracking.track t on t.shop = p.shop and t.ref = p.number_ref""",
        rig.plan.day_seconds * GIVEN_UP_DAYS,
    )
    overdue = await conn.fetch(
        """select shop || ':' || order_id from tracking.orders
           where check_at < now() - make_interval(secs => $1)""",
        OVERDUE_SECONDS,
    )
    return {
        "scans": frozenset(r[0] for r in scans),
        "parcels": [Parcel(*r) for r in parcels],
        "overdue": [r[0] for r in overdue],
    }


async def _topics(rig: Rig) -> list[InTopic]:
    """Read all topics from the beginning, as a group of its own would."""
    url = SecretStr(rig.postgres.url)
    settings = Settings(
        database_url=url, bus_url=rig.plan.bus_url, operator_keys=SECRET * 2, link_keys=SECRET * 2
    )
    db = Database(rig.postgres.url, "chaos")
    await db.open()
    bus = open_bus(settings, db)
    await bus.start()
    found: list[InTopic] = []
    try:
        subscription = await bus.subscribe(f"chaos-{rig.shop.id}", TOPICS)
        empty = 0
        while empty < 3:
            records = await subscription.poll(2000, READ_SECONDS_EMPTY)
            for r in records:
                if r.key.startswith(f"{rig.shop.id}:"):
                    ids = dict(r.headers)["ce_id"].decode()
                    found.append(InTopic(r.topic, r.partition, r.offset, r.key, ids))
            lag = await subscription.lag()
            empty = 0 if records or not lag or any(lag.values()) else empty + 1
    finally:
        await bus.stop()
        await db.close()
    return found
