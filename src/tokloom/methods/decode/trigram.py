"""What followed each pair of tokens when the model last met it, as a distribution to draft from.

Paper: P60. Adaptive Draft-Verification for Efficient Large Language Model Decoding. arXiv:2407.12021

Formula:
    M3[u, v] = the model's own next-token probabilities (its `candidates` likeliest) when it last stood after u v
    M2[v] = the same after v, whatever came before
    P(. | ..., u, v) = (1 - backoff) M3[u, v] + backoff M2[v]; M2[v] alone where u v is new

Shapes: M3 a table of up to `entries` pairs, M2 (vocabulary, candidates); 8 bytes a candidate.

Effect: the paper's representation of the model, which `aded` searches and which adapts with every pass; the test shows
    that it recalls exactly what it was shown, and that the oldest pairs are forgotten first.

Differs: the paper starts from a corpus of tri-grams and moves probabilities towards the model's. Here the table starts
    empty (the prompt's own followers count as certain) and holds the model's last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tokloom.decode.candidates import probabilities_of, top_tokens
from tokloom.decode.draft_source import UNKNOWN, DraftSource, Followers, SourceState, Walk
from tokloom.registry import method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.decode.drafter import DraftRequest, Verified
    from tokloom.models.language_model import LanguageModel


@method(stage="decode")
class Trigram(DraftSource):
    """Learns across requests, for as long as the engine lives or its state is kept."""

    candidates: int = Field(default=8, ge=1, le=64)
    """Tokens remembered after each pair."""
    entries: int = Field(default=50_000, ge=1)
    """Most pairs."""
    backoff: float = Field(default=0.2, ge=0, le=1)
    """Weight of what followed the last token alone."""

    def start(self, model: LanguageModel) -> SourceState:
        return TrigramState(self)


class TrigramState(SourceState):
    """Two tables, pairs and single tokens, both from a context to its followers."""

    def __init__(self, options: Trigram) -> None:
        self.options = options
        self.pairs: dict[tuple[int, int], Followers] = {}
        self.singles: dict[int, Followers] = {}

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        fresh = tokens[max(0, known - 2) :]
        for before, last, follower in zip(fresh, fresh[1:], fresh[2:], strict=False):
            forced = Followers(np.array([follower], dtype=np.int32), np.ones(1))
            self.note(before, last, forced)

    def note(self, before: int | None, last: int, followers: Followers) -> None:
        """Takes down what follows; the oldest pair makes room."""
        self.singles[last] = followers
        if before is None:
            return
        self.pairs.pop((before, last), None)
        self.pairs[before, last] = followers
        if len(self.pairs) > self.options.entries:
            del self.pairs[next(iter(self.pairs))]

    def after(self, before: int | None, last: int) -> Followers:
        """The mixture of both tables."""
        single = self.singles.get(last, UNKNOWN)
        pair = self.pairs.get((before, last)) if before is not None else None
        if pair is None:
            return single
        weight = self.options.backoff
        mixed = dict(zip(pair.tokens.tolist(), ((1 - weight) * pair.probabilities).tolist(), strict=True))
        for token, probability in zip(single.tokens.tolist(), (weight * single.probabilities).tolist(), strict=True):
            mixed[token] = mixed.get(token, 0.0) + probability
        order = sorted(mixed.items(), key=lambda item: -item[1])[: self.options.candidates]
        return Followers(np.array([t for t, _ in order], dtype=np.int32), np.array([c for _, c in order]))

    def open(self, request: DraftRequest) -> Walk:
        return TrigramWalk(self, request.tokens)

    def observe(self, seen: Verified) -> None:
        top = top_tokens(seen.logits, min(self.options.candidates, seen.logits.shape[1]))
        given = probabilities_of(seen.logits, top)
        for row, (token, parent) in enumerate(zip(seen.tokens, seen.parents, strict=True)):
            before = seen.tokens[parent] if parent >= 0 else (seen.text[-2] if len(seen.text) > 1 else None)
            self.note(before, token, Followers(top[row], given[row]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        contexts = [*self.pairs, *((-1, last) for last in self.singles)]
        tables = [*self.pairs.values(), *self.singles.values()]
        return {
            "contexts": np.array(contexts, dtype=np.int32).reshape(-1, 2),
            "sizes": np.array([len(table.tokens) for table in tables], dtype=np.int64),
            "tokens": np.concatenate([np.zeros(0, dtype=np.int32), *(table.tokens for table in tables)]),
            "probabilities": np.concatenate([np.zeros(0), *(table.probabilities for table in tables)]),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        ends = np.cumsum(arrays["sizes"])
        self.pairs, self.singles = {}, {}
        for (before, last), end, size in zip(arrays["contexts"].tolist(), ends, arrays["sizes"], strict=True):
            held = slice(end - size, end)
            followers = Followers(arrays["tokens"][held], arrays["probabilities"][held])
            if before < 0:
                self.singles[last] = followers
            else:
                self.pairs[before, last] = followers


class TrigramWalk(Walk):
    """Looks the last two tokens of each node up."""

    def __init__(self, state: TrigramState, text: Sequence[int]) -> None:
        self.state = state
        self.ends: list[tuple[int | None, int]] = [(text[-2] if len(text) > 1 else None, text[-1])]

    def root(self) -> Followers:
        return self.state.after(*self.ends[0])

    def expand(self, nodes: Sequence[tuple[int, int]]) -> list[Followers]:
        fresh = [(self.ends[parent][1], token) for parent, token in nodes]
        self.ends += fresh
        return [self.state.after(*end) for end in fresh]
