"""Random grammars and vocabularies for hypothesis, small enough for the naive matcher."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from hypothesis import strategies as st

from tests.grammar import naive
from tokloom._core import TokenTrie
from tokloom.decode.constraint import Matcher
from tokloom.grammar.expression import (
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
)

if TYPE_CHECKING:
    from tokloom.tokenize.vocabulary import Vocabulary

EOS, PAD = 0, 1
SPECIALS = {"<x>": 2, "<y>": 3}
CHARS = ["a", "b", ",", "é", "ê", "α", "😀"]


@dataclass(frozen=True)
class TinyVocabulary:
    """What the engine needs of a vocabulary."""

    token_bytes: list[bytes]
    eos_ids: frozenset[int] = frozenset({EOS})
    special_tokens: dict[str, int] = field(default_factory=lambda: dict(SPECIALS))

    @property
    def size(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def trie(self) -> TokenTrie:
        return TokenTrie(self.token_bytes)

    def tokenize(self, text: str) -> list[int]:
        """The longest token first; as BPE would if it merged the longest."""
        data, tokens = text.encode(), []
        while data:
            best = max(self.trie.prefixes_of(data), key=lambda token: len(self.token_bytes[token]))
            tokens.append(best)
            data = data[len(self.token_bytes[best]) :]
        return tokens


def vocabulary_of(*tokens: str | bytes, alphabet: bytes = bytes(range(256))) -> Vocabulary:
    """Four special tokens, the given ones, and the bytes of the alphabet."""
    given = [token.encode() if isinstance(token, str) else token for token in tokens]
    return cast("Vocabulary", TinyVocabulary([b""] * 4 + given + [bytes([byte]) for byte in alphabet]))


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    """Pieces of the characters above, some of them cut, and their single bytes."""
    cut = ["é".encode()[:1], "é".encode()[1:], "😀".encode()[:2], "😀".encode()[2:]]
    parts = st.sampled_from([char.encode() for char in CHARS[:4]] * 3 + [char.encode() for char in CHARS] + cut)
    pieces = draw(st.lists(st.lists(parts, min_size=1, max_size=5).map(b"".join), max_size=40))
    return vocabulary_of(*pieces, alphabet=bytes(sorted(set("".join(CHARS).encode()))))


def bounds(low: int) -> st.SearchStrategy[tuple[int, int | None]]:
    minimum = st.integers(0, low)
    return minimum.flatmap(lambda n: st.tuples(st.just(n), st.sampled_from([None, n, n + 1, n + 3])))


@st.composite
def automata(draw: st.DrawFn) -> Automaton:
    states = draw(st.integers(1, 3))
    target = st.none() | st.integers(0, states - 1)
    edges = [tuple((ord(b), ord(b), next) for b in ",ab" if (next := draw(target)) is not None) for _ in range(states)]
    return Automaton(tuple(edges), draw(st.frozensets(st.integers(0, states - 1))))


LEAVES: st.SearchStrategy[Expression] = st.one_of(
    st.text(alphabet="ab,", max_size=3).map(lambda text: Literal(text.encode())),
    st.sampled_from([Bytes(((97, 98),)), Bytes(((44, 44), (97, 97))), Chars(((97, 98), (0xE9, 0xEA)))]),
    st.sampled_from([Chars(((97, 97), (0x3B1, 0x3B2), (0x1F600, 0x1F601))), Literal(b"a"), Literal(b",")]),
    automata(),
)


def repeats(item: st.SearchStrategy[Expression], low: int = 2) -> st.SearchStrategy[Expression]:
    return st.builds(lambda item, count: Repeat(item, *count), item, bounds(low))


def sequences(item: st.SearchStrategy[Expression]) -> st.SearchStrategy[tuple[Expression, ...]]:
    return st.lists(item, max_size=3).map(tuple)


REGULAR = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        sequences(inner).map(Concat),
        sequences(inner).map(Either),
        repeats(inner, 3),
        st.lists(inner, min_size=1, max_size=2).map(lambda items: Both(tuple(items))),
        st.builds(Except, inner, inner),
    ),
    max_leaves=5,
)


def orders(item: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    member = st.builds(lambda item, count: Member(item, *count), item, bounds(2))
    separators = st.sampled_from([Literal(b","), Literal(b",a"), Either((Literal(b","), Literal(b"")))])
    members = st.lists(member, max_size=3).map(tuple)
    return st.builds(
        lambda members, separator, count: AnyOrder(members, separator, *count), members, separators, bounds(2)
    )


def expressions(rules: list[str]) -> st.SearchStrategy[Expression]:
    leaf = st.one_of(REGULAR, st.sampled_from([Special(token) for token in SPECIALS]))
    if rules:
        leaf = st.one_of(leaf, st.sampled_from([Ref(name) for name in rules]), st.sampled_from([Ref(n) for n in rules]))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            sequences(inner).map(Concat),
            sequences(inner).map(Concat),
            sequences(inner).map(Either),
            repeats(inner),
            orders(inner),
        ),
        max_leaves=6,
    )


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """Up to three rules that may refer to each other in any way."""
    names = ["A", "B", "C"][: draw(st.integers(0, 3))]
    expression = expressions(names)
    return Grammar(draw(expression), {name: draw(expression) for name in names})


def masked(matcher: Matcher, vocabulary: Vocabulary) -> set[int]:
    """The tokens of the matcher's mask."""
    out = np.full((vocabulary.size + 31) // 32, -1, np.int32)
    matcher.mask(out)
    return tokens_of(out)


def tokens_of(row: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def bytes_of(vocabulary: Vocabulary, token: int) -> bytes:
    """What the token adds to an output as the naive matcher sees it."""
    names = {id: name for name, id in SPECIALS.items()}
    return naive.special(names[token]) if token in names else vocabulary.token_bytes[token]


def brute_force(vocabulary: Vocabulary, grammar: Grammar, output: bytes) -> set[int]:
    """The mask of a vocabulary with all single bytes: every token tried."""
    fitting = {
        token
        for token in range(vocabulary.size)
        if (data := bytes_of(vocabulary, token)) and naive.is_prefix(grammar, output + data)
    }
    return fitting | (set(vocabulary.eos_ids) if naive.matches(grammar, output) else set())
