"""The C++ core against slow, obvious Python."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokloom import _core, registry
from tokloom._core import ChoiceSet, TokenTrie

# Few bytes, so that prefixes collide; high and zero bytes, so that signedness and C strings would show.
BYTES = st.lists(st.sampled_from([0, 97, 98, 255]), max_size=5).map(bytes)
VOCABULARIES = st.lists(BYTES, max_size=70)
CHOICES = st.lists(BYTES.filter(bool), min_size=1, max_size=8)


def bits(words: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


def allowed(tokens: list[bytes], choices: list[bytes], prefix: bytes) -> set[int]:
    """Every token of the vocabulary after which some choice can still be spelt to its end."""

    @cache
    def spells(rest: bytes) -> bool:
        return not rest or any(t and rest.startswith(t) and spells(rest[len(t) :]) for t in tokens)

    return {
        i
        for i, token in enumerate(tokens)
        if token and any(c.startswith(prefix + token) and spells(c[len(prefix + token) :]) for c in choices)
    }


def mask_of(choices: ChoiceSet, state: int, size: int) -> set[int]:
    out = np.full((size + 31) // 32, -1, np.int32)  # what stood there before must not show
    choices.mask(state, out)
    return bits(out)


@given(VOCABULARIES, BYTES)
@settings(max_examples=100, deadline=None)
def test_trie_lookups_equal_a_scan_of_the_vocabulary(tokens: list[bytes], text: bytes) -> None:
    trie = TokenTrie(tokens)
    with_bytes = [i for i, token in enumerate(tokens) if token]
    assert trie.size == len(tokens)
    assert trie.nodes == len({token[:n] for token in tokens for n in range(len(token) + 1)} | {b""})
    assert [trie.token_bytes(i) for i in range(trie.size)] == tokens
    starting = [i for i in with_bytes if tokens[i].startswith(text)]
    assert trie.tokens_with_prefix(text) == sorted(starting, key=lambda i: (tokens[i], i))
    prefixes = [i for i in with_bytes if text.startswith(tokens[i])]
    assert trie.prefixes_of(text) == sorted(prefixes, key=lambda i: (len(tokens[i]), i))


@given(VOCABULARIES, CHOICES, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_choice_masks_equal_brute_force_along_random_outputs(
    tokens: list[bytes], choices: list[bytes], random: Random
) -> None:
    compiled = ChoiceSet(TokenTrie(tokens), choices)
    state, output = ChoiceSet.start, b""
    while True:
        expected = allowed(tokens, choices, output)
        assert mask_of(compiled, state, len(tokens)) == expected
        assert {t for t in range(-1, len(tokens) + 1) if compiled.step(state, t) >= 0} == expected
        assert compiled.complete(state) == (output in choices)
        assert compiled.final(state) == (output in choices and not expected)
        if not expected:
            break
        token = random.choice(sorted(expected))
        state, output = compiled.step(state, token), output + tokens[token]
    # No dead ends: where no token may come, the output is a choice, unless none could be spelt at all.
    assert output in choices or len(compiled.unspellable) == len(choices)


@given(VOCABULARIES, CHOICES)
@settings(max_examples=100, deadline=None)
def test_unspellable_choices_are_those_that_no_tokens_concatenate_to(tokens: list[bytes], choices: list[bytes]) -> None:
    ends = {b""}
    while True:
        longer = {e + t for e in ends for t in tokens if t and any(c.startswith(e + t) for c in choices)}
        if longer <= ends:
            break
        ends |= longer
    compiled = ChoiceSet(TokenTrie(tokens), choices)
    assert compiled.unspellable == [i for i, choice in enumerate(choices) if choice not in ends]


@given(VOCABULARIES, CHOICES)
@settings(max_examples=100, deadline=None)
def test_forced_tokens_are_those_of_masks_with_one_bit(tokens: list[bytes], choices: list[bytes]) -> None:
    compiled = ChoiceSet(TokenTrie(tokens), choices)
    expected: list[int] = []
    output = b""
    while output not in choices and len(only := allowed(tokens, choices, output)) == 1:
        expected += only
        output += tokens[expected[-1]]
    assert compiled.forced(ChoiceSet.start) == expected


def test_a_token_that_leads_into_a_dead_end_is_masked() -> None:
    tokens = [b"a", b"ab", b"bc"]  # after "ab" no token spells the "c"
    compiled = ChoiceSet(TokenTrie(tokens), [b"abc"])
    assert mask_of(compiled, ChoiceSet.start, 3) == {0}
    assert compiled.step(ChoiceSet.start, 1) == -1
    assert compiled.forced(ChoiceSet.start) == [0, 2]


def test_equal_tokens_are_a_choice_and_all_set() -> None:
    compiled = ChoiceSet(TokenTrie([b"x", b"yes", b"yes"]), [b"yes"])
    assert mask_of(compiled, ChoiceSet.start, 3) == {1, 2}
    assert compiled.forced(ChoiceSet.start) == []


def test_equal_tokens_are_listed_by_id() -> None:
    trie = TokenTrie([b"b", b"a"] * 500)  # enough for a sort that is not stable to show
    assert trie.tokens_with_prefix(b"") == [*range(1, 1000, 2), *range(0, 1000, 2)]
    assert trie.prefixes_of(b"ab") == [*range(1, 1000, 2)]


def test_the_last_bit_of_a_word_is_the_sign_bit() -> None:
    tokens = [b""] * 31 + [b"a", b"a"]
    assert mask_of(ChoiceSet(TokenTrie(tokens), [b"a"]), ChoiceSet.start, 33) == {31, 32}


def test_a_set_keeps_its_trie_alive() -> None:
    compiled = ChoiceSet(TokenTrie([b"ab", b"c"] * 1000), [b"abc"])
    TokenTrie([b"zz"] * 2000)  # would take the freed memory
    assert len(mask_of(compiled, ChoiceSet.start, 2000)) == 1000


def test_bad_arguments_are_refused() -> None:
    trie = TokenTrie([b"a"])
    compiled = ChoiceSet(trie, [b"a"])
    with pytest.raises(TypeError, match=r"tokens\[1\] is not bytes"):
        TokenTrie([b"a", "b"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"choices\[0\] is not bytes"):
        ChoiceSet(trie, ["a"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="choices is empty"):
        ChoiceSet(trie, [])
    with pytest.raises(ValueError, match=r"choices\[1\] is empty"):
        ChoiceSet(trie, [b"a", b""])
    with pytest.raises(IndexError, match=r"token 1 is not in \[0, 1\)"):
        trie.token_bytes(1)
    for state in (-1, compiled.states):
        for call in (compiled.complete, compiled.final, compiled.forced, lambda s: compiled.step(s, 0)):
            with pytest.raises(IndexError, match=f"state {state} is not in"):
                call(state)


def test_masks_are_only_written_where_they_fit() -> None:
    compiled = ChoiceSet(TokenTrie([b"a"] * 40), [b"a"])
    with pytest.raises(ValueError, match="out has 3 words, the vocabulary needs 2"):
        compiled.mask(ChoiceSet.start, np.zeros(3, np.int32))
    read_only = np.zeros(2, np.int32)
    read_only.flags.writeable = False
    refused: list[Any] = [np.zeros(2, np.int64), np.zeros(4, np.int32)[::2], np.zeros((1, 2), np.int32), read_only]
    for out in refused:
        with pytest.raises(TypeError):
            compiled.mask(ChoiceSet.start, out)


def test_the_stub_names_what_the_core_has() -> None:
    stub = ast.parse(Path(registry.__file__).with_name("_core.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert set(classes) | functions == {name for name in vars(_core) if not name.startswith("_")}
    for name, node in classes.items():
        written = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        written |= {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        assert written - {"__init__"} == {member for member in vars(getattr(_core, name)) if not member.startswith("_")}
