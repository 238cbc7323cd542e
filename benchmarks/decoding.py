"""Decoding speed beside transformers and llama.cpp, and under JSON schemas, in one run that can be stopped.

    .venv/bin/python benchmarks/decoding.py                    on repetitive texts and a book
    .venv/bin/python benchmarks/decoding.py --spec-bench FILE  on the questions of Spec-Bench, by category
    .venv/bin/python benchmarks/decoding.py --llama OTHER_VENV/bin/python     with llama-cpp-python from another venv
    .venv/bin/python benchmarks/decoding.py --schemas FILE     under JSON schemas (JSONSchemaBench's maskbench.jsonl)

Same model, greedy, batch 1, the same number of threads, the same prompts. Methods take turns on every text, in an order
that rotates; categories take turns too. A figure is the time between tokens: all tokens of a category, those of the
prompt's pass left out, over all seconds. What a drafter learns from one text it may use on the next, never on the same
text again. transformers' assistant is the same model in bfloat16, as there is no smaller one of its vocabulary.
Outputs are compared: tokloom's must be transformers', token for token; llama.cpp's differ, as it rounds differently.

With --results, every answer is a line of that file at once, and what drafters have learned lies beside it; the same
command goes on where a run was stopped, by --seconds or by hand. Without, a stopped run still prints its table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tokloom
from tokloom import Engine, Sampling
from tokloom.decode.constraint import Matcher
from tokloom.errors import TokloomError
from tokloom.evaluate.peer import Answer, Peer, Session
from tokloom.grammar.matcher import GrammarMatcher
from tokloom.methods.decode.json_schema import JsonSchema
from tokloom.methods.evaluate.llama_cpp import LlamaCpp
from tokloom.methods.evaluate.spec_bench import read
from tokloom.methods.evaluate.transformers_generate import TransformersGenerate
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.vocabulary import Vocabulary

BOOK = Path(__file__).parent.parent / "examples" / "alice_in_wonderland.txt"
REPETITIVE = [
    "Copy the table below exactly.\n"
    + "\n".join(f"row {i}: name=item{i}; price={i * 3}.00; stock=yes" for i in range(12))
    + "\nCopy:\nrow 0: name=item0; price=0.00; stock=yes\n",
    "".join(f"2024-05-01 10:00:{i:02d} INFO worker-{i % 3}: request served in 12 ms, status 200\n" for i in range(12)),
    "def test_add():\n    assert add(1, 2) == 3\n\ndef test_sub():\n    assert sub(1, 2) == -1\n\n" * 3
    + "def test_mul():\n",
]  # fmt: skip
DRAFTERS = ("prompt_lookup", "suffix_automaton", "token_recycling", "dyspec", "aded", "merged")
PLAIN, GENERATE = "tokloom plain", "transformers generate"
FREE, CERTAIN = "no drafts", "certain tokens"
MINIMUM = 8
"""Tokens of an output that is worth timing."""


@dataclass(frozen=True)
class Case:
    """A text that all methods answer. name: its own within its kind."""

    kind: str
    name: str
    question: str
    chat: bool
    constraint: JsonSchema | None = None
    untold: JsonSchema | None = None

    def tokens(self, model: LanguageModel) -> list[int]:
        if self.chat:
            return model.chat_tokens([{"role": "user", "content": self.question}])
        return model.encode(self.question)


@dataclass(frozen=True)
class Line:
    """One answer, as it lies in the file. run: hash of all that could change it."""

    run: str
    kind: str
    case: str
    method: str
    tokens: list[int]
    seconds: float
    passes: int

    @property
    def later(self) -> int:
        """Tokens that came after those of the first pass, which are all but one, as none drafts there."""
        return len(self.tokens) - 1


class Results:
    """Lines of a file, or of this run only. A line that was cut off is dropped."""

    def __init__(self, path: Path | None, run: str) -> None:
        self.path, self.run = path, run
        self.lines: list[Line] = []
        if path is not None and path.is_file():
            whole = path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.truncate(path, end)
            found = [Line(**json.loads(line)) for line in whole[:end].decode().splitlines()]
            self.lines = [line for line in found if line.run == run]

    def has(self, case: Case, method: str) -> bool:
        return any((line.kind, line.case, line.method) == (case.kind, case.name, method) for line in self.lines)

    def add(self, case: Case, method: str, answer: Answer) -> None:
        line = Line(self.run, case.kind, case.name, method, list(answer.tokens), answer.seconds, answer.passes)
        self.lines.append(line)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(line)) + "\n")
                file.flush()
                os.fsync(file.fileno())


class Tokloom:
    """An engine with a drafter, or without one. kept: file of what the drafter has learned.

    told: whether a constraint says which tokens are certain."""

    def __init__(self, model: LanguageModel, drafter: str | None, kept: Path | None = None, told: bool = True) -> None:
        self.model, self.drafter, self.kept, self.told = model, drafter, kept, told
        self.engine: Engine | None = None

    def answer(self, case: Case, count: int) -> Answer:
        if self.engine is None:
            state = self.kept if self.kept is not None and self.kept.is_file() else None
            self.engine = Engine(self.model, drafter=self.drafter, drafter_state=state)
            self._run(Case("", "", "What jumps over the lazy dog?", chat=True), 3)  # caches, the processor
        answer = self._run(case, count)
        if self.drafter is not None and self.kept is not None:
            self.engine.save_drafter_state(self.kept)
        return answer

    def _run(self, case: Case, count: int) -> Answer:
        assert self.engine is not None
        rule = case.constraint if self.told else case.untold
        given: dict[str, Any] = {"messages": [{"role": "user", "content": case.question}]}
        result = self.engine.generate(
            **(given if case.chat else {"prompt": case.question}),
            sampling=Sampling(max_new_tokens=count), constraint=rule,
        )  # fmt: skip
        row = result.ledger.row("decode")
        return Answer(result.tokens, result.ledger.row("attention").seconds, row.seconds, row.forward_passes)


class Untold(JsonSchema):
    """A schema whose certain tokens are not told, so that each costs a pass."""

    def start(self, vocabulary: Vocabulary) -> Matcher:
        matcher = super().start(vocabulary)
        matcher.__class__ = UntoldMatcher
        return matcher


class UntoldMatcher(GrammarMatcher):
    """Its forks are such, too."""

    def forced(self) -> list[int]:
        return []


Method = Callable[[Case], Answer]


def free_methods(args: argparse.Namespace, model: LanguageModel) -> dict[str, Method]:
    """Rows without a constraint, by name; what they need is loaded when they are first asked."""

    def of(peer: Peer) -> Method:
        @cache
        def session() -> Session:
            started = peer.start(model)
            started.answer(model.encode("The quick brown fox"), 4)  # what is set up on first use
            return started

        return lambda case: session().answer(case.tokens(model), args.tokens)

    methods: dict[str, Method] = {}
    for spec in (None, *args.drafters):
        row = Tokloom(model, spec, kept_beside(args.results, spec))
        methods[PLAIN if spec is None else f"tokloom {spec}"] = lambda case, row=row: row.answer(case, args.tokens)
    methods[GENERATE] = of(TransformersGenerate())
    methods["transformers prompt lookup"] = of(TransformersGenerate(prompt_lookup=10))
    methods["transformers assisted"] = of(TransformersGenerate(assistant="bfloat16"))
    if args.llama:
        methods["llama.cpp"] = of(LlamaCpp(python=args.llama))
        methods["llama.cpp prompt lookup"] = of(LlamaCpp(python=args.llama, prompt_lookup=10))
    return methods


def schema_methods(args: argparse.Namespace, model: LanguageModel) -> dict[str, Method]:
    """Plain decoding under a schema, with its certain tokens as drafts, and with each drafter beside them."""
    rows = {FREE: Tokloom(model, None, told=False), CERTAIN: Tokloom(model, None)}
    rows |= {f"{CERTAIN}, {spec}": Tokloom(model, spec, kept_beside(args.results, spec)) for spec in args.drafters}
    return {name: lambda case, row=row: row.answer(case, args.tokens) for name, row in rows.items()}


def kept_beside(results: Path | None, spec: str | None) -> Path | None:
    if results is None or spec is None:
        return None
    return results.with_suffix(".states") / f"{hashlib.sha256(spec.encode()).hexdigest()[:12]}.npz"


def cases_of(args: argparse.Namespace, model: LanguageModel) -> list[Case]:
    """The texts, kinds taking turns."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in _all_cases(args, model):
        if len(by_kind[case.kind]) < args.per_category and len(case.tokens(model)) <= args.longest:
            by_kind[case.kind].append(case)
        if args.schemas and len(by_kind[case.kind]) == args.per_category:
            break
    longest = max(map(len, by_kind.values()))
    return [cases[i] for i in range(longest) for cases in by_kind.values() if i < len(cases)]


