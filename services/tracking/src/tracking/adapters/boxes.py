"""The boxes of the page about a delay: what went wrong, when we write, and what she chose or may choose."""

from collections.abc import Sequence
from typing import Any

from shared.languages import Language
from shared.languages.parcels import CAUSE
from shared.shops import Shop
from tracking import languages as words
from tracking.adapters.days import Days
from tracking.domain import choices
from tracking.domain.episodes import Episode
from tracking.domain.fold import Shipment
from tracking.domain.model import Order

Values = dict[str, Any]


class Boxes:
    """Puts the open delays of one order and her requests into words."""

    def __init__(
        self,
        order: Order,
        shop: Shop,
        language: Language,
        days: Days,
        delays: Sequence[Episode],
        *,
        cancelled: bool,
    ) -> None:
        self.shop, self.language, self.days, self.delays = shop, language, days, delays
        self.cancelled = cancelled
        self.asked = {(one.shipment_id, one.episode): one for one in choices.requested(order)}
        known = {(one.shipment_id, one.episode) for one in delays}
        self.asked_only = [one for key, one in self.asked.items() if key not in known]
        self.newest_asked = max(self.asked.values(), key=lambda one: one.at, default=None)

    def of_order(self, *, rest: bool) -> list[Values]:
        """Return the boxes of the order itself; `rest`: of what is in no parcel yet."""
        mine = [one for one in self.delays if one.shipment_id is None]
        if mine:
            return [self._delay(one, rest=rest) for one in mine]
        return [self._only_asked(one) for one in self._asked_of(None)]

    def of_parcel(self, one: Shipment, late: Episode | None, *, over: bool) -> Values | None:
        """Return the box of a parcel; `over`: it arrived, or will never come."""
        if late is not None:
            return self._delay(late, one)
        mine = self._asked_of(one.parcel.shipment_id)
        return self._only_asked(mine[-1]) if mine and not over else None

    def text(self, sentence: str) -> str:
        """Return a sentence of the tables in the language of this page."""
        return self.language.text(sentence)

    def _delay(self, late: Episode, one: Shipment | None = None, *, rest: bool = False) -> Values:
        sentences, back = [], late.cause == "returning"
        if late.old is not None:
            until = self.days.until(late.old.to)
            promised = self.text("We promised it by %(until)s and will not make it. We are sorry.")
            sentences.append(promised % {"until": until})
        else:
            sentences.append(self.text("It takes longer than it should. We are sorry."))
        if one is not None and one.reason and is_explained(late, one):
            sentences.append(self.text(words.REASON[one.reason]))
        elif late.cause in CAUSE:
            sentences.append(self.text(CAUSE[late.cause]))
        if late.new is None and not back:
            sentences.append(self.text("We do not know the new date yet."))
        elif late.new is not None and rest:  # no line above names it
            until = self.days.until(late.new.to)
            sentences.append(self.text("With you by %(until)s.") % {"until": until})
        contact = late.next_contact_at if self.shop.writes("delay_update") else None
        title = "Why the rest is late" if rest else "Why it is late"
        title = "What happens next" if back else title
        wishes, asked = words.WISH_BACK if back else words.WISH, self._asked_about(late)
        chosen_of_these = back and asked is not None and asked.episode == late.episode
        return self._asked_values(asked, back=chosen_of_these) | {
            "title": self.text(title),
            "sentences": sentences,
            "next_contact": self.days.until_moment(contact) if contact else "",
            "open": True,
            "wishes": [(w, self.text(name), self.text(why)) for w, (name, why) in wishes.items()],
            "shipment": late.shipment_id or "",
            "episode": late.episode,
        }

    def _asked_about(self, late: Episode) -> choices.Requested | None:
        asked = self.asked.get((late.shipment_id, late.episode))
        if asked is not None:
            return asked
        # What she asked when it was less late is still asked.
        before = [one for one in self._asked_of(late.shipment_id) if one.answered_at is None]
        return before[-1] if before else None

    def _asked_values(self, one: choices.Requested | None, *, back: bool = False) -> Values:
        if one is None:
            return {"asked": "", "standing": "", "anchor": False}
        answered = one.answered_at is not None and one.wish in words.ANSWERED
        standing = self.text("Answered" if answered else "Requested") if one.wish != "wait" else ""
        said = (words.ANSWERED if answered else words.ASKED)[one.wish]
        if answered and one.wish == "cancel" and not self.cancelled:
            said = words.CANCELLED_PARTLY
        if back:
            said = (words.ANSWERED_BACK if answered else words.ASKED_BACK).get(one.wish, said)
        return {"asked": self.text(said), "standing": standing, "anchor": one is self.newest_asked}

    def _only_asked(self, one: choices.Requested) -> Values:
        """What she asked for about a delay that is over: it is not forgotten."""
        return self._asked_values(one) | {
            "title": self.text("Your request"),
            "sentences": (),
            "next_contact": "",
            "open": False,
        }

    def _asked_of(self, shipment_id: str | None) -> list[choices.Requested]:
        mine = [one for one in self.asked_only if one.shipment_id == shipment_id]
        return [one for one in mine if one.wish != "wait"]


def is_explained(late: Episode, one: Shipment) -> bool:
    """Tell whether a scan's reason says why it is late: more than its cause, which need not be said then."""
    said = late.cause == one.state != "returning" and one.reason in words.REASON
    return said and not one.action_required  # what we need of her for it stands above
