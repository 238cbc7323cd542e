"""The official JSON-Schema-Test-Suite through tokloom, xgrammar and llguidance, as a table by keyword.

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
    python benchmarks/schema_suite.py JSON-Schema-Test-Suite --draft draft2020-12

The required part only (no optional/). Each instance is written as JSON, split into SmolLM2's tokens, and fed to the
engine; it counts as accepted if every token is taken and an end of text is allowed after them. A cell is

    right / valid refused / invalid accepted / not compiled

in numbers of tests. A schema that the engine declines to compile, or that it says nothing can satisfy, makes its
tests "not compiled", except that the latter is right where all its instances are invalid.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import engines

DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
CELL = ("right", "valid refused", "invalid accepted", "not compiled")


def files(suite: Path, draft: str) -> list[Path]:
    found = sorted((suite / "tests" / draft).glob("*.json"))
    if not found:
        raise SystemExit(
            f"{suite}/tests/{draft} has no *.json: give the folder of a checkout of JSON-Schema-Test-Suite"
        )
    return found


def remotes(suite: Path) -> dict[str, Any]:
    """What the suite serves at localhost:1234."""
    folder = suite / "remotes"
    return {
        f"http://localhost:1234/{path.relative_to(folder).as_posix()}": json.loads(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.json")
    }


def groups(path: Path, draft: str) -> Iterator[dict[str, Any]]:
    """The groups of a file; a schema that doesn't name its draft is given the name, as all engines read it."""
    for group in json.loads(path.read_text(encoding="utf-8")):
        schema = group["schema"]
        if isinstance(schema, dict) and "$schema" not in schema:
            group["schema"] = {"$schema": DRAFTS[draft], **schema}
        yield group


def judge(session: engines.Session, ids: list[int], eos: int) -> bool:
    """Whether the tokens and an end after them are accepted."""
    if not all(session.accept(token) for token in ids):
        return False
    session.mask()
    return session.allows(eos)


def run_group(engine: engines.Engine, group: dict[str, Any], tokens: engines.Tokens) -> Counter[str]:
    outcome: Counter[str] = Counter()
    tests = [(tokens.encode(json.dumps(test["data"], ensure_ascii=False)), test["valid"]) for test in group["tests"]]
    try:
        compiled = engine.schema(group["schema"])
    except engines.Refused as error:
        nothing = "no value is valid" in str(error) or "unsatisfiable" in str(error).lower()
        right = nothing and not any(valid for _, valid in tests)
        outcome["right" if right else "not compiled"] += len(tests)
        return outcome
    for ids, valid in tests:
        accepted = judge(compiled.session(), ids, tokens.eos)
        outcome["right" if accepted == valid else "valid refused" if valid else "invalid accepted"] += 1
    return outcome


def cell(outcome: Counter[str]) -> str:
    return " / ".join(str(outcome[part]) for part in CELL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, nargs="?", help="a checkout of JSON-Schema-Test-Suite")
    parser.add_argument("--draft", choices=DRAFTS, default="draft2020-12")
    parser.add_argument("--engines", default=",".join(engines.NAMES), help="which, with commas between")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args()
    if options.suite is None:
        print("Give a checkout of JSON-Schema-Test-Suite to run it; see --help.")
        return
    names = engines.installed(options.engines.split(","))
    paths = files(options.suite, options.draft)
    tokens = engines.bundled()
    made = {name: engines.engine(name)(tokens) for name in names}
    for engine in made.values():
        engine.resources = remotes(options.suite)
    total: dict[str, Counter[str]] = {name: Counter() for name in names}
    rows, record = [], {}
    for path in paths:
        outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
        for group in groups(path, options.draft):
            for name in names:
                outcomes[name] += run_group(made[name], group, tokens)
        for name in names:
            total[name] += outcomes[name]
        rows.append((path.stem, *(cell(outcomes[name]) for name in names)))
        record[path.stem] = {name: dict(outcome) for name, outcome in outcomes.items()}
        print(f"\r{path.stem:40}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40, file=sys.stderr)
    rows.append(("all", *(cell(total[name]) for name in names)))
    head = ("keyword", *names)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    print(f"{options.draft}: {' / '.join(CELL)}\n")
    for row in (head, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if options.json is not None:
        options.json.write_text(json.dumps({"draft": options.draft, "keywords": record}))


if __name__ == "__main__":
    main()
