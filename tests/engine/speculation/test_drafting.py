"""How much is drafted follows the cost of a pass and the rate of acceptance."""

from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.decode.test_token_recycling import Fixed, always_draft
from tokloom import Engine, Sampling, registry
from tokloom.decode.constraint import Constraint
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.engine.loop import Decoding
from tokloom.engine.speculation.cost_curve import CostCurve
from tokloom.engine.speculation.drafting import STATE, Drafting
from tokloom.engine.speculation.probability_correction import ProbabilityCorrection, RequestTracker
from tokloom.errors import ArgumentError, ArtifactError
from tokloom.kv.step import Step
from tokloom.models.language_model import LanguageModel


class Chain(DraftState):
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def propose(self, request):  # type: ignore[no-untyped-def]
        n = min(10, request.limit)
        return DraftTree(tuple(range(n)), tuple(range(-1, n - 1)), tuple(self.probability ** (i + 1) for i in range(n)))

    def observe(self, seen):  # type: ignore[no-untyped-def]
        return None


class ChainDrafter(Drafter):
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def start(self, model):  # type: ignore[no-untyped-def]
        return Chain(self.probability)


def drafting(model: LanguageModel, probability: float, cost_of_64: float) -> Drafting:
    made = Drafting(ChainDrafter(probability), model)
    made._curve = Fixed(CostCurve({1: 1.0, 64: cost_of_64}))
    return made


def followed(made: Drafting, following: RequestTracker, text: list[int], follower: int) -> DraftTree:
    """A pass of a text that goes on with `follower`."""
    tree = made.propose(text, 20, None, following=following)  # type: ignore[arg-type]
    before = list(text)
    text.append(follower)
    rows = len(tree) + 1
    seen = Verified(before, [before[-1], *tree.tokens], (-1, *(p + 1 for p in tree.parents)), torch.zeros(rows, 4), [0])
    made.learn(seen, tree, text, following)
    return tree


def test_nothing_is_drafted_when_it_does_not_pay(tiny_llama: LanguageModel) -> None:
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 20, None)) == 10  # type: ignore[arg-type]
    assert len(drafting(tiny_llama, 0.05, 64.0).propose([1], 20, None)) == 0  # type: ignore[arg-type]
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 3, None)) == 3  # type: ignore[arg-type]
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 0, None)) == 0  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.lists(st.floats(0, 0.6), min_size=8, max_size=8),
       st.floats(1, 2))  # fmt: skip
def test_the_verified_part_has_the_highest_value_of_all(
    probabilities: list[float], steps: list[float], gain: float
) -> None:
    """Against all sizes of the likeliest nodes; each node's own row is charged at the price of the time."""
    made = Drafting(
        ListedDrafter(DraftTree(tuple(range(len(probabilities))), (-1,) * len(probabilities), tuple(probabilities))),
        None,
    )  # type: ignore[arg-type]
    costs = list(accumulate([1.0, *steps]))
    made._curve, made.gain = Fixed(CostCurve({i + 1: cost for i, cost in enumerate(costs)})), gain
    tree = made.propose([1], 9, None)  # type: ignore[arg-type]
    table = made.curve.table
    corrected = made.acceptance.propose(made.state.tree).probabilities  # type: ignore[attr-defined]
    best = sorted(corrected, reverse=True)
    values = [sum(best[:n]) - gain * (table[1 + n] - table[1]) for n in range(len(best) + 1)]
    chosen = sum(corrected[token] for token in tree.tokens) - gain * (table[1 + len(tree)] - table[1])
    if max(values) >= made.MARGIN + 1e-9:
        assert chosen == pytest.approx(max(values))
    else:
        assert chosen >= min(0.0, max(values)) - 1e-9


