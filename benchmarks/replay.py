"""What drafters would save on recorded answers, where a pass of so many rows costs what it is said to: no clock.

    .venv/bin/python benchmarks/decoding.py --spec-bench FILE --only "tokloom plain" --results answers.jsonl [...]
    .venv/bin/python benchmarks/replay.py answers.jsonl --spec-bench FILE [--drafters suffix_automaton prompt_lookup]
    .venv/bin/python benchmarks/replay.py answers.jsonl --spec-bench FILE --without reach gate    each left out in turn

Greedy text does not depend on the drafter, so that an answer that was written once can be drafted and verified again
without the model. Figures are the same each time but for a last digit (a drafter rests by its own time), and a change
to what is drafted shows as what it is, not as what the machine did meanwhile. Only for drafters that ask neither the
model nor its logits; a drafter's own time, some 1 to 3% of a pass, is left out.

"kept": what a drafter learned is kept for the next answer; "fresh": it is not. "short": answers of up to 400 tokens.
"worst": the lowest gain of a single answer. "lost": passes that answers took beyond those of plain decoding, all that
lost summed. "a pass": tokens of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tokloom
from tokloom import LanguageModel, registry
from tokloom.decode.drafter import Drafter, Verified
from tokloom.engine.prediction import PlainPrediction
from tokloom.engine.request_context import RequestContext
from tokloom.engine.speculation.cost_curve import CostCurve, LiveCurve
from tokloom.engine.speculation.draft_gate import DraftGate
from tokloom.engine.speculation.drafting import Drafting
from tokloom.engine.speculation.probability_correction import ProbabilityCorrection, RequestTracker
from tokloom.methods.attention.dense import Dense
from tokloom.methods.evaluate.spec_bench import read

COSTS = "1:1,2:1.36,4:1.9,6:2.1,8:2.2,12:2.85,16:3.5,24:4.9,32:6.3,48:9,64:11.8"
PLAIN = "tokloom plain"
SECONDS = 0.007
"""Of a plain pass, by which the drafter's own time is judged."""
SHORT = 400
"""Tokens up to which an answer counts as short."""
LIMIT = 1024


PARTS: dict[str, list[tuple[type, str, object]]] = {
    "correction": [(ProbabilityCorrection, "record", lambda *_: None)],
    "factor": [(RequestTracker, "record", lambda *_: None)],
    "gate": [(DraftGate, "open", lambda *_: True), (DraftGate, "pays", lambda *_: True)],
    "price": [(Drafting, "RATE", 0.0)],
    "curiosity": [(Drafting, "CURIOUS", 2**60)],
    "reach": [(RequestTracker, "FIRST", 2**20)],
}
"""Parts of the controller, and what to put in their place to leave them out."""


@contextmanager
def without(part: str) -> Iterator[None]:
    """Leaves a part of the controller out; "" leaves out nothing."""
    held = [(owner, name, owner.__dict__[name]) for owner, name, _ in PARTS.get(part, ())]
    for owner, name, other in PARTS.get(part, ()):
        setattr(owner, name, other)
    try:
        yield
    finally:
        for owner, name, value in held:
            setattr(owner, name, value)


@dataclass(frozen=True)
class Recorded:
    question: str
    tokens: list[int]


@dataclass(frozen=True)
class Replayed:
    """tokens: those that passes gave. passes: their number. cost: in passes of one row."""

    tokens: int
    passes: int
    cost: float


