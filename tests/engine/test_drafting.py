"""How much is drafted follows the cost of a pass and the rate of acceptance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokloom import Engine, Sampling, registry
from tokloom.attention.step import Step
from tokloom.decode.stage import Constraint, Drafter, DraftRequest, DraftState, DraftTree, Verified
from tokloom.engine.cost_curve import WIDTHS, CostCurve, load_or_measure
from tokloom.engine.drafting import Drafting, Pace
from tokloom.engine.loop import Decoding
from tokloom.errors import ArgumentError, DocumentError
from tokloom.models.language_model import LanguageModel


class Chain(DraftState):
    def __init__(self, chance: float) -> None:
        self.chance = chance

    def propose(self, request):  # type: ignore[no-untyped-def]
        n = min(10, request.limit)
        return DraftTree(tuple(range(n)), tuple(range(-1, n - 1)), tuple(self.chance ** (i + 1) for i in range(n)))

    def observe(self, seen):  # type: ignore[no-untyped-def]
        return None


class ChainDrafter(Drafter):
    def __init__(self, chance: float) -> None:
        self.chance = chance

    def start(self, model):  # type: ignore[no-untyped-def]
        return Chain(self.chance)


def drafting(model: LanguageModel, chance: float, cost_of_64: float) -> Drafting:
    made = Drafting(ChainDrafter(chance), model)
    made._curve = CostCurve({1: 1.0, 64: cost_of_64})
    made.pace = Open()
    return made


def verified(tree: DraftTree) -> Verified:
    """A pass of which nothing was accepted."""
    rows = len(tree) + 1
    return Verified([1], [1, *tree.tokens], (-1, *(p + 1 for p in tree.parents)), torch.zeros(rows, 4), [0])


class Open(Pace):
    """Never rests, so that the forecast alone decides."""

    open = True  # type: ignore[assignment]


class Clock:
    now = 1.0

    def __call__(self) -> float:
        return self.now


def passes(
    pace: Pace, clock: Clock, count: int, seconds: float, tokens: int = 1, drafted: bool = False, asking: float = 0.0
) -> None:
    """asking: of the seconds those that the drafter took; it is not asked at all if it neither drafted nor took any."""
    for _ in range(count):
        pace.begin()
        clock.now += asking
        if drafted or asking:
            pace.asked()
        clock.now += seconds - asking
        pace.end(drafted, tokens)


def test_drafting_waits_for_the_time_of_plain_passes() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert not pace.open
    passes(pace, clock, Pace.PLAIN, 1.0)
    assert pace.open
    assert pace.plain == pytest.approx(1.0)


def test_drafting_that_is_slower_rests_ever_longer_and_one_that_pays_goes_on() -> None:
    clock = Clock()
    pace = Pace(clock)
    passes(pace, clock, Pace.PLAIN, 1.0)
    rests = []
    for _ in range(3):
        passes(pace, clock, Pace.TRIAL, 3.0, tokens=2, drafted=True)  # two tokens in the time of three
        assert not pace.open
        rests.append(0)
        while not pace.open:
            passes(pace, clock, 1, 1.0)
            rests[-1] += 1
    assert rests == [Pace.REST, 2 * Pace.REST, 4 * Pace.REST]
    passes(pace, clock, 200, 1.5, tokens=3, drafted=True)
    assert pace.open
    assert pace.gain == pytest.approx(2.0, rel=0.05)


def test_a_drafter_that_takes_long_and_proposes_nothing_rests_and_a_cheap_one_waits() -> None:
    clock = Clock()
    dear, cheap = Pace(clock), Pace(clock)
    for pace, asking in ((dear, 0.5), (cheap, 0.01)):
        passes(pace, clock, Pace.PLAIN, 1.0)
        passes(pace, clock, Pace.TRIAL, 1.0 + asking, asking=asking)
        assert pace.plain == pytest.approx(1.0)
        assert pace.gain == pytest.approx(1 / (1 + asking), rel=0.2)
    assert not dear.open
    assert cheap.open


def test_one_slow_plain_pass_does_not_count_and_forced_tokens_are_not_timed() -> None:
    clock = Clock()
    pace = Pace(clock)
    passes(pace, clock, 5, 1.0)
    passes(pace, clock, 1, 50.0)
    assert pace.plain == pytest.approx(1.0)
    clock.now += 9
    pace.end(True, 4)
    assert pace.gain == 1.0


def test_nothing_is_drafted_when_it_does_not_pay(tiny_llama: LanguageModel) -> None:
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 20, None)) == 10
    assert len(drafting(tiny_llama, 0.05, 64.0).propose([1], 20, None)) == 0
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 3, None)) == 3
    assert len(drafting(tiny_llama, 0.9, 1.0).propose([1], 0, None)) == 0


def test_trust_falls_with_rejections_and_comes_back(tiny_llama: LanguageModel) -> None:
    made = drafting(tiny_llama, 0.9, 3.0)
    tree = made.propose([1], 20, None)
    assert len(tree) > 0
    for _ in range(60):
        made.learn(verified(tree), tree)
    assert len(made.propose([1], 20, None)) == 0
    for _ in range(300):
        made.learn(verified(DraftTree()), DraftTree())
    assert len(made.propose([1], 20, None)) > 0


trees = st.lists(st.integers(0, 100), min_size=1, max_size=15).map(
    lambda xs: tuple(-1 if i == 0 else x % (i + 1) - 1 for i, x in enumerate(xs))
)


@given(trees, st.integers(0, 15), st.integers(0, 6))
def test_top_of_a_tree_is_a_tree(parents: tuple[int, ...], size: int, depth: int) -> None:
    chances: list[float] = []
    for parent in parents:
        chances.append((chances[parent] if parent >= 0 else 1.0) * 0.7)
    tree = DraftTree(tuple(range(100, 100 + len(parents))), parents, tuple(chances))
    top = tree.top(size, depth)
    assert len(top) <= size
    assert all(d <= depth for d in top.depths())
    whole = {t: (tree.tokens[p] if p >= 0 else None) for t, p in zip(tree.tokens, tree.parents, strict=True)}
    for token, parent in zip(top.tokens, top.parents, strict=True):
        assert whole[token] == (top.tokens[parent] if parent >= 0 else None)
    left_out = [
        c
        for t, c, d in zip(tree.tokens, tree.chances, tree.depths(), strict=True)
        if t not in top.tokens and d <= depth
    ]
    if left_out and top.chances and len(top) == size:
        assert max(left_out) <= min(top.chances) + 1e-12


def test_curve_interpolates() -> None:
    curve = CostCurve({1: 2.0, 4: 4.0, 8: 6.0})
    assert curve.relative(1) == 1
    assert curve.relative(4) == 2
    assert curve.relative(6) == 2.5
    assert curve.relative(16) == 6


def test_curve_is_measured_once(tiny_llama: LanguageModel, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    first = load_or_measure(tiny_llama)
    assert set(first.seconds) == set(WIDTHS)
    assert all(0 < s < 60 for s in first.seconds.values())
    assert load_or_measure(tiny_llama) == first
    (stored,) = (tmp_path / "cost_curves").iterdir()
    stored.write_text("damaged")
    assert set(load_or_measure(tiny_llama).seconds) == set(WIDTHS)


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
    with pytest.raises(ArgumentError, match=r"token_recycling on tiny-qwen3.*token_recycling on tiny-llama"):
        Engine(tiny_qwen3, drafter="token_recycling", drafter_state=file)
    with pytest.raises(ArgumentError, match="candidates=4"):
        Engine(tiny_llama, drafter="token_recycling:candidates=4", drafter_state=file)
    for wrong in (text, tmp_path):
        with pytest.raises(DocumentError, match="is not a drafter's state"):
            Engine(tiny_llama, drafter="token_recycling", drafter_state=wrong)
    with pytest.raises(ArgumentError, match="drafter_state"):
        Engine(tiny_llama, drafter_state=file)
    with pytest.raises(ArgumentError, match="a drafter, whose state"):
        Engine(tiny_llama).save_drafter_state(file)


class Listed(DraftState):
    """Proposes one tree whatever the text, and keeps what it is asked and told."""

    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree
        self.asked: list[list[int]] = []
        self.told: list[tuple[tuple[int, ...], list[int]]] = []

    def propose(self, request):  # type: ignore[no-untyped-def]
        self.asked.append(list(request.tokens))
        return self.tree

    def observe(self, seen):  # type: ignore[no-untyped-def]
        return None

    def judge(self, tree, path):  # type: ignore[no-untyped-def]
        self.told.append((tree.tokens, list(path)))


class ListedDrafter(Drafter):
    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree

    def start(self, model):  # type: ignore[no-untyped-def]
        return Listed(self.tree)


def listed(model: LanguageModel, tree: DraftTree) -> Drafting:
    made = Drafting(ListedDrafter(tree), model)
    made._curve = CostCurve({1: 1.0, 64: 1.0})
    made.pace = Open()
    return made


def test_the_drafter_hears_of_what_it_proposed_and_certain_rows_cost_nothing_more(tiny_llama: LanguageModel) -> None:
    guessed = DraftTree((7, 8, 9), (-1, -1, 0), (0.9, 0.5, 0.8), ("a", "b", "c"))
    made = listed(tiny_llama, guessed)
    prediction = Engine(tiny_llama)._predict(8)
    tree = made.propose([1, 2, 5, 6], 9, prediction, rows=3)
    assert made.state.asked == [[1, 2, 5, 6]]  # type: ignore[attr-defined]
    assert tree == guessed
    made.learn(Verified([1, 2, 5, 6], [6, 7, 8, 9], (-1, 0, 0, 1), torch.zeros(4, 4), [0, 1, 3]), tree)
    assert made.state.told == [((7, 8, 9), [0, 1, 3])]  # type: ignore[attr-defined]
    assert made.propose([1, 2, 5, 6], 1, prediction, rows=3).tokens == (7, 8)
    assert made.propose([1, 2, 5, 6], 0, prediction, rows=3).tokens == ()
    made._curve = CostCurve({1: 1.0, 3: 1.0, 4: 99.0, 64: 99.0})
    assert made.propose([1, 2, 5, 6], 9, prediction, rows=3).tokens == ()
    made._curve = CostCurve({1: 1.0, 3: 98.0, 64: 98.0})
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
    assert kept.chances == (0.8, 0.7)


@pytest.mark.parametrize("drafter", ["suffix_automaton", "merged"])
def test_forced_stretches_and_guesses_share_passes(drafter: str, tiny_llama: LanguageModel) -> None:
    """Under a constraint that alternates forced text and choices, a drafter saves passes and changes nothing."""
    rule = r'regex:pattern="(name: (one|two|three); ){6}end"'
    sampling = Sampling(max_new_tokens=120)
    plain = Engine(tiny_llama).generate("one two", sampling=sampling, constraint=rule)
    engine = Engine(tiny_llama, drafter=drafter)
    engine._drafting._curve = CostCurve(dict.fromkeys(WIDTHS, 1.0))  # type: ignore[union-attr]
    engine._drafting.pace = Open()  # type: ignore[union-attr]
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
    assert positions[0] == first
    assert positions[-1] < first + len(result.tokens) - 1  # after the last drawn token nothing need be read
    drawn = sum(step.rows - step.skipped for step in Asked.steps)
    assert drawn + row.counts["forced"] == len(result.tokens)
    assert row.forward_passes == len(Asked.steps)
    if attention != "dense":
        assert max(step.rows for step in Asked.steps) <= 4
