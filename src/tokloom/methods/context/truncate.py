"""Takes the beginning of the documents, as much of it as the budget holds.

Paper: none (baseline)
Formula: the longest prefix of the documents in their order, cut between words (a text without blanks: at
    punctuation or between characters), with ``tokens(rendering) <= budget``.
Shapes: none; works on text.
Effect: what a program does that knows of no retrieval; the answer is in the prompt only if it stands early.
"""

from __future__ import annotations

import pydantic

from tokloom.context.packing import everything, longest, whole
from tokloom.context.selector import ContextRequest, ContextSelector, Decision, Selection, Span
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
            kept = longest(request, taken, span) if span.text else None
            if kept is not None:
                taken.append(kept)
                trace.append(Decision(kept, True, "from the beginning"))
            if kept is None or kept.end < span.end:
                left = Span(document, kept.end if kept else span.start, span.end)
                trace.append(Decision(left, False, "token budget: the rest does not fit"))
                break
        return Selection(tuple(taken), tuple(trace))
