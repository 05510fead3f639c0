"""The test of the test: each of these defects, planted in a copy of the services, must turn it red.

    python -m tests.chaos.plants [--plant NAME] [--seed S]

A green run says something only because these are red. A patch that does not fit the source any more is
an error. Each run is directed at its defect, so that a minute is enough. Exit 1 when a defect was not
found, or was found by none of the promises that it breaks.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.__main__ import run, say
from tests.chaos.load import Taste
from tests.chaos.rig import FAULTS, Patch, Plan

CONSUMER = "shared/src/shared/consumer.py"
RELAY = "shared/src/shared/relay.py"
SMTP = "services/notifier/src/notifier/adapters/smtp.py"
REPLIES = "services/notifier/src/notifier/replies.py"
HANDLERS = "services/notifier/src/notifier/handlers.py"
JOURNAL = "services/notifier/src/notifier/store/journal.py"
TRACKING = "services/tracking/src/tracking/handlers/__init__.py"
TRACKED = "services/tracking/src/tracking/store/orders.py"


@dataclass(frozen=True, slots=True)
class Plant:
    """A defect, the promises that it breaks, and the storm that shows it."""

    patches: tuple[Patch, ...]
    breaks: frozenset[str]
    storm: Mapping[str, Any] = field(default_factory=dict)


# Frozen for longer than their lease, again and again, with a queue of claims that others take over.
FROZEN: Mapping[str, Any] = {
    "dice": {"freeze": 0.9, "kill": 0.1},
    "pause": (0.8, 1.6),
    "per_second": 120,
    "notifier_env": {"SMTP_RATE_PER_SECOND": "40"},
    "faults": "slow@accepted:0.15=0.7",
    "seconds": 30,
    "storm_seconds_max": 33,
    "drain_seconds": 30,
}

# Parcels of late orders: many scans at the moment of dispatch, many checks that come due.
PARCELS: dict[str, Any] = {
    "taste": Taste(batch=0, shopify=0, woocommerce=0, shipped=0.9, promised=(0.8, 0)),
    "victims": {"tracking": 0.6, "orders": 0.2, "notifier": 0.2},
    "dice": {"kill": 1.0},
    "pause": (2.0, 4.0),
    "per_second": 20,
}

PLANTS: Mapping[str, Plant] = {
    "mark written after the dot": Plant(
        (
            Patch(
                SMTP,
                """        if not dialogue.broken:
            self._phase = "mark"
            if not await mark():
                dialogue.abort()
                return Outcome("withdrawn", "mark", None, None, "the mark was refused")
