"""Several outputs of one request that are under way, for search: what they share is computed once, what they do not in
one pass."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch

from tokloom.attention.kv_store import Step
from tokloom.decode.stage import Matcher, Prediction
from tokloom.engine.request import Sampling, StopReason
from tokloom.engine.sampling import Sampler, unpack
from tokloom.engine.text_stream import TextStream


@dataclass
class Account:
    """What all branches of a request cost: passes, rows in them, and how many branches there were."""

    passes: int = 0
    rows: int = 0
    branches: int = 1


class Branch:
    """One output so far.

    Attributes:
        tokens: of the prediction's vocabulary, without the prompt.
        logprob: natural log-probability of `tokens` under the prediction, among what the constraint allows.
        ended: why nothing follows, None while it goes on.
        account: shared by all branches of the request.
    """

    def __init__(
        self,
        prediction: Prediction,
        prompt: Sequence[int],
        logits: torch.Tensor,
        sampling: Sampling,
        matcher: Matcher | None,
    ) -> None:
        self.prediction, self.sampling, self.matcher = prediction, sampling, matcher
        self.prompt = tuple(prompt)
        self.tokens: tuple[int, ...] = ()
        self.logprob = 0.0
        self.ended: StopReason | None = None
        self.stream = TextStream(sampling.stop)
        self.account = Account()
        self._scores = self._normalized(logits)

    @property
    def output(self) -> list[int]:
        """`tokens` as a list."""
        return list(self.tokens)

    @property
    def stop_reason(self) -> StopReason | None:
        """`ended`, by the name that decoding gives it."""
        return self.ended

    @property
    def text(self) -> str:
        """Up to a stop string; an incomplete last character is left out."""
        return self.stream.text

    @property
    def is_complete(self) -> bool:
        """The output satisfies the constraint as it stands."""
        return self.matcher is not None and self.ended != "stop" and self.matcher.is_complete

    def likeliest(self, count: int) -> list[tuple[int, float]]:
        """The likeliest next tokens with their log-probabilities, best first; fewer if fewer are allowed."""
        values, tokens = self._scores.topk(min(count, len(self._scores)))
        found = zip(tokens.tolist(), values.tolist(), strict=True)
        return [(token, value) for token, value in found if value > -np.inf]

    def draw(self, sampler: Sampler) -> int:
        """The next token as the sampler draws it."""
        return sampler.draw(self._scores)

    def fork(self) -> Branch:
        """The same output, independent from now on. Raises CompositionError if the prediction can't be forked."""
        other = copy(self)
        other.prediction = self.prediction.fork()
        other.matcher = None if self.matcher is None else self.matcher.fork()
        other.stream = self.stream.fork()
        self.account.branches += 1
        return other

    def _normalized(self, logits: torch.Tensor) -> torch.Tensor:
        if self.matcher is not None:
            words = np.zeros((self.prediction.vocabulary.size + 31) // 32, dtype=np.int32)
            self.matcher.mask(words)
            allowed = unpack(words, self.prediction.vocabulary.size).to(logits.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
        return logits.log_softmax(-1)

    def _take(self, token: int) -> None:
        self.logprob += float(self._scores[token])
        self.tokens = (*self.tokens, token)
        if self.matcher is not None:
            self.matcher.accept(token)
        self.stream.push(self.prediction.vocabulary.token_bytes[token])
        if token in self.prediction.eos_ids:
            self.ended = "end"
        elif self.stream.stopped:
            self.ended = "stop"
        elif len(self.tokens) >= self.sampling.max_new_tokens:
            self.ended = "length"
        elif len(self.prompt) + len(self.tokens) >= self.prediction.window:
            self.ended = "window"


def advance(branches: Sequence[Branch], tokens: Sequence[int]) -> None:
    """Adds one token to each branch; those that go on are computed together."""
    for branch, token in zip(branches, tokens, strict=True):
        branch._take(token)
    going = [branch for branch in branches if branch.ended is None]
    if not going:
        return
    device = going[0].prediction.host.model.device
    asked = [
        (branch.prediction, [branch.tokens[-1]], Step((len(branch.prompt) + len(branch.tokens) - 1,), device))
        for branch in going
    ]
    account = going[0].account
    account.passes, account.rows = account.passes + 1, account.rows + len(going)
    for branch, logits in zip(going, going[0].prediction.rows_together(asked), strict=True):
        branch.prediction.accept([0])
        branch._scores = branch._normalized(logits[0])
