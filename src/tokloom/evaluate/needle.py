"""Needle: a number is hidden in a long text and asked for at its end, as in RULER's single needle.

Paper: RULER: What's the Real Context Size of Your Long-Context Language Models? arXiv:2404.06654
Formula: digit_accuracy = share of the answer's digits that the model ranks first, each given the right digits before
    it (teacher forcing; 0.1 by chance); nll = mean of -ln p over those digits (2.3 by chance, lower is better);
    recall = 1 if the generated text has the number.
Shapes: one example per repetition and depth; prompt of at most `length` tokens; scores 0 to 1, nll in nats.
Effect: says whether a method still reaches single tokens far back. Small models seldom state the number freely at
    lengths where they still rank its digits first, hence the teacher-forced metric; compare with the dense row.
    SmolLM2-135M ranks all digits first at 1,024 tokens, at every depth, with and without its chat template.
Differs: RULER scores recall only, over 500 samples, draws 7 digits and takes the needle's depth at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError, BudgetError, DocumentError
from tokloom.evaluate.stage import Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.models.language_model import LanguageModel

SHIPPED = Path(__file__).parent / "data" / "haystack.txt"

# RULER's words for a single number.
NEEDLE = "One of the special magic numbers for {key} is: {number}."
TEMPLATE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n{context}\n"
    "What is the special magic number for {key} mentioned in the provided text?"
)
ANSWER_PREFIX = " The special magic number for {key} mentioned in the provided text is"

_QUALITIES = (
    "amber", "brittle", "crimson", "dusty", "emerald", "frosty", "gilded", "hollow", "ivory", "jagged",
    "knotted", "lunar", "mellow", "nimble", "opaque", "polar", "quaint", "rustic", "solemn", "velvet",
)  # fmt: skip
_THINGS = (
    "anchor", "badger", "cactus", "dolphin", "easel", "falcon", "goblet", "harbour", "igloo", "jackal",
    "kettle", "lantern", "magnet", "nutmeg", "orchid", "pelican", "quiver", "rocket", "saddle", "trumpet",
)  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z])")


def sentences(text: str) -> list[str]:
    """The sentences of a text, white space collapsed."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = (" ".join(text[start:end].split()) for start, end in pairwise(ends))
    return [part for part in parts if part]


def insertion(lengths: Sequence[int], depth: float) -> int:
    """Before which of the sentences of these lengths the needle goes: the border nearest to `depth` of the whole."""
    borders = [0, *accumulate(lengths)]
    return min(range(len(borders)), key=lambda i: abs(borders[i] - depth * borders[-1]))


def hide(
    needle: str, hay: Sequence[str], start: int, depth: float, length: int, count: Callable[[str], int]
) -> tuple[str, float] | None:
    """The longest text with the needle in it that has at most `length` tokens, and the needle's depth reached.

    Args:
        hay: sentences, taken whole and in order from number `start` on, and from the first one after the last.
        depth: where the needle is wished, as a share of the hay's tokens before it, 0 (first) to 1 (last).
        count: tokens of a text, with whatever is to stand around it.

    Returns:
        None if not even the needle alone fits.
    """
    empty = count("")
    sizes: list[int] = []  # tokens of the sentences taken; their sum is near the exact count, not equal to it

    def size(i: int) -> int:
        while len(sizes) <= i:
            sizes.append(count(" " + hay[(start + len(sizes)) % len(hay)]) - empty)
        return sizes[i]

    def assemble(taken: int) -> tuple[str, float]:
        lengths = [size(i) for i in range(taken)]
        at = insertion(lengths, depth)
        parts = [hay[(start + i) % len(hay)] for i in range(taken)]
        return " ".join([*parts[:at], needle, *parts[at:]]), sum(lengths[:at]) / max(sum(lengths), 1)

    taken, room = 0, length - count(needle)
    while room >= size(taken):
        room -= size(taken)
        taken += 1
    while taken >= 0 and count(assemble(taken)[0]) > length:
        taken -= 1
    if taken < 0:
        return None
    while count(assemble(taken + 1)[0]) <= length:
        taken += 1
    return assemble(taken)


