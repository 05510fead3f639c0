"""What the tracking page says in each language: the catalogues beside this module and what to look up.

Every table here maps one of our words to an English sentence, which is also its key in the catalogues.
A carrier's own words are never shown: what no table knows is left out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import shared.languages
from shared.languages import Language
from shared.languages.parcels import CAUSE, HANDED

_FOLDER = Path(__file__).parent

HEADING: Final[Mapping[str, str]] = {
    "unknown": "Sent",
    "label_created": "Waiting for the carrier",
    "in_transit": "On its way",
    "out_for_delivery": "Out for delivery",
    "ready_for_pickup": "Ready to be picked up",
    "delivery_attempted": "The delivery did not work out",
    "delayed": "Held up on the way",
    "exception": "There is a problem on the way",
    "delivered": "Delivered",
    "returning": "On its way back to us",
    "returned": "Back with us",
    "cancelled": "Parcel cancelled",
    "expired": "No news from the carrier",
}
"""By shipment state: the news itself, short enough to be a heading."""

NOW: Final[Mapping[str, str]] = {
    "unknown": "We have sent it. The carrier has not told us anything about it yet.",
    "label_created": "It is packed and has its label. The carrier has not said yet that it has it.",
    "expired": "The carrier has been silent about this parcel for a long time.",
}
"""By state: what has to be said beside the heading when no reason says it."""

NEXT: Final[Mapping[str, str]] = {
    "unknown": "As soon as the carrier reports where it is, you see it here.",
    "label_created": "As soon as the carrier reports that it has it, you see it here.",
    "in_transit": "Next, it goes out for delivery.",
    "out_for_delivery": "The courier has it and brings it to you. If nobody can take it, you find here what follows.",
    "ready_for_pickup": "Please fetch it soon: it is kept there for some days only. Have the parcel number at hand.",
    "delivery_attempted": "As soon as the carrier names another try or a pick-up point, you see it here.",
    "delayed": "We follow it, and you see here when it moves on.",
    "exception": "We clear it up with the carrier.",
}
"""By state: what happens next."""

ASK: Final[Mapping[str, str]] = {
    "returning": "Tell us whether we should send it again or give your money back.",
    "returned": "Tell us whether we should send it again or give your money back.",
    "cancelled": "If you still expect this parcel, please tell us.",
    "expired": "If it has not reached you, please tell us: we find out where it is.",
}
"""By state: what we need of her."""

ACTION = "We need your help with this: please write to us or call, and we sort it out together."

REASON: Final[Mapping[str, str]] = {
    "carrier_damaged_parcel": "The parcel was damaged on the way.",
    "carrier_sorting_error": "It took a wrong turn and is being put right.",
    "carrier_address_not_found": "The courier did not find the address.",
    "carrier_parcel_lost": "The carrier cannot find the parcel.",
    "carrier_not_enough_time": "The courier ran out of time that day.",
    "carrier_vehicle_issue": "A vehicle broke down.",
    "carrier_capacity_exceeded": "The carrier has more parcels than it can bring right now.",
    "carrier_mechanical_delay": "A technical fault holds it up.",
    "retailer_cancelled": "We cancelled this parcel.",
    "retailer_incorrect_data": "We have to correct the label.",
    "retailer_not_ready": "It was not ready when the carrier came.",
    "retailer_incorrect_parcel": "We gave the carrier a wrong parcel.",
    "retailer_incorrect_dimensions": "Its size or weight is not what we stated.",
    "retailer_packaging_issue": "The packaging has to be put right.",
    "consignee_refused": "The parcel was not accepted.",
    "consignee_business_closed": "The place was closed.",
    "consignee_not_available": "Nobody could take the parcel.",
    "consignee_not_home": "Nobody was at home.",
    "consignee_cancelled": "The delivery was called off.",
    "consignee_verification_failed": "The code or the document did not match.",
    "consignee_incorrect_address": "Something in the address is not right.",
    "consignee_access_restricted": "The courier could not get to the door.",
    "consignee_safe_place_unavailable": "There was no safe place to leave it.",
    "customs_delay": "Customs need more time.",
    "customs_documentation": "Customs need a document.",
    "customs_duties_unpaid": "Customs wait for a payment.",
    "customs_prohibited": "Customs do not let it through.",
    "customs_inspection": "Customs are checking the parcel.",
    "weather_delay": "The weather holds it up.",
    "natural_disaster": "A natural disaster holds it up.",
    "force_majeure": "It is held up by something nobody can change.",
    "parcel_being_researched": "The carrier is looking for the parcel.",
    "security_issue": "A security check holds it up.",
    "regulatory_hold": "An authority holds it.",
}
"""By reason of a scan, whatever its state."""

HOW: Final[Mapping[str, str]] = {
    **HANDED,
    "assumed": "By our reckoning it is with you; the carrier does not report it.",
}
"""By the way a parcel was handed over."""

STEP: Final[Mapping[str, str]] = {
    "label_created": "The parcel has its label",
    "in_transit": "On its way",
    "out_for_delivery": "Handed to the courier",
    "ready_for_pickup": "Ready to be picked up",
    "delivery_attempted": "Delivery tried",
    "delayed": "Delay reported",
    "exception": "Problem reported",
    "delivered": "Delivered",
    "returning": "On its way back to us",
    "returned": "Back with us",
    "cancelled": "Parcel cancelled",
    "expired": "No more news from the carrier",
}
"""By state of a scan: its line in the timeline. A scan that nobody understands has none."""

HISTORY: Final[Mapping[str, str]] = {
    "order.placed.v1": "We received your order",
    "order.preparing.v1": "We began to pack it",
    "order.delayed.v1": "We set a new date",
    "order.cancelled.v1": "We cancelled the order",
    "order.refunded.v1": "We sent money back to you",
    "order.return_requested.v1": "Return announced",
    "order.return_received.v1": "Your return has reached us",
}
"""By type of an order's fact: its line in the timeline."""
SENT, PARTLY_CANCELLED = "We sent the parcel", "We cancelled a part of the order"

