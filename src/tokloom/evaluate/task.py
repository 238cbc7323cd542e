"""The evaluate stage: tasks that measure an engine on real data.

A `Task` yields `Example`s and scores what the engine answered. `compare/` runs tasks over methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tokloom.context.selector import Document
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result, Score
    from tokloom.models.language_model import LanguageModel

DATA = Path(__file__).parent / "data"
"""The files that tasks come with."""

GIVES = frozenset({"logits"})
"""What a task may list in `needs`."""


@dataclass(frozen=True)
class Example:
    """One question. `answers` are the accepted ones; `prompt`, if set, is the whole prompt as raw text,
    else `question` is asked through the chat template over `documents`."""

    key: str
    question: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...] = ()
    prompt: str | None = None
    max_new_tokens: int = 24
    meta: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Scores of one example by metric name (each 0 to 1 unless the task's docstring says otherwise),
    and the result that they were taken from, or the score where nothing was generated (its ledger is the cost)."""

    example: Example
    scores: dict[str, float]
    result: Result | Score


class Task(ABC):
    """Interface of tasks. Options are fields of the subclass; the same options and seed give the same examples."""

    stage: ClassVar[str] = "evaluate"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str]
    """The main metric: higher is better; the quality axis of a comparison."""
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    def parts(self) -> Sequence[Task]:
        """The tasks that a comparison shows in tables of their own, together all of this one; itself if it is one."""
        return (self,)

    @abstractmethod
    def examples(self, model: LanguageModel) -> Iterator[Example]:
        """The examples, in a fixed order. `model` is there to count tokens (e.g. a needle's haystack)."""

    @abstractmethod
    def run(self, engine: Engine, example: Example) -> Outcome:
        """Asks the engine and scores the answer."""
