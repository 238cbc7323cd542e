"""The attention stage: which keys and values each query sees, and which are kept.

An `AttentionPolicy` is a set of hooks on the engine's KV store, each optional. Policies hold
options only; what a request accumulates lies in the `KVLayer` that every hook gets:

    layer.keys, layer.values   # (batch, kv_heads, slots, head_dim), already rotated (RoPE)
    layer.positions            # (batch, kv_heads, slots) int32, the text position of each slot, -1 in a hole
    layer.slot_memory(name)    # (batch, kv_heads, slots) float32, moves and leaves with its slot
    layer.index, layer.layers  # which of how many
    layer.holes                # (batch, kv_heads) int64, or None: how many first slots of a KV head are holes
    layer.carry                # what the last accepted token leaves to the next, by name
    layer.notes                # what else is kept of the layer, by name
    layer.step.shared          # what a layer tells later ones in the same pass
    layer.calibration          # what `calibrate` found out about the model, for good

Order of the hooks in one layer's attention: `attention` or else `select` before it; `observe` and
then `evict` with `merge` after it; `prepare` once the prompt has been read. Prompt chunks and single
tokens are observed at once; drafted tokens only once they have been accepted, and only the accepted
ones. Positions stay those of the text, whatever was evicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from tokloom import registry
from tokloom.kv.keeper import UNLIMITED

if TYPE_CHECKING:
    import torch

    from tokloom._core import LayerPlan
    from tokloom.kv.layer import KVLayer
    from tokloom.kv.store import KVStore

GIVES = frozenset({"queries", "keys", "attention_weights", "attention_sums"})
"""What a policy may list in `needs`."""

Calibration = list[dict[str, "torch.Tensor"]]
"""What `calibrate` found, by layer and name."""


class AttentionPolicy:
    """Interface of the stage; every hook has a default that changes nothing.

    A policy with an option `budget` attends to, or keeps, at most that many slots per KV head.
    Layers that the model itself limits to a sliding window are left to the model.
    """

    stage: ClassVar[str] = "attention"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    _hookless: ClassVar[bool] = True
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hooks = ("attention", "select", "observe", "evict")
        cls._hookless = all(getattr(cls, hook) is getattr(AttentionPolicy, hook) for hook in hooks)

    @property
    def plain(self) -> bool:
        """It overrides no hook, so that whole passes run without it."""
        return self._hookless

    @property
    def watched(self) -> int:
        """Of how many last rows of a prompt chunk `observe` gets "attention_weights"; those of the others are not even
        made."""
        return UNLIMITED

    def max_draft_tokens(self, seen: int) -> int:
        """How many tokens may be drafted ahead, with `seen` tokens in the cache, so that each of them
        attends to the very slots that it would when decoded alone. Acceptance is cut off there."""
        return UNLIMITED

    def max_slots(self, layer: KVLayer) -> int:
        """The most slots of a KV head that it leaves after a pass, the mean over KV heads; `UNLIMITED` if it drops
        nothing. Memory is reserved by it: this, and what a pass adds."""
        return UNLIMITED

    @property
    def rewinds(self) -> bool:
        """The last tokens can be taken back: it learns nothing from a pass and drops nothing."""
        return type(self).observe is AttentionPolicy.observe and type(self).evict is AttentionPolicy.evict

    @property
    def calibrates(self) -> bool:
        """It has a `calibrate`."""
        return type(self).calibrate is not AttentionPolicy.calibrate

    def calibrate(self, layer: KVLayer, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the policy must know about a model: made once from a text that the model reads densely, and saved.

        Args:
            layer: one layer after that pass, with all its keys and values; called in the order of the layers, and
                `layer.step.shared` is there to pass things on.
            queries: (1, heads, tokens, head_dim), rotated.

        Returns:
            tensors by name, `layer.calibration` of this layer in every request.
        """
        return {}

    @property
    def calibration_key(self) -> str:
        """What the calibration depends on, apart from the model: policies of the same key share theirs."""
        return registry.spec_of(self)

    def finish_calibration(self, found: Calibration) -> Calibration:
        """Makes the calibration of what `calibrate` found in each layer, for what depends on all of them."""
        return found

    def prepare(self, layer: KVLayer) -> None:
        """The prompt, or a prefix that will be used again, has been read: time for work on a fixed context."""

    def attention(
        self, layer: KVLayer, queries: torch.Tensor, scale: float, softcap: float | None
    ) -> torch.Tensor | None:
        """The layer's attention itself, (batch, heads, rows, head_dim), for methods that change its formula.

        Args:
            queries: (batch, heads, rows, head_dim), rotated; keys and values of the rows are in the store.

        None: softmax attention over what `select` says.
        """
        return None

    def select(self, layer: KVLayer, queries: torch.Tensor) -> torch.Tensor | None:
        """The slots to attend to, among those that were there before this pass; None for all.

        Args:
            queries: (batch, heads, rows, head_dim), rotated; `layer.step` describes the rows.

        Returns:
            int64 (batch, kv_heads or 1, rows or 1, slots chosen), -1 where a row has fewer. The
            slots of this pass itself are always attended (causally, or along the draft tree).
        """
        return None

    def plan(self, layer: KVLayer) -> LayerPlan | None:
        """What `select` would do in this pass, laid out for the core, which runs all layers in one go if all of them
        are; None if it can't be: `select` is asked.

        `layer.step` describes the rows, whose slots are there but may not be filled yet. A policy that `observe`s or
        `evict`s must do without in such a pass."""
        return None

    def after_plan(self, layer: KVLayer, plan: LayerPlan) -> None:
        """After a pass that the core ran by `plan`, before the rows are settled: time to set `layer.carried`."""

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        """Learns from a pass: `weights` (batch, heads, rows, slots), of a prompt chunk its last `watched` rows, are the
        attention probabilities, given if `needs` names "attention_weights"; the last `rows` slots are those of the
        rows. With "attention_sums" instead they are (batch, kv_heads, slots), summed over the rows and the heads of a
        group: much cheaper for a long prompt, as the probabilities are never all there. None where `attention` took
        the place of the usual one, which has its own."""

    def evict(self, layer: KVLayer) -> torch.Tensor | None:
        """The slots to keep for good, int64 (batch, kv_heads, kept), ascending; None for all. A KV head that keeps
        fewer than another has -1 at the front of its row, and from then on as many holes, which no query sees.

        Called when `max_draft_tokens(seen)` starts anew: after each prompt chunk, and while decoding whenever
        as many tokens were added as `max_draft_tokens` had allowed."""
        return None

    def merge(self, layer: KVLayer, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the slots that `evict` keeps shall hold, (batch, kv_heads, kept, head_dim) each; None: what they do.
        Called before anything is dropped; what is returned for a -1 of `keep` is not read."""
        return None


def policy_of(part: KVLayer | KVStore) -> AttentionPolicy:
    """The policy of a store or of one of its layers, which know it as a `Keeper` only."""
    return cast(AttentionPolicy, part.policy)
