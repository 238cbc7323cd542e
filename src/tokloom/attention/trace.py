"""Records of what decoding attended to, by layer, KV head and token of the text, and of what dense attention weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokloom.attention.policy import AttentionPolicy

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


class Trace:
    """Give it to `Engine.score` as `watch`.

    Steps are passes of a single token after the prompt. Layers with a sliding window are left out, as policies leave
    them to the model. Where a policy's `attention` replaces the formula, all that is held counts as attended.
    """

    def __init__(self) -> None:
        self._seen: dict[int, list[torch.Tensor]] = {}

    def __call__(self, layer: KVLayer, selected: torch.Tensor | None) -> None:
        """selected: int64 (1, kv_heads or 1, 1, chosen), of the slots before this pass, -1 for none."""
        step = layer.step
        if step.prompt or step.rows > 1 or layer.window is not None:
            return
        (now,) = step.positions
        positions = layer.positions[0]
        used = (positions >= 0) & (positions <= now)
        if selected is not None:
            chosen = torch.zeros(positions.shape[0], layer.count + 1, dtype=torch.bool, device=positions.device)
            index = selected[0, :, 0].expand(positions.shape[0], -1)
            chosen.scatter_(1, torch.where(index < 0, layer.count, index), True)
            chosen[:, layer.past : layer.count] = True
            used = used & chosen[:, : layer.count]
        seen = torch.zeros(positions.shape[0], now + 1, dtype=torch.bool, device=positions.device)
        head, slot = used.nonzero(as_tuple=True)
        seen[head, positions[head, slot].long()] = True
        self._seen.setdefault(layer.index, []).append(seen)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers recorded, ascending."""
        return tuple(sorted(self._seen))

    def steps(self, layer: int) -> list[torch.Tensor]:
        """One bool (kv_heads, tokens up to and with this one) a step: whether the token's key was attended to."""
        return self._seen[layer]

    def share(self) -> torch.Tensor:
        """Float32 (layers, tokens at the first step): in which share of the steps and KV heads each was attended."""
        rows = []
        for layer in self.layers:
            steps = self._seen[layer]
            length = steps[0].shape[-1]
            rows.append(torch.stack([seen[:, :length] for seen in steps]).float().mean((0, 1)))
        return torch.stack(rows) if rows else torch.empty(0, 0)


class DenseWeights(AttentionPolicy):
    """Dense attention that keeps its probabilities of each step of decoding."""

    name = "dense_weights"
    needs = ("attention_weights",)

    def __init__(self) -> None:
        self.found: dict[int, list[torch.Tensor]] = {}
        """By layer: a tensor (kv_heads, tokens) a step, summed over the query heads of a KV head."""

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        assert weights is not None  # `needs` asks for them
        if not layer.step.prompt:
            self.found.setdefault(layer.index, []).append(weights[0, :, 0].view(layer.kv_heads, -1, layer.count).sum(1))
