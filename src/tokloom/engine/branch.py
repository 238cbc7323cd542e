"""Several outputs of one request that are under way, for search: what they share is computed once, what they do not in
one pass. With a drafter each branch has proposals of its own verified; a token that is among them needs no pass."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokloom.decode.constraint import Matcher
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Verified
from tokloom.decode.prediction import Prediction
from tokloom.engine.request import Sampling, StopReason
from tokloom.engine.sampling import Sampler, unpack
from tokloom.engine.text_stream import TextStream
from tokloom.kv.store import Step

if TYPE_CHECKING:
    from tokloom.engine.speculation.drafting import Drafting


@dataclass
class Account:
    """What all branches of a request cost: passes, rows in them, drafted tokens and those of them that were taken, and
    how many branches there were."""

    passes: int = 0
    rows: int = 0
    drafted: int = 0
    accepted: int = 0
    branches: int = 1


@dataclass
class Verifying:
    """A pass over a branch's last token and a tree below it, until the branch leaves the tree.

    text: prompt and output up to that token. rows, parents, logits: as of `Verified`. path: the rows that were taken.
    """

    tree: DraftTree
    text: list[int]
    rows: list[int]
    parents: tuple[int, ...]
    logits: torch.Tensor
    path: list[int] = field(default_factory=lambda: [0])

    def below(self, token: int) -> int | None:
        """The row of a token after the last one of the path, if it was drafted."""
        last = self.path[-1]
        found = (
            row for row in range(last + 1, len(self.rows)) if self.parents[row] == last and self.rows[row] == token
        )
        return next(found, None)


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
        drafting: Drafting | None = None,
    ) -> None:
        self.prediction, self.sampling, self.matcher, self.drafting = prediction, sampling, matcher, drafting
        self._verifying: Verifying | None = None
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

    def most_probable(self, count: int) -> list[tuple[int, float]]:
        """The likeliest next tokens with their log-probabilities, best first; fewer if fewer are allowed."""
        values, tokens = self._scores.topk(min(count, len(self._scores)))
        found = zip(tokens.tolist(), values.tolist(), strict=True)
        return [(token, value) for token, value in found if value > -np.inf]

    def draw(self, sampler: Sampler) -> int:
        """The next token as the sampler draws it."""
        return sampler.draw(self._scores)

    def fork(self) -> Branch:
        """The same output, independent from now on. Raises CompositionError if the prediction can't be forked."""
        self._settle()
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

    # --- drafts

    def _take_drafted(self, token: int) -> bool:
        """Goes down the tree that was verified, if the token, which is part of the output now, is next in it."""
        row = None if self._verifying is None else self._verifying.below(token)
        if self._verifying is None or row is None:
            return False
        self._verifying.path.append(row)
        self.account.accepted += 1
        self._scores = self._normalized(self._verifying.logits[row])
        return True

    def _settle(self) -> None:
        """Leaves the tree: what was taken stays in the KV store, the drafter is told."""
        held, self._verifying = self._verifying, None
        if held is None:
            return
        self.prediction.accept(held.path)
        if self.drafting is not None:
            seen = Verified(held.text, held.rows, held.parents, held.logits, held.path)
            self.drafting.learn(seen, held.tree, held.text)

    def _ask(self, further: int) -> tuple[list[int], Step]:
        """The rows of the next pass: the last token, and what is drafted below it, at most `further` levels."""
        self._settle()
        text, prediction = [*self.prompt, *self.tokens], self.prediction
        left = self.sampling.max_new_tokens - len(self.tokens)
        depth = min(further, prediction.max_draft_tokens() - 1, left - 1, prediction.window - len(text) - 1)
        tree = DraftTree()
        if self.drafting is not None:
            tree = self.drafting.propose(text, depth, prediction, matcher=self.matcher)
        rows, parents = [text[-1], *tree.tokens], (-1, *(parent + 1 for parent in tree.parents))
        first, device = len(text) - 1, prediction.host.model.device
        self._verifying = Verifying(tree, text, rows, parents, torch.empty(0))
        self.account.rows += len(rows)
        self.account.drafted += len(tree)
        depths = (first, *(first + depth for depth in tree.depths()))
        return rows, Step(depths, device, parents=parents if len(tree) else None)

    def _answer(self, logits: torch.Tensor) -> None:
        """What the pass said, (rows, vocabulary)."""
        assert self._verifying is not None
        self._verifying.logits = logits
        self._scores = self._normalized(logits[0])
        if not len(self._verifying.tree):
            self._settle()

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


def advance(branches: Sequence[Branch], tokens: Sequence[int], further: int = 0) -> None:
    """Adds one token to each branch; those that go on are computed together.

    further: how many more tokens each is going to get before it is forked or thrown away; as many may be drafted."""
    asked: list[tuple[Branch, list[int], Step]] = []
    for branch, token in zip(branches, tokens, strict=True):
        branch._take(token)
        if branch.ended is not None:
            branch._settle()
        elif not branch._take_drafted(token):
            asked.append((branch, *branch._ask(further)))
    if not asked:
        return
    asked[0][0].account.passes += 1
    predictions = [(branch.prediction, rows, step) for branch, rows, step in asked]
    for (branch, _, _), logits in zip(asked, predictions[0][0].rows_together(predictions), strict=True):
        branch._answer(logits)
