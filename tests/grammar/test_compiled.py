"""Compiled grammars: cache, files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.grammar.random_grammars import masked, vocabulary_of
from tokloom.errors import ArtifactError, GrammarError
from tokloom.grammar import compiled
from tokloom.grammar.compiled import CompiledGrammar, compile_expression
from tokloom.grammar.expression import (
    ANY_TEXT,
    AnyOrder,
    Automaton,
    Both,
    Bytes,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Grammar,
    Literal,
    Member,
    Ref,
    Repeat,
    Special,
    text,
)

EVERYTHING = Grammar(
    Concat((Ref("list"), Special("<x>"), Both((ANY_TEXT, Repeat(Chars(((97, 122), (233, 233))), 2, 5))))),
    {
        "list": Either((text(""), Concat((text("["), Ref("order"), Ref("list"), text("]"))))),
        "order": AnyOrder(
            (Member(Except(Bytes(((97, 99),)), text("b")), 1, None), Member(Ref("auto"))), text(","), 1, 9
        ),
        "auto": Automaton((((100, 101, 1),), ()), frozenset({1})),
    },
)


def test_equal_grammars_are_compiled_once_for_a_vocabulary() -> None:
    vocabulary = vocabulary_of()
    one = Grammar(Concat((text("a"), Ref("r"))), {"r": text("b"), "unused": text("c")})
    same = Grammar(Concat((Literal(b"a"), Ref("r"))), {"r": Literal(b"b")})
    assert compile_expression(one, vocabulary) is compile_expression(same, vocabulary)
    assert compile_expression(one, vocabulary_of()) is not compile_expression(one, vocabulary)
    other = Grammar(Concat((text("a"), Ref("r"))), {"r": text("c")})
    assert compile_expression(other, vocabulary).key != compile_expression(one, vocabulary).key


def test_the_cache_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "CACHED", 2)
    vocabulary = vocabulary_of()
    first, second, third = (Grammar(text(name), {}) for name in "abc")
    kept, dropped = compile_expression(first, vocabulary), compile_expression(second, vocabulary)
    compile_expression(first, vocabulary)
    compile_expression(third, vocabulary)
    assert compile_expression(first, vocabulary) is kept
    assert compile_expression(second, vocabulary) is not dropped


def test_a_saved_grammar_is_the_same_when_loaded(tmp_path: Path) -> None:
    vocabulary = vocabulary_of("[a", "]]", "ab")
    saved = compile_expression(EVERYTHING, vocabulary)
    saved.save(tmp_path / "grammar")
    loaded = CompiledGrammar.load(tmp_path / "grammar", vocabulary_of("[a", "]]", "ab"))
    assert loaded.key == saved.key
    for output in (b"", b"[", b"[a,c", b"[d"):
        one, two = saved.matcher(), loaded.matcher()
        if output:
            one.accept_bytes(output)
            two.accept_bytes(output)
        assert masked(one, vocabulary) == masked(two, vocabulary) != set()


def test_a_file_of_another_vocabulary_or_format_or_with_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grammar"
    vocabulary = vocabulary_of()
    compile_expression(EVERYTHING, vocabulary).save(path)
    with pytest.raises(ArtifactError, match=r"for vocabulary .*Compile the grammar"):
        CompiledGrammar.load(path, vocabulary_of("other"))
    data = path.read_bytes()
    for damaged, reason in [
        (data[:-1], "damage"),
        (data.replace(b"(", b")", 1), "damage"),
        (b"tokloom grammar 1\n", "damage"),
        (b"", "damage"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=reason):
            CompiledGrammar.load(path, vocabulary)
    with pytest.raises(ArtifactError, match="no file"):
        CompiledGrammar.load(tmp_path / "none", vocabulary)


def test_no_damaged_form_is_read_as_a_grammar_that_was_not_saved() -> None:
    """Beyond the checksum: the core takes any bytes without harm."""
    from tokloom._core import GrammarForm

    data = compile_expression(EVERYTHING, vocabulary_of()).key
    for at in range(len(data)):
        for value in (0, 1, 0x7F, 0xFF):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                form = GrammarForm.decode(changed)
                CompiledGrammar(form, vocabulary_of(alphabet=b"abcde,[]"))
            except GrammarError:
                continue
            assert GrammarForm.decode(form.encode()).encode() == form.encode()


def repeat(minimum: object, maximum: object) -> Callable[[], Expression]:
    return lambda: Repeat(text("a"), minimum, maximum)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (repeat(3, 2), "at least 3 but at most 2"),
        (repeat(-1, None), "-1 is not a valid count"),
        (repeat(0, 2**31), "not a valid count"),
        (lambda: Ref("nowhere"), "no rule named 'nowhere'"),
        (lambda: "text", "a str is not an expression"),
        (lambda: Both(()), "Both has no items"),
        (lambda: Both((Ref("deep"),)), "not regular"),
        (lambda: Except(ANY_TEXT, Special("<x>")), "not regular"),
        (lambda: Bytes(((5, 3),)), "not ascending"),
        (lambda: Chars(((0, 0x110000),)), "not ascending"),
        (lambda: Automaton((), frozenset()), "no states"),
        (lambda: Automaton((((1, 2, 7),),), frozenset({0})), "lead to no state"),
        (lambda: AnyOrder((Member(text("")),), text("")), "may both be empty"),
    ],
)
def test_what_is_not_well_formed_is_refused(make: Callable[[], Expression], message: str) -> None:
    rules = {"deep": Either((text("a"), Concat((text("("), Ref("deep"), text(")")))))}
    with pytest.raises(GrammarError, match=message):
        compile_expression(Grammar(Concat((text("x"), make())), rules), vocabulary_of())


def test_errors_name_the_rule() -> None:
    with pytest.raises(GrammarError, match=r"rule 'inner': at least 2"):
        compile_expression(
            Grammar(Ref("outer"), {"outer": Ref("inner"), "inner": Repeat(text("a"), 2, 1)}), vocabulary_of()
        )


def test_memory_is_reported() -> None:
    grammar = compile_expression(EVERYTHING, vocabulary_of())
    before = grammar.nbytes, grammar.shared_nbytes
    matcher = grammar.matcher()
    matcher.accept_bytes(b"[a")
    masked(matcher, grammar.vocabulary)
    assert grammar.nbytes > before[0] > 0
    assert grammar.shared_nbytes > before[1] > 0
