"""One forward pass of a fused decoder, of one sequence or several, each over a KV store of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokloom._core import KVBuffer, Pass
from tokloom.attention.attend import attend_layer, count
from tokloom.attention.kv_store import KVLayer, KVStore
from tokloom.engine.capture import Capture
from tokloom.models.fused_decoder import FusedDecoder


def fused_pass(
    decoder: FusedDecoder, stores: Sequence[KVStore], tokens: Sequence[int], kept: Sequence[int] | None = None,
    capture: Capture | None = None,
) -> torch.Tensor:  # fmt: skip
    """Logits (rows, vocabulary) float32 after the `kept` rows, all if None.

    stores: that have begun their steps; tokens: of their rows, store after store; capture: takes hidden states on the
    way."""
    cpu = torch.device("cpu")
    steps = [store.step for store in stores]
    layers = [[store.layers[form.index] for store in stores] for form in decoder.layers]
    for each, form in zip(layers, decoder.layers, strict=True):
        for layer in each:
            layer.window = form.window
            if not layer.is_initialized:
                layer.allocate(1, form.kv_heads, form.head_dim, form.head_dim, torch.float32, cpu)
    hidden = decoder.embed(torch.tensor(tokens, dtype=torch.long))
    tables = decoder.rotary(max(max(step.positions) for step in steps) + 1)
    rotary = [(cosines.data_ptr(), sines.data_ptr()) for cosines, sines in tables]
    positions = torch.cat([step.row_positions for step in steps])
    sequences = [(step.rows, 0 if step.parents is None else step.own.data_ptr()) for step in steps]
    tapped = torch.empty(0)
    if capture is not None and capture.inside:
        tapped = torch.empty_like(hidden)
    between = capture is not None and not capture.inside and capture.layer < len(layers)
    whole = not between and all(store.policy.plain and store.watch is None for store in stores)
    if capture is not None:
        capture.take(0, hidden)
    core_pass = Pass(
        hidden.data_ptr(), sequences, positions.data_ptr(), rotary, torch.get_num_threads(),
        torch_threads=not whole, tap=tapped.data_ptr(), tapped=capture.layer - 1 if tapped.numel() and capture else 0,
    )  # fmt: skip
    if whole:
        _all_layers(decoder, layers, core_pass)
    else:
        _by_layer(decoder, layers, core_pass, hidden, capture)
    if capture is not None and capture.inside:
        capture.take_inside(tapped)
    elif capture is not None:
        capture.take(len(layers), decoder.normed(hidden))
    if kept is not None:
        hidden = hidden[list(kept)]
    if decoder.adapter is not None:
        hidden = decoder.adapter(hidden).contiguous()
    last = Pass(
        hidden.data_ptr(), [(len(hidden), 0)], positions.data_ptr(), rotary, torch.get_num_threads(),
        torch_threads=not whole,
    )  # fmt: skip
    logits = torch.empty(len(hidden), decoder.vocabulary)
    if not len(hidden):
        return logits
    decoder.core.logits(last, 0, logits.data_ptr())
    if decoder.softcap is not None:
        logits = torch.tanh(logits / decoder.softcap) * decoder.softcap
    return logits


def _all_layers(decoder: FusedDecoder, layers: list[list[KVLayer]], core_pass: Pass) -> None:
    """No policy wants to see anything: the core does all layers in one call."""
    decoder.core.run(core_pass, [[_reserved(layer) for layer in each] for each in layers])
    for each in layers:
        for layer in each:
            count(layer, None)
            layer.hold(None, None)


def _by_layer(
    decoder: FusedDecoder, layers: list[list[KVLayer]], core_pass: Pass, hidden: torch.Tensor, capture: Capture | None
) -> None:
    for index, (each, form) in enumerate(zip(layers, decoder.layers, strict=True)):
        queries = torch.empty(1, form.heads, len(hidden), form.head_dim)  # a tree's are held until it is accepted
        decoder.core.attention_in(index, core_pass, [_reserved(layer) for layer in each], queries.data_ptr())
        parts = torch.split(queries, [layer.step.rows for layer in each], dim=2)
        outs = [
            attend_layer(layer, part, form.scale, form.softcap, form.window, few=None)
            for layer, part in zip(each, parts, strict=True)
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
        decoder.core.attention_out(index, core_pass, out.data_ptr())
        if capture is not None and index + 1 < len(decoder.layers):
            capture.take(index + 1, hidden)


def _reserved(layer: KVLayer) -> tuple[KVBuffer, int]:
    """Where the rows' keys and values go."""
    start = layer.reserve()
    assert layer.core is not None  # one sequence on the CPU
    return layer.core, start