def schema_options(args: argparse.Namespace) -> dict[str, Any]:
    return {"whitespace": args.whitespace, "property_order": args.order}


def _all_cases(args: argparse.Namespace, model: LanguageModel) -> Iterator[Case]:
    if args.schemas:
        yield from schema_cases(args.schemas, model, schema_options(args))
    elif args.spec_bench:
        for key, category, question in read(args.spec_bench):
            yield Case(category, key, question, chat=True)
    else:
        book = model.encode(BOOK.read_text(encoding="utf-8"))
        yield Case("book", "512", model.tokenizer.decode(book[5000:5512]), chat=False)
        for i, text in enumerate(REPETITIVE):
            yield Case("repetitive", str(i), text, chat=False)


def schema_cases(path: Path, model: LanguageModel, options: dict[str, Any]) -> Iterator[Case]:
    """Questions for JSON of schemas that the engine takes. options: of `json_schema`."""
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        schema = entry.get("maskbench", entry)["schema"]
        try:
            rule, untold = JsonSchema(schema=schema, **options), Untold(schema=schema, **options)
            rule.start(model.vocabulary)
        except TokloomError:
            continue
        question = f"Write a JSON object that is valid by this JSON Schema:\n{json.dumps(schema)}"
        yield Case("schemas", str(entry.get("name", "")), question, True, rule, untold)