def test_chances_follow_what_came_also_of_nodes_that_were_not_verified(tiny_llama: LanguageModel) -> None:
    """A drafter that is wrong is no longer verified; once it would have been right, it is, though it was not tried."""
    made = drafting(tiny_llama, 0.9, 20.0)
    text, following = [1], made.follow([1])
    assert len(followed(made, following, text, 3)) > 0
    for _ in range(60):
        followed(made, following, text, 3)
    made._undrafted = 0  # not out of curiosity
    assert len(made.propose(text, 20, None)) == 0  # type: ignore[arg-type]
    for _ in range(60):
        for token in range(4):  # the chain's first tokens
            text.append(token)
        following.told = len(text)
        before = len(text) - 4
        following.add(made.acceptance.propose(made.state.propose(DraftRequest(text, 10, None))), before)  # type: ignore[arg-type]
        for proposal, node, hit in following.outcomes(text):
            made.acceptance.record(proposal, node, hit)
    assert len(made.propose(text, 20, None)) > 0  # type: ignore[arg-type]


def test_a_request_begins_with_short_guesses_and_gets_longer_ones_as_they_come(tiny_llama: LanguageModel) -> None:
    """However sure the drafter is, and though passes are free; a request that can be taken back has no such record."""
    made = drafting(tiny_llama, 0.99, 1.0)
    assert len(made.propose([1], 20, None)) == 10  # type: ignore[arg-type]
    text, following, sizes = [1], made.follow([1]), []
    for came in (4, 0, 0, 10):
        tree = made.propose(text, 20, None, following=following)  # type: ignore[arg-type]
        sizes.append(len(tree))
        before, came = list(text), min(came, len(tree))
        text += [*range(came), 99]
        rows = torch.zeros(len(tree) + 1, 4)
        path = list(range(came + 1))
        made.learn(Verified(before, [before[-1], *tree.tokens], (-1, *path), rows, path), tree, text, following)
    sizes.append(len(made.propose(text, 20, None, following=following)))  # type: ignore[arg-type]
    assert sizes == [4, 10, 6, 4, 10]


def test_now_and_then_rows_are_verified_that_would_pay_at_half_the_cost(tiny_llama: LanguageModel) -> None:
    """So that a cost curve that is too high is found out."""
    made = drafting(tiny_llama, 0.5, 64.0)
    sizes = [len(made.propose([1], 20, None)) for _ in range(2 * made.CURIOUS + 2)]  # type: ignore[arg-type]
    assert [i for i, size in enumerate(sizes) if size] == []
    made._curves.clear()
    made._curve = Fixed(CostCurve({1: 1.0, 64: 1 + 63 * 0.8}))
    made.acceptance = ProbabilityCorrection()
    sizes = [len(made.propose([1], 20, None)) for _ in range(2 * made.CURIOUS + 2)]  # type: ignore[arg-type]
    assert sizes.count(1) == 2 or sizes.count(1) == 3
    assert set(sizes) == {0, 1}


def test_rows_of_other_requests_make_room_smaller_and_time_dearer(tiny_llama: LanguageModel) -> None:
    """Beside others a row may cost another amount, and what a pass gives is more."""
    made = Drafting(ChainDrafter(0.6), tiny_llama)
    made._curve = Fixed(CostCurve({1: 1.0, 4: 1.3, 8: 8.0, 16: 16.0}))
    alone = made.propose([1], 20, None)  # type: ignore[arg-type]
    assert 0 < len(alone) <= 3
    assert len(made.propose([1], 20, None, beside=5)) == 0  # type: ignore[arg-type]
    assert len(made.propose([1], 20, None, beside=15)) == 0  # type: ignore[arg-type]


trees = st.lists(st.integers(0, 100), min_size=1, max_size=15).map(
    lambda xs: tuple(-1 if i == 0 else x % (i + 1) - 1 for i, x in enumerate(xs))
)


