"""Lookahead search judges each beginning by where greedy decoding would take it.

Paper: P33. (1D) Ordered Tokens Enable Efficient Test-Time Search. arXiv:2604.15453
Formula: as beam search, but the `width` outputs that stay are those whose greedy continuation by `lookahead` tokens has
    the largest v; the continuation itself is thrown away.
Shapes: up to width * expansions branches over one prompt, and a copy of each for the look ahead.
Effect: the paper: of the three searches the strongest and the dearest, as beginnings are judged by what they lead
    to. The test: where the likelier beginning leads to the worse output, it finds what beam search of the same width
    misses.
Differs: see best_of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from tokloom.decode.search import Search
from tokloom.engine.branch import Branch
from tokloom.methods.decode.beam_search import best, expand, follow
from tokloom.registry import method


@method(stage="decode")
class LookaheadSearch(Search):
    """A beam that sees further."""

    width: int = Field(default=2, ge=1, le=64)
    """Outputs kept."""
    expansions: int = Field(default=4, ge=1, le=64)
    """Continuations of each that are looked at."""
    stride: int = Field(default=4, ge=1)
    """Tokens between two judgements."""
    lookahead: int = Field(default=8, ge=1)
    """Tokens that are decoded greedily before a judgement, and thrown away."""
    verifier: str = Field(default="log_probability")
    """What outputs are compared by."""

    def run(self, root: Branch, judge: Callable[[Sequence[Branch]], list[float]]) -> Branch:
        beam = [root]
        while any(branch.ended is None for branch in beam):
            grown = expand(beam, self.expansions, self.stride)
            seen = [branch if branch.ended is not None else branch.fork() for branch in grown]
            follow([ahead for ahead in seen if ahead.ended is None], self.lookahead)
            beam = best(grown, judge(seen), self.width)
        return beam[0]