ASKED: Final[Mapping[str, str]] = {
    "wait": "You wait for it. Thank you for your patience.",
    "change": "You asked us to change something. We have your request and will answer it.",
    "cancel": "You asked us to cancel. We have your request; it counts once we have confirmed it.",
    "call_me": "You asked us to call. We have your request and will call you.",
}
"""By choice: what the page says until the shop answers."""
ASKED_BACK: Final[Mapping[str, str]] = {
    "change": "You asked us to send it again. We have your request and will answer it.",
    "cancel": "You asked for your money back. We have your request and will answer it.",
}
"""The same of a parcel that does not reach her."""

ANSWERED: Final[Mapping[str, str]] = {
    "change": "You asked us to change something. We have answered.",
    "cancel": "You asked us to cancel. We have done so.",
    "call_me": "You asked us to call. We have been in touch.",
}
"""By choice: what the page says when the shop has answered."""
CANCELLED_PARTLY = "You asked us to cancel. We have cancelled a part of the order."
ANSWERED_BACK: Final[Mapping[str, str]] = {
    "change": "You asked us to send it again. We have answered.",
    "cancel": "You asked for your money back. We have answered.",
}
"""The same of a parcel that does not reach her."""

WISH: Final[Mapping[str, tuple[str, str]]] = {
    "wait": ("I'll wait", "We bring it as soon as we can."),
    "change": ("Change something", "Another address, other items, another day: write below what."),
    "cancel": ("Cancel it", "We confirm it, or tell you if it is too late for that."),
    "call_me": ("Call me", "Write below when, and on which number if it is a new one."),
}
"""By choice: the words of the form, and what they mean."""
WISH_BACK: Final[Mapping[str, tuple[str, str]]] = {
    "change": ("Send it again", "To the same address, or write below to which one."),
    "cancel": ("Give my money back", "We look at it and answer you."),
    "call_me": WISH["call_me"],
}
"""The same of a parcel that does not reach her: there is nothing to wait for."""

OTHER = ("Today", "Tomorrow")


def load(code: str) -> Language:
    """Load one language with the sentences of the page; `KeyError` when it is unknown."""
    return shared.languages.load(code, _FOLDER)


def sentences() -> Iterator[str]:
    """Yield every sentence that is looked up by these tables; the template brings its own."""
    tables = (HEADING, NOW, NEXT, ASK, REASON, HOW, STEP, HISTORY, CAUSE)
    for table in (*tables, ASKED, ASKED_BACK, ANSWERED, ANSWERED_BACK):
        yield from table.values()
    for words in (*WISH.values(), *WISH_BACK.values()):
        yield from words
    yield from (ACTION, SENT, PARTLY_CANCELLED, CANCELLED_PARTLY, *OTHER)
