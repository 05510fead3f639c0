"""Composition root: which part talks to which."""

import asyncio
from typing import Final

from shared.calendars import prepare
from shared.consumer import Consumer
from shared.group_commit import GroupCommit
from shared.observability import DELAYS_OPEN, PARCELS
from shared.security import Links
from shared.service import Service, parts
from shared.settings import environment
from shared.shops import load
from tracking import api, store
from tracking.api.page import page_routes
from tracking.handlers import Tracking
from tracking.handlers.tally import carrier_label
from tracking.settings import Settings
from tracking.sweep import Sweep
from tracking.watch import Watcher

TOPICS: Final = ("orders", "scans")
COUNT_SECONDS: Final = 60.0  # a million parcels are counted in a tenth of a second


def create_app(settings: Settings) -> Service:
    """Build the service; nothing connects or starts before it runs."""
    prepare()
    db, bus, relay = parts("tracking", settings)
    shops = load(settings.shops_file, settings.products_file, environment())
    tracking = Tracking(
        db,
        bus,
        shops,
        Links(settings.link_keys),
        relay.wake,
        day_seconds=settings.day_seconds,
    )
    gate = GroupCommit(tracking.accept)
    watcher = Watcher(
        db,
        shops,
        gate.submit,
        urls={"aftership": settings.aftership_url, "easypost": settings.easypost_url},
        day_seconds=settings.day_seconds,
    )
    counted_at = float("-inf")

    async def measure() -> None:
        nonlocal counted_at
        now = asyncio.get_running_loop().time()
        if now < counted_at + COUNT_SECONDS:
            return
        counted_at = now
        parcels = await store.count_parcels(db)
        PARCELS.clear()
        for state, count in parcels.items():
            PARCELS.labels(state).set(count)
        delays = await store.count_open_delays(db)
        DELAYS_OPEN.clear()
        for (cause, carrier), count in delays.items():
            DELAYS_OPEN.labels(cause, carrier_label(carrier)).inc(count)

    return Service(
        name="tracking",
        settings=settings,
        db=db,
        bus=bus,
        shops=shops,
        relay=relay,
        public=[
            *api.public_routes(gate.submit, shops),
            *page_routes(gate.submit, db, shops, settings.day_seconds),
        ],
        internal=api.internal_routes(db, gate.submit, shops, settings.day_seconds),
        loops=[Sweep(tracking, day_seconds=settings.day_seconds).run, watcher.run],
        gates=[gate],
        consumer=Consumer(db, bus, "tracking", TOPICS, tracking.receive, after=tracking.received),
        measure=measure,
        tidy=lambda: store.tidy(db),
    )
