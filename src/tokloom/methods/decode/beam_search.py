"""Beam search keeps the few best outputs so far and goes on from these only.

Paper: P33. (1D) Ordered Tokens Enable Efficient Test-Time Search. arXiv:2604.15453
Formula: each of `width` outputs is continued by its `expansions` likeliest tokens, each followed by `stride` - 1
    greedy ones; of all these the `width` with the largest v stay. Ended outputs stay among them as they are. The search
    is over when all have ended; the best of them is given. With stride 1, v = log_probability:mean=false and
    expansions >= width this is the textbook's beam search.
Shapes: up to width * expansions branches over one prompt, one row of each in a pass.
Effect: the paper finds that beam search pays where unfinished outputs can be judged. The test: its output is at least
    as probable as greedy decoding's, and equals the exhaustive search's where the beam holds everything.
Differs: see best_of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from tokloom.decode.search import Search
from tokloom.engine.branch import Branch, advance
from tokloom.registry import method


def expand(beam: Sequence[Branch], expansions: int, stride: int) -> list[Branch]:
    """Each branch that goes on, `expansions` times with another next token, then greedily; ended ones as they are."""
    grown: list[Branch] = []
    tokens: list[int] = []
    done = [branch for branch in beam if branch.ended is not None]
    for branch in beam:
        if branch.ended is None:
            for token, _ in branch.most_probable(expansions):
                grown.append(branch.fork())
                tokens.append(token)
    advance(grown, tokens, stride - 1)
    follow(grown, stride - 1)
    return done + grown


def follow(branches: Sequence[Branch], steps: int) -> None:
    """Goes on greedily for so many tokens."""
    for step in range(steps):
        going = [branch for branch in branches if branch.ended is None]
        if not going:
            return
        advance(going, [branch.most_probable(1)[0][0] for branch in going], steps - step - 1)


def best(branches: Sequence[Branch], scores: Sequence[float], count: int) -> list[Branch]:
    """The `count` with the largest scores, best first; the earlier one first among equals."""
    order = sorted(range(len(branches)), key=lambda i: (-scores[i], i))
    return [branches[i] for i in order[:count]]


@method(stage="decode")
class BeamSearch(Search):
    """Several outputs side by side, pruned by the verifier."""

    width: int = Field(default=4, ge=1, le=64)
    """Outputs kept."""
    expansions: int = Field(default=4, ge=1, le=64)
    """Continuations of each that are looked at."""
    stride: int = Field(default=1, ge=1)
    """Tokens between two judgements."""
    verifier: str = Field(default="log_probability")
    """What outputs are compared by."""

    def run(self, root: Branch, judge: Callable[[Sequence[Branch]], list[float]]) -> Branch:
        beam = [root]
        while any(branch.ended is None for branch in beam):
            grown = expand(beam, self.expansions, self.stride)
            beam = best(grown, judge(grown), self.width)
        return beam[0]
