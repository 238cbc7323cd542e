"""Context-free grammars as a constraint of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grammar.naive import matches
from tokloom import Engine, Sampling
from tokloom.errors import DocumentError, GrammarError, SpecError
from tokloom.methods.decode.grammar import ContextFree
from tokloom.models.language_model import LanguageModel

BRACKETS = 'root ::= "(" root ")" | "[" root "]" | [a-z]{1,6}'


@pytest.mark.parametrize(
    "constraint",
    [
        ContextFree(text=BRACKETS),
        ContextFree(text='start: "(" start ")" | "[" start "]" | /[a-z]{1,6}/', syntax="lark"),
        ContextFree(text='r ::= "(" r ")" | "[" r "]" | [a-z]{1,6}', syntax="ebnf"),
        ContextFree(text=BRACKETS.replace("root", "r"), start_rule="r"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_output_is_in_the_language(constraint: ContextFree, seed: int, tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=60, temperature=1.0, seed=seed)
    result = Engine(tiny_llama).generate("one two", constraint=constraint, sampling=sampling)
    assert result.stop_reason == "end"
    assert matches(ContextFree(text=BRACKETS).grammar, result.text.encode())


def test_a_file_says_its_notation(tmp_path: Path) -> None:
    for ending, text in (("gbnf", 'root ::= "a"'), ("lark", 'start: "a"'), ("EBNF", "a = 'a' ;")):
        path = tmp_path / f"g.{ending}"
        path.write_text(text)
        assert matches(ContextFree(path=str(path)).grammar, b"a")
    path = tmp_path / "g.txt"
    path.write_text('start: "a"')
    assert matches(ContextFree(path=str(path), syntax="lark").grammar, b"a")
    with pytest.raises(SpecError, match=r"ending \.txt says none"):
        ContextFree(path=str(path))


def test_refusals() -> None:
    with pytest.raises(SpecError, match="exactly one of text or path"):
        ContextFree()
    with pytest.raises(DocumentError, match="no_such"):
        ContextFree(path="no_such.gbnf")
    with pytest.raises(SpecError, match="grammar:syntax"):
        ContextFree(text="x", syntax="yacc")  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="line 1, column 10"):
        ContextFree(text="root ::= x")
