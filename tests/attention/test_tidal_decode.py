"""TidalDecode against its formula: choosing layers attend densely, the others to what the last of them chose."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import check, prompt_read
from tests.attention.test_attend import some_tokens, step_at
from tests.attention.test_select import POLICY, exact
from tokloom.attention import selection
from tokloom.attention.select import Select
from tokloom.attention.step import Step
from tokloom.attention.tidal_decode import ChosenLayers, TidalDecode
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import SpecError
from tokloom.models.language_model import LanguageModel


@pytest.mark.parametrize(("first", "corrections"), [(0, ()), (0, (1,)), (1, ()), (0, (1, 2))])
def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel, first: int, corrections: tuple[int, ...]) -> None:
    """With a correction in every layer each attends densely and hands on its own exact top-k."""
    handed_on: dict[int, list[set[int]]] = {}  # by the query

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        everything = [set(candidates)] * 2
        if layer < first:
            return everything
        if layer == first or layer in corrections:
            handed_on[candidates[-1]] = exact(layer, queries, keys, candidates)
            return everything
        return handed_on[candidates[-1]]

    check(tiny_llama, TidalDecode(**POLICY, first=first, corrections=corrections), chosen)


class Layer:
    """What a schedule sees of one."""

    def __init__(self, index: int, step) -> None:  # type: ignore[no-untyped-def]
        self.index, self.step = index, step


def test_a_layer_with_a_window_leaves_the_choice_to_the_next(tiny_llama: LanguageModel) -> None:
    """Layers 2 and 13 don't come by: 3 chooses in place of 2, and 16 in place of 13."""
    step = step_at(tiny_llama, 0)
    schedule = ChosenLayers((2, 13))
    chose = []
    for index in (0, 1, 3, 5, 12, 16, 17):
        layer = Layer(index, step)
        choice = schedule.choose(layer, None, lambda index=index: chose.append(index) or index)  # type: ignore[arg-type, misc]
        assert choice == {0: None, 1: None, 3: None, 5: 3, 12: 3, 16: None, 17: 16}[index]
    assert chose == [3, 16]


def test_only_chosen_layers_score(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    whole = selection.score_slots
    monkeypatch.setattr(
        selection, "score_slots", lambda layer, *a, **k: scored.append(layer.index) or whole(layer, *a, **k)
    )
    store = new_store(tiny_llama, TidalDecode(**POLICY, first=1, corrections=()), 0)
    tokens = some_tokens(tiny_llama, 50)
    for _ in prefill(tiny_llama, store, tokens[:46], 64):
        pass
    for i in range(46, 50):
        forward(tiny_llama, store, [tokens[i]], step_at(tiny_llama, i), all_logits=False)
    assert scored == [1] * 4


def test_corrections_before_the_first_are_refused() -> None:
    with pytest.raises(SpecError, match="tidal_decode:corrections"):
        TidalDecode(first=4, corrections=(3,))


@pytest.mark.parametrize("schedule", ["tidal_decode:first=0,corrections=[1]", "token_select:similarity=0.5"])
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
