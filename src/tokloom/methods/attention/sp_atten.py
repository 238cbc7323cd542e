"""SpAtten prunes tokens in a cascade: what a layer's attention has found unimportant, no later layer sees.

Paper: P110. SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning. arXiv:2012.09852
Formula: importance of token j after layer l: s_l(j) = sum of its attention probabilities over all queries so far, all
    query heads, and the layers up to l. Of the tokens that came into layer l the k_l with the largest s_l survive; the
    `recent` newest are always among them. k falls linearly from `budget` in the first layer to `last` of that.
    Heads: importance = sum over queries, dimensions and layers up to l of |output of the head|; as many survive as
    `heads` says, linearly again. Values: of each query's probabilities in a head only the largest `values` of them, as
    a share, are multiplied with their values.
Shapes: probabilities (batch, heads, rows, slots), s (batch, slots), one set of tokens for all KV heads of a layer.
Effect: the paper: a tenth of the memory traffic without loss on 30 benchmarks, models fine-tuned for it. Here, with
    SmolLM2-135M as it is, it costs much. Loss on a book after 1,100 tokens in chunks of 512, three passages, dense
    2.47, 150 slots a layer on average: 2.92, as many recent tokens and sinks 2.73, H2O 2.63; a quarter of recent tokens
    instead of half 3.14, recent tokens alone 3.46; with 486 slots 2.58, 2.55 and 2.49. But it attends to 6% and 41% of
    the pairs, where the others, which prune after a chunk's pass, attend to 58% and 90%. Half of the values change
    little (2.94). With all tokens kept, 90% of the heads in the last layer give 2.64 and two thirds 3.19, as a head's
    number means nothing from one layer to the next; a tenth of the values 2.83.
Differs: positions stay those of the text. A prompt chunk is cascaded within its own pass: pruned tokens are neither
    keys nor queries of later layers, but still go through their linear layers, as hooks act on attention alone. While
    decoding, pruning comes every `interval` tokens and takes effect with the next one, so that draft trees are exact.
    Heads are chosen once, from the prompt's first chunk, as their numbers never change. The paper prunes nothing in the
    first 15% of the layers; here all layers keep within the budget. Pruned values are zeroed, not left unread.
    Progressive quantization (upper bits first, lower ones where the softmax is flat) has no counterpart: the store has
    one precision for all of a slot. The paper fine-tunes the pruned models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from tokloom.attention.attend import MAX_WEIGHTS, attention_weights
from tokloom.attention.eviction import Evicting, best
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@method(stage="attention")
class SpAtten(Evicting):
    """State in the layer: slot memory "importance", note "heads" (which survive), carry "drawn".

    Layers tell later ones by position of the text: "importance" (of this pass), "alive" (the tokens that survive),
    "heads" and "head_importance"."""

    needs: ClassVar[tuple[str, ...]] = ("attention_sums",)

    last: float = Field(default=0.5, gt=0, le=1)
    """Share of the budget that the last layer keeps; the first keeps all of it."""
    recent: float = Field(default=0.5, ge=0, le=1)
    """Share of a layer's survivors that are its newest tokens, which had no time to become important."""
    heads: float = Field(default=1.0, gt=0, le=1)
    """Share of the query heads that the last layer computes; the first computes all."""
    values: float = Field(default=1.0, gt=0, le=1)
    """Share of the slots whose values a query takes up, those with its largest probabilities."""

    def survivors(self, layer: KVLayer) -> int:
        """Tokens that survive this layer."""
        return max(1, int(self.size * _falling(layer, self.last)))

    def max_slots(self, layer: KVLayer) -> int:
        return self.survivors(layer) + self.interval

    # --- attention, where it is not the usual one

    def attention(
        self, layer: KVLayer, queries: torch.Tensor, scale: float, softcap: float | None
    ) -> torch.Tensor | None:
        step = layer.step
        alive = step.shared.get("alive") if step.prompt else None
        if alive is None and self.heads == 1 and self.values == 1:
            return None
        batch, heads, rows, _ = queries.shape
        seen = torch.ones(batch, layer.count, dtype=torch.bool, device=queries.device)
        if alive is not None:
            seen = alive.gather(1, layer.positions[:, 0].long())
        use = layer.notes.get("heads", step.shared.get("heads"))
        out = torch.zeros_like(queries)
        drawn = torch.zeros(batch, 1 if step.prompt else rows, layer.count, device=queries.device)
        layer.tally.attended -= batch * layer.kv_heads * (layer.past * rows + step.own_pairs)
        for b in range(batch):  # what survives differs from text to text
            one, slots = slice(b, b + 1), seen[b].nonzero()[:, 0]
            own = slots[slots >= layer.past] - layer.past
            keys, values = layer.keys[one, :, slots], layer.values[b][:, None, slots]
            for part in torch.split(own, max(1, MAX_WEIGHTS // (heads * len(slots)))):
                past = torch.ones(len(part), layer.past, dtype=torch.bool, device=part.device)
                mask = torch.cat([past, step.own[part]], dim=-1)[:, slots]
                layer.tally.attended += layer.kv_heads * int(mask.sum())
                weights = attention_weights(queries[one, :, part], keys, mask[None, None], scale, softcap)[0]
                if use is not None:
                    weights = weights * use[:, None, None]
                by_row = weights.sum(0, dtype=torch.float32)
                if step.prompt:
                    drawn[b, 0, slots] += by_row.sum(0)
                else:
                    drawn[b, part[:, None], slots] = by_row
                weights = _largest(weights, mask, self.values)
                grouped = weights.view(layer.kv_heads, -1, *weights.shape[1:])
                out[b][:, part] = (grouped @ values).flatten(0, 1)
        if step.prompt:
            step.shared["drawn"] = drawn[:, 0]
            before = step.shared.get("head_importance", 0)
            step.shared["head_importance"] = before + out.abs().sum((0, 2, 3), dtype=torch.float32)
        else:
            layer.carried["drawn"] = _along_paths(drawn, step.own, layer.past)
        return out

    # --- what survives

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        shared = layer.step.shared
        if weights is not None:
            drawn = weights.sum(1)
        else:  # `attention` had them
            drawn = shared["drawn"] if layer.step.prompt else layer.carry["drawn"][:, : layer.count]
        positions = layer.positions[:, 0].long()
        if "importance" in shared:
            drawn = drawn + shared["importance"].gather(1, positions)
        layer.slot_memory("importance").add_(drawn[:, None])
        shared["importance"] = drawn.new_zeros(len(drawn), layer.seen).scatter(1, positions, drawn)

    def evict(self, layer: KVLayer) -> torch.Tensor | None:
        if self.heads < 1 and "heads" not in layer.notes and layer.step.prompt:
            layer.notes["heads"] = layer.step.shared["heads"] = self._chosen_heads(layer)
        if "alive" not in layer.step.shared and layer.count <= self.survivors(layer):
            return None
        return self.kept(layer)

    def kept(self, layer: KVLayer) -> torch.Tensor:
        shared, size = layer.step.shared, self.survivors(layer)
        positions, score = layer.positions[:, 0].long(), layer.slot_memory("importance")
        if "alive" in shared:
            score = score.masked_fill(~shared["alive"].gather(1, positions)[:, None], -torch.inf)
        keep = best(layer, score, size, 0, max(1, int(self.recent * size)))
        alive = torch.zeros(len(keep), layer.seen, dtype=torch.bool, device=keep.device)
        shared["alive"] = alive.scatter(1, positions.gather(1, keep[:, 0]), True)
        return keep

    def _chosen_heads(self, layer: KVLayer) -> torch.Tensor:
        """Which query heads survive this layer, bool (heads,)."""
        importance, before = layer.step.shared["head_importance"], layer.step.shared.get("heads")
        if before is not None:
            importance = importance.masked_fill(~before, -torch.inf)
        best_first = importance.sort(descending=True, stable=True).indices
        use = torch.zeros_like(importance, dtype=torch.bool)
        use[best_first[: max(1, round(len(use) * _falling(layer, self.heads)))]] = True
        return use


def _falling(layer: KVLayer, last: float) -> float:
    """1 in the first layer, `last` in the last one, linear between them."""
    return 1 - (1 - last) * layer.index / max(1, layer.layers - 1)


def _largest(weights: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """Zeroes all but the largest `share`, rounded up, of what each row sees: weights (heads, rows, slots), mask
    (rows, slots). Of equal ones the older stays."""
    if share == 1:
        return weights
    order = weights.masked_fill(~mask, -1).sort(dim=-1, descending=True, stable=True).indices
    taken = torch.arange(mask.shape[-1], device=mask.device) < (share * mask.sum(-1, keepdim=True)).ceil()
    return weights * torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, taken.expand_as(order))


def _along_paths(drawn: torch.Tensor, own: torch.Tensor, past: int) -> torch.Tensor:
    """What each slot has drawn from a row and its ancestors, the slots as they will be if that row is accepted: those
    of the past, then the path's. drawn: (batch, rows, past + rows); own: as `Step.own`."""
    depth = own.sum(-1) - 1
    by_depth = torch.zeros_like(drawn[..., past:]).scatter_add(
        -1, depth.expand_as(drawn[..., past:]), drawn[..., past:]
    )
    return own.float() @ torch.cat([drawn[..., :past], by_depth], dim=-1)
