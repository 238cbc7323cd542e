"""Fills a token budget with spans, and never exceeds it. Shared by all selectors.

Tokens of pieces don't add up to the tokens of the whole (a tokenizer merges across borders, and the
numbers of citations grow), so what counts is the rendering: near the budget every addition is counted
on the whole of it, and the result is counted once more before it is handed out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokloom.context.selector import ContextRequest, Decision, Document, Selection, Span, render
from tokloom.context.spans import character_end, mark_before

_COUNT_FROM = 0.9
"""Share of the budget from which on sums of separate counts are no longer trusted."""
_MAX_CHARACTERS = 24
"""Characters of a token beyond which texts do not go: a longer text can't fit, and isn't counted to know it."""

_WORD = 64
"""Characters that a word has at most: a longer run without white space may be cut within."""


@dataclass(frozen=True, order=True)
class Piece:
    """Characters [start, end) of the document with index `document` in the request."""

    document: int
    start: int
    end: int


class Packer:
    """Spans that are taken one by one until the budget is full. One packer serves one request.

    Args:
        request: gives the documents, the budget and the tokenizer's count.
        in_order: True puts spans in the order of the documents and joins those with only white space between them;
            False keeps the order in which they were taken.
    """

    def __init__(self, request: ContextRequest, *, in_order: bool) -> None:
        self._request = request
        self._in_order = in_order
        self._taken: list[Piece] = []
        self._tokens = 0  # of the rendering; a sum of separate counts since it was last counted
        self._own: dict[Piece, int] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing was taken."""
        return not self._taken

    def add_beginning(self, piece: Piece) -> Piece | None:
        """Takes as much of the beginning of a first piece as the budget holds; None if that is nothing."""
        kept = longest(self._request, (), self._span(piece)) if self.is_empty else None
        cut = Piece(piece.document, kept.start, kept.end) if kept else None
        return cut if cut is not None and self.add(cut) else None

    @property
    def left(self) -> int:
        """About how many tokens are left."""
        return self._request.budget - self._tokens

    def tokens(self, piece: Piece) -> int:
        """Tokens of a piece as a span of its own."""
        if piece not in self._own:
            self._own[piece] = self._request.count("\n\n" + render([self._span(piece)]))
        return self._own[piece]

    def add(self, piece: Piece) -> bool:
        """Takes a piece if the rendering stays within the budget. Pieces must not overlap."""
        budget = self._request.budget
        estimate = self._tokens + self.tokens(piece)
        if estimate > _COUNT_FROM * budget:
            estimate = self._request.count(render(self._arranged([*self._taken, piece])))
            if estimate > budget:
                return False
        self._taken.append(piece)
        self._tokens = estimate
        return True

    def close(self) -> list[Piece]:
        """Makes sure of the budget by an exact count. Returns the pieces that had to go, the last taken first."""
        dropped = []
        while self._taken and self._request.count(render(self.spans())) > self._request.budget:
            dropped.append(self._taken.pop())
        return dropped

    def spans(self) -> tuple[Span, ...]:
        """What was taken, as it goes into the prompt."""
        return tuple(self._arranged(self._taken))

    def _arranged(self, pieces: Sequence[Piece]) -> list[Span]:
        if not self._in_order:
            return [self._span(piece) for piece in pieces]
        return [self._span(piece) for piece in join(self._request.documents, pieces)]

    def _span(self, piece: Piece) -> Span:
        return Span(self._request.documents[piece.document], piece.start, piece.end)


def join(documents: Sequence[Document], pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in the order of the documents, those of one section with only white space between them as one."""
    joined: list[Piece] = []
    for piece in sorted(pieces):
        last = joined[-1] if joined else None
        document = documents[piece.document]
        if (
            last is not None
            and last.document == piece.document
            and not document.text[last.end : piece.start].strip()
            and document.section_at(last.start) == document.section_at(piece.start)
        ):
            joined[-1] = Piece(piece.document, last.start, piece.end)
        else:
            joined.append(piece)
    return joined


def everything(request: ContextRequest) -> Selection | None:
    """All documents whole, if the budget holds them: then there is nothing to choose. Else None."""
    if sum(len(document.text) for document in request.documents) > _MAX_CHARACTERS * request.budget:
        return None
    spans = tuple(whole(document) for document in request.documents if document.text.strip())
    if request.count(render(spans)) > request.budget:
        return None
    reason = "the budget holds all documents"
    return Selection(spans, tuple(Decision(span, True, reason) for span in spans))


def whole(document: Document) -> Span:
    """The span of a document without the white space around it."""
    text = document.text
    return Span(document, len(text) - len(text.lstrip()), len(text.rstrip()))


def longest(request: ContextRequest, before: Sequence[Span], span: Span) -> Span | None:
    """The longest beginning of `span` that fits behind `before`; None if no character fits.

    It is cut between words. A text without white space (Japanese, Thai, one long line) is cut behind a mark of
    punctuation near the end of what fits, else between characters; so is a first word that does not fit.
    """
    text, start, budget = span.document.text, span.start, request.budget

    def fits(end: int) -> bool:
        return request.count(render([*before, Span(span.document, start, end)])) <= budget

    # Double the length until it no longer fits: a book is never counted whole to find its first page.
    high = min(span.end - start, 4 * budget)
    while start + high < span.end and fits(start + high):
        high = min(span.end - start, 2 * high)
    words = [(m.start(), m.end()) for m in re.compile(r"\S+").finditer(text, start, start + high)]
    count = _most(len(words), lambda n: fits(words[n - 1][1]))
    kept = words[count - 1][1] if count else start
    if count < len(words):
        first, last = words[count]
        if not count or last - first > _WORD:
            end = _inside(text, first, last, fits)
            kept = mark_before(text, first, end, start) if end > first else kept
    return Span(span.document, start, kept) if kept > start else None


def _inside(text: str, first: int, last: int, fits: Callable[[int], bool]) -> int:
    """Where a run of characters [first, last) is cut so that it fits; `first` if nothing of it does."""
    end = first + _most(last - first, lambda n: fits(first + n))
    end = character_end(text, first, end) if end < last else end
    while end > first and not fits(end):
        end = character_end(text, first, end - 1)
    return end


def _most(maximum: int, fits: Callable[[int], bool]) -> int:
    """The most of [1, maximum] that fits, 0 if none does."""
    low, above = 0, maximum
    while low < above:
        middle = (low + above + 1) // 2
        if fits(middle):
            low = middle
        else:
            above = middle - 1
    # Tokens grow with length but for a merge at the cut; the search may have landed on one that is too long.
    while low and not fits(low):
        low -= 1
    return low
