"""One forward pass of a transformers model over the engine's KV store."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from tokloom.attention.attend import NAME
from tokloom.attention.calibration import calibration_of
from tokloom.attention.kv_layer import Watcher
from tokloom.attention.kv_store import KVStore, Step
from tokloom.attention.stage import AttentionPolicy, Calibration
from tokloom.engine.capture import Capture
from tokloom.engine.fused_pass import fused_pass
from tokloom.errors import UnsupportedModelError
from tokloom.models.submodel import decoder_layers

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


def new_store(
    model: LanguageModel,
    policy: AttentionPolicy,
    limit: int,
    precision: str | None = None,
    watch: Watcher | None = None,
) -> KVStore:
    """An empty store for one request, see `KVStore`. Raises UnsupportedModelError if the model can't take it."""
    config = model.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    foreign = sorted(kinds - {"full_attention", "sliding_attention"})
    if foreign:
        raise UnsupportedModelError(
            f"{model.name} has layers of type {', '.join(foreign)}; tokloom's KV store serves full_attention and "
            "sliding_attention layers."
        )
    if model.model.config._attn_implementation != NAME:
        try:
            model.model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{model.name} does not use transformers' attention interface: {error}"
            ) from error
    return KVStore(config.num_hidden_layers, policy, limit, precision, calibrated(model, policy), watch)


def calibrated(model: LanguageModel, policy: AttentionPolicy) -> Calibration:
    """What the policy must know about the model; empty if it calibrates nothing."""
    if not policy.calibrates:
        return []
    return calibration_of(
        model, policy, lambda store, tokens, step: forward(model, store, tokens, step, all_logits=True)
    )


@torch.inference_mode()
def forward(
    model: LanguageModel, store: KVStore, tokens: Sequence[int], step: Step, all_logits: bool,
    capture: Capture | None = None,
) -> torch.Tensor:  # fmt: skip
    """Logits after each row (rows, vocabulary), or after the last one only (1, vocabulary).

    capture: takes hidden states on the way."""
    store.begin(step)
    if model.fused is not None:
        return fused_pass(model.fused, store, tokens, step, all_logits, capture)
    with _tapped(model, capture):
        output = model.model(
            input_ids=torch.tensor([tokens], dtype=torch.long, device=model.device),
            position_ids=step.position_ids[None],
            # transformers takes a 4-D mask as it is; the true one is made by tokloom's attention function
            attention_mask=torch.empty((1, 1, 1, 1), dtype=torch.bool, device=model.device),
            past_key_values=store,
            use_cache=True,
            logits_to_keep=0 if all_logits else 1,
            output_hidden_states=capture is not None and not capture.inside,
            kv_store=store,
        )
    if capture is not None and not capture.inside:
        for depth, hidden in enumerate(output.hidden_states):
            capture.take(depth, hidden[0])
    logits: torch.Tensor = output.logits[0]
    return logits.float()


@contextmanager
def _tapped(model: LanguageModel, capture: Capture | None) -> Iterator[None]:
    """Hands what goes into the MLP of a layer to `capture`, if it wants that, while this thread is in the block."""
    if capture is None or not capture.inside:
        yield
        return
    mlp = getattr(decoder_layers(model)[capture.layer - 1], "mlp", None)
    if mlp is None:
        raise UnsupportedModelError(
            f"{model.name} has no module named mlp in its layers; take a layer's output instead."
        )
    mine = threading.get_ident()

    def take(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == mine:  # another request may be in the same layer
            capture.take_inside(inputs[0][0])

    handle = mlp.register_forward_pre_hook(take)
    try:
        yield
    finally:
        handle.remove()


def prefill(
    model: LanguageModel, store: KVStore, tokens: Sequence[int], chunk: int, capture: Capture | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Runs the prompt in chunks; after each yields how many tokens are in, and the logits after the last.

    capture: holds each chunk's hidden states when it is yielded."""
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        step = Step(tuple(range(start, start + len(piece))), model.device, prompt=True)
        logits = forward(model, store, piece, step, all_logits=False, capture=capture)
        if start == 0:
            store.check_attended(model.name)
        yield start + len(piece), logits[-1]
