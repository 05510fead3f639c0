"""What became of a parcel, in one sentence: a message and the page it leads to say the same."""

from collections.abc import Mapping
from typing import Final

CAUSE: Final[Mapping[str, str]] = {
    "not_shipped": "It has not left us yet.",
    "sent_late": "It left us later than planned.",
    "not_collected": "It is packed, but the carrier has not reported that it has it.",
    "silence": "Nothing has been reported about it for longer than usual.",
    "promise_date": "It is not as far on its way as it should be by now.",
    "eta_changed": "The carrier has named a later day.",
    "delivery_attempted": "The delivery was tried and did not work out.",
    "delayed": "The carrier reports a delay.",
    "exception": "Something went wrong on the way.",
    "returning": "Something happened on the way, and this parcel will not reach you.",
}
"""By cause of a delay. What has no sentence is not explained."""

HANDED: Final[Mapping[str, str]] = {
    "hand": "It was handed over in person.",
    "neighbour": "It was left with a neighbour.",
    "locker": "It was put into a parcel locker.",
    "safe_place": "It was left in a safe place.",
    "signed": "Somebody signed for it.",
}
"""By the way a parcel was handed over."""