@dataclass(frozen=True)
class Row:
    """A method on a kind of texts. different: outputs that aren't the reference's."""

    kind: str
    method: str
    speed: float
    tokens_per_pass: float | None
    different: int
    texts: int


def rows_of(results: Results, methods: list[str], reference: str) -> list[Row]:
    """Only texts that all of these methods have answered, and whose output was long enough."""
    texts: dict[tuple[str, str], dict[str, Line]] = defaultdict(dict)
    for line in results.lines:
        texts[line.kind, line.case][line.method] = line
    whole = {
        key: by for key, by in texts.items() if set(methods) <= set(by) and len(by[reference].tokens) >= MINIMUM
    }  # fmt: skip
    kinds = list(dict.fromkeys(kind for kind, _ in whole))
    rows = []
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
        for method in methods:
            mine = [(by[method], by[reference]) for key, by in whole.items() if kind in ("all", key[0])]
            later, passes = sum(line.later for line, _ in mine), sum(line.passes for line, _ in mine)
            rows.append(Row(
                kind, method, later / max(sum(line.seconds for line, _ in mine), 1e-9),
                later / passes if passes else None, sum(line.tokens != right.tokens for line, right in mine), len(mine),
            ))  # fmt: skip
    return rows


def show(rows: list[Row], bases: list[str]) -> None:
    speeds = {(row.kind, row.method): row.speed for row in rows}
    heads = ["tokens/s", *(f"x {base}" for base in bases), "tokens/pass", "different"]
    print(f"\n{'texts':<20}{'method':<44}" + "".join(f"{head:>24}" for head in heads))
    before = None
    for row in rows:
        kind = f"{row.kind} ({row.texts})" if row.kind != before else ""
        cells = [f"{row.speed:.1f}", *(f"{row.speed / speeds[row.kind, base]:.2f}" for base in bases),
                 f"{row.tokens_per_pass:.2f}" if row.tokens_per_pass else "", str(row.different)]  # fmt: skip
        print(f"{kind:<20}{row.method:<44}" + "".join(f"{cell:>24}" for cell in cells))
        before = row.kind


def run(args: argparse.Namespace, cases: list[Case], methods: dict[str, Method], results: Results) -> None:
    """Every method on every case, but for answers that are there already."""
    start, names = time.monotonic(), list(methods)
    for turn, case in enumerate(cases):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            if results.has(case, name):
                continue
            if args.seconds and time.monotonic() - start > args.seconds:
                print(f"stopped after {args.seconds} s, {turn} of {len(cases)} texts")
                return
            answer = methods[name](case)
            results.add(case, name, answer)
            speed, text = (len(answer.tokens) - 1) / max(answer.seconds, 1e-9), f"{case.kind}/{case.name}"
            print(f"{turn + 1}/{len(cases)} {text:<44}{name:<44}{speed:8.1f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec-bench", type=Path, help="Spec-Bench's question.jsonl")
    parser.add_argument("--schemas", type=Path, help="JSON lines with a schema each")
    parser.add_argument("--whitespace", default="free", help="with --schemas: json_schema's option")
    parser.add_argument("--order", default="any", help="with --schemas: json_schema's option property_order")
    parser.add_argument("--per-category", type=int, default=4)
    parser.add_argument("--longest", type=int, default=1000, help="most tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=96, help="most of an answer; Spec-Bench's own protocol has 1024")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--weights")
    parser.add_argument("--drafters", nargs="*", default=DRAFTERS, help="specs")
    parser.add_argument("--llama", help="a Python with llama-cpp-python")
    parser.add_argument("--only", help="names of rows that are run, by what they begin with, separated by commas")
    parser.add_argument("--results", type=Path, help="JSON lines: what it holds is not run again")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    model = tokloom.load(args.model, weights=args.weights)
    print(f"{model.name}, weights {model.weights}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    identity = [model.name, model.weights, torch.get_num_threads(), torch.__version__, tokloom.__version__, args.tokens,
                bool(args.schemas), *schema_options(args).values()]  # fmt: skip
    results = Results(args.results, hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12])
    methods = schema_methods(args, model) if args.schemas else free_methods(args, model)
    reference, bases = (FREE, [FREE]) if args.schemas else (PLAIN, [PLAIN, GENERATE, "llama.cpp"])
    if args.only:
        begins = (reference, *args.only.split(","))
        methods = {name: method for name, method in methods.items() if name.startswith(begins)}
    try:
        run(args, cases_of(args, model), methods, results)
    except KeyboardInterrupt:
        print("stopped")
    rows = rows_of(results, list(methods), reference)
    if not rows:
        print("no text has been answered by all rows yet")
        return
    show(rows, [base for base in bases if base in methods])
    if args.json:
        table = {"model": model.name, "weights": model.weights, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
