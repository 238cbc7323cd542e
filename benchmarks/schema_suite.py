"""The official JSON Schema Test Suite, required part, by draft and keyword; beside both peers if they are installed.

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
    .venv/bin/python benchmarks/schema_suite.py JSON-Schema-Test-Suite [--drafts draft7 ...] [--peers] [--remarks]

Each schema becomes a grammar, and each instance a text that is in it or not; tokloom's grammars are matched by the
tests' own slow matcher. agree: as the suite has it. stricter: a valid instance is not in the grammar. looser: an
invalid one is; there must be none. refused: the schema has a keyword that can't be enforced.

--peers adds columns for llguidance and xgrammar (pip install llguidance xgrammar), over a vocabulary of single bytes.
They know only one dialect, and no documents but the schema. --write FILE keeps tokloom's counts as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.grammar.json_schema import suite_run
from tests.grammar.json_schema.suite_run import Judge, Outcome, RefusedError

HEADS = ("agree", "stricter", "looser", "refused")
BYTES = [bytes([byte]) for byte in range(256)]
END = 256


class Llguidance:
    """llguidance's grammar of a schema."""

    def __init__(self) -> None:
        import llguidance

        class Tokenizer:
            eos_token_id, bos_token_id, tokens, special_token_ids = END, None, [*BYTES, b"<|end|>"], [END]

            def __call__(self, text: str | bytes) -> list[int]:
                return list(text.encode() if isinstance(text, str) else text)

        self.matcher = llguidance.LLMatcher
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokenizer()))

    def __call__(self, schema: Any, draft: str, resources: Mapping[str, Any]) -> Judge:
        grammar = self.matcher.grammar_from_json_schema(json.dumps(schema))
        problem = self.matcher.validate_grammar(grammar)
        if problem:
            if "Unsatisfiable" in problem:
                return lambda text: False
            raise RefusedError(problem)

        def accepts(text: bytes) -> bool:
            matcher = self.matcher(self.tokenizer, grammar, log_level=0)
            return bool(matcher.consume_tokens(list(text)) and matcher.is_accepting())

        return accepts


class Xgrammar:
    """xgrammar's grammar of a schema."""

    def __init__(self) -> None:
        import xgrammar

        self.module = xgrammar
        tokenizer = xgrammar.TokenizerInfo([*BYTES, b"<|end|>"], stop_token_ids=[END])
        self.compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)

    def __call__(self, schema: Any, draft: str, resources: Mapping[str, Any]) -> Judge:
        try:
            compiled = self.compiler.compile_json_schema(json.dumps(schema), strict_mode=False)
        except Exception as error:  # whatever it raises
            raise RefusedError(str(error)) from error

        def accepts(text: bytes) -> bool:
            matcher = self.module.GrammarMatcher(compiled)
            return bool(matcher.accept_string(text) and matcher.accept_token(END))

        return accepts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?", help="without it, the extract in tests/")
    parser.add_argument("--drafts", nargs="+", choices=list(suite_run.DRAFTS), default=None)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--remarks", action="store_true", help="list what doesn't agree")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    documents = suite_run.documents()
    if args.checkout is not None:
        remotes = args.checkout / "remotes"
        for path in remotes.rglob("*.json"):
            documents[f"http://localhost:1234/{path.relative_to(remotes)}"] = json.loads(path.read_text())
    judges: dict[str, Any] = {"tokloom": suite_run.judge}
    if args.peers:
        judges |= {"llguidance": Llguidance(), "xgrammar": Xgrammar()}
    results: dict[str, dict[str, dict[str, int]]] = {}
    for draft in args.drafts or (list(suite_run.DRAFTS) if args.checkout else ["draft4", "draft2020-12"]):
        outcomes: dict[str, dict[str, Outcome]] = {}
        for keyword, group in _groups(draft, args.checkout):
            mine = outcomes.setdefault(keyword, {name: Outcome() for name in judges})
            for name, judge_of in judges.items():
                suite_run.run(group, draft, documents, mine[name], judge_of)
        results[draft] = {keyword: dict(mine["tokloom"].counts) for keyword, mine in outcomes.items()}
        _show(draft, outcomes, list(judges), args.remarks)
    if args.write:
        args.write.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def _show(draft: str, outcomes: dict[str, dict[str, Outcome]], names: list[str], remarks: bool) -> None:
    width = 9 * len(HEADS) + 2
    print(f"\n{draft:24}" + "".join(f"{name:>{width}}" for name in names))
    print(" " * 24 + "".join("  " + "".join(f"{head:>9}" for head in HEADS) for _ in names))
    totals: dict[str, Counter[str]] = {name: Counter() for name in names}
    for keyword, mine in outcomes.items():
        for name in names:
            totals[name].update(mine[name].counts)
        print(f"  {keyword[:22]:22}" + _cells([mine[name].counts for name in names]))
        for remark in mine["tokloom"].remarks if remarks else ():
            print(f"      {remark}")
    print(f"  {'all':22}" + _cells([totals[name] for name in names]))


def _cells(counts: list[Counter[str]]) -> str:
    return "".join("  " + "".join(f"{each[head] or '.':>9}" for head in HEADS) for each in counts)


def _groups(draft: str, checkout: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if checkout is None:
        for group in suite_run.groups(draft):
            yield group["keyword"], group
        return
    for path in sorted((checkout / "tests" / draft).glob("*.json")):
        for group in json.loads(path.read_text()):
            yield path.stem, group


if __name__ == "__main__":
    main()
