"""A text in one model's tokens, written in another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel
    from tokloom.tokenize.vocabulary import Vocabulary


def translate(tokens: Sequence[int], vocabulary: Vocabulary, model: LanguageModel) -> list[int]:
    """The text of `tokens` in the tokens of `model`.

    Special tokens become its own of the same name, or nothing; a beginning is put before a text without one."""
    names = {id: name for name, id in vocabulary.special_tokens.items()}
    special, bos = model.vocabulary.special_tokens, model.tokenizer.bos_token_id
    out: list[int] = [bos] if bos is not None and model.encode("", special=True)[:1] == [bos] else []
    piece = b""
    for token in (*tokens, None):
        if token is not None and token not in vocabulary.special_ids:
            piece += vocabulary.token_bytes[token]
            continue
        out += model.encode(piece.decode(errors="replace"))
        piece = b""
        own = special.get(names.get(token, "")) if token is not None else None
        if own is not None and not (own == bos and out == [bos]):
            out.append(own)
    return out
