"""Composition root: which part talks to which."""

from notifier import api, store
from notifier.adapters.render import Renderer
from notifier.dispatcher import Dispatcher
from notifier.handlers import Notifier
from notifier.settings import Settings
from shared.consumer import Consumer
from shared.observability import JOURNAL
from shared.service import Service, parts
from shared.settings import environment
from shared.shops import load

TOPICS = ("orders", "shipments", "deliveries")
REAL_DAY_SECONDS = 86_400
OPEN_STATES = ("pending", "claimed", "dispatching", "unknown")


def create_app(settings: Settings) -> Service:
    """Build the service; nothing connects or starts before it runs."""
    db, bus, relay = parts("notifier", settings)
    shops = load(settings.shops_file, settings.products_file, environment())
    renderer = Renderer(shops.products)
    dispatcher = Dispatcher(db, shops, renderer, settings)
    secret = settings.link_keys[0].get_secret_value().encode()
    notifier = Notifier(shops, secret, real_days=settings.day_seconds == REAL_DAY_SECONDS)

    def committed() -> None:
        dispatcher.wake()
        relay.wake()

    seen = set(renderer.kinds)

    async def measure() -> None:
        counts = {(kind, state): n for kind, state, n in await store.open_counts(db)}
        seen.update(kind for kind, _ in counts)  # those of a newer process, too
        for kind in seen:
            for state in OPEN_STATES:
                JOURNAL.labels(kind, state).set(counts.get((kind, state), 0))

    return Service(
        name="notifier",
        settings=settings,
        db=db,
        bus=bus,
        shops=shops,
        relay=relay,
        internal=api.internal_routes(db, shops, renderer.kinds, dispatcher.wake),
        loops=[dispatcher.run],
        gates=[dispatcher.journal],
        consumer=Consumer(db, bus, "notifier", TOPICS, notifier.receive, after=committed),
        measure=measure,
        tidy=lambda: store.forget_old(db),
    )
