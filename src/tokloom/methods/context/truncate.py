"""Takes the beginning of the documents, as much of it as the budget holds.

Paper: none (baseline)
Formula: the longest prefix of the documents in their order, cut between words, with ``tokens(rendering) <= budget``.
Shapes: none; works on text.
Effect: what a program does that knows of no retrieval; the answer is in the prompt only if it stands early.
"""

from __future__ import annotations

import re

import pydantic

from tokloom.context.packing import everything, whole
from tokloom.context.selector import ContextRequest, ContextSelector, Decision, Selection, Span, render
from tokloom.registry import method


@method(stage="context")
class Truncate(ContextSelector):
    """The beginning; see the module's docstring."""

    budget: int = pydantic.Field(default=1024, ge=1)
    """tokens of the whole prompt"""

    def select(self, request: ContextRequest) -> Selection:
        """Chooses whole documents while they fit, then the beginning of the next one."""
        complete = everything(request)
        if complete is not None:
            return complete
        taken: list[Span] = []
        trace: list[Decision] = []
        for document in request.documents:
            span = whole(document)
            kept = _longest(request, taken, span) if span.text else None
            if kept is not None:
                taken.append(kept)
                trace.append(Decision(kept, True, "from the beginning"))
            if kept is None or kept.end < span.end:
                left = Span(document, kept.end if kept else span.start, span.end)
                trace.append(Decision(left, False, "token budget: the rest does not fit"))
                break
        return Selection(tuple(taken), tuple(trace))


def _longest(request: ContextRequest, before: list[Span], span: Span) -> Span | None:
    """The longest beginning of `span`, cut between words, that fits behind `before`; None if no word fits."""

    def tokens(end: int) -> int:
        return request.count(render([*before, Span(span.document, span.start, end)]))

    # Double the length until it no longer fits: a book is never counted whole to find its first page.
    high = min(len(span.text), 4 * request.budget)
    while span.start + high < span.end and tokens(span.start + high) <= request.budget:
        high = min(len(span.text), 2 * high)
    ends = [m.end() for m in re.finditer(r"\S+", span.document.text[: span.start + high]) if m.end() > span.start]
    low, above = 0, len(ends)  # ends[low - 1] fits, ends[above] does not
    while low < above:
        middle = (low + above + 1) // 2
        if tokens(ends[middle - 1]) <= request.budget:
            low = middle
        else:
            above = middle - 1
    # Tokens grow with length but for a merge at the cut; the search may have landed on one that is too long.
    while low and tokens(ends[low - 1]) > request.budget:
        low -= 1
    return Span(span.document, span.start, ends[low - 1]) if low else None
