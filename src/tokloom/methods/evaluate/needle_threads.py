"""Needle threads: pairs of keys and values in which one value is the next key; the model follows them hop by hop.

Paper: P7. Needle Threading: Can LLMs Follow Threads through Near-Million-Scale Haystacks? arXiv:2411.05000
Formula: a thread is k_0 -> k_1 -> ... -> k_hops, every arrow a pair of the text, which is a JSON object. The answer is
    the thread from k_0 on, pair by pair, or with steps=false k_hops alone. digit_accuracy = share of the values' digits
    that the model ranks first, each given the right ones before it (teacher forcing); nll = mean of -ln p over them;
    thread_accuracy = share of the threads all of whose digits rank first.
Shapes: one example per repetition; prompt of at most `length` tokens; scores 0 to 1, nll in nats.
Effect: the paper finds that many models are thread-safe (several threads at once cost them little), that accuracy falls
    with length and hops, and that threads that run forward are the easier ones. Small models are far from it: of 5
    examples of 1,012 tokens SmolLM2-135M follows no thread to its end; with the thread written out it ranks 0.55 of the
    digits first (two threads 0.61, the last value alone 0.40; 0.19 with 128 slots of streaming_llm), so that what is
    measured is looking up at several places in turn.
Differs: keys are numbers of `digits` digits, not UUIDs, of which few would fit the window of a small model, and are
    scored by teacher forcing, not by comparing answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokloom.errors import ArgumentError, BudgetError, SpecError
from tokloom.evaluate.task import Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.models.language_model import LanguageModel

QUESTION = (
    "The JSON object below has pairs of keys and values. A value may be the key of another pair.\n{context}\n"
    "Begin at the key {keys}. Look its value up, then take that value as the next key, {hops} times in all."
)
PATH_PREFIX = " The pairs in their order:\n"
LAST_PREFIX = " The last value is:"


@method(stage="evaluate")
class NeedleThreads(Task):
    """Scores: digit_accuracy, thread_accuracy, and nll (nats per digit, not 0 to 1)."""

    needs: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "digit_accuracy"

    length: int = Field(default=1024, ge=1)
    """Most tokens of the whole prompt; as many pairs as fit."""
    hops: int = Field(default=3, ge=1)
    """Pairs of a thread."""
    threads: int = Field(default=1, ge=1)
    """Threads to follow, one after the other."""
    direction: Literal["random", "forward", "backward"] = "random"
    """Where in the text the next pair of a thread lies: anywhere, further down, or further up."""
    steps: bool = True
    """The answer goes from pair to pair; else it is the last value alone, as in the paper."""
    repeats: int = Field(default=20, ge=1)
    """Examples, each with its own pairs."""
    digits: int = Field(default=4, ge=2, le=9)
    """Digits of a key or value."""
    seed: int = 0
    """Draws the pairs and the threads."""

    def __post_init__(self) -> None:
        maximum = 9 * 10 ** (self.digits - 1) // 8
        if self.hops * self.threads > maximum:
            raise SpecError("needle_threads:digits", self.digits, f"enough digits for {self.hops * self.threads} pairs")

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        spare = len(model.encode(self._answer([["0" * self.digits] * (self.hops + 1)] * self.threads)[0]))
        if self.length + spare >= model.window:
            raise ArgumentError(
                "needle_threads:length", self.length, f"fewer than {model.window - spare} tokens for {model.name}"
            )
        for repeat in range(self.repeats):
            yield self._example(model, random.Random(f"{self.seed}/{repeat}/{self.digits}"), str(repeat))

    def _example(self, model: LanguageModel, draw: random.Random, name: str) -> Example:
        first = 10 ** (self.digits - 1)
        pool = [str(number) for number in draw.sample(range(first, 10 * first), min(9 * first, 20_000))]
        threads = [[pool.pop() for _ in range(self.hops + 1)] for _ in range(self.threads)]

        def prompt(pairs: list[tuple[str, str]]) -> str:
            context = "{\n" + "\n".join(f'"{key}": "{value}",' for key, value in pairs) + "\n}"
            starts = " and at the key ".join(f'"{thread[0]}"' for thread in threads)
            question = QUESTION.format(context=context, keys=starts, hops=self.hops)
            return question + (PATH_PREFIX if self.steps else LAST_PREFIX)

        def count(pairs: list[tuple[str, str]]) -> int:
            return len(model.encode_prompt(prompt(pairs), chat=False))

        links = [(thread[i], thread[i + 1]) for thread in threads for i in range(self.hops)]
        minimum = count(links)
        if minimum > self.length:
            raise BudgetError("needle_threads:length", self.length, f"at least {minimum} tokens: question and threads")
        others: list[tuple[str, str]] = []
        each = max(1, (count([*links, (pool[-1], pool[-2])]) - minimum))
        while len(pool) > 2 and minimum + each * (len(others) + 1) <= self.length:
            others.append((pool.pop(), pool.pop()))
        while others and count([*links, *others]) > self.length:
            others.pop()
        pairs = self._spread(draw, threads, others)
        answer, values = self._answer(threads)
        return Example(
            key=name,
            question=prompt(pairs),
            answers=(answer,),
            prompt=prompt(pairs),
            meta={"pairs": len(pairs), "values": " ".join(f"{start}-{end}" for start, end in values)},
        )

    def _spread(
        self, draw: random.Random, threads: list[list[str]], others: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """All pairs in the order of the text."""
        places = draw.sample(range(len(others) + self.hops * len(threads)), self.hops * len(threads))
        rest = iter(others)
        found: dict[int, tuple[str, str]] = {}
        for i, thread in enumerate(threads):
            own = places[i * self.hops : (i + 1) * self.hops]
            if self.direction != "random":
                own = sorted(own, reverse=self.direction == "backward")
            found |= {place: (thread[hop], thread[hop + 1]) for hop, place in enumerate(own)}
        return [found[i] if i in found else next(rest) for i in range(len(others) + len(found))]

    def _answer(self, threads: list[list[str]]) -> tuple[str, list[tuple[int, int]]]:
        """The answer's text, and where in it the values stand."""
        text, values = "", []
        for thread in threads:
            for key, value in pairwise(thread) if self.steps else [("", thread[-1])]:
                text += f'"{key}": "' if self.steps else ' "'
                values.append((len(text), len(text) + len(value)))
                text += f'{value}",\n' if self.steps else f'{value}"'
        return text, values

    def run(self, engine: Engine, example: Example) -> Outcome:
        assert example.prompt is not None  # `examples` always sets it
        (answer,) = example.answers
        scored = engine.score(example.prompt, answer)
        lengths = [len(engine.model.decode(scored.tokens[: i + 1])) for i in range(len(scored.tokens))]
        ends = [length + len(answer) - lengths[-1] for length in lengths]  # decoding may drop a space at the front
        spans = [tuple(map(int, span.split("-"))) for span in str(example.meta["values"]).split()]
        places = [
            [i for i, end in enumerate(ends) if end > span[0] and (ends[i - 1] if i else 0) < span[1]] for span in spans
        ]
        digits = [i for found in places for i in found]
        each = len(places) // self.threads
        threads = [[i for found in places[t * each : (t + 1) * each] for i in found] for t in range(self.threads)]
        scores = {
            "digit_accuracy": sum(scored.ranks[i] == 0 for i in digits) / len(digits),
            "thread_accuracy": sum(all(scored.ranks[i] == 0 for i in thread) for thread in threads) / self.threads,
            "nll": -sum(scored.logprobs[i] for i in digits) / len(digits),
        }
        return Outcome(example, scores, scored)
