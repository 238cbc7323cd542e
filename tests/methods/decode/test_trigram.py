"""The tri-gram table against dicts of what it was shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, verified
from tokloom.decode.drafter import DraftRequest, Verified
from tokloom.methods.decode.trigram import Trigram

VOCABULARY = 12
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 10_000)), min_size=1, max_size=20)


def logits(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (1, VOCABULARY)).astype(np.float32))


@given(pairs, st.integers(0, 3), st.integers(0, 3), st.floats(0, 1))
def test_the_last_word_of_the_model_after_a_pair(
    shown: list[tuple[int, int, int]], before: int, last: int, backoff: float
) -> None:
    state = Trigram(candidates=VOCABULARY, backoff=backoff).start(FAKE)
    three: dict[tuple[int, int], np.ndarray] = {}
    two: dict[int, np.ndarray] = {}
    for first, second, seed in shown:
        state.observe(verified([first, second], logits(seed)))
        three[first, second] = two[second] = logits(seed)[0].softmax(-1).numpy()
    followers = state.open(DraftRequest([9, before, last], 10, None)).root()  # type: ignore[arg-type]
    if last not in two:
        assert len(followers.tokens) == 0
        return
    expected = two[last]
    if (before, last) in three:
        expected = (1 - backoff) * three[before, last] + backoff * two[last]
    assert sorted(followers.tokens.tolist()) == list(range(VOCABULARY))
    np.testing.assert_allclose(followers.probabilities, expected[followers.tokens], rtol=1e-5)
    assert (np.diff(followers.probabilities) <= 1e-12).all()


def test_rows_of_a_tree_come_after_their_parents() -> None:
    state = Trigram(candidates=1).start(FAKE)
    best = torch.eye(VOCABULARY)[[7, 8, 9]]
    state.observe(Verified([1, 2], [2, 3, 4], (-1, 0, 0), best, [0]))
    assert {context: table.tokens[0] for context, table in state.pairs.items()} == {  # type: ignore[attr-defined]
        (1, 2): 7, (2, 3): 8, (2, 4): 9,
    }  # fmt: skip
    walk = state.open(DraftRequest([1, 2], 10, None))  # type: ignore[arg-type]
    assert walk.root().tokens.tolist() == [7]
    assert [followers.tokens.tolist() for followers in walk.expand([(0, 3), (0, 4)])] == [[8], [9]]
    assert len(walk.expand([(1, 5)])[0].tokens) == 0


def test_the_prompt_is_known_and_the_oldest_pair_forgotten() -> None:
    state = Trigram(entries=2).start(FAKE)
    state.read([1, 2, 3, 4, 5])
    assert list(state.pairs) == [(2, 3), (3, 4)]  # type: ignore[attr-defined]
    assert state.open(DraftRequest([3, 4], 9, None)).root().tokens.tolist() == [5]  # type: ignore[arg-type]


@pytest.mark.parametrize("seeds", [(), (1, 2, 3)])
def test_a_restored_state_is_the_same(seeds: tuple[int, ...]) -> None:
    state, fresh = Trigram().start(FAKE), Trigram().start(FAKE)
    for seed in seeds:
        state.observe(verified([seed, seed + 1], logits(seed)))
    fresh.restore(state.arrays())
    for table in ("pairs", "singles"):
        ours, theirs = getattr(state, table), getattr(fresh, table)
        assert list(ours) == list(theirs)
        for key in ours:
            np.testing.assert_array_equal(ours[key].tokens, theirs[key].tokens)
            np.testing.assert_array_equal(ours[key].probabilities, theirs[key].probabilities)
