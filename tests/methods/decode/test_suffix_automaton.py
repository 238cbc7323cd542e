"""The suffix automaton against a search of the whole text; earlier texts; the state's file form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.methods.decode.suffix_automaton import FIRST, LENGTHS, MATCHES, Automaton, SuffixAutomaton, Text, kind_of
from tokloom.models.language_model import LanguageModel

texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def longest_earlier(text: list[int]) -> int:
    """Tokens of the longest suffix that ends earlier too."""
    for size in range(len(text) - 1, 0, -1):
        if any(text[i : i + size] == text[-size:] for i in range(len(text) - size)):
            return size
    return 0


def extended(automaton: Automaton, tokens: list[int]) -> Text:
    text = Text()
    automaton.extend(text, tokens)
    return text


@given(texts)
def test_own_matches_are_earlier_places_of_the_longest_suffix(tokens: list[int]) -> None:
    automaton = Automaton()
    text = extended(automaton, tokens)
    matches = automaton.matches(text)
    assert (matches[0].size if matches else 0) == longest_earlier(tokens)
    assert [size for size, *_ in matches] == sorted({size for size, *_ in matches}, reverse=True)
    for size, source, place, _ in matches:
        assert source is text
        assert size <= place < len(tokens)
        assert tokens[place - size : place] == tokens[-size:]
    if matches:  # the latest such place
        size, _, place, _ = matches[0]
        assert place == max(i for i in range(size, len(tokens)) if tokens[i - size : i] == tokens[-size:])


@given(st.lists(texts, min_size=1, max_size=3), st.lists(st.integers(0, 2), max_size=8))
def test_matches_over_several_texts_that_grow_in_turn_are_the_longest(given: list[list[int]], turns: list[int]) -> None:
    """The longest suffix of each text that is followed by something, in it or in another."""
    automaton = Automaton()
    grown = [Text() for _ in given]
    for turn, which in enumerate([*turns, *range(len(given))]):
        text, whole = grown[which % len(given)], given[which % len(given)]
        done = len(text.tokens)
        automaton.extend(text, whole[done:] if turn >= len(turns) else whole[done : done + 3])
    assert [text.tokens for text in grown] == given
    for text in grown:
        longest = max(
            (
                size
                for size in range(1, len(text.tokens) + 1)
                for other in grown
                for end in range(size, len(other.tokens))
                if other.tokens[end - size : end] == text.tokens[-size:]
            ),
            default=0,
        )
        matches = automaton.matches(text)
        assert len(matches) <= MATCHES
        assert (matches[0].size if matches else 0) == longest
        for size, source, place, state in matches:
            assert source.tokens[place - size : place] == text.tokens[-size:]
            assert source.tokens[place] in automaton.follow[state]


@given(st.lists(texts, max_size=4), texts, st.integers(1, 3), st.integers(1, 5))
def test_every_branch_follows_an_ending_of_the_text(
    earlier: list[list[int]], text: list[int], branches: int, length: int
) -> None:
    state = SuffixAutomaton(branches=branches, length=length).start(FAKE)
    for known in earlier:
        propose(state, known)
    tree = propose(state, text)
    leaves = [path for path in paths(tree) if not any(p[: len(path)] == path != p for p in paths(tree))]
    assert len(leaves) <= branches
    for path in leaves:
        copied = list(path)
        assert len(copied) <= length
        sources = [text + copied, *earlier]  # a copy that reaches the text's end goes on with what it has copied
        assert any(
            source[i - 1] == text[-1] and source[i : i + len(copied)] == copied
            for source in sources
            for i in range(1, len(text) if source is sources[0] else len(source))
        )


@given(st.integers(0, 3), texts)
def test_what_repeats_itself_is_drafted_beyond_its_end(first: int, period: list[int]) -> None:
    """The longest chain of a text that goes round for the third time goes on round."""
    round_ = [10 + first, *period]
    tree = propose(SuffixAutomaton(length=30, branches=8).start(FAKE), [*round_, *round_, *round_[:1]])
    assert tuple((round_ * 32)[1:31]) in paths(tree)


@example([[0] * 33, [0] * 40])
@given(st.lists(texts, min_size=1, max_size=3))
def test_a_text_that_grows_is_one_automaton_and_requests_may_interleave(begun: list[list[int]]) -> None:
    together: Any = SuffixAutomaton(texts=8).start(FAKE)
    grown = [[10 + i, *text] for i, text in enumerate(begun)]  # first tokens that tell the requests apart
    for end in range(1, max(map(len, grown)) + 1):
        for text in grown:
            propose(together, text[:end])
    assert sorted(text.tokens for text in together.texts) == sorted(grown)


def test_the_oldest_texts_are_forgotten_together() -> None:
    state: Any = SuffixAutomaton(texts=2).start(FAKE)
    for first in range(10, 14):
        propose(state, [first, 1, 2, 3, first])
    assert (1, 2, 3, 10) in paths(
        propose(state, [30, 10])
    )  # twice as many as are kept may be there, and the one at work
    assert paths(propose(state, [31, 11])) == []  # now only the last two before it
    assert (1, 2, 3, 13) in paths(propose(state, [31, 11, 13]))
    none: Any = SuffixAutomaton(texts=0).start(FAKE)
    for first in (7, 8):
        propose(none, [first, 1, 2, 3, first])
    assert [text.tokens[0] for text in none.texts] == [8]


def test_a_restored_state_drafts_alike() -> None:
    state, fresh = SuffixAutomaton().start(FAKE), SuffixAutomaton().start(FAKE)
    for text in ([1, 2, 3, 4, 1, 2], [5, 6, 7, 5]):
        state.judge([(mark, True) for mark in propose(state, text).marks])
    fresh.restore(state.arrays())
    assert propose(fresh, [9, 2, 3]) == propose(state, [9, 2, 3])
    SuffixAutomaton().start(FAKE).restore(SuffixAutomaton().start(FAKE).arrays())


def test_kinds_grow_with_the_match() -> None:
    kinds = [kind_of(length, 1, 1, 0) for length in range(1, 40)]
    assert sorted(set(kinds)) == kinds[:1] + sorted(set(kinds[1:]))
    assert len(set(kinds)) == len(LENGTHS)
    every = {
        kind_of(length, followers, seen, before)
        for length in LENGTHS for followers in (1, 2, 3, 9) for seen in (1, 2, 5) for before in (0, 1, 3)
    }  # fmt: skip
    assert every == set(range(len(FIRST)))


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
