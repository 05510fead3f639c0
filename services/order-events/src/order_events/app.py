"""Composition root: which part talks to which."""

from order_events import api, store
from order_events.erasure import ShopErasure
from order_events.handlers import Orders
from order_events.settings import Settings
from shared import calendars
from shared.consumer import Consumer
from shared.group_commit import GroupCommit
from shared.service import Service, parts
from shared.settings import environment
from shared.shops import load


def create_app(settings: Settings) -> Service:
    """Build the service; nothing connects or starts before it runs."""
    calendars.prepare()
    db, bus, relay = parts("order_events", settings)
    shops = load(settings.shops_file, settings.products_file, environment())
    orders = Orders(db, bus, shops, relay.wake)
    gate = GroupCommit(orders.accept)
    inbound = Consumer(
        db,
        bus,
        "order_events",
        ["orders.inbound"],
        orders.stated,
        decode=lambda record: api.inbound_event(record, shops),
        after=relay.wake,
    )
    return Service(
        name="order_events",
        settings=settings,
        db=db,
        bus=bus,
        shops=shops,
        relay=relay,
        public=api.public_routes(gate.submit, shops),
        internal=api.internal_routes(db, gate.submit, shops),
        loops=[ShopErasure(db, bus, relay.wake).run],
        gates=[gate],
        consumer=inbound,
        tidy=lambda: store.forget_old(db),
    )
