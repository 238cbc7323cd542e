"""The vocabulary of models that predict bytes: 256 of them, and the end."""

from __future__ import annotations

from functools import cached_property

from tokloom.tokenize.vocabulary import Vocabulary

END = 256
"""Ends a text."""


class ByteVocabulary(Vocabulary):
    """Ids below 256 are bytes."""

    def __init__(self) -> None:
        self.size = END + 1
        self.eos_ids = self.special_ids = frozenset((END,))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return [bytes((byte,)) for byte in range(END)] + [b""]

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        return {}

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())
