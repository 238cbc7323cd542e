"""The suffix automaton against a search of the whole text; earlier texts; the state's file form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.suffix_automaton import LENGTHS, Automaton, SuffixAutomaton, kind_of
from tokloom.models.language_model import LanguageModel

texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def longest_earlier(text: list[int]) -> int:
    """Tokens of the longest suffix that ends earlier too."""
    for size in range(len(text) - 1, 0, -1):
        if any(text[i : i + size] == text[-size:] for i in range(len(text) - size)):
            return size
    return 0


@given(texts)
def test_own_matches_are_earlier_places_of_the_longest_suffix(text: list[int]) -> None:
    automaton = Automaton()
    automaton.extend(text)
    matches = automaton.own_matches()
    assert (matches[0][0] if matches else 0) == longest_earlier(text)
    assert [size for size, _ in matches] == sorted({size for size, _ in matches}, reverse=True)
    for size, place in matches:
        assert size <= place < len(text)
        assert text[place - size : place] == text[-size:]
    if matches:  # the latest such place
        size, place = matches[0]
        assert place == max(i for i in range(size, len(text)) if text[i - size : i] == text[-size:])


@given(texts, texts)
def test_matches_of_another_text_are_its_longest_suffix(text: list[int], other: list[int]) -> None:
    automaton = Automaton()
    automaton.extend(text)
    spelled = ["".join(map(str, tokens)) for tokens in (text, other)]
    longest = max((n for n in range(1, len(other) + 1) if spelled[1][-n:] in spelled[0]), default=0)
    matches = automaton.matches(other)
    assert (matches[0][0] if matches else 0) == longest
    for size, place in matches:
        assert text[place - size : place] == other[-size:]


@given(st.lists(texts, max_size=4), texts, st.integers(1, 3), st.integers(1, 5))
def test_every_branch_follows_an_ending_of_the_text(
    earlier: list[list[int]], text: list[int], branches: int, length: int
) -> None:
    state = SuffixAutomaton(branches=branches, length=length).start(FAKE)
    for known in earlier:
        propose(state, known)
    tree = propose(state, text)
    sources = [text, *earlier]
    leaves = [path for path in paths(tree) if not any(p[: len(path)] == path != p for p in paths(tree))]
    assert len(leaves) <= branches
    for path in leaves:
        copied = list(path)
        assert len(copied) <= length
        assert any(
            source[i - 1] == text[-1] and source[i : i + len(copied)] == copied
            for source in sources
            for i in range(1, len(source))
        )


@given(st.lists(texts, min_size=1, max_size=3))
def test_a_text_that_grows_is_one_automaton_and_requests_may_interleave(begun: list[list[int]]) -> None:
    together = SuffixAutomaton(texts=8).start(FAKE)
    grown = [[10 + i, *text] for i, text in enumerate(begun)]  # first tokens that tell the requests apart
    for end in range(1, max(map(len, grown)) + 1):
        for text in grown:
            propose(together, text[:end])
    assert sorted(automaton.tokens for automaton in together.automata) == sorted(grown)  # type: ignore[attr-defined]


def test_the_oldest_text_is_forgotten() -> None:
    state = SuffixAutomaton(texts=2).start(FAKE)
    for first in (7, 8, 9):
        propose(state, [first, 1, 2, 3, first])
    assert paths(propose(state, [20, 7])) == []
    assert (1, 2, 3, 9) in paths(propose(state, [21, 9]))


def test_a_restored_state_drafts_alike() -> None:
    state, fresh = SuffixAutomaton().start(FAKE), SuffixAutomaton().start(FAKE)
    for text in ([1, 2, 3, 4, 1, 2], [5, 6, 7, 5]):
        state.judge(propose(state, text), [0, 1])
    fresh.restore(state.arrays())
    assert propose(fresh, [9, 2, 3]) == propose(state, [9, 2, 3])
    SuffixAutomaton().start(FAKE).restore(SuffixAutomaton().start(FAKE).arrays())


@pytest.mark.parametrize("length", range(1, 40))
def test_kinds_grow_with_the_match(length: int) -> None:
    assert kind_of(length) == max(kind for kind, least in enumerate(LENGTHS) if length >= least)


@pytest.mark.model
def test_effect_an_earlier_text_is_copied_and_long_matches_beat_short_ones(smollm2: LanguageModel) -> None:
    """The second request for the same text takes a quarter of the passes of plain decoding; in the first, a table
    whose cells differ after long equal stretches takes fewer passes than prompt lookup needs."""
    rows = "".join(f"row {i}: name=item{i}; price={i * 3}.00; stock=yes\n" for i in range(10))
    prompt, sampling = f"Copy the table below exactly.\n{rows}Copy:\nrow 0: name=item0;", Sampling(max_new_tokens=96)
    plain = Engine(smollm2).generate(prompt, sampling=sampling)
    passes = {}
    for name in ("suffix_automaton", "prompt_lookup"):
        engine = Engine(smollm2, drafter=name)
        always_draft(engine)
        results = [engine.generate(prompt, sampling=sampling) for _ in range(2)]
        assert all(result.tokens == plain.tokens for result in results)
        passes[name] = [result.ledger.row("decode").forward_passes for result in results]
    assert passes["suffix_automaton"][1] <= len(plain.tokens) / 4
    assert passes["suffix_automaton"][0] < passes["prompt_lookup"][0]
