"""A regular expression as a constraint of the engine."""

from __future__ import annotations

import re

import pytest

from tokloom import Engine, Sampling
from tokloom.errors import ArgumentError, GrammarError, SpecError
from tokloom.methods.decode.regex import Regex
from tokloom.models.language_model import LanguageModel


@pytest.mark.parametrize("pattern", [r"[a-f]{3}-\d{2,4}", r"(?!one)[a-z]{3} (two|three)", r"(é|東京){2}!?", r"\w{4}"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_output_matches(pattern: str, seed: int, tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=60, temperature=1.0, seed=seed)
    result = Engine(tiny_llama).generate("one two", constraint=Regex(pattern=pattern), sampling=sampling)
    assert result.stop_reason == "end"
    assert re.fullmatch(pattern, result.text)
    assert result.parsed is None


def test_certain_text_needs_no_passes(tiny_llama: LanguageModel) -> None:
    constraint = Regex(pattern="one two three four five six seven (eight|nine)")
    result = Engine(tiny_llama).generate("one two", constraint=constraint, sampling=Sampling(max_new_tokens=60))
    assert re.fullmatch(constraint.pattern, result.text)
    row = result.ledger.row("decode")
    assert row.forward_passes < len(result.tokens) - 1


def test_dialects() -> None:
    assert Regex(pattern=r"\d").grammar != Regex(pattern=r"\d", dialect="ecma").grammar


def test_refusals(tiny_llama: LanguageModel) -> None:
    with pytest.raises(SpecError, match="regex:pattern"):
        Regex()
    with pytest.raises(SpecError, match="regex:dialect"):
        Regex(pattern="a", dialect="perl")  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="character 2"):
        Regex(pattern="a(")
    with pytest.raises((ArgumentError, GrammarError)):
        Regex(pattern="(?!)").start(tiny_llama.vocabulary)
