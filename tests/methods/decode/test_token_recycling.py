"""Token Recycling: the matrix and the tree against a dict of lists; the text against plain decoding."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokloom import Engine, Sampling
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import DraftRequest, Verified
from tokloom.engine.speculation.cost_curve import WIDTHS, CostCurve, LiveCurve
from tokloom.engine.speculation.draft_gate import DraftGate
from tokloom.methods.decode.token_recycling import TokenRecycling
from tokloom.models.language_model import LanguageModel

VOCABULARY = 20


def started(**options: int):  # type: ignore[no-untyped-def]
    return TokenRecycling(**options).start(SimpleNamespace(vocabulary=SimpleNamespace(size=VOCABULARY)))  # type: ignore[arg-type]


def propose(state, tokens: list[int], limit: int) -> DraftTree:  # type: ignore[no-untyped-def]
    return state.propose(DraftRequest(tokens, limit, None))  # type: ignore[arg-type,no-any-return]


def observe(state, rows: list[int], logits: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    """A pass of which the first row only was accepted."""
    state.observe(Verified(rows[:1], rows, (-1, *((0,) * (len(rows) - 1))), logits, [0]))


passes = st.lists(
    st.lists(st.tuples(st.integers(0, VOCABULARY - 1), st.integers(0, 10_000)), min_size=1, max_size=6), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(history=passes, last=st.integers(0, VOCABULARY - 1), limit=st.integers(0, 30))
def test_the_tree_follows_what_was_observed(history: list[list[tuple[int, int]]], last: int, limit: int) -> None:
    state = started(candidates=4, nodes=24, depth=4)
    seen: dict[int, list[int]] = defaultdict(list)
    for rows in history:
        logits = torch.stack(
            [torch.from_numpy(np.random.default_rng(seed).permutation(VOCABULARY)) for _, seed in rows]
        )
        observe(state, [token for token, _ in rows], logits.float())
        for (token, _), row in zip(rows, logits, strict=True):
            seen[token] = row.argsort(descending=True)[:4].tolist()
    tree = propose(state, [3, last], limit)
    assert len(tree) <= limit
    depths = tree.depths()
    assert all(depth <= 4 for depth in depths)
    siblings: dict[int, list[int]] = defaultdict(list)
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        assert parent < node
        above = last if parent < 0 else tree.tokens[parent]
        siblings[parent].append(token)
        # children are the remembered candidates, best rank first, without a gap
        assert siblings[parent] == seen[above][: len(siblings[parent])]
        assert tree.probabilities[node] <= (1.0 if parent < 0 else tree.probabilities[parent])
    if limit and seen[last]:
        assert len(tree) > 0


def test_hit_rates_shape_the_tree() -> None:
    """A text in which the first rank is always right grows one deep path; without hits the tree stays broad."""
    right, wrong = started(nodes=8), started(nodes=8)
    for step in range(200):
        token, follower = step % 10, (step + 1) % 10
        logits = torch.zeros(1, VOCABULARY)
        logits[0, follower] = 1
        observe(right, [token], logits)
        observe(wrong, [token], torch.from_numpy(np.random.default_rng(step).random((1, VOCABULARY))))
    assert max(propose(right, [3], 8).depths()) == 8
    assert propose(right, [3], 8).tokens == (4, 5, 6, 7, 8, 9, 0, 1)
    assert max(propose(wrong, [3], 8).depths()) < 4


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=60), Sampling(max_new_tokens=60, temperature=0.8, seed=4)]
)
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3", "tiny_qwen3"])
def test_the_text_is_that_of_plain_decoding(family: str, sampling: Sampling, request: pytest.FixtureRequest) -> None:
    """Greedy and seeded sampling; all of the tree verified, whatever it costs."""
    model = request.getfixturevalue(family)
    plain = Engine(model).generate("one two three one two three one", sampling=sampling)
    engine = Engine(model, drafter="token_recycling")
    always_draft(engine)
    for _ in range(2):  # the second starts with a warm matrix
        drafted = engine.generate("one two three one two three one", sampling=sampling)
        assert drafted.tokens == plain.tokens
        assert drafted.text == plain.text
    row = drafted.ledger.row("decode")
    assert row.counts["drafted"] == row.counts["accepted"] + row.counts["rejected"] > 0
    assert len(drafted.tokens) == 1 + row.forward_passes + row.counts["accepted"]


def always_draft(engine: Engine) -> None:
    """Makes every width cost the same and never rests, so that the whole tree is always worth verifying."""
    assert engine._drafting is not None
    engine._drafting._curve = Fixed(CostCurve(dict.fromkeys(WIDTHS, 1.0)))
    engine._drafting.pace = Open()


class Fixed(LiveCurve):
    """Costs that are what they are said to be, whatever passes take."""

    def fork(self) -> LiveCurve:
        return self

    def note(self, rows: int, seconds: float) -> None:
        """The clock is not asked."""


class Open(DraftGate):
    """Never rests."""

    def pays(self, worth: float) -> bool:
        return True


@pytest.mark.model
def test_effect_more_tokens_a_pass_and_the_same_text(smollm2: LanguageModel) -> None:
    """On repetitive text at least two tokens come of a pass; the text is that of plain decoding."""
    prompt = "Repeat this list three times.\n" + "apples, pears, plums, cherries and figs; " * 4
    sampling = Sampling(max_new_tokens=64)
    plain = Engine(smollm2).generate(prompt, sampling=sampling)
    engine = Engine(smollm2, drafter="token_recycling")
    always_draft(engine)
    drafted = engine.generate(prompt, sampling=sampling)
    assert drafted.tokens == plain.tokens
    assert drafted.ledger.row("decode").forward_passes <= len(drafted.tokens) / 2


@given(prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=40))
def test_the_prompt_gives_the_latest_followers(prompt: list[int]) -> None:
    state = started(candidates=3)
    state.read(prompt)
    followers: dict[int, list[int]] = defaultdict(list)
    for token, follower in pairwise(prompt):
        followers[token] = [follower, *(f for f in followers[token] if f != follower)][:3]
    assert {token: known for token, (known, _) in state.rows.items()} == followers


def test_without_the_prompt_nothing_is_known() -> None:
    state = started(prompt=False)
    state.read([1, 2, 3, 1, 2])
    assert len(propose(state, [1], 10)) == 0


def test_a_row_that_came_twice_alike_is_surer_and_tokens_may_lie_beyond_the_vocabulary() -> None:
    """Drafts of bytes have their own ids, more than a tiny model's vocabulary has."""
    state = started()
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 7] = 3.0
    for certainty in (6, 7):
        observe(state, [255], logits)
        assert state.rows[255][0][0] == 7
        assert state.rows[255][1] == certainty
    assert propose(state, [255], 1).tokens == (7,)


def test_the_state_comes_back_from_arrays() -> None:
    state, fresh = started(candidates=3), started(candidates=3)
    state.read([1, 2, 3, 1, 2, 4, 2])
    observe(state, [2], torch.arange(VOCABULARY, dtype=torch.float32)[None])
    fresh.restore(state.arrays())
    assert fresh.rows == state.rows
    assert propose(fresh, [1], 9) == propose(state, [1], 9)
