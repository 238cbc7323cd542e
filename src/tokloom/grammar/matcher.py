"""Follows one output under a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokloom._core import grammar_masks
from tokloom.decode.constraint import Matcher
from tokloom.decode.draft_tree import DraftTree
from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    from tokloom._core import GrammarProgram, GrammarState
    from tokloom.tokenize.vocabulary import Vocabulary

MAX_FORCED = 512
"""Bytes that are looked ahead for what must come next."""
LIKELY = 0.9
"""Chance that a model spells certain bytes as the tokenizer does, a token's, where others are allowed."""
MAX_EXTENSIONS = 64
"""Longer tokens of which each is tried, to see whether the grammar allows one; more are taken to be allowed."""


class _Step(NamedTuple):
    """A state after a token or bytes, and the step before it. Forks share the steps that they have in common."""

    state: GrammarState
    taken: int | bytes
    before: _Step | None


class GrammarMatcher(Matcher):
    """Follows one output under a compiled grammar. After an end-of-sequence token nothing may come.

    Steps are never changed, so that `fork` and `rollback` take no time. One thread at a time may use a
    matcher; matchers of one grammar may be used by different threads.
    """

    def __init__(self, program: GrammarProgram, vocabulary: Vocabulary) -> None:
        self._program, self._vocabulary = program, vocabulary
        self._last = _Step(program.start(), b"", None)

    def mask(self, out: np.ndarray) -> None:
        self._state().mask(out)

    def after(self, token: int) -> GrammarMatcher | None:
        state = self._state().step(token)
        if state is None:
            return None
        forked = self.fork()
        forked._last = _Step(state, token, self._last)
        return forked

    def accept(self, token: int) -> None:
        state = self._state().step(token)
        if state is None:
            raise ArgumentError("token", token, "a token that the mask allows", "Call mask() before choosing a token.")
        self._last = _Step(state, token, self._last)

    def accept_bytes(self, data: bytes) -> None:
        """Advances by bytes, which count as one token for `rollback`. Raises ArgumentError, unchanged, if the grammar
        forbids them."""
        state = self._state().step_bytes(data)
        if state is None:
            raise ArgumentError("data", data, "bytes that the grammar allows next")
        self._last = _Step(state, data, self._last)

    def rollback(self, count: int) -> None:
        if count < 0:
            raise ArgumentError("count", count, "an integer >= 0")
        step = self._last
        for taken in range(count):
            if step.before is None:
                raise ArgumentError("count", count, f"at most {taken}, the number of accepted tokens")
            step = step.before
        self._last = step

    def fork(self) -> GrammarMatcher:
        forked = object.__new__(type(self))
        forked._program, forked._vocabulary, forked._last = self._program, self._vocabulary, self._last
        return forked

    def forced_bytes(self) -> bytes:
        """Bytes that must come next, up to the next choice or possible end; at most `MAX_FORCED`."""
        return self._state().forced(MAX_FORCED)

    def forced(self) -> list[int]:
        """The tokens that the tokenizer writes the certain bytes with, as far as what comes after can't change them.

        A token is left out, with all after it, if from its start some token of the vocabulary that the
        grammar allows runs past the end of the certain bytes: the tokenizer may write that one instead. Where the
        output must end, the end-of-sequence token, if there is but one.
        """
        state = self._state()
        if state.ended:
            return []
        data = state.forced(MAX_FORCED)
        tokens = self._tokenize(data) if data else None
        return self._only_token(state) if tokens is None else self._forced(state, tokens, data)

    def expected(self) -> DraftTree:
        """The tokens that the tokenizer would write for the certain bytes if they were all."""
        state = self._state()
        data = state.forced(MAX_FORCED)
        tokens = self._tokenize(data) if data else None
        if tokens is None:
            return DraftTree()
        probabilities = [1.0] * len(self._forced(state, tokens, data))
        while len(probabilities) < len(tokens):
            probabilities.append((probabilities[-1] if probabilities else 1.0) * LIKELY)
        return DraftTree.chain(tokens, probabilities)

    @property
    def is_complete(self) -> bool:
        return self._last.state.complete

    @property
    def is_stuck(self) -> bool:
        """No token may come next, though the output is not complete: only where the vocabulary lacks single bytes."""
        return self._state().stuck

    def _state(self) -> GrammarState:
        """Where the output is. Follows it again from the start if the parser has outgrown its memory."""
        if self._last.state.stale:
            steps = []
            step = self._last
            while step.before is not None:
                steps.append(step.taken)
                step = step.before
            fresh = _Step(self._program.start(), b"", None)
            for taken in reversed(steps):
                state = fresh.state.step_bytes(taken) if isinstance(taken, bytes) else fresh.state.step(taken)
                assert state is not None  # it was accepted before
                fresh = _Step(state, taken, fresh)
            self._last = fresh
        return self._last.state

    def _only_token(self, state: GrammarState) -> list[int]:
        """The next token, if the mask has but one."""
        words = np.zeros((self._vocabulary.size + 31) // 32, np.int32)
        state.mask(words)
        if np.count_nonzero(words) != 1:
            return []
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
        return [int(allowed[0])] if len(allowed) == 1 else []

    def _tokenize(self, data: bytes) -> list[int] | None:
        """Whole characters at the start of `data`, as tokens; None if they don't add up to the same bytes."""
        try:
            string = data.decode()
        except UnicodeDecodeError as error:
            if error.start == 0:
                return None
            string = data[: error.start].decode()
        tokens = self._vocabulary.tokenize(string)
        table = self._vocabulary.token_bytes
        return tokens if b"".join(table[token] for token in tokens) == string.encode() else None

    def _forced(self, state: GrammarState, tokens: list[int], data: bytes) -> list[int]:
        table, trie = self._vocabulary.token_bytes, self._vocabulary.trie
        at = 0
        for count, token in enumerate(tokens):
            rest = data[at:]
            longer = [t for t in trie.tokens_with_prefix(rest) if len(table[t]) > len(rest)]
            if len(longer) > MAX_EXTENSIONS or any(state.step(t) is not None for t in longer):
                return tokens[:count]
            after = state.step(token)
            if after is None:
                return tokens[:count]
            state = after
            at += len(table[token])
        return tokens


def masks(matchers: Sequence[GrammarMatcher], out: np.ndarray, threads: int = 1) -> None:
    """The masks of several matchers, on several threads, without Python's lock.

    out: int32 (matchers, ceil(vocabulary / 32)). Matchers may be of different grammars of vocabularies of one size.
    """
    grammar_masks([matcher._state() for matcher in matchers], out, threads)
