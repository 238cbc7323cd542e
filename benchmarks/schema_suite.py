"""The official JSON Schema Test Suite, required part, by draft and keyword.

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
    .venv/bin/python benchmarks/schema_suite.py JSON-Schema-Test-Suite [--drafts draft7 ...] [--remarks]

Each schema becomes a grammar, and each instance a text that is in it or not, by the tests' own slow matcher.
agree: as the suite has it. stricter: a valid instance is not in the grammar. looser: an invalid one is; there must
be none. refused: the schema has a keyword that can't be enforced. --write FILE keeps the counts as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.grammar.json_schema import suite_run

HEADS = ("agree", "stricter", "looser", "refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?", help="without it, the extract in tests/")
    parser.add_argument("--drafts", nargs="+", choices=list(suite_run.DRAFTS), default=None)
    parser.add_argument("--remarks", action="store_true", help="list what doesn't agree")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    documents = suite_run.documents()
    if args.checkout is not None:
        remotes = args.checkout / "remotes"
        for path in remotes.rglob("*.json"):
            documents[f"http://localhost:1234/{path.relative_to(remotes)}"] = json.loads(path.read_text())
    results: dict[str, dict[str, dict[str, int]]] = {}
    for draft in args.drafts or (list(suite_run.DRAFTS) if args.checkout else ["draft4", "draft2020-12"]):
        outcomes: dict[str, suite_run.Outcome] = {}
        for keyword, group in _groups(draft, args.checkout):
            suite_run.run(group, draft, documents, outcomes.setdefault(keyword, suite_run.Outcome()))
        results[draft] = {keyword: dict(outcome.counts) for keyword, outcome in outcomes.items()}
        print(f"\n{draft:24}" + "".join(f"{head:>10}" for head in HEADS))
        total: Counter[str] = Counter()
        for keyword, outcome in outcomes.items():
            total.update(outcome.counts)
            print(f"  {keyword:22}" + "".join(f"{outcome.counts[head] or '':>10}" for head in HEADS))
            for remark in outcome.remarks if args.remarks else ():
                print(f"      {remark}")
        print(f"  {'all':22}" + "".join(f"{total[head]:>10}" for head in HEADS))
    if args.write:
        args.write.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def _groups(draft: str, checkout: Path | None):
    if checkout is None:
        for group in suite_run.groups(draft):
            yield group["keyword"], group
        return
    for path in sorted((checkout / "tests" / draft).glob("*.json")):
        for group in json.loads(path.read_text()):
            yield path.stem, group


if __name__ == "__main__":
    main()
