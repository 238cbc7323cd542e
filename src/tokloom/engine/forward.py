"""One forward pass of a transformers model over the engine's KV store."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from tokloom.attention.attend import NAME
from tokloom.attention.calibration import calibration_of
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.engine.capture import Capture
from tokloom.engine.fused_pass import fused_pass
from tokloom.engine.proof import prove
from tokloom.errors import UnsupportedModelError
from tokloom.kv.layer import Watcher
from tokloom.kv.mapped_memory import MappedMemory
from tokloom.kv.store import KVStore, Step, StoreGroup
from tokloom.models.submodel import decoder_layers

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


def new_store(
    model: LanguageModel,
    policy: AttentionPolicy,
    limit: int,
    precision: str | None = None,
    watch: Watcher | None = None,
    memory: MappedMemory | None = None,
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
    check_model(model)
    return KVStore(config.num_hidden_layers, policy, limit, precision, calibrated(model, policy), watch, memory)


def calibrated(model: LanguageModel, policy: AttentionPolicy) -> Calibration:
    """What the policy must know about the model; empty if it calibrates nothing."""
    if not policy.calibrates:
        return []
    check_model(model)
    return calibration_of(model, policy, partial(forward, model))


def check_model(model: LanguageModel) -> None:
    """Has the model call tokloom's attention, and proves once that it still computes the same; the core's layers are
    known to. Raises UnsupportedModelError if it does not."""
    _use_own_attention(model)
    if model.proven or model.fused is not None or model.mask_id is not None:
        return
    prove(model, forward)
    object.__setattr__(model, "proven", True)


def _use_own_attention(model: LanguageModel) -> None:
    """Has the model's layers call tokloom's attention function."""
    if model.model.config._attn_implementation != NAME:
        try:
            model.model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{model.name} does not use transformers' attention interface: {error}"
            ) from error


class Job(NamedTuple):
    """The rows of one sequence in a pass."""

    store: KVStore
    tokens: Sequence[int]
    step: Step


def forward(
    model: LanguageModel, store: KVStore, tokens: Sequence[int], step: Step, all_logits: bool,
    capture: Capture | None = None,
) -> torch.Tensor:  # fmt: skip
    """Logits after each row but the step's skipped ones (rows, vocabulary), or after the last one only (1, vocabulary).

    capture: takes hidden states on the way, of all rows."""
    return forward_many(model, [Job(store, tokens, step)], all_logits, capture)[0]


@torch.inference_mode()
def forward_many(
    model: LanguageModel, jobs: Sequence[Job], all_logits: bool, capture: Capture | None = None
) -> list[torch.Tensor]:
    """As `forward` for several sequences at once: their rows go through the linear layers together, without padding,
    and each attends over its own store. `capture` gets the hidden states of all rows, job after job."""
    stores = [job.store for job in jobs]
    for job in jobs:
        job.store.begin(job.step)
    tokens = [token for job in jobs for token in job.tokens]
    kept = kept_rows([job.step for job in jobs], all_logits)
    sizes = [job.step.rows - job.step.skipped if all_logits else 1 for job in jobs]
    if model.fused is not None:
        return list(torch.split(fused_pass(model.fused, stores, tokens, kept, capture), sizes))
    cache = stores[0] if len(stores) == 1 else StoreGroup(stores)
    with _tapped(model, capture):
        output = model.model(
            input_ids=torch.tensor([tokens], dtype=torch.long, device=model.device),
            position_ids=torch.cat([job.step.position_ids for job in jobs])[None],
            # transformers takes a 4-D mask as it is; the true one is made by tokloom's attention function
            attention_mask=torch.empty((1, 1, 1, 1), dtype=torch.bool, device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if kept is None else torch.tensor(kept, dtype=torch.long, device=model.device),
            output_hidden_states=capture is not None and not capture.inside,
            kv_store=cache,
        )
    if capture is not None and not capture.inside:
        for depth, hidden in enumerate(output.hidden_states):
            capture.take(depth, hidden[0])
    return list(torch.split(output.logits[0].float(), sizes))


def kept_rows(steps: Sequence[Step], all_logits: bool) -> list[int] | None:
    """The rows of a pass, over all its sequences, that need logits; None for all of them."""
    if all_logits and not any(step.skipped for step in steps):
        return None
    kept: list[int] = []
    end = 0
    for step in steps:
        start, end = end, end + step.rows
        kept += range(start + step.skipped, end) if all_logits else (end - 1,)
    return kept


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
    """Runs the prompt in chunks, from where the store is; after each yields how many tokens are in, and the logits
    after the last.

    capture: holds each chunk's hidden states when it is yielded."""
    first = store.seen
    for start in range(first, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        step = Step(tuple(range(start, start + len(piece))), model.device, prompt=True)
        logits = forward(model, store, piece, step, all_logits=False, capture=capture)
        if start == first:
            store.check_attended(model.name)
        yield start + len(piece), logits[-1]
