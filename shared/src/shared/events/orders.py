"""What shops state: orders, their parcels, returns and complaints."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.values import (
    MAX_ITEMS,
    Amount,
    Country,
    Currency,
    Day,
    Email,
    Flag,
    Hash,
    Instant,
    Line,
    Locale,
    Money,
    OrderId,
    Phone,
    Precision,
    Quantity,
    Ref,
    ShortLine,
    Text,
    Token,
    Url,
)

ShipmentState = Literal[
    "unknown",
    "label_created",
    "in_transit",
    "out_for_delivery",
    "ready_for_pickup",
    "delivery_attempted",
    "delayed",
    "exception",
    "delivered",
    "returning",
    "returned",
    "cancelled",
    "expired",
]
Payment = Literal["paid", "awaiting", "on_delivery"]


class Value(BaseModel):
    """A part of a body: immutable, compared by content, quiet about fields of a later version."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        validate_by_name=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,  # an error that is logged must not quote a person
    )


class EventData(Value):
    """The body of one event type. `type`, `topic` and `time_field` belong to the class, never to the body.

    `time_field` says when the fact happened; None where only the envelope does.
    """

    type: ClassVar[str]
    topic: ClassVar[str]
    time_field: ClassVar[str | None] = "at"

    order_id: OrderId | None = None

    @property
    def happened_at(self) -> datetime | None:
        """When the fact happened, if the body says so itself; otherwise the envelope's time counts."""
        return getattr(self, self.time_field, None) if self.time_field else None

    def key(self, shop: str) -> str:
        """Return the partition key: everything about one order stays in order."""
        return f"{shop}:{self.order_id}"


def person_hash(shop: str, address: str) -> str:
    """Return the name under which a shop's events speak of a person without saying who it is.

    A hash hides an address from a glance, not from someone who can guess it: treat it as personal.
    """
    return hashlib.sha256(f"{shop}\n{address.strip().lower()}".encode()).hexdigest()[:32]


def email_hash(address: str) -> str:
    """Return the name of an address in `CustomerErased` and in every look-up: SHA-256 in lower case, hex."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()


class Consent(Value):
    """What the customer agreed to; null means that she was never asked."""

    marketing: Flag | None = None
    survey: Flag | None = None


class Customer(Value):
    """Who bought. Without an e-mail address and a phone number, messages end as suppressed rows."""

    id: Ref | None = None
    name: Line | None = None
    email: Email | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    segment: ShortLine | None = None
    consent: Consent | None = None


class Recipient(Value):
    """Who receives the parcel, when it is not the buyer."""

    name: Line | None = None
    email: Email | None = None
    phone: Phone | None = None
    locale: Locale | None = None


class Address(Value):
    """Where the parcel goes, as it is printed on the label."""

    name: Line | None = None
    lines: Annotated[tuple[Line, ...], Field(max_length=10)] = ()
    city: Line | None = None
    postcode: ShortLine | None = None
    region: Line | None = None
    country: Country | None = None


class Item(Value):
    """One line of the order; `unit_price` in minor units of the order's currency."""

    line_id: Ref
    sku: Line | None = None
    product_id: Ref | None = None
    name: Line
    quantity: Quantity
    unit_price: Money | None = None
    image_url: Url | None = None
    url: Url | None = None


class ItemQuantity(Value):
    """How much of one line of the order."""

    line_id: Ref
    quantity: Quantity


Items = Annotated[tuple[Item, ...], Field(max_length=MAX_ITEMS)]
ItemQuantities = Annotated[tuple[ItemQuantity, ...], Field(max_length=MAX_ITEMS)]


class Totals(Value):
    """What the customer pays, in minor units of `currency`."""

    currency: Currency
    items: Money | None = None
    shipping: Money | None = None
    tax: Money | None = None
    discount: Money | None = None
    total: Amount


def _without_underscore(name: str) -> str:
    return name.rstrip("_")


class DateRange(Value):
    """Two dates, both included; the wire says `from` and `to`."""

    model_config = ConfigDict(alias_generator=_without_underscore)

    from_: Day
    to: Day

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.to < self.from_:
            raise ValueError("`to` must not be before `from`")
        return self


class Promise(DateRange):
    """The delivery dates promised to the customer, and who said so (`shop`, `method`, `carrier`)."""

    source: Token | None = None


class Eta(Value):
    """When the carrier expects to deliver; one of the two may be unknown."""

    model_config = ConfigDict(alias_generator=_without_underscore)

    from_: Instant | None = None
    to: Instant | None = None


class Source(Value):
    """Where the order came from."""

    platform: Token | None = None
    campaign: Line | None = None


class OrderFact(EventData):
    """Something that happened to an order, at `at` or else at the envelope's time."""

    topic: ClassVar[str] = "orders"
    order_id: OrderId
    at: Instant | None = None
    precision: Precision = "second"


class OrderPlaced(EventData):
    """The order as it stands: a full snapshot. An unpaid basket is not placed."""

    type: ClassVar[str] = "order.placed.v1"
    topic: ClassVar[str] = "orders"
    time_field: ClassVar[str | None] = "placed_at"

    order_id: OrderId
    number: ShortLine | None = None
    revision: Instant | None = None
    placed_at: Instant
    payment: Payment = "paid"
    customer: Customer
    recipient: Recipient | None = None
    hide_prices: Flag = False
    ship_to: Address | None = None
    items: Items
    totals: Totals
    shipping_method: Line | None = None
    promise: Promise | None = None
    status_url: Url | None = None
    source: Source | None = None


