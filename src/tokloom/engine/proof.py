"""Before first use: does a model compute over the KV store what it computes alone?

tokloom replaces a model's attention and its cache. By reading in chunks it also replaces its masks and the lengths that
it sees. A model may do more there than tokloom knows of: regroup its keys, add biases by distance, have windows that
only its own mask knows. Its logits would then be another model's, with no error. So a probe text is read both ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tokloom.attention.policy import AttentionPolicy
from tokloom.errors import TokloomError, UnsupportedModelError
from tokloom.kv.step import Step
from tokloom.kv.store import KVStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokloom.models.language_model import LanguageModel

    Pass = Callable[[LanguageModel, KVStore, Sequence[int], Step, bool], torch.Tensor]

PROBE = 40
"""Tokens of the probe; more where a short sliding window has to be crossed."""
LONGEST = 320
"""The most tokens of a probe."""
TOLERANCE = {torch.float64: 1e-3, torch.float32: 5e-3}
"""The largest difference of a log-probability that rounding explains, of a distribution of usual width."""
COARSE = 0.35
"""The same in half precision, where a pass of other rows rounds otherwise."""


@torch.inference_mode()
def prove(model: LanguageModel, run: Pass) -> None:
    """Compares log-probabilities of a probe, read in three chunks over a KV store, with one pass of the model alone.

    run: `forward`. Raises UnsupportedModelError if they differ, or if the model can't run over a store.
    """
    tokens = probe(model)
    own = model.model.config._attn_implementation
    try:
        model.model.set_attn_implementation("eager")  # the one that has all that a model may ask for
        alone = model.model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0].float()
    except Exception as error:  # whatever it is, it is the model's own and comes without tokloom
        raise UnsupportedModelError(
            f"{model.name} ({type(model.model).__name__}) can't read a plain text of {len(tokens)} tokens with "
            f"weights={model.weights!r}: {type(error).__name__}: {error}. Some models reach into their linear layers; "
            'load this one with weights="torch".'
        ) from error
    finally:
        model.model.set_attn_implementation(own)
    store = KVStore(model.model.config.get_text_config().num_hidden_layers, AttentionPolicy())
    try:
        read = _read(model, store, tokens, run)
    except TokloomError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{model.name} ({type(model.model).__name__}) can't run over tokloom's KV store: "
            f"{type(error).__name__}: {error}. Use a model whose attention is registered with transformers' attention "
            "interface (Llama, Gemma, Qwen, Mistral, ... types)."
        ) from error
    worst = float((alone.log_softmax(-1) - read.log_softmax(-1)).abs().amax())
    bound = TOLERANCE.get(model.dtype, COARSE) * max(1.0, float(alone.std()))
    if alone.isfinite().all() and not worst <= bound:
        found = f"log-probabilities differ by up to {worst:.3g}" if math.isfinite(worst) else "they are not numbers"
        raise UnsupportedModelError(
            f"{model.name} ({type(model.model).__name__}) does not give the same logits over tokloom's KV store as "
            f"alone: {found}. It does something in its attention, masks or cache that tokloom does not know. Use a "
            "model of another type."
        )
    for index, window in _hidden_windows(model, store):
        if len(tokens) <= window < model.window:
            raise UnsupportedModelError(
                f"{model.name} ({type(model.model).__name__}) has a sliding window of {window} tokens in layer {index} "
                "that only its own mask knows, so that tokloom's attention would not keep it. Use a model of another "
                "type."
            )


def probe(model: LanguageModel) -> list[int]:
    """Token ids that are spread over the vocabulary, long enough to leave a short sliding window."""
    config = model.model.config.get_text_config()
    windows = [
        getattr(config, name, None) for name in ("sliding_window", "attention_window_size", "attention_chunk_size")
    ]
    crossed = max([2 * window + 8 for window in windows if isinstance(window, int)], default=0)
    count = min(max(PROBE, crossed if crossed <= LONGEST else 0), model.window)
    rows = model.embedded
    return [(7919 * i + 13) % rows for i in range(count)]


def _hidden_windows(model: LanguageModel, store: KVStore) -> Iterator[tuple[int, int]]:
    """Layers that are to have a sliding window by the configuration, and did not tell the attention function of it."""
    config = model.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or getattr(config, "use_sliding_window", True) is False:
        return
    kinds = getattr(config, "layer_types", None)
    for layer in store.layers:
        if layer.window is None and (kinds[layer.index] == "sliding_attention" if kinds else not _any_window(store)):
            yield layer.index, window


def _any_window(store: KVStore) -> bool:
    return any(layer.window is not None for layer in store.layers)


def _read(model: LanguageModel, store: KVStore, tokens: list[int], run: Pass) -> torch.Tensor:
    """Logits after each token, read in chunks of half, the rest but one, and one."""
    half = len(tokens) // 2
    parts = []
    for start, end in ((0, half), (half, len(tokens) - 1), (len(tokens) - 1, len(tokens))):
        step = Step(tuple(range(start, end)), model.device, prompt=end < len(tokens))
        parts.append(run(model, store, tokens[start:end], step, True))
        store.check_attended(model.name)
    return torch.cat(parts)
