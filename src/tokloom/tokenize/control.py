"""Which added tokens steer a model although their tokenizer does not flag them as special.

Qwen adds "<|fim_prefix|>" and "<|repo_name|>" as ordinary tokens, others do so with marks of their chat template.
A tokenizer would make them of any text in which their characters stand.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerFast

_SHAPE = re.compile(r"<(?:\|[^|<>\s]+\||｜[^｜<>\s]+｜|fim[_-]\w+|(?:unused|reserved)_?\w*\d+)>")
_MARK = re.compile(r"<\S+>|\[\S+\]|\{\S+\}")


def control_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Added tokens without the flag "special" that stand for no text: of the shape "<|name|>" and the like."""
    return frozenset(id for id, text in _unflagged(tokenizer) if _SHAPE.fullmatch(text))


def chat_control_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Added tokens without the flag "special" that a user's text must not become.

    Those of `control_ids`, those that the tokenizer lists itself (transformers' `chat_control_tokens`), and marks in
    brackets that its chat template holds ("<think>", "<tool_call>", "[TOOL]"). The last are text where a model writes
    them, so that a grammar may ask for them. Words that were added are not among them.
    """
    listed = set(getattr(tokenizer, "chat_control_tokens", None) or ())
    templates: Any = tokenizer.chat_template or ""
    template = "\n".join(templates.values()) if isinstance(templates, dict) else str(templates)
    return [
        text
        for _, text in _unflagged(tokenizer)
        if _SHAPE.fullmatch(text) or text in listed or (_MARK.fullmatch(text) and text in template)
    ]


def text_backend(tokenizer: PreTrainedTokenizerFast, controls: Iterable[str]) -> Any:
    """A tokenizer that, with `encode_special_tokens`, writes these tokens as the characters that they are.

    It is the tokenizer's own backend if there are none, else a copy in which they are flagged special: the library
    leaves no other tokens alone, and the flag on the original would hide them from what is decoded.
    """
    from tokenizers import AddedToken, Tokenizer

    backend = tokenizer.backend_tokenizer
    wanted = set(controls)
    if not wanted:
        return backend
    copy = Tokenizer.from_str(backend.to_str())
    copy.add_special_tokens(
        [
            AddedToken(
                token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
                normalized=token.normalized, special=True,
            )
            for token in backend.get_added_tokens_decoder().values() if token.content in wanted
        ]
    )  # fmt: skip
    return copy


def _unflagged(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, str]]:
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    known = set(tokenizer.all_special_ids)
    return [(id, token.content) for id, token in sorted(added.items()) if not token.special and id not in known]
