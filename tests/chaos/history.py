"""What was written down during a run: everything that the checker knows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shipped:
    """A parcel as the shop stated it; `of`: how many the order has, `sure`: whether that can be known."""

    order: str
    shipment_id: str
    number: str
    of: int = 1
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Scanned:
    """One scan of the source that tells all of a parcel's story; `last`: nothing comes after it."""

    number: str
    state: str
    last: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """One acknowledged request. `ids` are the events, or (`to` tracking) the scans, it answered with.

    `owed` are orders it placed, `shipped` and `scanned` what it said about parcels.
    """

    at: float
    way: str
    orders: tuple[str, ...]
    ids: tuple[str, ...] = ()
    owed: tuple[str, ...] = ()
    to: str = "orders"
    shipped: tuple[Shipped, ...] = ()
    scanned: tuple[Scanned, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One row of an outbox; `seq` is its place, `subject` the parcel or the message it is about, `said`
    what of its body makes two of them the same news.
    """

    service: str
    seq: int
    event_id: str
    topic: str
    key: str
    type: str
    published: bool = True
    at: float = 0.0
    subject: str = ""
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A parcel as tracking has it at the end; `watched`: the aggregator follows it, or need not."""

    order: str
    shipment_id: str
    number: str
    state: str
    watched: bool = True


@dataclass(frozen=True, slots=True)
class InTopic:
    """One record as it stands in a topic."""

    topic: str
    partition: int
    offset: int
    key: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Dead:
    """One row of a list of events that could not be handled."""

    service: str
    key: str
    error_class: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One journal row as it stood at the end."""

    id: int
    order: str
    kind: str
    state: str
    reason: str | None
    message_id: str
    attempt: int = 0
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a journal row: when the statement ran and when its transaction committed."""

    message: int
    old: str | None
    new: str
    attempt: int
    at: float
    committed: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """One message that the mail server recorded before it answered."""

    at: float
    message_id: str
    rcpt: str


@dataclass
class History:
    """Everything that was written down. Orders are named by their bus key, `shop:order_id`."""

    acks: Sequence[Ack] = ()
    refused: Sequence[tuple[float, str, int, str]] = ()  # at, order, status, body
    outbox: Sequence[Outgoing] = ()
    topic: Sequence[InTopic] = ()
    inboxes: Mapping[str, frozenset[str]] = field(default_factory=dict)  # seen event ids, by reader
    scans: frozenset[str] = frozenset()  # ids of the scans that tracking has
    parcels: Sequence[Parcel] = ()
    overdue: Sequence[str] = ()  # orders whose check had come long before the end
    dead: Sequence[Dead] = ()
    messages: Sequence[Message] = ()
    changes: Sequence[Change] = ()
    cancelled: dict[str, float] = field(
        default_factory=dict
    )  # when the notifier's knowledge committed
    accepted: Sequence[Accepted] = ()
    addresses: dict[str, str] = field(default_factory=dict)  # whom an order's mail is for
    unknown_max: int = 0  # interrupted dispatchers times connections, and planned lost replies
    crashes: Sequence[str] = ()  # processes that died of themselves

    def __post_init__(self) -> None:
        """Index what the rules look up."""
        self.rows: dict[str, list[Message]] = defaultdict(list)
        self.by_message_id: dict[str, Message] = {}
        for message in self.messages:
            self.rows[message.order].append(message)
            self.by_message_id[message.message_id] = message
        self.mails: dict[str, list[Accepted]] = defaultdict(list)
        for mail in self.accepted:
            self.mails[mail.message_id].append(mail)
        self.life: dict[int, list[Change]] = defaultdict(list)
        for change in self.changes:
            self.life[change.message].append(change)
        self._keys: dict[str, set[str]] = defaultdict(set)
        for event in self.outbox:
            self._keys[event.type].add(event.key)

    def keys_of(self, type_: str) -> set[str]:
        """Return the orders of which an event of this type was stored."""
        return self._keys.get(type_, set())


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise; `order` is None when it is not about one order."""

    rule: str
    text: str
    order: str | None = None
