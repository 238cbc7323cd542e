"""One forward pass of a transformers model over the engine's KV store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from tokloom.attention.attend import NAME
from tokloom.attention.calibration import calibration_of
from tokloom.attention.kv_store import KVStore, Step
from tokloom.attention.stage import AttentionPolicy, Calibration
from tokloom.engine.fused_pass import fused_pass
from tokloom.errors import UnsupportedModelError

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


def new_store(model: LanguageModel, policy: AttentionPolicy, limit: int, precision: str | None = None) -> KVStore:
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
    calibration: Calibration = []
    if policy.calibrates:
        calibration = calibration_of(model, policy, partial(forward, model))
    return KVStore(config.num_hidden_layers, policy, limit, precision, calibration)


@torch.inference_mode()
def forward(model: LanguageModel, store: KVStore, tokens: Sequence[int], step: Step, all_logits: bool) -> torch.Tensor:
    """Logits after each row (rows, vocabulary), or after the last one only (1, vocabulary)."""
    store.begin(step)
    if model.fused is not None:
        return fused_pass(model.fused, store, tokens, step, all_logits)
    output = model.model(
        input_ids=torch.tensor([tokens], dtype=torch.long, device=model.device),
        position_ids=step.position_ids[None],
        # transformers takes a 4-D mask as it is; the true one is made by tokloom's attention function
        attention_mask=torch.empty((1, 1, 1, 1), dtype=torch.bool, device=model.device),
        past_key_values=store,
        use_cache=True,
        logits_to_keep=0 if all_logits else 1,
        kv_store=store,
    )
    logits: torch.Tensor = output.logits[0]
    return logits.float()


def prefill(
    model: LanguageModel, store: KVStore, tokens: Sequence[int], chunk: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Runs the prompt in chunks; after each yields how many tokens are in, and the logits after the last."""
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        step = Step(tuple(range(start, start + len(piece))), model.device, prompt=True)
        logits = forward(model, store, piece, step, all_logits=False)
        if start == 0:
            store.check_attended(model.name)
        yield start + len(piece), logits[-1]
