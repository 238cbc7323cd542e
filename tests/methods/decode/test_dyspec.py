"""The dynamic tree against all nodes of the full tree, sorted by value."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.decode.fixed_source import FixedSource, FixedState
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.errors import SpecError
from tokloom.methods.decode.dyspec import DySpec
from tokloom.models.language_model import LanguageModel


def full(source: FixedSource, depth: int) -> dict[tuple[int, ...], float]:
    """The value of every path of the full tree."""
    values: dict[tuple[int, ...], float] = {(): 1.0}
    for level in range(depth):
        for path in [path for path in values if len(path) == level]:
            followers = source.followers(path)
            for token, probability in zip(followers.tokens.tolist(), followers.probabilities.tolist(), strict=True):
                values[*path, token] = values[path] * probability
    del values[()]
    return values


def started(seed: int, **options: object):  # type: ignore[no-untyped-def]
    state = DySpec(**options).start(FAKE)  # type: ignore[arg-type]
    state.source = FixedState(FixedSource(seed=seed))  # type: ignore[attr-defined]
    return state


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 500), st.integers(1, 20), st.integers(1, 4), st.floats(0, 0.3), st.booleans())
def test_the_tree_has_the_highest_values(seed: int, nodes: int, depth: int, threshold: float, by_level: bool) -> None:
    state = started(seed, nodes=nodes, depth=depth, threshold=threshold, by_level=by_level)
    tree = propose(state, [1, 2])
    values = full(FixedSource(seed=seed), depth)
    best = sorted((value for value in values.values() if value >= threshold), reverse=True)[:nodes]
    found = dict(zip(paths(tree), tree.probabilities, strict=True))
    assert sorted(found.values(), reverse=True) == pytest.approx(best)
    for path, probability in found.items():
        assert probability == pytest.approx(values[path])


def test_a_source_is_asked_once_a_level_or_once_a_node() -> None:
    for by_level, maximum in ((True, 4), (False, 12)):
        state = started(3, nodes=12, depth=4, threshold=0, by_level=by_level)
        assert len(propose(state, [1])) == 12
        assert state.source.calls <= maximum


def test_chances_are_calibrated() -> None:
    """A source whose likely tokens never come is believed less; the order of siblings stays."""
    state = started(3, nodes=12, depth=1)
    tree = propose(state, [1])
    for _ in range(30):
        state.judge([(mark, False) for mark in tree.marks])
    after = propose(state, [1])
    assert after.tokens[0] == tree.tokens[0]
    assert after.probabilities[0] < tree.probabilities[0] / 2
    again = started(3, nodes=12, depth=1)
    again.restore(state.arrays())
    assert propose(again, [1]) == after


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(SpecError, match=r"dyspec:source=.*prompt_lookup is a Drafter"):
        DySpec(source="prompt_lookup")


@pytest.mark.model
def test_effect_more_tokens_a_pass_than_a_chain(smollm2: LanguageModel) -> None:
    """With the model itself as the source: a tree of 12 beats a chain of the first candidates at temperature 1, and at
    temperature 0 every level is right, so that a pass gives all of them and one more (measured: 9 passes and 15)."""
    prompt = "The sea was calm and"
    passes = {}
    for name, spec in {
        "tree": "dyspec:source=draft_model,nodes=12,depth=4,threshold=0.001",
        "chain": 'dyspec:source="draft_model:candidates=1",nodes=12,depth=4,threshold=0.001',
    }.items():
        engine = Engine(smollm2, drafter=spec)
        always_draft(engine)
        sampled = [
            engine.generate(prompt, sampling=Sampling(max_new_tokens=12, temperature=1, seed=seed)) for seed in (1, 2)
        ]
        passes[name] = sum(result.ledger.row("decode").forward_passes for result in sampled)
    assert passes["tree"] < passes["chain"]
    greedy = engine.generate(prompt, sampling=Sampling(max_new_tokens=21))
    assert greedy.ledger.row("decode").forward_passes == 4


@pytest.mark.parametrize(("nodes", "depth"), list(product([1, 5], [1, 3])))
def test_limits_are_kept(nodes: int, depth: int) -> None:
    tree = propose(started(1, nodes=nodes, depth=depth, threshold=0), [1])
    assert len(tree) <= nodes
    assert max(tree.depths()) <= depth
