"""TidalDecode against its formula: choosing layers attend densely, the others to what the last of them chose."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.selecting import best, check, grouped, prompt_read, votes
from tests.attention.test_attend import some_tokens, step_at
from tests.methods.attention.test_select import LEFT, POLICY
from tokloom.attention.calibration import passage
from tokloom.attention.selection import key_scores
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import SpecError
from tokloom.kv.step import Step
from tokloom.methods.attention.select import Select
from tokloom.methods.attention.tidal_decode import ChosenLayers, TidalDecode, best_layers
from tokloom.models.language_model import LanguageModel


def of_all_heads(queries: torch.Tensor, keys: torch.Tensor, candidates: list[int]) -> set[int]:
    total = dict.fromkeys(candidates, 0.0)
    for q, k in grouped(queries, keys):
        for j, vote in votes(q, k, candidates, 0.25).items():
            total[j] += vote
    return set(best(total, LEFT))


@pytest.mark.parametrize("layers", [(0,), (0, 1), (1,), (0, 1, 2)])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, layers: tuple[int, ...]) -> None:
    """Where every layer chooses each attends densely and hands on its own exact top-k."""
    handed_on: dict[int, list[set[int]]] = {}  # by the query

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        everything = [set(candidates)] * 2
        if layer < layers[0]:
            return everything
        if layer in layers:
            handed_on[candidates[-1]] = [of_all_heads(queries, keys, candidates)]
            return everything
        return handed_on[candidates[-1]]

    check(tiny_llama, TidalDecode(**POLICY, layers=layers), chosen)


class Layer:
    """What a schedule sees of one."""

    def __init__(self, index: int, step) -> None:  # type: ignore[no-untyped-def]
        self.index, self.step = index, step


def test_a_layer_with_a_window_leaves_the_choice_to_the_next(tiny_llama: LanguageModel) -> None:
    """Layers 2 and 13 don't come by: 3 chooses in place of 2, and 16 in place of 13."""
    step = step_at(tiny_llama, 0)
    schedule = ChosenLayers((2, 13), 0.1)
    chose = []
    for index in (0, 1, 3, 5, 12, 16, 17):
        layer = Layer(index, step)
        choice = schedule.choose(layer, None, lambda index=index: chose.append(index) or index)  # type: ignore[arg-type, misc]
        assert choice == {0: None, 1: None, 3: None, 5: 3, 12: 3, 16: None, 17: 16}[index]
    assert chose == [3, 16]


def test_only_chosen_layers_score(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    whole = key_scores.KeyScores.lower
    monkeypatch.setattr(
        key_scores.KeyScores,
        "lower",
        lambda self, layer, *a, **k: scored.append(layer.index) or whole(self, layer, *a, **k),
    )
    store = new_store(tiny_llama, TidalDecode(**POLICY, layers=(1,)), 0)
    tokens = some_tokens(tiny_llama, 50)
    for _ in prefill(tiny_llama, store, tokens[:46], 64):
        pass
    for i in range(46, 50):
        forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=False)
    assert scored == [1] * 4


@pytest.mark.parametrize("layers", [(4, 3), (2, 2), (-1, 3)])
def test_layers_out_of_order_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="tidal_decode:layers"):
        TidalDecode(layers=layers)


def by_trying_all(met: list[list[float]], dense: int) -> float:
    """What the best set of layers meets, of all sets of which no more than `dense` layers attend densely."""
    count, maximum = len(met), 0.0
    for choosers in itertools.chain.from_iterable(itertools.combinations(range(count), n) for n in range(1, dense + 1)):
        if choosers[0] + len(choosers) <= dense:
            maximum = max(maximum, met_under(met, choosers))
    return maximum


def met_under(met: list[list[float]], choosers: tuple[int, ...]) -> float:
    total = 0.0
    for layer, row in enumerate(met):
        before = [c for c in choosers if c <= layer]
        total += row[before[-1]] if before else row[-1]
    return total


@given(layers=st.integers(1, 6), dense=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_the_layers_found_are_the_best_ones(layers: int, dense: int, seed: int) -> None:
    draw = random.Random(seed)
    met = [[draw.random() for _ in range(layer)] + [1.0] for layer in range(layers)]
    found = best_layers(met, dense)
    assert found[0] + len(found) <= dense
    assert met_under(met, found) == pytest.approx(by_trying_all(met, dense))


def test_calibrated_layers_are_those_of_the_formula(tiny_llama: LanguageModel) -> None:
    """The attention to a token's first reading that layers meet with each other's choices, worked out row by row."""
    schedule = ChosenLayers((), 0.5)
    step = Step(tuple(range(80)), tiny_llama.device, prompt=True)
    numbered = passage(list(range(80)))
    torch.manual_seed(0)
    found, choices = [], []
    for index in range(3):
        layer = Layer(index, step)
        layer.keys = torch.randn(1, 2, 80, 8)  # type: ignore[attr-defined]
        queries = 3 * torch.randn(1, 4, 80, 8)
        found.append(schedule.calibrate(layer, queries))  # type: ignore[arg-type]
        chosen, total = [], [0.0] * (index + 1)
        for place, row in enumerate(range(60, 80)):
            first = numbered.index(numbered[row])
            looked_up, votes_ = [0.0] * 80, [0.0] * 80
            for h in range(4):
                weights = (layer.keys[0, h // 2, : row + 1] @ queries[0, h, row] * 8**-0.5).softmax(0).tolist()  # type: ignore[attr-defined]
                between = range(4, row - 32 + 1)
                for j in between:
                    votes_[j] += weights[j] / sum(weights[i] for i in between)
                    if first - 4 <= j <= first + 4:
                        looked_up[j] += weights[j]
            chosen.append(sorted(range(80), key=lambda j: -votes_[j])[:8])
            for earlier in range(index):
                total[earlier] += sum(looked_up[j] for j in choices[earlier][place])
            total[index] += sum(looked_up)
        choices.append(chosen)
        assert found[index]["met"].tolist() == pytest.approx(total, rel=1e-4)
    finished = schedule.finish_calibration([found[0], {}, *found[1:]])
    assert all(part["layers"].tolist() == finished[0]["layers"].tolist() for part in finished if part)
    assert set(finished[0]["layers"].tolist()) <= {0, 2, 3}


@pytest.mark.parametrize("schedule", ["tidal_decode:layers=[0,1]", "token_select:similarity=0.5"])
def test_schedules_hand_on_choices_of_any_width(tiny_llama: LanguageModel, schedule: str) -> None:
    """Top-p chooses another number of tokens every time; a tree is lossless all the same."""
    policy = Select(**POLICY, picker="top_p:mass=0.5", schedule=schedule)
    tokens = some_tokens(tiny_llama, 54)
    single, tree = prompt_read(tiny_llama, policy, tokens), prompt_read(tiny_llama, policy, tokens)
    expected = [
        forward(tiny_llama, single, [tokens[i]], step_at(tiny_llama, i), all_logits=True)[0] for i in range(46, 54)
    ]
    for start in (46, 50):
        rows, parents, positions = tokens[start : start + 4], (-1, 0, 1, 2), tuple(range(start, start + 4))
        logits = forward(tiny_llama, tree, rows, Step(positions, tiny_llama.device, parents), all_logits=True)
        torch.testing.assert_close(logits, torch.stack(expected[start - 46 : start - 42]), atol=1e-4, rtol=1e-4)
        tree.accept([0, 1, 2, 3])
