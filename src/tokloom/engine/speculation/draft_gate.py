"""Whether a drafter is worth the time that it takes itself."""

from __future__ import annotations

import math

MINIMUM = 0.004
"""Passes that a proposal must be worth beyond what it takes."""


class DraftGate:
    """Compares what the drafter's proposals are worth with the time that it takes to make them and to learn.

    All in passes of one row. A proposal is worth what it is forecast to save: `Drafting` works that out of chances that
    follow what really came, and of costs that follow what passes really took. Proposals can be judged without being
    verified, so that a drafter that rests is asked now and then, at next to no cost, and is back when it would have
    been right.
    """

    RATE = 0.02
    SHARE = 0.004
    """Share of the time that a drafter which rests may take."""
    CLIP = 3.0
    """A time of more than so many usual ones says that the machine was busy elsewhere."""
    SLOWER, FASTER = 0.05, 0.3
    """How fast a usual time follows one that is higher, and one that is lower: it is near the least of late."""

    def __init__(self) -> None:
        self.plain = 0.0
        """Seconds of a pass of one row, 0 until known."""
        self.asking = self.teaching = 0.0
        """Seconds of one question, and of one lesson."""
        self.worth = 0.1
        """What proposals were worth of late, in all requests. New drafters have some credit."""
        self._since = 0

    def open(self, worth: float) -> bool:
        """The drafter is to be asked for the next pass. worth: of late in the request at hand."""
        if self.pays(worth):
            return True
        self._since += 1
        if self._since < self._every:
            return False
        self._since = 0
        return True

    def pays(self, worth: float) -> bool:
        """Proposals are worth more than they take."""
        if self.plain == 0:
            return True
        return worth > MINIMUM + (self.asking + self.teaching) / self.plain

    @property
    def learns(self) -> bool:
        """Teaching takes next to nothing, so that it goes on while the drafter rests."""
        return self.plain == 0 or self.teaching < self.SHARE * self.plain

    def asked(self, seconds: float, worth: float) -> None:
        """One proposal took so long and is forecast to save so much."""
        self.asking = self._smooth(self.asking, seconds)
        self.worth += self.RATE * (worth - self.worth)

    def taught(self, seconds: float) -> None:
        """The drafter has learned from a pass."""
        self.teaching = self._smooth(self.teaching, seconds)

    def passed(self, seconds: float) -> None:
        """A pass of one row took so long, without the drafter's time."""
        self.plain = self._smooth(self.plain, seconds)

    @property
    def _every(self) -> int:
        """Passes from one question to the next while the drafter rests."""
        return max(2, math.ceil(self.asking / (self.SHARE * self.plain))) if self.plain > 0 else 1

    def _smooth(self, mean: float, value: float) -> float:
        if mean == 0:
            return value
        return mean + (self.SLOWER if value > mean else self.FASTER) * (min(value, self.CLIP * mean) - mean)
