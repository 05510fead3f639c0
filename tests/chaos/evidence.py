"""Gathers what was written down during a run into the history that the checker judges."""

import json
from typing import Any

from pydantic import SecretStr
from tests.chaos.checker import Accepted, Ack, Change, Dead, History, InTopic, Message, Outgoing
from tests.chaos.load import address, read_log
from tests.chaos.rig import SECRET, Rig

from shared.bus import open_bus
from shared.events import TOPICS
from shared.settings import Settings
from shared.store import Database

READ_SECONDS_EMPTY = 1.0


async def gather(rig: Rig) -> History:
    """Read every memory there is; the services may be up or down."""
    acks: list[Ack] = []
    refused: list[tuple[float, str, int, str]] = []

    def line(said: dict[str, Any]) -> None:
        if said["status"] == 202:
            acks.append(
                Ack(
                    said["at"], said["way"], tuple(said["orders"]), tuple(said["ids"]),
                    tuple(said["owed"]),
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
    for service in ("order_events", "notifier"):
        rows = await conn.fetch(
            f"""select seq, event_id::text, topic, key,
                      exists (select from {service}.outbox_unpublished u where u.seq = o.seq) as waits,
                      headers::text,
                       extract(epoch from created_at)::float8 as at
                from {service}.outbox o order by seq"""
        )
        for r in rows:
            kind = dict(json.loads(r["headers"])).get("ce_type", "")
            outbox.append(
                Outgoing(
                    service, r["seq"], r["event_id"], r["topic"], r["key"], kind,
                    not r["waits"], r["at"],
                )
            )  # fmt: skip
        rows = await conn.fetch(f"select key, error_class, error_text from {service}.dead_event")
        dead += [Dead(service, *r) for r in rows if r["key"].startswith(f"{rig.shop.id}:")]
    seen = await conn.fetch("select event_id::text from notifier.inbox where consumer = 'notifier'")
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
        """select id, shop || ':' || order_id as order, kind, state, reason, message_id, attempt
           from notifier.message order by id"""
    )
    return {
        "outbox": outbox,
        "dead": dead,
        "inbox": frozenset(r[0] for r in seen),
        "changes": [Change(*r) for r in changes],
        "cancelled": {r[0]: r[1] for r in known},
        "messages": [
            Message(
                r["id"], r["order"], r["kind"], r["state"], r["reason"],
                r["message_id"], r["attempt"],
            )
            for r in rows
        ],
    }  # fmt: skip


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
