"""What is found out after the order left: carriers, tracking, surveys and the notifier."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.events.orders import DateRange, Eta, EventData, OrderFact, ShipmentState
from shared.events.values import (
    Amount,
    Count,
    Currency,
    Day,
    Flag,
    Hash,
    Instant,
    Line,
    OrderId,
    Precision,
    Ref,
    ShortLine,
    Text,
    Token,
    Url,
)

Channel = Literal["email", "sms"]
Score = Annotated[int, Field(strict=True, ge=1, le=5)]


def number_ref(tracking_number: str | None) -> str | None:
    """Return the name under which scans of a tracking number meet, however it is spelt; None for none."""
    return "".join(c for c in tracking_number or "" if c.isalnum()).upper() or None


class ScanReported(EventData):
    """What a carrier said about a parcel, in our words; `raw_status` keeps the carrier's.

    `eta_said_at`: when it said so, where that was not with the scan.
    """

    type: ClassVar[str] = "scan.reported.v1"
    topic: ClassVar[str] = "scans"
    time_field: ClassVar[str | None] = "occurred_at"

    shipment_id: Ref | None = None
    carrier: ShortLine | None = None
    tracking_number: ShortLine | None = None
    state: ShipmentState
    reason: Line | None = None
    action_required: Flag = False
    occurred_at: Instant
    precision: Precision = "second"
    eta: Eta | None = None
    eta_said_at: Instant | None = None
    place: ShortLine | None = None
    source: Token | None = None
    raw_status: Line | None = None

    @model_validator(mode="after")
    def _about_a_parcel(self) -> Self:
        if number_ref(self.tracking_number) is None and self.shipment_id is None:
            raise ValueError("needs a tracking_number or a shipment_id")
        return self

    def key(self, shop: str) -> str:
        """Return the order's key, or the parcel's while its order is not known."""
        if self.order_id is None:
            return f"{shop}:{number_ref(self.tracking_number) or self.shipment_id}"
        return super().key(shop)


class ShipmentFact(OrderFact):
    """Something tracking found out about a parcel; `detected_at` is when it found out."""

    topic: ClassVar[str] = "shipments"
    shipment_id: Ref
    detected_at: Instant | None = None


class ShipmentStatusChanged(ShipmentFact):
    """A parcel has a new state."""

    type: ClassVar[str] = "shipment.status_changed.v1"
    carrier: ShortLine | None = None
    tracking_number: ShortLine | None = None
    tracking_url: Url | None = None
    state: ShipmentState
    previous: ShipmentState | None = None
    reason: Line | None = None
    action_required: Flag = False
    eta: Eta | None = None
    place: ShortLine | None = None


class DelayFact(OrderFact):
    """About one delay episode; without a shipment, the order is late before it was sent."""

    topic: ClassVar[str] = "shipments"
    shipment_id: Ref | None = None
    episode: Count
    next_contact_at: Instant | None = None
    detected_at: Instant | None = None


class ShipmentDelayed(DelayFact):
    """A parcel will be late; `old` and `new` are the promised dates before and now."""

    type: ClassVar[str] = "shipment.delayed.v1"
    cause: Token
    old: DateRange | None = None
    new: DateRange | None = None


class ShipmentDelayUpdate(DelayFact):
    """Nothing new, but we said we would write; `round` counts these within the episode."""

    type: ClassVar[str] = "shipment.delay_update.v1"
    round: Count = 1
    new: DateRange | None = None


class ShipmentRecovered(DelayFact):
    """The delay is over."""

    type: ClassVar[str] = "shipment.recovered.v1"
    new: DateRange | None = None


class CustomerChoice(OrderFact):
    """What the customer asks for on the tracking page of a late parcel.

    Of one that comes back or is lost, `change` asks to send it again and `cancel` for the money.
    """

    type: ClassVar[str] = "customer.choice.v1"
    topic: ClassVar[str] = "shipments"
    shipment_id: Ref | None = None
    episode: Count | None = None
    choice: Literal["wait", "change", "cancel", "call_me"]
    note: Text | None = None


class DeliveryFact(EventData):
    """About something handed over, at `delivered_at`."""

    topic: ClassVar[str] = "deliveries"
    time_field: ClassVar[str | None] = "delivered_at"
    order_id: OrderId
    delivered_at: Instant
    precision: Precision = "second"
    detected_at: Instant | None = None


class ParcelDelivered(DeliveryFact):
    """One parcel arrived; `handed_to` names the neighbour or the locker."""

    type: ClassVar[str] = "parcel.delivered.v1"
    shipment_id: Ref
    how: Literal["hand", "neighbour", "locker", "safe_place", "signed", "assumed"] | None = None
    handed_to: ShortLine | None = None
    carrier: ShortLine | None = None
    tracking_number: ShortLine | None = None


class ParcelDeliveryRevoked(OrderFact):
    """The carrier took its delivery scan back."""

    type: ClassVar[str] = "parcel.delivery_revoked.v1"
    topic: ClassVar[str] = "deliveries"
    shipment_id: Ref
    reason: Line | None = None
    detected_at: Instant | None = None


class OrderDelivered(DeliveryFact):
    """The last parcel arrived; said once for each order. `assumed`: nobody saw it, time has passed."""

    type: ClassVar[str] = "order.delivered.v1"
    how: Literal["scanned", "assumed"] = "scanned"
    shipment_ids: Annotated[tuple[Ref, ...], Field(max_length=200)] = ()


class FeedbackFact(OrderFact):
    """Something surveys decided or heard."""

    topic: ClassVar[str] = "feedback"


class FollowupDue(FeedbackFact):
    """It is time to write a message of this kind; the notifier decides whether it may."""

    type: ClassVar[str] = "followup.due.v1"
    kind: Token
    round: Count = 1
    survey_id: Ref | None = None
    case_id: Ref | None = None
    shipment_id: Ref | None = None
    expires_at: Instant | None = None


class FollowupDropped(FeedbackFact):
    """It will not be asked, and why."""

    type: ClassVar[str] = "followup.dropped.v1"
    kind: Token
    round: Count = 1
    reason: Token
    survey_id: Ref | None = None
    case_id: Ref | None = None


class SurveyAnswered(FeedbackFact):
    """The customer's score, 1 (bad) to 5, and her words."""

    type: ClassVar[str] = "survey.answered.v1"
    survey_id: Ref
    round: Count = 1
    score: Score
    reasons: Annotated[tuple[Token, ...], Field(max_length=20)] = ()
    comment: Text | None = None


