"""TokenSelect keeps every key and value and lets each query attend to the few tokens that its heads vote for.

Paper: P25. TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic Token-Level KV
    Cache Selection. arXiv:2411.02886
Formula: vote(j) = sum over heads h of softmax_j(q_h k_j / sqrt(d)) over the tokens between the first `sink` and the
    last `local`; attend to sinks, local window and the top of the vote, `budget` tokens in all. Selection cache: while
    cos(q, q_c) >= `similarity`, q over all heads, the tokens chosen for the earlier query q_c are used again.
    In the prompt the mean query of `prompt_rows` neighbours votes for all of them.
Shapes: q (batch, heads, rows, d), vote (batch, 1, rows, slots), chosen slots (batch, 1, rows, budget).
Effect: the paper attends to 2k of 1M tokens at full accuracy. Here needles in a 1k prompt are read at budgets where H2O
    loses them, attended pairs fall to the budget's share, and no byte of the cache is saved. At 96 of 960 slots (one
    number of four / three numbers) SmolLM2-135M keeps 0.97 / 0.99 of the digits that dense attention ranks first (20
    examples each), Gemma-3-270M 1.02 / 1.00 (16 each). Where rows of the prompt attend to 96 tokens too
    (`prompt_budget=0`) it was 0.87 / 0.96 (8 examples), with 16 sinks and 64 local tokens, which leave 16 slots to the
    vote (the paper's own leave it three quarters), 0.89 / 0.94 (8 others). Reading a prompt with a tenth of its tokens
    as budget, or 512, took 0.98 of dense attention's processor time for 2,048 tokens, 0.78 for 4,096, 0.58 to 0.65 for
    8,192. At 2,048 tokens with a budget of 204 that keeps 60 of the 62 digits of three numbers that dense attention
    ranks first, all 62 with `prompt=false`, 57 with `prompt_budget=0` (6 examples). With 768 of 7,680 slots a token
    took 14 ms and 25 densely (two threads).
Differs: a draft tree's rows select one by one along their own path, so that speculation changes no token. GQA groups
    are contiguous, as in transformers (the authors' code interleaves them). The vote is over an int8 copy of the keys
    (`index`): scoring 32,768 keys of a layer takes 0.54 ms, by those in float32 1.66 (two threads).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from tokloom.attention.selection.key_scores import KeyScores, Source
from tokloom.attention.selection.parts import Schedule, Scorer
from tokloom.attention.selection.selecting import Selecting
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom._core import LayerPlan
    from tokloom.kv.layer import KVLayer


@dataclass(frozen=True)
class WhileSimilar(Schedule):
    """Uses a choice again as long as queries stay similar to the one that it was made for.

    similarity: least cosine of the queries of all heads.

    State in the layer: carry "query" and "choice", the last one made and the query that made it.
    """

    similarity: float

    def choose(self, layer: KVLayer, queries: torch.Tensor, fresh: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        step = layer.step
        if step.prompt and step.rows > 1:
            return fresh()
        flat = queries.transpose(1, 2).flatten(2)  # (batch, rows, heads * d)
        carried = layer.carry.get("query")
        if step.rows == 1:
            if carried is not None and self._close(flat[:, 0], carried):
                choice = layer.carry["choice"][:, :, None]
                layer.carried = {"query": carried[:, None], "choice": choice.transpose(1, 2)}
                return choice
            choice = fresh()
            layer.carried = {"query": flat, "choice": choice.transpose(1, 2)}
            return choice
        made = fresh()
        pool, choices = flat, made
        if carried is not None:
            pool = torch.cat([carried[:, None], flat], dim=1)
            choices = _joined(layer.carry["choice"][:, :, None], made)
        shift = 1 if carried is not None else 0
        # A row asks its parent's source first, as single steps would. Sources are places in the pool.
        sources: list[int] = []
        for row, parent in enumerate(step.parents or ()):
            source = (0 if carried is not None else -1) if parent < 0 else sources[parent]
            again = source >= 0 and self._close(flat[:, row], pool[:, source])
            sources.append(source if again else row + shift)
        layer.carried = {"query": pool[:, sources], "choice": choices[:, :, sources].transpose(1, 2)}
        return choices[:, :, sources]

    def lower(self, layer: KVLayer, plan: LayerPlan, fresh: Callable[[], bool]) -> bool:
        step, carry = layer.step, layer.carry
        parents = 0
        if step.parents is not None:
            if "parents" not in step.shared:
                step.shared["parents"] = torch.tensor(step.parents, dtype=torch.int32)
            parents = step.shared["parents"].data_ptr()
        elif step.rows > 1:
            return False
        if not carry:
            plan.keep_while_similar(self.similarity, parents=parents)
            return fresh()
        query, choice = carry["query"].contiguous(), carry["choice"].contiguous()
        for held in (query, choice):
            plan.hold(held)
        plan.keep_while_similar(
            self.similarity, query.data_ptr(), choice.data_ptr(), choice.shape[1], choice.shape[2], parents
        )
        return fresh()

    def after_plan(self, layer: KVLayer, plan: LayerPlan) -> None:
        heads, rows, width, always = plan.shape
        if not rows:  # dense
            return
        queries, slots = (
            torch.empty(1, rows, plan.query_floats // rows),
            torch.empty(1, heads, rows, width, dtype=torch.long),
        )
        plan.copy_queries(queries.data_ptr())
        plan.copy_slots(slots.data_ptr())
        layer.carried = {"query": queries, "choice": slots[..., always:].transpose(1, 2)}

    def _close(self, queries: torch.Tensor, earlier: torch.Tensor) -> bool:
        return bool((torch.cosine_similarity(queries, earlier, dim=-1) >= self.similarity).all())


def _joined(earlier: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Two choices (batch, kv_heads or 1, rows, n) as one; n may differ."""
    width = max(earlier.shape[-1], made.shape[-1])
    both = [torch.nn.functional.pad(choice, (0, width - choice.shape[-1]), value=-1) for choice in (earlier, made)]
    return torch.cat(both, dim=2)


@method(stage="attention")
class TokenSelect(Selecting):
    """Exact scores, one vote of all heads, top-k, chosen anew when queries turn."""

    prompt: bool = Field(default=True)
    """Select in the prompt too, neighbouring rows together by their mean query; else it attends to everything."""
    similarity: float = Field(default=0.9)
    """Cosine of queries from which on the last selection is used again; above 1 it is made anew every time."""

    index: Source = Field(default="int8")
    """What is scored: an int8 copy of the keys (an eighth of the store more, where that is of float32), or the keys
    themselves."""

    def own_scorer(self) -> Scorer:
        return KeyScores(shared=True, source=self.index)

    def own_schedule(self) -> Schedule:
        return WhileSimilar(self.similarity)
