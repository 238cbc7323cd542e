"""The record of what decoding attended to."""

from __future__ import annotations

import pytest
import torch

from tokloom import Engine
from tokloom.attention.policy import AttentionPolicy
from tokloom.attention.trace import Trace
from tokloom.kv.layer import KVLayer
from tokloom.models.language_model import LanguageModel

TEXT = "one two three four five six seven eight nine ten eleven twelve"


class EveryThird(AttentionPolicy):
    """Drops all but every third slot, once, after the prompt; then selects the first two of each KV head but one."""

    name = "every_third"
    needs = ("queries", "keys")

    def evict(self, layer: KVLayer) -> torch.Tensor | None:
        if not layer.step.prompt:
            return None
        keep = torch.arange(0, layer.count, 3)
        return keep.expand(*layer.keys.shape[:2], len(keep))

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        if layer.step.prompt:
            return None
        return torch.tensor([[[0, 1]], [[1, -1]]])[None]


def test_what_is_kept_and_selected(tiny_llama: LanguageModel) -> None:
    trace = Trace()
    scored = Engine(tiny_llama, attention=EveryThird()).score(TEXT, " one two", watch=trace)
    assert trace.layers == (0, 1, 2)
    for layer in trace.layers:
        steps = trace.steps(layer)
        assert len(steps) == len(scored.tokens) - 1  # the last token of a continuation is predicted, not read
        for i, seen in enumerate(steps):
            now = scored.prompt_tokens + i
            assert seen.shape == (2, now + 1)
            assert seen[0].nonzero().flatten().tolist() == [0, 3, now]
            assert seen[1].nonzero().flatten().tolist() == [3, now]
    share = trace.share()
    assert share.shape == (3, scored.prompt_tokens + 1)
    assert share[:, [0, 1, 3]].tolist() == [[0.5, 0.0, 1.0]] * 3


def test_sliding_layers_are_left_out(tiny_gemma3: LanguageModel) -> None:
    trace = Trace()
    Engine(tiny_gemma3).score(TEXT, " one two", watch=trace)
    assert trace.layers == (1,)
    assert all(bool(seen.all()) for seen in trace.steps(1))


@pytest.mark.parametrize("policy", ["dense", "h2o:budget=24,interval=8", "token_select:budget=20,sink=2,local=8"])
def test_watching_changes_nothing(tiny_llama: LanguageModel, policy: str) -> None:
    engine = Engine(tiny_llama, attention=policy)
    plain = engine.score(TEXT, " one two three")
    assert engine.score(TEXT, " one two three", watch=Trace()).logprobs == pytest.approx(plain.logprobs, abs=1e-5)
