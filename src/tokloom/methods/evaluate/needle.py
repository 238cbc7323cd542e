"""Needle: numbers are hidden in a long text and asked for at its end, as in RULER's needle tasks.

Paper: RULER: What's the Real Context Size of Your Long-Context Language Models? arXiv:2404.06654
Formula: digit_accuracy = share of the answer's digits that the model ranks first, each given the right digits before
    it (teacher forcing; 0.1 by chance); nll = mean of -ln p over those digits (2.3 by chance, lower is better);
    recall = share of the numbers asked for that the generated text has.
Shapes: one example per repetition and depth; prompt of at most `length` tokens; scores 0 to 1, nll in nats.
Effect: says whether a method still reaches single tokens far back. Small models seldom state the number freely at
    lengths where they still rank its digits first, hence the teacher-forced metric; compare with the dense row.
    SmolLM2-135M ranks all digits first at 1,024 tokens, at every depth, with and without its chat template.
Differs: RULER scores recall only, over 500 samples, draws 7 digits and takes the needle's depth at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError, BudgetError, DocumentError, SpecError
from tokloom.evaluate.haystack import hide, read, sentences
from tokloom.evaluate.task import Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result, Score
    from tokloom.models.language_model import LanguageModel

# RULER's words for a single number and for several.
NEEDLE = "One of the special magic numbers for {key} is: {number}."
TEMPLATE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n{context}\n"
    "What is the special magic number for {key} mentioned in the provided text?"
)
ANSWER_PREFIX = " The special magic number for {key} mentioned in the provided text is"
TEMPLATE_OF_SEVERAL = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the numbers afterwards.\n{context}\n"
    "What are all the special magic numbers for {key} mentioned in the provided text?"
)
ANSWER_PREFIX_OF_SEVERAL = " The special magic numbers for {key} mentioned in the provided text are"

_QUALITIES = (
    "amber", "brittle", "crimson", "dusty", "emerald", "frosty", "gilded", "hollow", "ivory", "jagged",
    "knotted", "lunar", "mellow", "nimble", "opaque", "polar", "quaint", "rustic", "solemn", "velvet",
)  # fmt: skip
_THINGS = (
    "anchor", "badger", "cactus", "dolphin", "easel", "falcon", "goblet", "harbour", "igloo", "jackal",
    "kettle", "lantern", "magnet", "nutmeg", "orchid", "pelican", "quiver", "rocket", "saddle", "trumpet",
)  # fmt: skip


@method(stage="evaluate")
class Needle(Task):
    """Scores: digit_accuracy, recall, and nll (nats per digit, not 0 to 1)."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "digit_accuracy"

    length: int = Field(default=1024, ge=1)
    """Most tokens of the whole prompt; the last sentence that would go beyond is left out."""
    depths: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    """Where the first needle lies, as a share of the text: 0 first, 1 last. Further ones are at random depths."""
    repeats: int = Field(default=4, ge=1)
    """Needles per depth, each with its own key, number and passage of the text."""
    keys: int = Field(default=1, ge=1)
    """Keys that have numbers in the text; only the first `queries` are asked for, the others are distractors."""
    values: int = Field(default=1, ge=1)
    """Numbers of each key, hidden apart from each other."""
    queries: int = Field(default=1, ge=1)
    """Keys that are asked for."""
    digits: int = Field(default=4, ge=1, le=18)
    """Digits of each number."""
    seed: int = 0
    """Draws keys, numbers and passages."""
    path: str | None = None
    """Text file to hide the needles in; 100 kB of The Time Machine if not given."""
    generate: bool = True
    """Also generates freely, for recall, which takes reading the prompt twice; else the digits are scored alone."""
    chat: bool = False
    """Asks through the chat template, the answer begun for the model; else the prompt is raw text, as in RULER."""

    def __post_init__(self) -> None:
        if self.queries > self.keys:
            raise SpecError("needle:queries", self.queries, f"at most keys ({self.keys})", "Raise keys.")

    @property
    def _asked(self) -> int:
        """Numbers in the answer."""
        return self.queries * self.values

    @property
    def _spare(self) -> int:
        """The answer: at most a token a digit when scored, a sentence when generated."""
        return self._asked * 2 * self.digits + 8

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        hay = sentences(read(self.path, "needle:path"))
        if not hay:
            raise DocumentError(str(self.path), "holds no sentence", "Give a text file.")
        if self.length + self._spare > model.window:
            raise ArgumentError(
                "needle:length", self.length, f"at most {model.window - self._spare} tokens for {model.name}",
                f"Its window is {model.window} tokens, of which the answer needs {self._spare}.",
            )  # fmt: skip
        taken = "\n".join(hay)
        keys = [f"{a}-{b}" for a in _QUALITIES for b in _THINGS if f"{a}-{b}" not in taken.lower()]
        if self.keys > len(keys):
            raise ArgumentError("needle:keys", self.keys, f"at most {len(keys)}")
        for repeat in range(self.repeats):  # depths inside, so that the first few examples cover all of them
            for i, depth in enumerate(self.depths):
                draw = random.Random(f"{self.seed}/{repeat}/{i}/{self.digits}")
                needles = self._needles(draw, keys, taken)
                yield self._example(model, hay, needles, f"{repeat}/{depth:g}/{i}", depth, draw)

    def _needles(self, draw: random.Random, keys: Sequence[str], taken: str) -> list[tuple[str, str]]:
        """Keys with their numbers, those asked for first."""
        chosen = [draw.choice(keys)]
        numbers = [self._number(draw, taken, [])]
        while len(chosen) < self.keys:
            key = draw.choice(keys)
            chosen += [key] if key not in chosen else []
        while len(numbers) < self.keys * self.values:
            numbers.append(self._number(draw, taken, numbers))
        return [(key, number) for i, number in enumerate(numbers) for key in [chosen[i // self.values]]]

    def _number(self, draw: random.Random, taken: str, others: Sequence[str]) -> str:
        first = 10 ** (self.digits - 1)
        for _ in range(1000):
            number = str(draw.randrange(first, 10 * first))
            if number not in taken and number not in others:
                return number
        raise ArgumentError(
            "needle:digits", self.digits, "enough digits that some number is not in the text itself", "Try 7."
        )

    def _example(
        self, model: LanguageModel, hay: list[str], needles: list[tuple[str, str]], name: str, depth: float,
        draw: random.Random,
    ) -> Example:  # fmt: skip
        asked = list(dict.fromkeys(key for key, _ in needles[: self._asked]))
        named = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
        template, prefix = (
            (TEMPLATE, ANSWER_PREFIX) if self._asked == 1 else (TEMPLATE_OF_SEVERAL, ANSWER_PREFIX_OF_SEVERAL)
        )

        def prompt(context: str) -> str:
            question = template.format(context=context, key=named)
            asked = model.chat([{"role": "user", "content": question}]) if self.chat else question
            begun = prefix.format(key=named)
            return asked + (begun.lstrip() if self.chat else begun)

        def count(text: str) -> int:
            return len(model.encode_prompt(prompt(text), chat=False))  # as the engine reads a prompt

        texts = [NEEDLE.format(key=key, number=number) for key, number in needles]
        start = draw.randrange(len(hay))
        depths = [depth, *(draw.random() for _ in needles[1:])]
        hidden = hide(texts, hay, start, depths, self.length, count)
        if hidden is None:
            minimum = count(" ".join(texts))
            raise BudgetError(
                "needle:length", self.length, f"at least {minimum} tokens: template, question and needles"
            )
        text, reached = hidden
        numbers = tuple(number for _, number in needles[: self._asked])
        return Example(
            key=name,
            question=template.format(context=text, key=named),
            answers=numbers,
            prompt=prompt(text),
            max_new_tokens=self._spare,
            meta={"depth": depth, "depth_reached": reached[0], "key": named, "number": numbers[0]},
        )

    def run(self, engine: Engine, example: Example) -> Outcome:
        assert example.prompt is not None  # `examples` always sets it
        scored = engine.score(example.prompt, " " + ", ".join(example.answers))
        # Some tokenizers give the space before the number a token of its own; it says nothing about reading.
        digits = [i for i, token in enumerate(scored.tokens) if any(c.isdigit() for c in engine.model.decode([token]))]
        scores = {
            "digit_accuracy": sum(scored.ranks[i] == 0 for i in digits) / len(digits),
            "nll": -sum(scored.logprobs[i] for i in digits) / len(digits),
        }
        result: Result | Score = scored
        if self.generate:
            result = engine.generate(example.prompt, sampling=Sampling(max_new_tokens=example.max_new_tokens))
            found = [re.search(rf"(?<!\d){n}(?!\d)", result.text) is not None for n in example.answers]
            scores["recall"] = sum(found) / len(found)
        return Outcome(example, scores, result)
