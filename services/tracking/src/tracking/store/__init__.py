"""The SQL of tracking: orders and tracks, what is kept beside them, watching. It decides nothing."""

from tracking.store.keeping import (
    Handover,
    add_pages,
    count_open_delays,
    count_parcels,
    erase,
    expire_pages,
    find_page,
    tidy,
    webhooks,
)
from tracking.store.orders import (
    Key,
    holders,
    load_order,
    load_tracks,
    lock_due,
    lock_orders,
    lock_tracks,
    lock_unlearned,
    put_off,
    save_orders,
    save_tracks,
    strangers,
)
from tracking.store.profiles import Profiles
from tracking.store.watch import aggregator, watch

__all__ = [
    "Handover",
    "Key",
    "Profiles",
    "add_pages",
    "aggregator",
    "count_open_delays",
    "count_parcels",
    "erase",
    "expire_pages",
    "find_page",
    "holders",
    "load_order",
    "load_tracks",
    "lock_due",
    "lock_orders",
    "lock_tracks",
    "lock_unlearned",
    "put_off",
    "save_orders",
    "save_tracks",
    "strangers",
    "tidy",
    "watch",
    "webhooks",
]
