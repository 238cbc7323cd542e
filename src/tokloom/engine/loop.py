"""The decoding loop: draft, one forward pass, sample along the tree, keep what was accepted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tokloom.decode.constraint import Matcher
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Verified
from tokloom.decode.prediction import Prediction
from tokloom.engine.request import Chunk, StopReason
from tokloom.engine.sampling import Sampler, unpack
from tokloom.engine.speculation.drafting import Drafting
from tokloom.engine.speculation.probability_correction import RequestTracker
from tokloom.engine.text_stream import TextStream
from tokloom.kv.store import Step


class Decoding:
    """One request after its prompt. `run` yields text; the counts are there when it ends.

    All tokens are of the prediction's vocabulary.

    What a constraint makes certain is taken without asking the model and read together with what comes next, so that a
    pass begins with all tokens that were not read yet. Certain tokens are those that the tokenizer would write, with a
    drafter and without.

    Invariant: len(output) == forced + drawn + accepted; the prompt's logits give one drawn token, unless the output
    begins with certain ones that were not read with it, and so does each pass that reads all there is.
    """

    def __init__(
        self,
        prediction: Prediction,
        prompt: list[int],
        sampler: Sampler,
        drafting: Drafting | None,
        matcher: Matcher | None,
        opening: Sequence[int] = (),
    ) -> None:
        """opening: certain tokens that the output begins with, which were read with the prompt."""
        self.prediction, self.sampler = prediction, sampler
        self.drafting, self.matcher = drafting, matcher
        self.device = prediction.host.model.device
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.stream = TextStream(sampler.sampling.stop)
        self.stop_reason: StopReason | None = None
        self._text = ""
        self._sent = len(prompt)
        self.passes = self.drafted = self.accepted = self.forced = 0
        self._opening = opening
        self._read = len(prompt) + len(opening)
        """How many of `tokens` the prediction has read."""
        self._asked: tuple[int, DraftTree, bool]
        self.following: RequestTracker | None = None
        self._words = np.zeros((prediction.vocabulary.size + 31) // 32, dtype=np.int32)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def is_complete(self) -> bool:
        """The output satisfies the constraint as it stands: it was not cut off, by a stop string or a limit."""
        return self.matcher is not None and self.stop_reason != "stop" and self.matcher.is_complete

    def run(self, logits: torch.Tensor) -> Iterator[Chunk]:
        """Decodes until a stop; `logits` (vocabulary,) are those after the prompt."""
        self.begin(logits)
        yield self._chunk()
        while self.stop_reason is None:
            asked = self.ask()
            if asked is not None:
                before, start = len(self.tokens), time.perf_counter()
                logits = self.prediction.rows(*asked)
                seconds = time.perf_counter() - start
                self.answer(logits)
                if self.drafting is not None and not asked[1].skipped:
                    self.drafting.passed(self.prediction, len(asked[0]), len(self.tokens) - before, seconds)
            yield self._chunk()
        tail = self.stream.finish()
        if tail:
            yield Chunk(tail, ())

    def _chunk(self) -> Chunk:
        """What came since the last chunk."""
        text, self._text = self._text, ""
        tokens = tuple(self.tokens[self._sent :])
        self._sent = len(self.tokens)
        return Chunk(text, tokens)

    def _take(self, token: int) -> bool:
        """Adds a token to the output; False when the text ends with it."""
        self.tokens.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        self._text += self.stream.push(self.prediction.vocabulary.token_bytes[token])
        if token in self.prediction.eos_ids:
            self.stop_reason = "end"
        elif self.stream.stopped:
            self.stop_reason = "stop"
        elif len(self.tokens) - self.prompt_length >= self.sampler.sampling.max_new_tokens:
            self.stop_reason = "length"
        elif len(self.tokens) >= self.prediction.window:
            self.stop_reason = "window"
        return self.stop_reason is None

    def _allowed(self) -> torch.Tensor | None:
        """Bool (vocabulary,) of tokens that the constraint allows next; None without one."""
        if self.matcher is None:
            return None
        self.matcher.mask(self._words)
        return unpack(self._words, self.prediction.vocabulary.size).to(self.device)

    def _draw(self, logits: torch.Tensor) -> int:
        """The next token, from (vocabulary,) logits."""
        if self.matcher is not None and self.sampler.generator is None:
            most_probable = self.sampler.draw(logits)
            if (
                self.matcher.after(most_probable) is not None
            ):  # then it is the likeliest allowed one, and no mask is needed
                return most_probable
        return self.sampler.draw(logits, self._allowed())

    def begin(self, logits: torch.Tensor) -> None:
        """Takes the first tokens; `logits` (vocabulary,) are those after the prompt and what was read with it."""
        if self.drafting is not None:
            self.following = self.drafting.follow(self.tokens)
        if self._take_all(self._opening):
            self._take_forced()
        if self.stop_reason is None and self._read == len(self.tokens):
            self._take(self._draw(logits))

    def ask(self, beside: int = 0) -> tuple[list[int], Step] | None:
        """The rows of the next pass: what was not read yet, and what is drafted. None if the text ended without one.

        beside: rows that the pass has for other requests."""
        self._take_forced()
        if self.stop_reason is not None:
            return None
        first, max_draft_tokens = self._read, self.prediction.max_draft_tokens()
        unread = self.tokens[first : first + max_draft_tokens]
        whole = first + len(unread) == len(self.tokens)
        tree = self._draft(max_draft_tokens, len(unread), beside) if whole else DraftTree()
        chain = tree.below(unread[1:])
        skipped = len(unread) - whole
        if len(chain):
            positions = (first, *(first + depth for depth in chain.depths()))
            parents = (-1, *(parent + 1 for parent in chain.parents))
            step = Step(positions, self.device, parents=parents, skipped=skipped)
        else:
            step = Step((first,), self.device, skipped=skipped)
        self._asked = len(unread), tree, whole
        return [*unread, *tree.tokens], step

    def answer(self, logits: torch.Tensor) -> None:
        """Takes the tokens that a pass gives; `logits` are those of its rows, but for skipped ones."""
        unread, tree, whole = self._asked
        self.passes += 1
        if not whole:  # the rest follows in the next pass
            self.prediction.accept(list(range(unread)))
            self._read += unread
            return
        text = list(self.tokens)
        parents = (-1, *(parent + 1 for parent in tree.parents))
        children = {
            (parent, token): node for node, (parent, token) in enumerate(zip(parents[1:], tree.tokens, strict=True), 1)
        }
        path, walking, drafted = [0], True, len(tree)
        forced: list[int] = []  # `ask` took what there was
        while walking:
            given = forced or [self._draw(logits[path[-1]])]
            for token in given:
                node = children.get((path[-1], token)) if walking else None
                self.forced += bool(forced)
                if not self._take(token):
                    walking = False
                    break
                walking = node is not None
                if node is not None:
                    path.append(node)
                    if forced:
                        drafted -= 1  # it was no guess
                    else:
                        self.accepted += 1
            forced = self.matcher.forced() if walking and self.matcher is not None else []
        self.drafted += drafted
        self.prediction.accept([*range(unread - 1), *(unread - 1 + row for row in path)])
        self._read += unread + len(path) - 1
        if self.drafting is not None:
            seen = Verified(text, [text[-1], *tree.tokens], parents, logits, path)
            self.drafting.learn(seen, tree, self.tokens, self.following)

    def _take_forced(self) -> None:
        """Adds what the constraint makes certain, whatever the model says; it is read with what comes next."""
        while self.matcher is not None and self.stop_reason is None and (forced := self.matcher.forced()):
            self._take_all(forced)

    def _take_all(self, forced: Sequence[int]) -> bool:
        """Adds certain tokens; False when the text ends with one of them."""
        for token in forced:
            self.forced += 1
            if not self._take(token):
                return False
        return True

    def _draft(self, max_draft_tokens: int, unread: int, beside: int) -> DraftTree:
        """What to verify in the next pass beside so many tokens that were not read yet."""
        if self.drafting is None:
            return DraftTree()
        left = self.sampler.sampling.max_new_tokens - (len(self.tokens) - self.prompt_length)
        # a token drafted beyond what is left is wasted
        depth = min(max_draft_tokens - unread, left - 1, self.prediction.window - len(self.tokens) - 1)
        return self.drafting.propose(self.tokens, depth, self.prediction, unread, self.matcher, self.following, beside)
