"""Best-of-N draws several whole outputs and gives the one that a verifier likes best.

Paper: P33. (1D) Ordered Tokens Enable Efficient Test-Time Search. arXiv:2604.15453
Formula: y_1 .. y_n drawn from the model by the request's sampling; the answer is the y_i with the largest v(y_i).
Shapes: n branches over one prompt, one row of each in a pass.
Effect: the paper studies best-of-N, beam and lookahead search over image tokens, with verifiers and the model as a
    prior. Here over text: the verifier's score of what is given rises with n.
Differs: text tokens have one order, so that the paper's comparison of token orders does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import Field

from tokloom.decode.search import Search
from tokloom.engine.branch import Branch, advance
from tokloom.engine.sampling import Sampler
from tokloom.registry import method


@method(stage="decode")
class BestOf(Search):
    """Independent samples, the best of them."""

    n: int = Field(default=4, ge=1, le=256)
    """Outputs drawn; the i-th by the request's seed + i. Greedy sampling is taken as temperature 1."""
    verifier: str = Field(default="log_probability")
    """What the outputs are compared by."""

    def run(self, root: Branch, judge: Callable[[Sequence[Branch]], list[float]]) -> Branch:
        sampling = root.sampling if root.sampling.temperature > 0 else replace(root.sampling, temperature=1.0)
        seeds = [None if sampling.seed is None else sampling.seed + i for i in range(self.n)]
        samplers = [Sampler(replace(sampling, seed=seed)) for seed in seeds]
        branches = [root.fork() for _ in samplers]
        while going := [i for i, branch in enumerate(branches) if branch.ended is None]:
            some = [branches[i] for i in going]
            advance(some, [branches[i].draw(samplers[i]) for i in going], root.sampling.max_new_tokens)
        scores = judge(branches)
        return branches[scores.index(max(scores))]
