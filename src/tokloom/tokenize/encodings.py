"""A tokenizer's own encodings, token by token: which tokens can come next in what it makes of some text.

Of all token sequences that spell a text the tokenizer writes one. `Encodings.followers` tells, after tokens that it may
have written, which it may write next, whatever text comes later.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tokloom.errors import UnsupportedModelError
from tokloom.tokenize.merges import Merges
from tokloom.tokenize.pieces import Border, Pieces, code_points, is_partial, stand_in


@dataclass(frozen=True)
class Tail:
    """What has to be known of the tokens so far: those since a place where the tokenizer surely cuts.

    last: the last token, None right after such a place.
    text: the bytes since then, and `borders` between tokens in it, the end left out; empty if the tokenizer never cuts.
    pending: bytes of a character that has no token and is not complete yet.
    """

    last: int | None = None
    text: bytes = b""
    borders: tuple[Border, ...] = ()
    pending: bytes = b""


START = Tail()


class Encodings:
    """The encodings of a tokenizer of byte-pair encoding.

    Args:
        backend: of the `tokenizers` library.
        token_bytes: the bytes of each id, b"" for special tokens.
        added: ids of tokens that are cut out of a text before anything else, and are text.

    Raises UnsupportedModelError for a tokenizer of another kind.
    """

    def __init__(self, backend: Any, token_bytes: list[bytes], added: frozenset[int]) -> None:
        model = json.loads(backend.to_str())["model"]
        if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UnsupportedModelError(
                f"The tokenizer's model ({model['type']}) is not valid here: byte-level probabilities need to know"
                " which tokens it can put after which, and that is known of byte-pair encoding without affixes."
            )
        self.token_bytes, self.size = token_bytes, len(token_bytes)
        self._backend, self._added = backend, added
        self._vocabulary: dict[str, int] = {text: id for text, id in model["vocab"].items() if id < self.size}
        self._pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
        self._fallback = bool(model["byte_fallback"])
        self.followers = lru_cache(maxsize=1024)(self._followers)

    @cached_property
    def merges(self) -> Merges:
        # In a byte-level vocabulary every byte is a character; in others the tokenizer may not write some of them.
        letters = {text: id for text, id in self._vocabulary.items() if len(text) == 1 and self.token_bytes[id]}
        if self._fallback:
            texts = {id: self.token_bytes[id].decode() for id in letters.values()}
            encoded = self._backend.encode_batch(list(texts.values()), add_special_tokens=False)
            units = {id for id, made in zip(texts, encoded, strict=True) if made.ids == [id]}
        else:
            units = set(letters.values())
        return Merges(self._vocabulary, self._pairs, units - self._added, self.size)

    @cached_property
    def pieces(self) -> Pieces:
        reachable = self.merges.reachable
        return Pieces(self._backend, [data if reachable[id] else b"" for id, data in enumerate(self.token_bytes)])

    @cached_property
    def _usable(self) -> np.ndarray:
        """bool (size,): tokens with bytes that merging can give."""
        spelled: np.ndarray = np.array([bool(data) for data in self.token_bytes])
        spelled &= self.merges.reachable
        return spelled

    def push(self, before: Tail, token: int) -> Tail:
        """One token further; `followers` has allowed it."""
        data = self.token_bytes[token]
        if token in self._bytes_of_pending:
            pending = before.pending + data
            return Tail(pending=pending if is_partial(pending) else b"")
        if token in self._added or self.pieces.whole:
            return Tail(token)
        apart = before.last is None or bool(self.merges.followers(before.last)[token])
        borders = (*before.borders, (len(before.text), apart)) if before.text else ()
        return self._shortened(Tail(token, before.text + data, borders))

    def _shortened(self, written: Tail) -> Tail:
        """Without the text before the last border that the tokenizer surely cuts at."""
        for place, (offset, _) in reversed(list(enumerate(written.borders))):
            text, rest = written.text[:offset], written.text[offset:]
            _, inside, forced = self.pieces.outcome(text, written.borders[:place], rest)
            if forced and not inside and not is_partial(text):
                later = tuple((at - offset, apart) for at, apart in written.borders[place + 1 :])
                return Tail(written.last, rest, later, written.pending)
        return written

    def is_complete(self, written: Tail) -> bool:
        """The text may end here: the tokenizer writes it as these tokens."""
        if written.pending or is_partial(written.text):
            return False
        cuts = self.pieces.cuts(written.text)
        if cuts is None:
            return False
        ends = {place for place, _ in written.borders}
        return all(cut in ends for cut in cuts) and all(apart or at in cuts for at, apart in written.borders)

    def _followers(self, written: Tail) -> np.ndarray:
        """bool (size,): tokens that may come next; a special token never does."""
        if written.pending:
            allowed = np.zeros(self.size, dtype=bool)
            for byte, token in self._byte_tokens.items():
                allowed[token] = self._has_no_token(written.pending + bytes([byte]))
            return allowed
        last = written.last if written.last not in self._added else None
        apart = self._usable if last is None else self.merges.followers(last) & self._usable
        if self.pieces.whole or not written.text:
            allowed = apart.copy()
            if not self.pieces.whole:
                between, inside = self.pieces.followers(b"", ())
                allowed &= between | inside
        else:
            between, inside = self.pieces.followers(*stand_in(written.text, written.borders))
            allowed = (between & self._usable) | (inside & apart)
        if not is_partial(written.text):
            for token in self._added:
                allowed[token] = True
            for byte, token in self._byte_tokens.items():
                allowed[token] = self._has_no_token(bytes([byte]))
        self._refuse_added(written, allowed)
        return allowed

    # --- tokens that are cut out of the text first

    def _refuse_added(self, written: Tail, allowed: np.ndarray) -> None:
        """Takes out what would complete the text of an added token, which the tokenizer writes as that token."""
        if not self._added or written.last is None:
            return
        before = written.text or self.token_bytes[written.last]
        for token in self._added:
            text = self.token_bytes[token]
            for length in range(1, len(text)):
                inside = written.last in self._added and length != len(self.token_bytes[written.last])
                if not inside and before.endswith(text[:length]):
                    first, end = self._starting_with(text[length:])
                    allowed[self.order[first:end]] = False

    @cached_property
    def order(self) -> np.ndarray:
        """Ids of all tokens with bytes, by their bytes."""
        spelled = [id for id, data in enumerate(self.token_bytes) if data]
        return np.array(sorted(spelled, key=self.token_bytes.__getitem__), dtype=np.int64)

    @cached_property
    def sorted_bytes(self) -> list[bytes]:
        """The bytes of the tokens in `order`: those with a common beginning lie together, shorter ones first."""
        return [self.token_bytes[id] for id in self.order]

    @cached_property
    def places(self) -> np.ndarray:
        """Where in `order` each id is."""
        out = np.full(self.size, -1)
        out[self.order] = np.arange(len(self.order))
        return out

    @cached_property
    def columns(self) -> np.ndarray:
        """uint8 (longest token, tokens in `order`): the first bytes of all tokens, the second ones, ..."""
        longest = max(map(len, self.sorted_bytes))
        table = b"".join(data.ljust(longest, b"\0") for data in self.sorted_bytes)
        return np.ascontiguousarray(np.frombuffer(table, dtype=np.uint8).reshape(-1, longest).T)

    def _starting_with(self, prefix: bytes) -> tuple[int, int]:
        """Where in `order` the tokens lie that begin with these bytes."""
        return bisect_left(self.sorted_bytes, prefix), bisect_left(self.sorted_bytes, prefix + b"\xff" * 64)

    # --- characters without a token

    @cached_property
    def _byte_tokens(self) -> dict[int, int]:
        """The tokens of single bytes that stand in for characters without a token."""
        if not self._fallback:
            return {}
        found = ((byte, self._vocabulary.get(f"<0x{byte:02X}>")) for byte in range(256))
        return {byte: token for byte, token in found if token is not None}

    @cached_property
    def _bytes_of_pending(self) -> frozenset[int]:
        return frozenset(self._byte_tokens.values())

    @cached_property
    def _characters(self) -> list[int]:
        """Code points of the characters that have a token, in order."""
        single = (text for text in self._vocabulary if len(text) == 1)
        return sorted({ord(" ") if text == "\u2581" else ord(text) for text in single})

    @lru_cache(maxsize=4096)  # noqa: B019 - as long-lived as the model
    def _has_no_token(self, start: bytes) -> bool:
        """Some character that begins with these bytes has no token."""
        first, last = code_points(start)
        surrogates = max(0, min(last, 0xDFFF) - max(first, 0xD800) + 1)
        with_token = bisect_right(self._characters, last) - bisect_left(self._characters, first)
        return last - first + 1 - surrogates > with_token
