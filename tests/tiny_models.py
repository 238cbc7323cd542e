"""Tiny random models and real little tokenizers, built offline in milliseconds, the same in every run."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tokloom.models.language_model import LanguageModel

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<turn>' + message['role'] }}\n{{ message['content'] }}</turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
WINDOW = 1024
_FAST: Any = PreTrainedTokenizerFast


@functools.cache
def corpus() -> list[str]:
    """Paragraphs that the tokenizers learn from: number words, prose, code and other scripts."""
    words = "one two three four five six seven eight nine ten hundred thousand".split()
    counting = [" ".join(words[(i + j) % len(words)] for j in range(12)) for i in range(12)]
    haystack = Path(__file__).parent.parent / "src/tokloom/evaluate/data/haystack.txt"
    prose = haystack.read_text(encoding="utf-8")[:6000].split("\n")
    code = ['def f(x):\n    return x + 1\n\nprint(f(41), {"a": [1, 2, 3]})\n', "naïve café, größer, 東京, привет, 🙂"]
    return counting * 2 + prose + code * 3


@functools.cache
def byte_level() -> Tokenizer:
    """GPT-2's kind: byte-level BPE with 400 tokens, chat roles among its special ones."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


@functools.cache
def byte_fallback(*, prefix_space: bool = False) -> Tokenizer:
    """SentencePiece's kind: spaces as ▁, unknown characters as bytes, BOS before the text.

    prefix_space: puts a space before the text and takes it away when decoding, as Llama 2 does.
    """
    learner = Tokenizer(BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "</turn>"]
    names += [f"<0x{byte:02X}>" for byte in range(256)]
    names += sorted(learned["vocab"], key=learned["vocab"].get)
    merges = [(left, right) for left, right in learned["merges"]]
    model = BPE({name: i for i, name in enumerate(names)}, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix_space else replace
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix_space else parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", names.index("<bos>"))]
    )
    tokenizer.add_special_tokens(names[:6])
    if not prefix_space:  # each piece between added tokens would get a space
        tokenizer.add_tokens(["\n\n"])  # as Gemma: an added token that is text
    return tokenizer


def chat_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """`byte_level` as a tokenizer of transformers."""
    tokenizer = _FAST(tokenizer_object=byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    return cast(PreTrainedTokenizerFast, tokenizer)


def gemma_tokenizer(template: str | None = None, *, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """`byte_fallback` as a tokenizer of transformers."""
    tokenizer = _FAST(
        tokenizer_object=byte_fallback(prefix_space=prefix_space),
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    tokenizer.chat_template = template
    return cast(PreTrainedTokenizerFast, tokenizer)


def shape(tokenizer: PreTrainedTokenizerFast, layers: int) -> dict[str, Any]:
    """What the three families have in common: 4 query heads over 2 KV heads. The vocabulary is padded by 7 rows."""
    return {
        "vocab_size": len(tokenizer) + 7,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.25,  # with the usual 0.02 every continuation would be one token repeated
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def random_model(cls: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: PreTrainedModel = cls(config).eval()
    return model


def build_llama(*, template: str | None = None) -> LanguageModel:
    """Three layers, untied embeddings, byte-level tokenizer."""
    tokenizer = chat_tokenizer(template)
    config = LlamaConfig(**shape(tokenizer, 3), tie_word_embeddings=False)
    return LanguageModel("tiny-llama", random_model(LlamaForCausalLM, config), tokenizer)


def build_gemma3(*, template: str | None = None, tied: bool = False) -> LanguageModel:
    """Four layers, three of them with a sliding window of 8, byte-fallback tokenizer with BOS.

    Untied by default, unlike Gemma: its scaled embeddings, tied and random, only ever repeat the last token.
    """
    tokenizer = gemma_tokenizer(template)
    sliding, full = "sliding_attention", "full_attention"
    config = Gemma3TextConfig(
        **shape(tokenizer, 4),
        layer_types=[sliding, full, sliding, sliding],
        sliding_window=8,
        query_pre_attn_scalar=16,
        tie_word_embeddings=tied,
    )
    return LanguageModel("tiny-gemma3", random_model(Gemma3ForCausalLM, config), tokenizer)


def build_qwen3() -> LanguageModel:
    """Two layers with normalised queries and keys, tied embeddings, byte-level tokenizer."""
    tokenizer = chat_tokenizer()
    config = Qwen3Config(**shape(tokenizer, 2), tie_word_embeddings=True)
    return LanguageModel("tiny-qwen3", random_model(Qwen3ForCausalLM, config), tokenizer)


def build_diffusion() -> LanguageModel:
    """Three layers that look both ways, byte-level tokenizer, a mask token: a masked-diffusion model."""
    tokenizer = chat_tokenizer()
    config = LlamaConfig(**shape(tokenizer, 3), mask_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"))
    return LanguageModel("tiny-diffusion", random_model(LlamaForCausalLM, config), tokenizer)