def replay(model: LanguageModel, drafting: Drafting, answer: Recorded, costs: CostCurve) -> Replayed:
    prompt = model.chat_tokens([{"role": "user", "content": answer.question}])
    prediction = PlainPrediction(RequestContext(model, Dense(), LIMIT, kv=None, prefill_chunk=512))
    end = len(prompt) + len(answer.tokens)
    text = [*prompt, answer.tokens[0]]
    following = drafting.follow(prompt)
    passes, cost = 0, 0.0
    while len(text) < end:
        before = list(text)
        max_draft_tokens = LIMIT - (len(text) - len(prompt)) - 1
        tree = drafting.propose(text, max_draft_tokens, prediction, following=following)
        children = {(parent, token): i for i, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True))}
        node: int | None = -1
        path = [0]
        while len(text) < end and node is not None:
            text.append(answer.tokens[len(text) - len(prompt)])
            node = children.get((node, text[-1]))
            path += [] if node is None else [node + 1]
        rows = 1 + len(tree)
        parents = (-1, *(parent + 1 for parent in tree.parents))
        seen = Verified(before, [before[-1], *tree.tokens], parents, torch.empty(rows, 0), path)
        drafting.learn(seen, tree, text, following)
        drafting.passed(prediction, rows, len(text) - len(before), costs.relative(rows) * SECONDS)
        passes, cost = passes + 1, cost + costs.relative(rows)
    return Replayed(len(answer.tokens) - 1, passes, cost)


def gain(answers: list[Replayed]) -> float:
    return sum(answer.tokens for answer in answers) / sum(answer.cost for answer in answers) if answers else 1.0


def replay_all(
    model: LanguageModel, spec: str, answers: list[Recorded], costs: CostCurve, *, kept: bool, shown: str
) -> list[Replayed]:
    """All answers. kept: what the drafter learned of one is there for the next."""
    drafting: Drafting | None = None
    replayed = []
    for answer in track(answers, shown, console=Console(stderr=True)):
        if drafting is None or not kept:
            curve = LiveCurve(CostCurve({rows: cost * SECONDS for rows, cost in costs.seconds.items()}))
            drafting = Drafting(registry.build(spec, Drafter, "drafter"), model, curve=curve)
        replayed.append(replay(model, drafting, answer, costs))
    return replayed


def figures(replayed: list[Replayed]) -> list[str]:
    short = [each for each in replayed if each.tokens <= SHORT]
    lost = sum(max(0.0, each.cost - each.tokens) for each in replayed)
    return [
        f"{gain(replayed):.2f}",
        f"{gain([each for each in replayed if each.tokens > SHORT]):.2f}",
        f"{gain(short):.2f}",
        f"{min(gain([each]) for each in replayed):.2f}",
        f"{lost:.0f} of {sum(each.tokens for each in replayed):,}",
        f"{sum(each.tokens for each in replayed) / sum(each.passes for each in replayed):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, nargs="+", help="what decoding.py wrote with --results")
    parser.add_argument("--spec-bench", required=True, type=Path, help="Spec-Bench's question.jsonl")
    parser.add_argument("--drafters", nargs="*", default=["suffix_automaton", "prompt_lookup"], help="specs")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--without", nargs="*", default=[], choices=[*PARTS, "all"], help="parts to leave out in turn")
    parser.add_argument("--costs", default=COSTS, help="ROWS:COST,... in passes of one row")
    args = parser.parse_args()

    model = tokloom.load(args.model)
    questions = {key: question for key, _, question in read(args.spec_bench)}
    found: dict[str, Recorded] = {}
    for path in args.answers:
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if line["method"] == PLAIN and len(line["tokens"]) > 1 and line["case"] in questions:
                found.setdefault(line["case"], Recorded(questions[line["case"]], line["tokens"]))
    if not found:
        parser.error(f"no answers of {PLAIN!r} to questions of {args.spec_bench}: see the commands above")
    costs = CostCurve({int(rows): float(cost) for rows, cost in (each.split(":") for each in args.costs.split(","))})
    table = Table(title=f"{len(found)} answers, gain over plain decoding", pad_edge=False)
    for column in ("drafter", "without", "learned", "all", "long", "short", "worst", "lost", "a pass"):
        table.add_column(column, no_wrap=True)
    parts = list(PARTS) if "all" in args.without else args.without
    for spec in args.drafters:
        for part in ("", *parts):
            for kept in (True, False):
                with without(part):
                    replayed = replay_all(model, spec, list(found.values()), costs, kept=kept, shown=f"{spec} -{part}")
                table.add_row(spec, part, "kept" if kept else "fresh", *figures(replayed))
    Console().print(table)


if __name__ == "__main__":
    main()
