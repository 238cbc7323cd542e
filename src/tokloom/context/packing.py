"""Fills a token budget with spans, and never exceeds it. Shared by all selectors.

Tokens of pieces don't add up to the tokens of the whole (a tokenizer merges across borders, and the
numbers of citations grow), so what counts is the rendering: near the budget every addition is counted
on the whole of it, and the result is counted once more before it is handed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokloom.context.selector import ContextRequest, Decision, Document, Selection, Span, render

_COUNT_FROM = 0.9
"""Share of the budget from which on sums of separate counts are no longer trusted."""
_MAX_CHARACTERS = 24
"""Characters of a token beyond which texts do not go: a longer text can't fit, and isn't counted to know it."""


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
