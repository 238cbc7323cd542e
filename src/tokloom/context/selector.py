"""The context stage: which text of the user's documents goes into the prompt.

A `ContextSelector` gets a `ContextRequest` and returns a `Selection`: spans of the documents in
the order in which they are to stand in the prompt, and a trace of every decision. The budget is
strict: `request.count(selection.render())`, counted with the model's own tokenizer on the text as
it stands in the prompt, never exceeds it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from tokloom.models.language_model import LanguageModel

GIVES = frozenset({"tokenizer", "embeddings", "model"})
"""What a selector may list in `needs`."""


@dataclass(frozen=True)
class Section:
    """A titled part of a document: characters [start, end). `level` 1 is a chapter, 2 a section of it."""

    title: str
    level: int
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """A text with a name (its path) and its structure. Offsets are in characters of `text`."""

    name: str
    text: str
    sections: tuple[Section, ...] = ()

    def section_at(self, offset: int) -> Section | None:
        """The innermost section that holds the character at `offset`."""
        inside = [s for s in self.sections if s.start <= offset < s.end]
        return max(inside, key=lambda s: (s.level, s.start), default=None)


@dataclass(frozen=True)
class Span:
    """A citable piece of a document: characters [start, end) of `document.text`."""

    document: Document
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.document.text[self.start : self.end]

    @property
    def section(self) -> str:
        found = self.document.section_at(self.start)
        return found.title if found else ""

    @property
    def citation(self) -> str:
        return f"{self.document.name}[{self.start}:{self.end}]"


@dataclass(frozen=True)
class Decision:
    """Why a span was taken or left: the parts of its score by name, and the reason in words."""

    span: Span
    taken: bool
    reason: str
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The chosen spans in prompt order, and the trace in the order of the decisions."""

    spans: tuple[Span, ...]
    trace: tuple[Decision, ...] = ()

    def render(self) -> str:
        """The context as it stands in the prompt: each span whitespace-trimmed, numbered for citation."""
        return render(self.spans)


def render(spans: Sequence[Span]) -> str:
    """Spans as they stand in the prompt, ``[1] text`` separated by empty lines."""
    return "\n\n".join(f"[{i}] {span.text.strip()}" for i, span in enumerate(spans, 1))


@dataclass(frozen=True)
class ContextRequest:
    """What a selector may use.

    budget: the most tokens that the rendered selection may have.
    count: tokens of a text in the model's tokenizer.
    embed: texts -> unit vectors, float32 (texts, dims); loads the embedding model on first use.
    """

    question: str
    documents: Sequence[Document]
    budget: int
    count: Callable[[str], int]
    embed: Callable[[Sequence[str]], np.ndarray]
    model: LanguageModel


class ContextSelector(ABC):
    """Interface of the stage. Options are fields of the subclass; no run state on `self`.

    Every selector has an option `budget`: the most tokens of the whole prompt (template, question
    and context); the engine subtracts the rest and passes what is left as `request.budget`.
    """

    stage: ClassVar[str] = "context"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    budget: int

    @abstractmethod
    def select(self, request: ContextRequest) -> Selection:
        """Chooses spans. Never exceeds `request.budget`; may return no span at all."""
