"""A second model drafts: a smaller one, or the same one in a coarser precision, with a KV cache of its own.

Paper: none (baseline)

Formula:
    Each drafted token is the draft model's likeliest after the ones before it; the chain ends after `depth` tokens or
    where the chance that all of it is right falls below `threshold`: a product of the draft model's probabilities, each
    corrected by how often drafts of like probability were right.
    Another vocabulary: the draft model reads the same text in its own tokens; the bytes that it drafts are written
    in the target's tokens. Where bytes are predicted, the text may end inside of a word: the draft model's tokens of
    that word are taken back, and the first one drafted must begin with its bytes.

Shapes: a chain of up to `depth` tokens; as a source, the `candidates` likeliest tokens after each node of a tree.

Effect: the baseline of speculative decoding (transformers' assisted generation). The test: a draft model that is the
    target itself is always right, and one with another vocabulary changes no text. SmolLM2 drafts for Gemma-3 270M, on
    three pieces of a book: 2.3 of Gemma's tokens a pass (64 of 108 drafted ones right), 5.0 bytes a pass of byte_level
    (381 of 630). It is too large a draft model for that: the processor time is 1.7 and 0.96 times that without drafts.

Differs: the KV cache is rewound to the longest common prefix of what it holds and the text, so that accepted drafts
    are not read again and interleaved requests stay correct. The last drafted token never goes through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from tokloom.attention.policy import AttentionPolicy
from tokloom.decode.candidates import probabilities_of, top_tokens
from tokloom.decode.draft_source import DraftSource, Followers, SourceState, Walk
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.decode.prediction import Prediction
from tokloom.engine.forward import forward, new_store
from tokloom.errors import CompositionError
from tokloom.kv.store import Step
from tokloom.models.load import load
from tokloom.models.translation import translate
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel
    from tokloom.tokenize.vocabulary import Vocabulary

BINS = 10
CHUNK = 512
MAX_BACK = 4
"""Tokens of a word that are taken back where the text ends inside of it."""


@method(stage="decode")
class DraftModel(DraftSource, Drafter):
    """Also a source for drafters that build trees, such as dyspec:source=draft_model."""

    model: str | None = None
    """Name, folder, GGUF file or hub id, as of `tokloom.load`; the target itself if not given."""
    weights: str | None = None
    """How the draft model keeps its weights; only with a model."""
    depth: int = Field(default=6, ge=1, le=32)
    """Most tokens drafted in a chain."""
    threshold: float = Field(default=0.3, ge=0, lt=1)
    """A chain ends where the chance that all of it is right falls below this."""
    candidates: int = Field(default=8, ge=1, le=64)
    """Tokens given after each node, as a source."""

    def start(self, model: LanguageModel) -> DraftModelState:
        return DraftModelState(self, model, self.load(model))

    def load(self, target: LanguageModel) -> LanguageModel:
        """The draft model."""
        return target if self.model is None else load(self.model, weights=self.weights)


class DraftModelState(SourceState, DraftState):
    """The draft model with one KV store. `tokens` are those that it holds."""

    def __init__(self, options: DraftModel, target: LanguageModel, draft: LanguageModel) -> None:
        self.options, self.draft = options, draft
        self.same = target is draft or target.vocabulary.token_bytes == draft.vocabulary.token_bytes
        self.target = target
        self.store = new_store(draft, AttentionPolicy(), 0)
        self.tokens: list[int] = []
        self.rates = HitRates([0.3 + 0.7 * (i + 0.5) / BINS for i in range(BINS)])  # two models agree more often

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        """The prompt is read when the first draft is asked for."""

    def observe(self, seen: Verified) -> None:
        """The draft model stays as it is."""

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)

    # --- a chain

    def propose(self, request: DraftRequest) -> DraftTree:
        vocabulary = request.prediction.vocabulary
        own = vocabulary is self.target.vocabulary
        alike = self.same and own
        text = list(request.tokens) if alike else translate(request.tokens, vocabulary, self.draft)
        begun = b"" if own else self._taken_back(text)
        depth = min(self.options.depth, request.limit)
        if own:  # the request's depth is in its own tokens
            depth = min(depth, request.depth)
        if not text or len(text) + depth > self.draft.window:
            return DraftTree()
        drafted, probabilities, kinds = self._chain(text, depth, begun)
        if alike:
            return DraftTree.chain(drafted, probabilities, kinds)
        return self._in_tokens_of(vocabulary, drafted, probabilities, request.limit, len(begun))

    def _chain(self, text: list[int], depth: int, begun: bytes) -> tuple[list[int], list[float], list[int]]:
        drafted: list[int] = []
        probabilities: list[float] = []
        kinds: list[int] = []
        probability, logits = 1.0, self.after(text)
        if begun:
            logits = self._beginning(logits, begun)
        while True:
            best = top_tokens(logits, 1)
            token, given = int(best[0, 0]), float(probabilities_of(logits, best)[0, 0])
            kind = min(int(given * BINS), BINS - 1)
            probability *= min(0.999, given * self.rates.rate(kind) / ((kind + 0.5) / BINS))
            if probability < self.options.threshold or token in self.draft.eos_ids:
                break
            drafted.append(token)
            probabilities.append(probability)
            kinds.append(kind)
            if len(drafted) == depth:
                break
            logits = self.after([*text, *drafted])
        return drafted, probabilities, kinds

    @torch.inference_mode()
    def after(self, text: list[int]) -> torch.Tensor:
        """Logits (1, vocabulary) after a text in the draft model's tokens."""
        common = 0
        for held, token in zip(self.tokens, text, strict=False):
            if held != token:
                break
            common += 1
        common = self.store.rewind(min(common, len(text) - 1))
        del self.tokens[common:]
        logits = torch.empty(0)
        for start in range(common, len(text), CHUNK):
            piece = text[start : start + CHUNK]
            step = Step(tuple(range(start, start + len(piece))), self.draft.device)
            logits = forward(self.draft, self.store, piece, step, all_logits=False)
            self.tokens += piece
        return logits

    # --- another vocabulary

    def _taken_back(self, text: list[int]) -> bytes:
        """Takes the tokens of the last word off the text, as far as one token may begin so; returns their bytes."""
        vocabulary = self.draft.vocabulary
        table = vocabulary.token_bytes
        first = len(text)
        while first > 1 and len(text) - first < MAX_BACK and text[first - 1] not in vocabulary.special_ids:
            first -= 1
            if table[text[first]][:1].isspace():
                break
        while first < len(text):
            begun = b"".join(table[token] for token in text[first:])
            if len(vocabulary.beginning_with(begun)):
                del text[first:]
                return begun
            first += 1
        return b""

    def _beginning(self, logits: torch.Tensor, begun: bytes) -> torch.Tensor:
        """Logits (1, vocabulary) with no other tokens than those that begin with these bytes."""
        ids = self.draft.vocabulary.beginning_with(begun)
        scores = np.full(logits.shape, -np.inf, dtype=np.float32)
        scores[:, ids] = logits.numpy(force=True)[:, ids]
        return torch.from_numpy(scores).to(logits.device)

    def _in_tokens_of(
        self, vocabulary: Vocabulary, drafted: list[int], probabilities: list[float], limit: int, written: int
    ) -> DraftTree:
        """Drafted tokens in those of another vocabulary; each with the chance of the draft that completes it.

        written: how many of the first one's bytes are part of the text."""
        spelled = [self.draft.vocabulary.token_bytes[token] for token in drafted]
        ends = (np.cumsum([len(piece) for piece in spelled]) - written).tolist()
        fresh = b"".join(spelled)[written:].decode("utf-8", errors="ignore")
        tokens: list[int] = []
        lowered: list[float] = []
        done = 0
        for token in vocabulary.tokenize(fresh)[:limit]:
            done += len(vocabulary.token_bytes[token])
            complete = next((i for i, end in enumerate(ends) if end >= done), None)
            if complete is None or token in vocabulary.special_ids:
                break
            tokens.append(token)
            lowered.append(probabilities[complete])
        return DraftTree.chain(tokens, lowered, [-1] * len(tokens))

    # --- a tree

    def check_tree(self, prediction: Prediction) -> None:
        own = prediction.vocabulary is self.target.vocabulary
        if not (self.same and own):
            raise CompositionError(
                f"the draft model {self.draft.name}", f"{self.target.name if own else 'a prediction of bytes'}",
                "a tree needs one vocabulary for both",
            )  # fmt: skip

    def open(self, request: DraftRequest) -> Walk:
        return DraftModelWalk(self, list(request.tokens))


class DraftModelWalk(Walk):
    """Each call is one pass over the whole tree so far, which is then taken back."""

    def __init__(self, state: DraftModelState, text: list[int]) -> None:
        self.state, self.text = state, text
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []

    def root(self) -> Followers:
        return self._followers(self.state.after(self.text))[0]

    @torch.inference_mode()
    def expand(self, nodes: Sequence[tuple[int, int]]) -> list[Followers]:
        state = self.state
        for parent, token in nodes:
            self.tokens.append(token)
            self.parents.append(parent - 1)
            self.depths.append(self.depths[parent - 1] + 1 if parent else 0)
        step = Step(
            tuple(len(self.text) + depth for depth in self.depths), state.draft.device, parents=tuple(self.parents)
        )
        logits = forward(state.draft, state.store, self.tokens, step, all_logits=True)
        state.store.accept([])
        return self._followers(logits[-len(nodes) :])

    def _followers(self, logits: torch.Tensor) -> list[Followers]:
        top = top_tokens(logits, self.state.options.candidates)
        return [Followers(tokens, given) for tokens, given in zip(top, probabilities_of(logits, top), strict=True)]
