"""A family-specific forward pass over packed weights: everything but the embeddings in the C++ core.

One token of a small model is some 900 small torch operations and module calls, which take as long as reading its
weights. Families whose decoder layer the core knows (Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3) run through it
instead, computing in float32 whatever the weights' precision; all others through transformers' own modules.
Hooks on the modules of a fused model are not called: load it with weights="torch" for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokloom._core import Decoder
from tokloom.models.packed_linear import PackedLinear

FAMILIES = frozenset(
    {
        "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
    }
)  # fmt: skip
GELU = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu_fast"})
FIXED_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles depend on the position alone, so that they can be kept in a table."""


@dataclass(frozen=True)
class LayerForm:
    """What the attention between the two halves of a layer has to know. index: of its layer in the KV store."""

    index: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None
    window: int | None


class RotaryTable:
    """Cosines and sines of every position's angles, (positions, head_dim / 2) float32 each; grows when asked."""

    def __init__(self, module: Any, kind: tuple[str, ...]) -> None:
        self._module, self._kind = module, kind
        self._held = (torch.empty(0), torch.empty(0))

    def upto(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables of at least `count` positions. They stay as they are: a longer one is another tensor."""
        held = self._held
        if held[0].shape[0] < count:
            positions = torch.arange(max(count, 2 * held[0].shape[0], 1024))[None]
            both = self._module(torch.empty(1, dtype=torch.float32), positions, *self._kind)
            half = both[0].shape[-1] // 2
            held = (both[0][0, :, :half].contiguous(), both[1][0, :, :half].contiguous())
            self._held = held
        return held


class FusedDecoder:
    """A model's layers in the core; `fuse` makes it.

    Attributes:
        core: see `tokloom._core.Decoder`.
        layers: one `LayerForm` a layer.
        hidden: width of the hidden states; vocabulary: of the logits.
    """

    def __init__(self, model: Any) -> None:
        inner, head = model.model, model.get_output_embeddings()
        self._model = model
        self._kept: list[torch.Tensor] = []  # the core holds addresses
        self._lock = threading.Lock()
        self.hidden: int = head.in_features
        self.vocabulary: int = head.out_features
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        last = inner.norm
        self.adapter: Callable[[torch.Tensor], torch.Tensor] | None = getattr(last, "adapter", None)
        """Goes before the last norm; see `models/submodel.py`."""
        last = last if self.adapter is None else last.norm
        self.core = Decoder(self.hidden, self._norm(last), head.matrix, self._address(head.bias))
        self.layers: list[LayerForm] = []
        kinds = [_rotary_kind(layer) for layer in inner.layers]
        order = sorted(set(kinds))
        self._tables = [RotaryTable(inner.rotary_emb, kind) for kind in order]
        for layer, kind in zip(inner.layers, kinds, strict=True):
            self._add(model.config, layer, order.index(kind))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids (rows), float32 (rows, hidden), a tensor of its own."""
        out: torch.Tensor = self._model.get_input_embeddings()(tokens)
        return out.float().contiguous()

    @torch.inference_mode()
    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (rows, hidden) of the last layer under the norm before the head."""
        out: torch.Tensor = self._model.model.norm(hidden)
        return out

    def rotary(self, positions: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Tables for positions below `positions`, in the order that the layers know them by."""
        with self._lock:
            return [table.upto(positions) for table in self._tables]

    def _add(self, config: Any, layer: Any, rotary: int) -> None:
        attention = layer.self_attn
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        norms = (
            layer.input_layernorm,
            getattr(attention, "q_norm", None),
            getattr(attention, "k_norm", None),
            layer.post_attention_layernorm if sandwich else None,
            layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm,
            layer.post_feedforward_layernorm if sandwich else None,
        )
        linears = _linears(layer)
        head_dim = int(attention.head_dim)
        window = _window(config, attention)
        softcap = getattr(config, "attn_logit_softcapping", None)
        form = LayerForm(
            int(attention.layer_idx), linears[0].out_features // head_dim, linears[1].out_features // head_dim,
            head_dim, float(attention.scaling), softcap, window,
        )  # fmt: skip
        self.core.add(
            norms=[self._norm(norm) for norm in norms],
            matrices=[linear.matrix for linear in linears],
            biases=[self._address(linear.bias) for linear in linears],
            heads=form.heads, kv_heads=form.kv_heads, head_dim=head_dim, scale=form.scale,
            softcap=softcap or 0.0, window=window or 0, rotary=rotary, gelu=_activation(config) in GELU,
        )  # fmt: skip
        self.layers.append(form)

    def _norm(self, norm: Any) -> tuple[int, float]:
        if norm is None:
            return 0, 0.0
        weight = norm.weight.detach().float()
        if type(norm).__name__.startswith("Gemma"):
            weight = weight + 1.0
        eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
        return self._address(weight), float(eps)

    def _address(self, tensor: torch.Tensor | None) -> int:
        if tensor is None:
            return 0
        held = tensor.detach().float().contiguous()
        self._kept.append(held)
        return held.data_ptr()


def fuse(model: Any) -> FusedDecoder | None:
    """The model's fused decoder, None if the core does not know its family or its layers are not packed."""
    if type(model).__name__ not in FAMILIES or getattr(model.config, "use_bidirectional_attention", False):
        return None
    head, layers = model.get_output_embeddings(), model.model.layers
    if not all(isinstance(linear, PackedLinear) for layer in layers for linear in (*_linears(layer), head)):
        return None
    if not all(_accounted(layer) for layer in layers):
        return None
    types = model.model.rotary_emb.rope_type
    if not set(types.values() if isinstance(types, dict) else (types,)) <= FIXED_ROTARY:
        return None
    if _activation(model.config) not in GELU | {"silu"} or _partial(model.config):
        return None
    if any(layer.self_attn.head_dim % 2 for layer in layers):
        return None
    return FusedDecoder(model)


LAYER_PARTS = frozenset(
    "self_attn mlp input_layernorm post_attention_layernorm pre_feedforward_layernorm "
    "post_feedforward_layernorm".split()
)
ATTENTION_PARTS = frozenset("q_proj k_proj v_proj o_proj q_norm k_norm rotary_emb rotary_fn".split())
MLP_PARTS = frozenset("gate_proj up_proj down_proj act_fn".split())


def _accounted(layer: Any) -> bool:
    """Whether the core has every part and parameter of a layer: it would leave out what it does not know."""
    known = ((layer, LAYER_PARTS), (layer.self_attn, ATTENTION_PARTS), (layer.mlp, MLP_PARTS))
    if any(not set(dict(part.named_children())) <= names or part._parameters for part, names in known):
        return False
    return all(linear.bias is None for linear in _linears(layer)[4:])


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def _window(config: Any, attention: Any) -> int | None:
    """The sliding window of a layer, by the rule of its family's attention class."""
    if hasattr(attention, "sliding_window"):
        window: int | None = attention.sliding_window
        return window
    return getattr(config, "sliding_window", None) if type(attention).__name__ == "MistralAttention" else None


def _rotary_kind(layer: Any) -> tuple[str, ...]:
    """What the rotary module takes besides positions: the layer's type where a model has several bases."""
    kind = getattr(layer.self_attn, "layer_type", None)
    return (kind,) if type(layer).__name__ == "Gemma3DecoderLayer" and kind is not None else ()


def _partial(config: Any) -> bool:
    parameters = config.rope_parameters or {}
    nested = [v for v in parameters.values() if isinstance(v, dict)] or [parameters]
    return any(float(each.get("partial_rotary_factor", 1.0)) != 1.0 for each in nested)
