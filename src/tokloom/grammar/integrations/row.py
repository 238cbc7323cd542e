"""One output that someone else generates, followed by a matcher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokloom.decode.constraint import Matcher
from tokloom.errors import ArgumentError, GrammarError
from tokloom.tokenize.vocabulary import Vocabulary


class Row:
    """Keeps a matcher in step with a list of tokens that may grow, shrink or change.

    Args:
        matcher: at the start of the output.
        vocabulary: the one that the matcher was made for.
    """

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._eos_ids = vocabulary.eos_ids
        self._known: list[int] = []
        self._words = np.zeros((vocabulary.size + 31) // 32, dtype=np.int32)

    @property
    def is_over(self) -> bool:
        """The output has ended with an end-of-sequence token."""
        return bool(self._known) and self._known[-1] in self._eos_ids

    @property
    def is_complete(self) -> bool:
        """The output satisfies the constraint as it stands."""
        return self._matcher.is_complete

    def follow(self, output: Sequence[int]) -> None:
        """Brings the matcher to the end of `output`; what comes after an end of sequence is padding.

        Raises:
            ArgumentError: a token that the constraint forbids; the matcher stands before it.
        """
        common = 0
        for known, token in zip(self._known, output, strict=False):
            if known != token:
                break
            common += 1
        if common < len(self._known):
            self._matcher.rollback(len(self._known) - common)
            del self._known[common:]
        for token in output[common:]:
            if self.is_over:
                return
            self._matcher.accept(int(token))
            self._known.append(int(token))

    def mask(self) -> np.ndarray:
        """The bitmask of the next token, valid until the next call; end-of-sequence tokens once the output is over.

        Raises:
            GrammarError: no token of the vocabulary continues the output, though it is not complete.
        """
        if self.is_over:
            self._words[:] = 0
            bits = self._words.view(np.uint32)
            for token in self._eos_ids:
                bits[token // 32] |= np.uint32(1 << (token % 32))
            return self._words
        self._matcher.mask(self._words)
        if not self._words.any():
            raise GrammarError("output", "no token of this vocabulary continues it")
        return self._words

    def allowed(self, width: int) -> np.ndarray:
        """The mask as bool (width,), for logits that may be wider or narrower than the vocabulary."""
        bits = np.unpackbits(self.mask().view(np.uint8), bitorder="little").view(bool)
        if len(bits) >= width:
            return bits[:width]
        return np.concatenate([bits, np.zeros(width - len(bits), dtype=bool)])

    def nothing_left(self) -> ArgumentError:
        """The error for scores that are minus infinity for every token that the constraint allows."""
        bits = np.unpackbits(self.mask().view(np.uint8), bitorder="little").view(bool)
        only_end = set(np.flatnonzero(bits).tolist()) <= self._eos_ids
        state = "only the end of the text" if only_end else "no token that is left"
        return ArgumentError(
            "logits_processor", f"another one forbids every token that the constraint allows after {self._known!r:.60}",
            "scores that leave at least one of them",
            f"The constraint allows {state} here. Look at min_new_tokens, min_length, bad_words_ids, suppress_tokens,"
            " logit_bias and forced tokens.",
        )  # fmt: skip
