"""Spec-Bench: questions of six kinds on which speculative decoding is compared, and whether the text stayed the same.

Paper: Unlocking Efficiency in Large Language Model Inference: A Comprehensive Survey of Speculative Decoding.
    arXiv:2401.07851

Formula: same = 1 if the output is that of greedy decoding with the model alone, dense attention and no drafts;
    agreement = share of that text before the first character that differs.

Shapes: one example per question, its first turn through the chat template; scores are 0 to 1.

Effect: speed is read off the costs (tokens a pass, tokens a second). A lossless method has same = 1 on every example;
    for others both scores measure how far they depart from the model.

Differs: the first turn of a dialogue only; questions longer than `longest` tokens are left out. Each kind of questions
    is compared in a table of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from tokloom.engine.request import Sampling
from tokloom.errors import DocumentError
from tokloom.evaluate.task import DATA, Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result
    from tokloom.models.language_model import LanguageModel

OTHERS = ("translation", "summarization", "qa", "math_reasoning", "rag")
"""Categories as they stand in the file; all others are MT-Bench's."""

SHIPPED = DATA / "spec_bench.jsonl"


@method(stage="evaluate")
class SpecBench(Task):
    """Scores: same, agreement."""

    metric: ClassVar[str] = "same"
    example: ClassVar[dict[str, Any]] = {"path": "question.jsonl"}

    path: str = ""
    """Spec-Bench's question.jsonl: lines with question_id, category and turns; 24 of its questions if not given."""
    category: Literal["mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"] | None = None
    """One kind of questions; all if not given."""
    limit: int | None = Field(default=None, ge=1)
    """Most questions of each category, the first ones."""
    longest: int = Field(default=1500, ge=1)
    """Most tokens of a question."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of an answer."""

    def parts(self) -> Sequence[Task]:
        if self.category is not None:
            return (self,)
        kinds = dict.fromkeys(category for _, category, _ in read(Path(self.path or SHIPPED)))
        return [replace(cast("Any", self), category=kind) for kind in kinds]

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        from tokloom.engine.engine import Engine

        plain = Engine(model)
        counted: dict[str, int] = {}
        for key, category, question in read(Path(self.path or SHIPPED)):
            if self.category not in (None, category) or counted.get(category, 0) == self.limit:
                continue
            if model.count(question) > self.longest:
                continue
            counted[category] = counted.get(category, 0) + 1
            expected = ask(plain, question, self.max_new_tokens).text
            yield Example(
                key=f"{category}/{key}",
                question=question,
                answers=(expected,),
                max_new_tokens=self.max_new_tokens,
                meta={"category": category},
            )

    def run(self, engine: Engine, example: Example) -> Outcome:
        result = ask(engine, example.question, example.max_new_tokens)
        return Outcome(example, compared(result.text, example.answers[0]), result)


def compared(text: str, expected: str) -> dict[str, float]:
    """The scores of an output."""
    differ = (i for i, (ours, theirs) in enumerate(zip(text, expected, strict=False)) if ours != theirs)
    alike = next(differ, min(len(text), len(expected)))
    return {"same": float(text == expected), "agreement": alike / len(expected) if expected else float(not text)}


def ask(engine: Engine, question: str, tokens: int) -> Result:
    """The answer, through the chat template if the model has one."""
    sampling = Sampling(max_new_tokens=tokens)
    if engine.model.has_chat_template:
        return engine.generate(messages=[{"role": "user", "content": question}], sampling=sampling)
    return engine.generate(question, sampling=sampling)


def read(path: Path) -> list[tuple[str, str, str]]:
    """Key, category and first turn of each question.

    Raises DocumentError if the file can't be read or is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(str(path), f"can't be read ({error})", "Check evaluate's option spec_bench:path.") from None
    questions: list[tuple[str, str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            kind, question = row["category"], row["turns"][0]
            if not isinstance(kind, str) or not isinstance(question, str):
                raise TypeError("category and turns must be texts")
            questions.append((str(row["question_id"]), kind if kind in OTHERS else "mt_bench", question))
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise DocumentError(
                str(path), f"line {number} is not a Spec-Bench question ({type(error).__name__}: {error})",
                "Valid are JSON lines with question_id, category and turns.",
            ) from None  # fmt: skip
    if not questions:
        raise DocumentError(str(path), "holds no question", "Give a file with at least one.")
    return questions
