"""A model's vocabulary as bytes: what each token adds to the output."""

from __future__ import annotations

import functools
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tokloom.errors import ArgumentError, UnsupportedModelError
from tokloom.tokenize.control import control_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tokloom._core import TokenTrie
    from tokloom.tokenize.encodings import Encodings

_SPACE = "\u2581"  # how SentencePiece writes a space


class Vocabulary:
    """The bytes of every token, exactly: an output's bytes are the concatenation of its tokens' bytes.

    So are a text's, as far as the tokenizer can write it: a SentencePiece-like one makes ▁ a space, and
    SmolLM2's has no tokens for 21 of the 256 bytes, among them those that no UTF-8 text has, and drops them.

    Args:
        tokenizer: a tokenizer of transformers with a `tokenizers` backend.
        size: width of the model's logits; may exceed the tokenizer's (padded embeddings).
        eos_ids: tokens that end a text.

    Attributes:
        size: as given; token ids are [0, size).
        special_ids: ids that stand for no text (end of text, roles of a chat); their bytes are b"".
            With those that are not flagged special but have a control token's shape; see `tokloom.tokenize.control`.
        eos_ids: as given; they are special.

    Raises UnsupportedModelError if the tokenizer's decoder is not one whose bytes are known: the
    byte-level one of GPT-2, or one of SentencePiece's kind with and without byte fallback.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, eos_ids: Iterable[int] = ()) -> None:
        backend = tokenizer.backend_tokenizer
        added = backend.get_added_tokens_decoder()
        self.size = size
        self.eos_ids = frozenset(eos_ids)
        special = {id for id, token in added.items() if token.special} | control_ids(tokenizer)
        self.special_ids = frozenset(i for i in special | set(tokenizer.all_special_ids) | self.eos_ids if i < size)
        if outside := sorted(i for i in self.eos_ids if not 0 <= i < size):
            raise ArgumentError("eos_ids", outside, f"ids in [0, {size}), the width of the model's logits")
        self._backend = backend
        self._added = {id: token.content for id, token in added.items()}
        self._bytes_of = _scheme(backend)

    def __len__(self) -> int:
        return self.size

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, `size` of them; b"" for special ids and for ids that no token has."""
        table = [b""] * self.size
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            if id < self.size and id not in self.special_ids:
                table[id] = self._bytes_of(token, id in self._added)
        return table

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens, by their text."""
        return {content: id for id, content in self._added.items() if id in self.special_ids}

    @cached_property
    def _in_order(self) -> tuple[list[bytes], np.ndarray]:
        """The bytes of all tokens that have some, sorted, and their ids."""
        ids = sorted((id for id, data in enumerate(self.token_bytes) if data), key=self.token_bytes.__getitem__)
        return [self.token_bytes[id] for id in ids], np.array(ids, dtype=np.int64)

    def beginning_with(self, prefix: bytes) -> np.ndarray:
        """Ids of the tokens whose bytes begin with these, which are at least one."""
        texts, ids = self._in_order
        after = prefix.rstrip(b"\xff")  # the first bytes that are larger than all with this prefix
        after = after[:-1] + bytes([after[-1] + 1]) if after else b""
        end = bisect_left(texts, after) if after else len(texts)
        found: np.ndarray = ids[bisect_left(texts, prefix) : end]
        return found

    def tokenize(self, text: str) -> list[int]:
        """The tokens that the tokenizer writes `text` with, none added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    @cached_property
    def trie(self) -> TokenTrie:
        """The vocabulary as a trie of bytes in the C++ core, for constraints."""
        from tokloom._core import TokenTrie

        return TokenTrie(self.token_bytes)

    @cached_property
    def encodings(self) -> Encodings:
        """Which token the tokenizer can write after which. Raises UnsupportedModelError unless it merges pairs."""
        from tokloom.tokenize.encodings import Encodings

        added = frozenset(id for id in self._added if id < self.size and id not in self.special_ids)
        return Encodings(self._backend, self.token_bytes, added)


def _scheme(backend: Any) -> Callable[[str, bool], bytes]:
    """How this backend's decoder makes bytes of a token, given as its text and whether it was added.

    Read from the decoder's own state, not from names of models: that is what makes the text.
    """
    steps = _decoder_steps(backend.decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    replaced: list[tuple[str, str]] = []
    for step in steps:
        if step["type"] == "Metaspace":
            replaced.append((step["replacement"], " "))
        elif step["type"] == "Replace" and "String" in step["pattern"]:
            replaced.append((step["pattern"]["String"], step["content"]))
        elif step["type"] not in ("ByteFallback", "Fuse", "Strip"):  # Strip only takes the first token's space
            replaced.clear()
            break
    if not any(old == _SPACE for old, _ in replaced):
        raise UnsupportedModelError(
            f"The tokenizer's decoder ({' + '.join(kinds) or 'none'}) is not valid here: expected one whose tokens"
            " have exact bytes, ByteLevel (as GPT-2) or Metaspace or Replace '▁' (as SentencePiece)."
            " Use a model with such a tokenizer, or convert it with transformers."
        )
    return functools.partial(_sentence_piece, replaced=tuple(replaced), fallback="ByteFallback" in kinds)


def _decoder_steps(decoder: Any) -> list[dict[str, Any]]:
    """The decoder's parts in order; empty if there is none."""
    if decoder is None:
        return []
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def _byte_level(token: str, added: bool) -> bytes:
    if added:  # matched in the text as it stands, not through the map
        return token.encode()
    table = _byte_of_char()
    try:
        return bytes(table[char] for char in token)
    except KeyError:
        return token.encode()


def _sentence_piece(token: str, added: bool, *, replaced: tuple[tuple[str, str], ...], fallback: bool) -> bytes:
    if fallback and not added and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes((int(token[3:5], 16),))
    for old, new in replaced:
        token = token.replace(old, new)
    return token.encode()


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's map inverted: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
