"""How far sweeps have got, so that the next one need not look again at what lies behind them."""

from datetime import datetime, timedelta
from typing import Final

MARGIN: Final = timedelta(seconds=10)
"""Longer than a transaction may take that writes a check behind those that were swept a moment ago."""

_IN_A_ROW: Final = 20  # sweeps that skip what is behind them


class Watermark:
    """The check from which on the next sweep looks: what lies behind all that sweep at once is done."""

    def __init__(self) -> None:
        self.at: datetime | None = None
        self._reached: list[datetime | None] = []  # how far each of those got that sweep at once
        self._sweeping = 0
        self._sweeps = 0

    def begin(self) -> None:
        """Note that a sweep goes on."""
        self._sweeping += 1

    def end(self, last: datetime | None) -> None:
        """Note that a sweep is over and the check that it got to; None where the next begins anew."""
        self._sweeping -= 1
        self._sweeps += 1
        skips = last is not None and self._sweeps % _IN_A_ROW != 0
        self._reached.append(last - MARGIN if last and skips else None)
        if self._sweeping == 0:
            known = [one for one in self._reached if one is not None]
            self.at = min(known) if len(known) == len(self._reached) else None
            self._reached.clear()