@method(stage="evaluate")
class Needle(Task):
    """Scores: digit_accuracy, recall, and nll (nats per digit, not 0 to 1)."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "digit_accuracy"

    length: int = Field(default=1024, ge=1)
    """Most tokens of the whole prompt; the last sentence that would go beyond is left out."""
    depths: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    """Where the needle lies, as a share of the text: 0 first, 1 last."""
    repeats: int = Field(default=4, ge=1)
    """Needles per depth, each with its own key, number and passage of the text."""
    digits: int = Field(default=4, ge=1, le=18)
    """Digits of the number."""
    seed: int = 0
    """Draws keys, numbers and passages."""
    path: str | None = None
    """Text file to hide the needle in; 100 kB of The Time Machine if not given."""
    chat: bool = False
    """Asks through the chat template, the answer begun for the model; else the prompt is raw text, as in RULER."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        hay = self._hay()
        spare = 2 * self.digits + 8  # the answer: at most a token a digit when scored, a sentence when generated
        if self.length + spare > model.window:
            raise ArgumentError(
                "needle:length", self.length, f"at most {model.window - spare} tokens for {model.name}",
                f"Its window is {model.window} tokens, of which the answer needs {spare}.",
            )  # fmt: skip
        taken = "\n".join(hay)
        keys = [f"{a}-{b}" for a in _QUALITIES for b in _THINGS if f"{a}-{b}" not in taken.lower()]
        for repeat in range(self.repeats):  # depths inside, so that the first few examples cover all of them
            for i, depth in enumerate(self.depths):
                draw = random.Random(f"{self.seed}/{repeat}/{i}/{self.digits}")
                key = draw.choice(keys)
                number = self._number(draw, taken)
                yield self._example(model, hay, key, number, f"{repeat}/{depth:g}/{i}", depth, draw)

    def _hay(self) -> list[str]:
        path = Path(self.path) if self.path is not None else SHIPPED
        try:
            hay = sentences(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DocumentError(str(path), f"can't be read ({error})", "Check evaluate's option needle:path.") from None
        if not hay:
            raise DocumentError(str(path), "holds no sentence", "Give a text file.")
        return hay

    def _number(self, draw: random.Random, taken: str) -> str:
        first = 10 ** (self.digits - 1)
        for _ in range(1000):
            number = str(draw.randrange(first, 10 * first))
            if number not in taken:
                return number
        raise ArgumentError(
            "needle:digits", self.digits, "enough digits that some number is not in the text itself", "Try 7."
        )

    def _example(
        self, model: LanguageModel, hay: list[str], key: str, number: str, name: str, depth: float, draw: random.Random
    ) -> Example:
        def prompt(context: str) -> str:
            question = TEMPLATE.format(context=context, key=key)
            asked = model.chat([{"role": "user", "content": question}]) if self.chat else question
            prefix = ANSWER_PREFIX.format(key=key)
            return asked + (prefix.lstrip() if self.chat else prefix)

        def count(text: str) -> int:
            return len(model.encode_prompt(prompt(text), chat=False))  # as the engine reads a prompt

        needle = NEEDLE.format(key=key, number=number)
        hidden = hide(needle, hay, draw.randrange(len(hay)), depth, self.length, count)
        if hidden is None:
            raise BudgetError(
                "needle:length", self.length, f"at least {count(needle)} tokens: template, question and needle"
            )
        text, share = hidden
        return Example(
            key=name,
            question=TEMPLATE.format(context=text, key=key),
            answers=(number,),
            prompt=prompt(text),
            max_new_tokens=2 * self.digits + 8,
            meta={"depth": depth, "depth_reached": share, "key": key, "number": number},
        )

    def run(self, engine: Engine, example: Example) -> Outcome:
        assert example.prompt is not None  # `examples` always sets it
        number = example.answers[0]
        scored = engine.score(example.prompt, f" {number}")
        # Some tokenizers give the space before the number a token of its own; it says nothing about reading.
        digits = [i for i, token in enumerate(scored.tokens) if any(c.isdigit() for c in engine.model.decode([token]))]
        result = engine.generate(example.prompt, sampling=Sampling(max_new_tokens=example.max_new_tokens))
        scores = {
            "digit_accuracy": sum(scored.ranks[i] == 0 for i in digits) / len(digits),
            "nll": -sum(scored.logprobs[i] for i in digits) / len(digits),
            "recall": float(re.search(rf"(?<!\d){number}(?!\d)", result.text) is not None),
        }
        return Outcome(example, scores, result)
