"""One forward pass of a fused decoder over the engine's KV store."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokloom._core import KVBuffer, Pass
from tokloom.attention.attend import attend_layer, count
from tokloom.attention.kv_store import KVLayer, KVStore, Step
from tokloom.engine.capture import Capture
from tokloom.models.fused_decoder import FusedDecoder


def fused_pass(
    decoder: FusedDecoder, store: KVStore, tokens: Sequence[int], step: Step, all_logits: bool,
    capture: Capture | None = None,
) -> torch.Tensor:  # fmt: skip
    """Logits after each row (rows, vocabulary), or after the last one only (1, vocabulary), float32.

    capture: takes hidden states on the way."""
    cpu = torch.device("cpu")
    rows, own = step.rows, 0 if step.parents is None else step.own.data_ptr()
    layers = [store.layers[form.index] for form in decoder.layers]
    for layer, form in zip(layers, decoder.layers, strict=True):
        layer.window = form.window
        if not layer.is_initialized:
            layer.allocate(1, form.kv_heads, form.head_dim, form.head_dim, torch.float32, cpu)
    hidden = decoder.embed(torch.tensor(tokens, dtype=torch.long))
    tables = decoder.rotary(max(step.positions) + 1)
    rotary = [(cosines.data_ptr(), sines.data_ptr()) for cosines, sines in tables]
    tapped = torch.empty(0)
    if capture is not None and capture.inside:
        tapped = torch.empty_like(hidden)
    between = capture is not None and not capture.inside and capture.layer < len(layers)
    whole = store.policy.plain and not between and store.watch is None
    if capture is not None:
        capture.take(0, hidden)
    core_pass = Pass(
        hidden.data_ptr(), [(rows, own)], step.row_positions.data_ptr(), rotary, torch.get_num_threads(),
        torch_threads=not whole, tap=tapped.data_ptr(), tapped=capture.layer - 1 if tapped.numel() and capture else 0,
    )  # fmt: skip
    if whole:
        _all_layers(decoder, layers, step, core_pass)
    else:
        _by_layer(decoder, layers, step, core_pass, hidden, capture)
    if capture is not None and capture.inside:
        capture.take_inside(tapped)
    elif capture is not None:
        capture.take(len(layers), decoder.normed(hidden))
    if decoder.adapter is not None:
        hidden.copy_(decoder.adapter(hidden))
    first = 0 if all_logits else rows - 1
    logits = torch.empty(rows - first, decoder.vocabulary)
    decoder.core.logits(core_pass, first, logits.data_ptr())
    if decoder.softcap is not None:
        logits = torch.tanh(logits / decoder.softcap) * decoder.softcap
    return logits


def _all_layers(decoder: FusedDecoder, layers: list[KVLayer], step: Step, core_pass: Pass) -> None:
    """No policy wants to see anything: the core does all layers in one call."""
    decoder.core.run(core_pass, [[_reserved(layer, step)] for layer in layers])
    for layer in layers:
        count(layer, None)
        layer.hold(None, None)


def _by_layer(
    decoder: FusedDecoder, layers: list[KVLayer], step: Step, core_pass: Pass, hidden: torch.Tensor,
    capture: Capture | None,
) -> None:  # fmt: skip
    for index, (layer, form) in enumerate(zip(layers, decoder.layers, strict=True)):
        queries = torch.empty(1, form.heads, step.rows, form.head_dim)  # a tree's are held until it is accepted
        decoder.core.attention_in(index, core_pass, [_reserved(layer, step)], queries.data_ptr())
        out = attend_layer(layer, queries, form.scale, form.softcap, form.window, few=None)
        decoder.core.attention_out(index, core_pass, out.data_ptr())
        if capture is not None and index + 1 < len(decoder.layers):
            capture.take(index + 1, hidden)


def _reserved(layer: KVLayer, step: Step) -> tuple[KVBuffer, int]:
    """Where the rows' keys and values go."""
    start = layer.slots.reserve(step.rows)
    assert layer.core is not None  # one sequence on the CPU
    return layer.core, start
