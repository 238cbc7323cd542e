"""One forward pass of a fused decoder, of one sequence or several, each over a KV store of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokloom._core import KVBuffer, LayerPlan, Pass
from tokloom.attention.attend import attend_layer, finish_plan, record
from tokloom.attention.policy import AttentionPolicy, policy_of
from tokloom.engine.capture import Capture
from tokloom.kv.store import KVLayer, KVStore
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
    plans: Plans | None = None
    to: Destinations = []
    policies = [policy_of(store) for store in stores]
    if not between and all(policy.plain or type(policy).plan is not AttentionPolicy.plan for policy in policies):
        to = [[_reserved(layer) for layer in each] for each in layers]
        plans = _plans(layers)
    whole = plans is not None
    if capture is not None:
        capture.take(0, hidden)
    core_pass = Pass(
        hidden.data_ptr(), sequences, positions.data_ptr(), rotary, torch.get_num_threads(),
        torch_threads=not whole, tap=tapped.data_ptr(), tapped=capture.layer - 1 if tapped.numel() and capture else 0,
    )  # fmt: skip
    if plans is not None:
        _all_layers(decoder, layers, to, plans, core_pass)
    else:
        _by_layer(decoder, layers, to, core_pass, hidden, capture)
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


Destinations = list[list[tuple[KVBuffer, int]]]
"""Where the rows' keys and values go, by layer and sequence."""

Plans = list[list[LayerPlan | None]]
"""By layer and sequence; None where attention is dense."""


def _plans(layers: list[list[KVLayer]]) -> Plans | None:
    """What the policies have laid out for this pass; None if one wants to see its layers one by one."""
    plans: Plans = []
    for each in layers:
        plans.append([])
        for layer in each:
            plan = None
            if layer.window is None and not policy_of(layer).plain:
                plan = policy_of(layer).plan(layer)
                if plan is None:
                    return None
            plans[-1].append(plan)
    return plans


def _all_layers(
    decoder: FusedDecoder, layers: list[list[KVLayer]], to: Destinations, plans: Plans, core_pass: Pass
) -> None:
    """No policy wants to be asked: the core does all layers in one call."""
    decoder.core.run(core_pass, to, plans)
    for each, laid_out in zip(layers, plans, strict=True):
        for layer, plan in zip(each, laid_out, strict=True):
            if plan is None:
                record(layer, None)
            else:
                finish_plan(layer, plan)
            layer.finish(None, None)


def _by_layer(
    decoder: FusedDecoder, layers: list[list[KVLayer]], to: Destinations, core_pass: Pass, hidden: torch.Tensor,
    capture: Capture | None,
) -> None:  # fmt: skip
    """to: empty if slots are to be taken layer by layer."""
    for index, (each, form) in enumerate(zip(layers, decoder.layers, strict=True)):
        queries = torch.empty(1, form.heads, len(hidden), form.head_dim)  # a tree's are held until it is accepted
        places = to[index] if to else [_reserved(layer) for layer in each]
        decoder.core.attention_in(index, core_pass, places, queries.data_ptr())
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
