"""What happened to an order and its parcels, newest first, in our words only."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from shared.facts import Fact
from shared.languages import Language
from shared.languages.brand import clean
from tracking import languages as words
from tracking.adapters.days import Days
from tracking.domain.fold import Shipment

Step = dict[str, Any]  # at, when, text, detail, place

_OPEN: Final = 6  # so many are shown without asking
_NUMBER: Final = re.compile(r"\d")


class Timeline:
    """Puts facts into words, at most `steps` of one list and `chars` of one name."""

    def __init__(self, language: Language, days: Days, steps: int, chars: int) -> None:
        self._language, self._days = language, days
        self._steps, self._chars = steps, chars

    def line(self, text: str) -> str:
        """Return a name in one line that is not too long."""
        line = clean(text)
        return line if len(line) <= self._chars else f"{line[: self._chars].rstrip()}…"

    def town(self, place: object) -> str:
        """Return where a parcel was; a place with a house number could be her address and is left out."""
        name = clean(place) if isinstance(place, str) else ""
        return "" if _NUMBER.search(name) else self.line(name)

    def of_parcel(self, one: Shipment) -> list[Step]:
        """Return that it was sent and what was scanned since, oldest first, without what nobody understands."""
        sent, day = one.parcel.shipped_at, one.parcel.body.precision == "day"
        left = [self._step(sent, words.SENT, day=day)] if sent is not None else []
        steps = [self._scan(scan) for scan in one.scans if scan.get("state") in words.STEP]
        # The midnight of a bare date is no time: it stands where the fold of scans has it.
        for before, step in pairwise(steps):
            step["at"] = max(step["at"], before["at"])
        return [*left, *steps]

    def of_order(self, facts: Iterable[Fact]) -> list[Step]:
        """Return what the shop did with the order as a whole, oldest first."""
        steps = []
        for one in facts:
            if one.type in words.HISTORY:
                partly = one.type == "order.cancelled.v1" and one.get("partial")
                sentence = words.PARTLY_CANCELLED if partly else words.HISTORY[one.type]
                steps.append(self._step(one.at, sentence, day=one.day))
        return steps

    def shown(self, steps: Sequence[Step]) -> dict[str, list[Step]]:
        """Return what is shown at once (`timeline`) and what on request (`earlier`), newest first.

        Of equal times, the step that stands later is the newer. What two sources told of the same day in the
        same words stands there once.
        """
        told: list[Step] = []
        for step in sorted(steps, key=lambda step: step["at"])[::-1]:
            if not (told and _same(told[-1], step)):
                told.append(step)
        first = _OPEN if len(told) > _OPEN + 1 else len(told)
        first = min(first, self._steps)
        return {"timeline": told[:first], "earlier": told[first : self._steps]}

    def _scan(self, scan: Fact) -> Step:
        state, reason, place = str(scan.get("state")), scan.get("reason"), scan.get("place")
        table = words.HOW if state == "delivered" else words.REASON
        step = self._step(scan.at, words.STEP[state], day=scan.day)
        if isinstance(reason, str) and reason in table:
            step["detail"] = self._language.text(table[reason])
        # A pick-up point is named whole: she has to find it.
        is_pickup = state == "ready_for_pickup" and isinstance(place, str)
        step["place"] = self.line(str(place)) if is_pickup else self.town(place)
        return step

    def _step(self, at: datetime, sentence: str, *, day: bool) -> Step:
        when, text = self._days.moment(at, day=day), self._language.text(sentence)
        return {"at": at, "when": when, "text": text, "detail": "", "place": ""}


def _same(one: Step, other: Step) -> bool:
    day = one["when"]["iso"][:10] == other["when"]["iso"][:10]
    return bool(day and all(one[part] == other[part] for part in ("text", "detail", "place")))
