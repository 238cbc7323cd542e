"""Writes a tiny Llama as a GGUF file, as llama.cpp's converter does it, so that reading it back can be checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch

from tokloom.models.language_model import LanguageModel

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def write_gguf(language_model: LanguageModel, path: Path, more: Callable[[Any], None] = lambda writer: None) -> Path:
    """`language_model` (a Llama with a byte-level tokenizer) as a float32 GGUF file at `path`.

    more: adds further metadata and tensors."""
    config, backend = language_model.model.config, language_model.tokenizer.backend_tokenizer
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)

    state = json.loads(backend.to_str())
    ids = {id: token for token, id in backend.get_vocab(with_added_tokens=True).items()}
    special = {added["id"] for added in state["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([ids.get(id, f"[PAD{id}]") for id in range(config.vocab_size)])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(config.vocab_size)]
    )
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(language_model.tokenizer.eos_token_id)
    writer.add_pad_token_id(language_model.tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if language_model.tokenizer.chat_template:
        writer.add_chat_template(language_model.tokenizer.chat_template)

    for name, tensor in language_model.model.state_dict().items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        stored = f"blk.{layer}.{NAMES[rest]}" if name.startswith("model.layers.") else NAMES[name]
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = _interleave(tensor, heads)
        writer.add_tensor(stored, tensor.numpy())
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbouring pairs, transformers the two halves of a head."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return split.swapaxes(1, 2).reshape(weight.shape).contiguous()