""",
                "",
            ),
            Patch(
                SMTP,
                """        return self._final(replies, recipient)

    async def _offer""",
                """        await mark()
        return self._final(replies, recipient)

    async def _offer""",
            ),
        ),
        frozenset({"sent twice"}),
        {
            "points": ("notifier/di.after_dot",),
            "again": True,
            "dice": {"kill": 1.0},
            "pause": (1.0, 3.0),
        },
    ),
    "offset committed before the transaction": Plant(
        (
            Patch(
                CONSUMER,
                """        try:
            await self._apply(records)
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                raise
            log.warning("batch_is_taken_apart\"""",
                """        await subscription.commit(records)
        try:
            await self._apply(records)
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                raise
            log.warning("batch_is_taken_apart\"""",
            ),
        ),
        frozenset({"neither sent nor listed", "not received"}),
        {
            "points": ("notifier/co.before_commit",),
            "again": True,
            "dice": {"kill": 1.0},
            "pause": (1.0, 3.0),
        },
    ),
    "no lease fence": Plant(
        (
            Patch(
                JOURNAL,
                """ and m.id = j.id and m.attempt = j.attempt and m.owner = $1
      and m.state = 'claimed'
      and m.expires_at""",
                """ and m.id = j.id and j.attempt > 0
      and m.state not in ('suppressed', 'expired')
      and m.expires_at""",
            ),
            Patch(
                JOURNAL,
                """where d.owner = $1 and d.lease_until > clock_timestamp())
    returning m.id, j.attempt)""",
                """where d.owner = $1)
    returning m.id, j.attempt)""",
            ),
        ),
        frozenset({"sent twice"}),
        FROZEN,
    ),
    "guard only at creation": Plant(
        (
            Patch(
                HANDLERS,
                "            revoked += _ruled_out(order, state)\n",
                "            revoked += ()\n",
            ),
        ),
        frozenset({"sent after the cancellation"}),
        {
            "taste": Taste(batch=0, cancelled=0.8, cancel_first=0, cancel_pause=0.1),
            "notifier_env": {"SMTP_RATE_PER_SECOND": "10"},
        },
    ),
    "retry on a timeout after the dot": Plant(
        (
            Patch(
                REPLIES,
                'return Verdict("unknown", "no_reply_after_dot")',
                'return Verdict("retry", "no_reply_after_dot", backoff="jitter")',
            ),
        ),
        frozenset({"sent twice"}),
        {"faults": "drop@accepted=0.03;" + FAULTS},
    ),
    "outbox read by cursor": Plant(
        (
            Patch(
                RELAY,
                "select seq from outbox_unpublished order by seq limit $1",
                """select seq from outbox where seq > (
                       select coalesce(max(seq), 0) from outbox o where not exists (
                         select from outbox_unpublished u where u.seq = o.seq))
                     order by seq limit $1""",
            ),
        ),
        frozenset({"not published"}),
        {"orders_points": "oe.before_commit=sleep:0.3@p=0.3"},
    ),
    "scan acknowledged before the commit": Plant(
        (
            Patch(
                TRACKING,
                """        for _ in range(_RACES_MAX):
            with contextlib.suppress(Retry, *CONTENTION):
                return await self._accept(items)
        return await self._accept(items)

    async def _accept""",
                """        import asyncio
        self._late = asyncio.create_task(self._accept(items))
        return [
            Answer(tuple(scan_id(i.shop.id, scan) for scan in getattr(i, "scans", ())))
            for i in items
        ]

    async def _accept""",
            ),
        ),
        frozenset({"acknowledged and lost"}),
        PARCELS | {"points": ("tracking/tr.before_commit",), "again": True},
    ),
    "scan that does not ask again whose it is": Plant(
        (
            Patch(
                TRACKING,
                "        if await store.strangers(tx, batch.heard, batch.named, batch.orders):\n",
                "        if await store.strangers(tx, (), (), ()):\n",
            ),
        ),
        frozenset({"not folded"}),
        PARCELS | {"tracking_points": "co.before_commit=sleep:0.3@p=0.5"},
    ),
    "sweep without a lock": Plant(
        (
            Patch(
                TRACKED,
                '            order by o.check_at limit $1 for update skip locked""",\n',
                '            order by o.check_at limit $1""",\n',
            ),
        ),
        frozenset({"delivery told twice", "state told twice", "delivery not told", "not folded"}),
        PARCELS | {"tracking_points": "sw.before_commit=sleep:0.4@p=0.6"},
    ),
}


def _plan(plant: Plant, seed: int) -> Plan:
    common: dict[str, Any] = {
        "points": (),
        "orders": 0,
        "kills": 0,
        "seconds": 22,
        "storm_seconds_max": 25,
        "drain_seconds": 15,
        "per_second": 50,
        "restarts": 0,
        "pause": (0.8, 2.0),
    }
    chosen = common | dict(plant.storm)
    return Plan(bus_url="postgres:", seed=seed, patches=plant.patches, **chosen)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.plants", description=__doc__)
    parser.add_argument("--plant", choices=sorted(PLANTS), help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="show what the checker found")
    options = parser.parse_args()
    missed = []
    for name in [options.plant] if options.plant else PLANTS:
        plant = PLANTS[name]
        plan = _plan(plant, options.seed)
        result = asyncio.run(run(plan, name, quiet=not options.verbose))
        rules = Counter(v.rule for v in result.violations)
        found = bool(plant.breaks & rules.keys())
        told = ", ".join(f"{rule} {n}" for rule, n in rules.items()) or "nothing"
        say(f"{'red, as it must be' if found else 'NOT FOUND'}: {name} ({told})")
        if not found:
            missed.append(name)
    say(f"plants: {f'{len(missed)} NOT FOUND' if missed else 'each was found'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