class CaseFact(FeedbackFact):
    """About one case: something was wrong and is being put right."""

    case_id: Ref
    next_contact_at: Instant | None = None


class CaseOpened(CaseFact):
    """Something was wrong; `cause` says how we know (`score`, `complaint`, `scan`, `page`)."""

    type: ClassVar[str] = "case.opened.v1"
    cause: Token
    reason: Line | None = None
    text: Text | None = None
    shipment_id: Ref | None = None


class CaseAnswered(CaseFact):
    """The customer answered: is it solved?"""

    type: ClassVar[str] = "case.answered.v1"
    solved: Flag | None = None
    text: Text | None = None


class CaseUpdateDue(CaseFact):
    """We said we would write by now."""

    type: ClassVar[str] = "case.update_due.v1"
    round: Count = 1


class CaseCompensated(CaseFact):
    """What the customer gets; `amount` in minor units of `currency`."""

    type: ClassVar[str] = "case.compensated.v1"
    kind: Token
    amount: Amount | None = None
    currency: Currency | None = None
    code: ShortLine | None = None
    expires_on: Day | None = None

    @model_validator(mode="after")
    def _money_has_a_currency(self) -> Self:
        if self.amount is not None and self.currency is None:
            raise ValueError("an amount needs a currency")
        return self


class CaseClosed(CaseFact):
    """The case is over."""

    type: ClassVar[str] = "case.closed.v1"
    resolution: Line | None = None


class MessageFact(EventData):
    """What became of one message, named by kind, subject, channel, role and round; no address, no text."""

    topic: ClassVar[str] = "messages"
    order_id: OrderId
    at: Instant | None = None
    kind: Token
    subject: Annotated[str, Field(max_length=200)] = ""
    channel: Channel
    role: Token = "buyer"
    round: Count = 0
    reason: Line | None = None
    recipient_hash: Hash | None = None


class MessageSent(MessageFact):
    """The provider accepted it."""

    type: ClassVar[str] = "message.sent.v1"
    attempts: Count = 1


class MessageDelivered(MessageFact):
    """The provider says that it reached the mailbox or the phone."""

    type: ClassVar[str] = "message.delivered.v1"


class MessageSuppressed(MessageFact):
    """It will never be sent, and why."""

    type: ClassVar[str] = "message.suppressed.v1"


class MessageHeld(MessageFact):
    """It waits, and why; `until` when a moment is known."""

    type: ClassVar[str] = "message.held.v1"
    until: Instant | None = None


class MessageExpired(MessageFact):
    """It was not sent within its life."""

    type: ClassVar[str] = "message.expired.v1"


class MessageFailed(MessageFact):
    """The provider refused it for good."""

    type: ClassVar[str] = "message.failed.v1"
    attempts: Count = 1


class MessageUnknown(MessageFact):
    """Nobody can know whether it was sent."""

    type: ClassVar[str] = "message.unknown.v1"


class MessageBounced(MessageFact):
    """It came back after it was accepted."""

    type: ClassVar[str] = "message.bounced.v1"
    permanent: Flag = True


class ContactOptedOut(EventData):
    """A person does not want to be written to; no `channel` and no `kinds` means any optional message."""

    type: ClassVar[str] = "contact.opted_out.v1"
    topic: ClassVar[str] = "messages"
    at: Instant | None = None
    person_hash: Hash
    channel: Channel | None = None
    kinds: Annotated[tuple[Token, ...], Field(max_length=50)] = ()
    how: Token | None = None

    def key(self, shop: str) -> str:
        """Return the person's key: an opt-out outlives any order."""
        return f"{shop}:{self.person_hash}"