@given(trees, st.integers(0, 15), st.integers(0, 6))
def test_top_of_a_tree_is_a_tree(parents: tuple[int, ...], size: int, depth: int) -> None:
    probabilities: list[float] = []
    for parent in parents:
        probabilities.append((probabilities[parent] if parent >= 0 else 1.0) * 0.7)
    tree = DraftTree(tuple(range(100, 100 + len(parents))), parents, tuple(probabilities))
    top = tree.top(size, depth)
    assert len(top) <= size
    assert all(d <= depth for d in top.depths())
    whole = {t: (tree.tokens[p] if p >= 0 else None) for t, p in zip(tree.tokens, tree.parents, strict=True)}
    for token, parent in zip(top.tokens, top.parents, strict=True):
        assert whole[token] == (top.tokens[parent] if parent >= 0 else None)
    left_out = [
        c
        for t, c, d in zip(tree.tokens, tree.probabilities, tree.depths(), strict=True)
        if t not in top.tokens and d <= depth
    ]
    if left_out and top.probabilities and len(top) == size:
        assert max(left_out) <= min(top.probabilities) + 1e-12


def test_a_saved_state_drafts_as_the_one_that_learned(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    text, sampling = "one two three four five six seven one two", Sampling(max_new_tokens=24)
    learned = Engine(tiny_llama, drafter="token_recycling", drafter_state=tmp_path / "absent")
    learned.generate(text, sampling=sampling)
    file = tmp_path / "deep" / "state"
    learned.save_drafter_state(file)
    assert os.listdir(file.parent) == ["state"]
    again = Engine(tiny_llama, drafter="token_recycling", drafter_state=file)
    for name, array in learned._drafting.state.arrays().items():  # type: ignore[union-attr]
        np.testing.assert_array_equal(again._drafting.state.arrays()[name], array)  # type: ignore[union-attr]
    tokens = tiny_llama.encode(text)
    assert len(again._drafting.state.propose(DraftRequest(tokens, 20, None))) > 0  # type: ignore[union-attr,arg-type]


def test_a_state_of_another_drafter_or_no_state_is_refused(
    tiny_llama: LanguageModel, tiny_qwen3: LanguageModel, tmp_path: Path
) -> None:
    file, text = tmp_path / "state", tmp_path / "text"
    Engine(tiny_llama, drafter="token_recycling").save_drafter_state(file)
    text.write_text("no state")
    with pytest.raises(ArgumentError, match=r"model tiny-qwen3.*model tiny-llama"):
        Engine(tiny_qwen3, drafter="token_recycling", drafter_state=file)
    with pytest.raises(ArgumentError, match="candidates=4"):
        Engine(tiny_llama, drafter="token_recycling:candidates=4", drafter_state=file)
    with pytest.raises(ArgumentError, match=r"drafts of bytes.*drafts of tokens"):
        Engine(tiny_llama, drafter="token_recycling", predictor="byte_level", drafter_state=file)
    for wrong in (text, tmp_path):
        with pytest.raises(ArtifactError, match=r"drafter state.*damage"):
            Engine(tiny_llama, drafter="token_recycling", drafter_state=wrong)
    with pytest.raises(ArgumentError, match="drafter_state"):
        Engine(tiny_llama, drafter_state=file)
    with pytest.raises(ArgumentError, match="a drafter, whose state"):
        Engine(tiny_llama).save_drafter_state(file)


@pytest.mark.parametrize("drafter", ["token_recycling", "suffix_automaton", "aded", "dyspec", "merged"])
def test_a_state_with_other_arrays_is_refused(drafter: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """As another version may have written it."""
    file = tmp_path / "state"
    learned = Engine(tiny_llama, drafter=drafter)
    learned.generate("one two three one two", sampling=Sampling(max_new_tokens=16))
    learned.save_drafter_state(file)
    owner = learned._drafting._owner  # type: ignore[union-attr]
    arrays = STATE.load(file, owner)
    for name in arrays:
        flat = {**arrays, name: arrays[name].reshape(-1, 1, 1)}
        text = {**arrays, name: np.full(arrays[name].shape, "x")}
        less = {other: array for other, array in arrays.items() if other != name}
        for wrong in (flat, text, less):
            STATE.save(file, wrong, owner)
            with pytest.raises(ArtifactError, match=r"damage.*Remove a damaged or old file"):
                Engine(tiny_llama, drafter=drafter, drafter_state=file)
    for name in (name for name in arrays if name.endswith("rates")):
        STATE.save(file, {**arrays, name: arrays[name][:, 1:]}, owner)
        with pytest.raises(ArtifactError, match="kinds of nodes"):
            Engine(tiny_llama, drafter=drafter, drafter_state=file)


def test_a_state_of_a_zip_file_that_python_can_not_read_is_refused(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "state"
    Engine(tiny_llama, drafter="prompt_lookup").save_drafter_state(file)
    data = bytearray(file.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 109  # the version that is needed to extract it
    file.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"drafter state.*damage"):
        Engine(tiny_llama, drafter="prompt_lookup", drafter_state=file)


def test_a_state_that_can_not_be_written_is_named(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    engine = Engine(tiny_llama, drafter="prompt_lookup")
    for path in (tmp_path / "file" / "state", tmp_path):
        with pytest.raises(ArgumentError, match=r"^drafter_state=.*can be written"):
            engine.save_drafter_state(path)
    assert os.listdir(tmp_path) == ["file"]


class Listed(DraftState):
    """Proposes one tree whatever the text, and keeps what it is asked and told."""

    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree
        self.asked: list[list[int]] = []
        self.told: list[tuple[object, bool]] = []

    def propose(self, request):  # type: ignore[no-untyped-def]
        self.asked.append(list(request.tokens))
        return self.tree

    def observe(self, seen):  # type: ignore[no-untyped-def]
        return None

    def judge(self, outcomes):  # type: ignore[no-untyped-def]
        self.told += outcomes


class ListedDrafter(Drafter):
    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree

    def start(self, model):  # type: ignore[no-untyped-def]
        return Listed(self.tree)


def listed(model: LanguageModel, tree: DraftTree) -> Drafting:
    made = Drafting(ListedDrafter(tree), model)
    made._curve = Fixed(CostCurve({1: 1.0, 64: 1.0}))
    return made


def test_the_drafter_hears_of_what_it_proposed_and_certain_rows_cost_nothing_more(tiny_llama: LanguageModel) -> None:
    guessed = DraftTree((7, 8, 9), (-1, -1, 0), (0.9, 0.5, 0.8), ("a", "b", "c"))
    made = listed(tiny_llama, guessed)
    prediction = Engine(tiny_llama)._predict(8)
    tree = made.propose([1, 2, 5, 6], 9, prediction, rows=3)
    assert made.state.asked == [[1, 2, 5, 6]]  # type: ignore[attr-defined]
    assert tree == guessed
    seen = Verified([1, 2, 5, 6], [6, 7, 8, 9], (-1, 0, 0, 1), torch.zeros(4, 4), [0, 1, 3])
    made.learn(seen, tree, [1, 2, 5, 6, 7, 9, 3])
    assert made.state.told == [("a", True), ("b", False), ("c", True)]  # type: ignore[attr-defined]
    assert made.propose([1, 2, 5, 6], 1, prediction, rows=3).tokens == (7, 8)
    assert made.propose([1, 2, 5, 6], 0, prediction, rows=3).tokens == ()
    made._curves.clear()
    made._curve = Fixed(CostCurve({1: 1.0, 3: 1.0, 4: 99.0, 64: 99.0}))
    assert made.propose([1, 2, 5, 6], 9, prediction, rows=3).tokens == ()
    made._curves.clear()
    made._curve = Fixed(CostCurve({1: 1.0, 3: 98.0, 64: 98.0}))
    assert made.propose([1, 2, 5, 6], 9, prediction, rows=3).tokens == guessed.tokens


def test_what_the_constraint_forbids_costs_no_row(tiny_llama: LanguageModel) -> None:
    model = tiny_llama
    yes, no, maybe = (model.encode(text)[0] for text in (" one", " two", " three"))
    matcher = registry.build('choices:options=[" one two"," one three"]', Constraint, "constraint").start(
        model.vocabulary
    )
    matcher.accept(yes)
    tree = DraftTree((yes, no, maybe, no), (-1, -1, -1, 2), (0.9, 0.8, 0.7, 0.6))
    kept = listed(model, tree).propose([1, yes], 9, Engine(model)._predict(8), matcher=matcher)
    assert kept.tokens == (no, maybe)
    assert kept.probabilities == (0.8, 0.7)


@pytest.mark.parametrize("drafter", ["suffix_automaton", "merged"])
def test_forced_stretches_and_guesses_share_passes(drafter: str, tiny_llama: LanguageModel) -> None:
    """Under a constraint that alternates forced text and choices, a drafter saves passes and changes nothing."""
    rule = r'regex:pattern="(name: (one|two|three); ){6}end"'
    sampling = Sampling(max_new_tokens=120)
    plain = Engine(tiny_llama).generate("one two", sampling=sampling, constraint=rule)
    engine = Engine(tiny_llama, drafter=drafter)
    always_draft(engine)
    results = [engine.generate("one two", sampling=sampling, constraint=rule) for _ in range(2)]
    assert all(result.tokens == plain.tokens for result in results)
    passes = [result.ledger.row("decode").forward_passes for result in (plain, *results)]
    assert passes[2] < passes[0]


class Asked(Decoding):
    """Keeps which steps were asked for."""

    steps: ClassVar[list[Step]] = []

    def ask(self):  # type: ignore[no-untyped-def]
        asked = super().ask()
        if asked is not None:
            self.steps.append(asked[1])
        return asked


@pytest.mark.parametrize("attention", ["dense", "h2o:budget=40,interval=4"])
def test_certain_tokens_need_no_logits_and_are_read_with_what_follows(
    attention: str, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token is read once, in its place; only rows that something is drawn after have logits, and passes never
    have more rows than the attention allows."""
    monkeypatch.setattr("tokloom.engine.open_request.Decoding", Asked)
    Asked.steps.clear()
    rule = r'regex:pattern="one two three (four|five) six seven one two three (four|five) six"'
    result = Engine(tiny_llama, attention=attention).generate(
        "one two", sampling=Sampling(max_new_tokens=60), constraint=rule
    )
    row = result.ledger.row("decode")
    assert result.text.startswith("one two three ")
    assert row.counts["forced"] > 0
    positions = [position for step in Asked.steps for position in step.positions]
    first = result.prompt_tokens
    assert positions == list(range(positions[0], positions[-1] + 1))
    opening = result.ledger.row("attention").tokens_in - first
    assert positions[0] == first + opening
    assert (opening > 0) == (attention == "dense")  # read with the prompt
    assert positions[-1] < first + len(result.tokens) - 1  # after the last drawn token nothing need be read
    drawn = sum(step.rows - step.skipped for step in Asked.steps)
    assert drawn + (opening > 0) + row.counts["forced"] == len(result.tokens)
    assert row.forward_passes == len(Asked.steps)
    if attention != "dense":
        assert max(step.rows for step in Asked.steps) <= 4


def test_a_certain_beginning_may_be_cut_off_anywhere(tiny_llama: LanguageModel) -> None:
    """By a limit or by a stop string in it."""
    rule = r'regex:pattern="one two three (four|five) six seven"'
    engine = Engine(tiny_llama)
    whole = engine.generate("one two", sampling=Sampling(max_new_tokens=60), constraint=rule)
    assert whole.text.startswith("one two three ")
    for count in range(1, len(whole.tokens)):
        cut = engine.generate("one two", sampling=Sampling(max_new_tokens=count), constraint=rule)
        assert (cut.tokens, cut.stop_reason) == (whole.tokens[:count], "length")
    stopped = engine.generate("one two", sampling=Sampling(max_new_tokens=60, stop=(" thr",)), constraint=rule)
    assert (stopped.text, stopped.stop_reason) == ("one two", "stop")