class OrderUpdated(OrderPlaced):
    """The same snapshot again after a change; the latest `revision` wins."""

    type: ClassVar[str] = "order.updated.v1"
    time_field: ClassVar[str | None] = "revision"


class OrderPreparing(OrderFact):
    """Packing began."""

    type: ClassVar[str] = "order.preparing.v1"


class OrderDelayed(OrderFact):
    """It will take longer before anything is sent: a backorder, a new promise."""

    type: ClassVar[str] = "order.delayed.v1"
    promise: Promise | None = None
    reason: Line | None = None


class OrderCancelled(OrderFact):
    """Cancelled: all of it, or only `items`."""

    type: ClassVar[str] = "order.cancelled.v1"
    reason: Line | None = None
    items: ItemQuantities | None = None


class OrderRefunded(OrderFact):
    """Money went back; `refund_id` tells several refunds of one order apart."""

    type: ClassVar[str] = "order.refunded.v1"
    refund_id: Ref | None = None
    amount: Amount
    currency: Currency
    reason: Line | None = None
    items: ItemQuantities | None = None


class ReturnRequested(OrderFact):
    """The customer sends something back; `by` is the last day for it."""

    type: ClassVar[str] = "order.return_requested.v1"
    return_id: Ref
    items: ItemQuantities | None = None
    by: Day | None = None
    instructions_url: Url | None = None


class ReturnReceived(OrderFact):
    """What she sent back has arrived."""

    type: ClassVar[str] = "order.return_received.v1"
    return_id: Ref


_PLACE: Final = re.compile(r"\s*(\d{1,3})\s*(?:of|/)\s*(\d{1,3})\s*", re.ASCII)


def place_of_order(said: str | None) -> tuple[int, int]:
    """Return which parcel of how many a `number_of_order` names, "2 of 3" or "2/3"; zeros for none."""
    found = _PLACE.fullmatch(said or "")
    mine, total = (int(found[1]), int(found[2])) if found else (0, 0)
    return (mine, total) if 1 <= mine <= total else (0, 0)


class OrderShipped(EventData):
    """One parcel left. `final`: whether it completes the order; `precision: day` when only the date is known."""

    type: ClassVar[str] = "order.shipped.v1"
    topic: ClassVar[str] = "orders"
    time_field: ClassVar[str | None] = "shipped_at"

    order_id: OrderId
    shipment_id: Ref
    number_of_order: ShortLine | None = None
    carrier: ShortLine | None = None
    tracking_number: ShortLine | None = None
    tracking_url: Url | None = None
    items: ItemQuantities | None = None
    final: Literal["yes", "no", "unknown"] = "unknown"
    shipped_at: Instant | None = None
    precision: Precision = "second"


class ShipmentUpdated(OrderShipped):
    """The parcel as it stands after a change: a carrier, a number or its contents."""

    type: ClassVar[str] = "shipment.updated.v1"
    time_field: ClassVar[str | None] = None  # `shipped_at` stays that of the dispatch


class ShipmentWithdrawn(OrderFact):
    """The shop took a shipment back: it does not exist."""

    type: ClassVar[str] = "shipment.withdrawn.v1"
    shipment_id: Ref


class ComplaintOpened(OrderFact):
    """The customer complained to the shop."""

    type: ClassVar[str] = "complaint.opened.v1"
    complaint_id: Ref
    reason: Line | None = None
    text: Text | None = None
    channel: ShortLine | None = None
    agent: Line | None = None


class ComplaintClosed(OrderFact):
    """The shop has dealt with it."""

    type: ClassVar[str] = "complaint.closed.v1"
    complaint_id: Ref
    resolution: Line | None = None


class ContactLogged(EventData):
    """The customer asked the shop something, about an order or in general."""

    type: ClassVar[str] = "contact.logged.v1"
    topic: ClassVar[str] = "orders"

    at: Instant | None = None
    customer: Customer | None = None
    channel: ShortLine | None = None
    reason: Line | None = None
    agent: Line | None = None
    answered_at: Instant | None = None

    @model_validator(mode="after")
    def _about_someone(self) -> Self:
        if self.order_id is None and self._address() is None:
            raise ValueError("needs an order_id or a customer with an id, e-mail address or phone")
        return self

    def _address(self) -> str | None:
        who = self.customer
        return (who.email or who.phone or who.id) if who else None

    def key(self, shop: str) -> str:
        """Return the order's key, or the person's where no order is named."""
        if self.order_id is None:
            return f"{shop}:{person_hash(shop, self._address() or '')}"
        return super().key(shop)


class CompensationIssued(OrderFact):
    """The shop made good: money or a code; `amount` in minor units of `currency`."""

    type: ClassVar[str] = "compensation.issued.v1"
    case_id: Ref | None = None
    kind: Token
    amount: Amount | None = None
    currency: Currency | None = None
    code: ShortLine | None = None
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _money_has_a_currency(self) -> Self:
        if self.amount is not None and self.currency is None:
            raise ValueError("an amount needs a currency")
        return self


class CompensationFailed(CompensationIssued):
    """The shop could not make good as decided."""

    type: ClassVar[str] = "compensation.failed.v1"
    reason: Line | None = None


class CustomerErased(OrderFact):
    """Forget the person behind this order; one event for each known order."""

    type: ClassVar[str] = "customer.erased.v1"
    email_hash: Hash | None = None
