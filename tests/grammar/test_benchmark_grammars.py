"""The grammars that the benchmark runs: both notations of each judge its samples as they are meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grammar.languages import takes, vocabulary
from tokloom.grammar.combine import parse_grammar
from tokloom.grammar.compiled import compile_expression

FOLDER = Path(__file__).parents[2] / "benchmarks" / "grammars"


@pytest.mark.parametrize("syntax", ["gbnf", "lark"])
@pytest.mark.parametrize("name", ["json", "arithmetic", "xml", "sql", "python"])
def test_samples(name: str, syntax: str) -> None:
    grammar = parse_grammar((FOLDER / f"{name}.{syntax}").read_text(), syntax)  # type: ignore[arg-type]
    compiled = compile_expression(grammar, vocabulary())
    for ending, expected in (("txt", True), ("bad.txt", False)):
        for sample in (FOLDER / f"{name}.{ending}").read_text(encoding="utf-8").split("\n%%\n"):
            text = sample.removesuffix("\n") + ("\n" if name == "python" else "")
            assert takes(compiled, text) == expected, text
