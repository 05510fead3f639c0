"""The SQL of the notifier: the order projection, the send journal, what operators ask. It decides nothing."""

from notifier.store.journal import (
    Job,
    Message,
    Result,
    claim,
    end_lease,
    make_messages,
    mark_dispatching,
    record,
    renew_lease,
    suppress,
    sweep,
)
from notifier.store.operators import (
    end_pause,
    find_messages,
    find_order,
    find_unknown,
    open_counts,
    pauses,
    set_pause,
    settle_unknown,
)
from notifier.store.orders import Key, Order, Row, erase_orders, lock_orders, save_orders

__all__ = [
    "Job",
    "Key",
    "Message",
    "Order",
    "Result",
    "Row",
    "claim",
    "end_lease",
    "end_pause",
    "erase_orders",
    "find_messages",
    "find_order",
    "find_unknown",
    "lock_orders",
    "make_messages",
    "mark_dispatching",
    "open_counts",
    "pauses",
    "record",
    "renew_lease",
    "save_orders",
    "set_pause",
    "settle_unknown",
    "suppress",
    "sweep",
]
