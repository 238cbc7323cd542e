"""Turns tokens into text as they come: whole characters only, up to the first stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one output.

    push(token bytes) gives the text that is safe to show: it never ends inside a UTF-8 character
    and never shows a piece that may turn out to be the start of a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.text = ""
        self.shown = 0
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fork(self) -> TextStream:
        """The same text, independent from now on."""
        other = TextStream(self.stop)
        other.text, other.shown, other.stopped = self.text, self.shown, self.stopped
        other._decoder.setstate(self._decoder.getstate())
        return other

    def push(self, piece: bytes) -> str:
        """Adds the bytes of one token; returns text to show. After a stop string `stopped` is True."""
        return self._advance(self._decoder.decode(piece))

    def finish(self) -> str:
        """Ends the output; returns what was held back. An incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        return self._advance(self._decoder.decode(b"", final=True)) + self._show(len(self.text))

    def _advance(self, new: str) -> str:
        if self.stopped:
            return ""
        longest = max(map(len, self.stop), default=0)
        searched = max(0, len(self.text) - longest + 1)
        self.text += new
        found = [at for at in (self.text.find(s, searched) for s in self.stop) if at >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            return self._show(len(self.text))
        return self._show(len(self.text) - self._possible_start())

    def _possible_start(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        best = 0
        for stop in self.stop:
            for length in range(min(len(stop) - 1, len(self.text)), best, -1):
                if self.text.endswith(stop[:length]):
                    best = length
                    break
        return best

    def _show(self, end: int) -> str:
        piece = self.text[self.shown : max(end, self.shown)]
        self.shown += len(piece)
        return piece
