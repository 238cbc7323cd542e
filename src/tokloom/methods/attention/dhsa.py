"""DHSA cuts the text where keys change, scores whole chunks, and hands each chunk's score down to its tokens.

Paper: P2. Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs. arXiv:2510.24606
Formula: chunk C of n tokens has k_C = sqrt(n) mean_{j in C} k_j, and in the prompt queries likewise q_C. Each token j
    has its chunk's share, the sum over a KV head's query heads of the softmax over chunks of q_C k_C / sqrt(d); a query
    attends to the sinks, its local window and the tokens of the highest score, `budget` in all.
Shapes: q (batch, heads, rows, d), chunk keys (batch, kv_heads, chunks, d), token scores (batch, kv_heads, rows, slots).
Effect: the paper matches dense accuracy and is 6 to 18% (relative) above fixed blocks at equal cost. At few slots
    chunks must be short: at 96 of 960 slots (one number of four / three numbers, 8 examples each) SmolLM2-135M keeps
    0.86 / 0.76 of the digits that dense attention ranks first with chunks of up to 16 tokens, 1.00 / 0.99 with up to 4;
    Gemma-3-270M (one number of four, 10 examples) 0.29 and 0.83, and 0.97 with softmaxes in place of the largest logit,
    as here. On 8 others: SmolLM2-135M 1.00 / 0.95, Gemma-3-270M 1.04 / 0.99, but in one more example with four numbers
    2 digits of dense attention's 3.
Differs: the paper predicts boundaries by a trained network; here a chunk begins where the cosine of two neighbouring
    keys (all KV heads together) is below `similarity`, or after `longest` tokens. Tokens of a pass attend to each other
    densely, so that in the prompt selection acts beyond the pass. A chunk that reaches into the local window is always
    attended up to there, within the budget.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.selection.parts import Scorer
from tokloom.attention.selection.scores import Entries, Scores, Span, score_slots
from tokloom.attention.selection.selecting import Selecting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


def starts_of(keys: torch.Tensor, similarity: float, longest: int, length: int) -> list[int]:
    """Where chunks begin among neighbours: places 1 to n - 1 of `keys` (batch, heads, n, d), given that the chunk
    which place 0 belongs to has `length` tokens up to there."""
    flat = keys.transpose(1, 2).flatten(2)  # (batch, n, heads * d)
    alike = torch.cosine_similarity(flat[:, 1:], flat[:, :-1], dim=-1).amin(0).tolist()
    starts = []
    for place, cosine in enumerate(alike, 1):
        if cosine < similarity or length >= longest:
            starts.append(place)
            length = 0
        length += 1
    return starts


class Chunks:
    """The finished chunks of a layer's text: their keys, and which chunk each token is in.

    Attributes:
        ends: int64 (chunks,), one past the last token of each.
        keys: float32 (batch, kv_heads, chunks, d).
        of: int64 (tokens,), the chunk of each token of finished chunks.
    """

    def __init__(self, similarity: float, longest: int) -> None:
        self.similarity, self.longest = similarity, longest
        self.read = 0  # tokens that have been looked at
        self.ends = torch.empty(0, dtype=torch.long)
        self.of = torch.empty(0, dtype=torch.long)
        self.keys: torch.Tensor | None = None

    def extend(self, layer: KVLayer, upto: int) -> None:
        """Takes the tokens below `upto` in."""
        if upto - self.read < 1:
            return
        begin = int(self.ends[-1]) if len(self.ends) else 0
        if self.read == 0:
            self.read, before = 1, 0
            if upto == 1:
                return
        else:
            before = self.read - 1
        keys = layer.key_range(before, upto).float()
        starts = starts_of(keys, self.similarity, self.longest, self.read - begin)
        self.read = upto
        if not starts:
            return
        ends = torch.tensor([before + start for start in starts])
        lengths = torch.diff(ends, prepend=torch.tensor([begin]))
        whole = layer.key_range(begin, int(ends[-1])).float()
        of = torch.repeat_interleave(torch.arange(len(ends)), lengths)
        sums = whole.new_zeros(*whole.shape[:2], len(ends), whole.shape[-1])
        sums.index_add_(2, of.to(whole.device), whole)
        made = sums / lengths.to(whole).sqrt()[:, None]  # sqrt(n) times the mean
        self.keys = made if self.keys is None else torch.cat([self.keys, made], dim=2)
        self.of = torch.cat([self.of, of + len(self.ends)])
        self.ends = torch.cat([self.ends, ends])

    @property
    def bytes(self) -> int:
        held = 0 if self.keys is None else self.keys.nbytes
        return held + self.ends.nbytes + self.of.nbytes

    def fork(self) -> Chunks:
        other = Chunks(self.similarity, self.longest)
        other.read, other.ends, other.of, other.keys = self.read, self.ends, self.of, self.keys  # never written to
        return other

    def rewind(self, slots: int) -> None:
        """Forgets chunks that end beyond the first `slots` slots."""
        count = int((self.ends < slots).sum())
        self.ends = self.ends[:count]
        end = int(self.ends[-1]) if count else 0
        self.of, self.read = self.of[:end], min(self.read, end + 1, slots)
        self.keys = None if self.keys is None or count == 0 else self.keys[:, :, :count]


class ChunkScores(Scorer):
    """The score of each token's chunk. State in the layer: note "chunks"."""

    by_slot = False

    def max_draft_tokens(self, seen: int, local: int) -> int:
        return local - 1  # the token after a chunk, which ends it, must be of the text before the draft

    def __init__(self, similarity: float, longest: int) -> None:
        self.similarity, self.longest = similarity, longest

    def score(
        self, layer: KVLayer, queries: torch.Tensor, span: Span, budget: int, among: torch.Tensor | None = None
    ) -> Scores:
        chunks: Chunks = layer.notes.setdefault("chunks", Chunks(self.similarity, self.longest))
        chunks.extend(layer, layer.past)
        batch, kv_heads, rows = queries.shape[0], layer.kv_heads, queries.shape[2]
        values = torch.full((batch, kv_heads, rows, span.last), -torch.inf, device=queries.device)
        ends = torch.searchsorted(chunks.ends, span.ends.long(), right=True)  # chunks that each row may choose
        last = int(ends.max())
        if last:
            assert chunks.keys is not None  # there are chunks
            allowed = Span(0, ends.to(torch.int32), last)
            scores = score_slots(layer, queries.float(), allowed, keys=Entries.of(chunks.keys), reduce="mass")
            of = chunks.of[: span.last].to(queries.device)
            of = of[of < last]
            values[..., : len(of)] = scores.index_select(-1, of)
        done = torch.cat([torch.zeros(1, dtype=torch.long), chunks.ends])[ends]  # where each row's finished chunks end
        slots = torch.arange(span.last, device=queries.device)
        open_chunk = slots >= done.to(queries.device)[:, None]
        outside = (slots < span.begin) | (slots >= span.ends.to(queries.device)[:, None])
        values = values.masked_fill(open_chunk, torch.inf).masked_fill(outside, -torch.inf)
        return Scores(values, shares=True)


@method(stage="attention")
class DHSA(Selecting):
    """Chunks found in the keys; top tokens by their chunks' scores, in the prompt too."""

    example: ClassVar[dict[str, Any]] = {**Selecting.example, "longest": 5}

    local: int = Field(default=32, ge=2)
    """Last tokens, always attended; the query itself is one of them."""
    prompt: bool = Field(default=True)
    """Select in the prompt too, once for each chunk of queries; else the prompt attends to everything."""
    similarity: float = Field(default=0.8, ge=-1, le=1)
    """Cosine of neighbouring keys, or queries, below which a chunk ends."""
    longest: int = Field(default=4, ge=1)
    """Most tokens of a chunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget - self.sink - self.local < self.longest:
            raise SpecError(
                "dhsa:longest", self.longest, f"at most budget - sink - local ({self.budget - self.sink - self.local})"
            )

    def own_scorer(self) -> Scorer:
        return ChunkScores(self.similarity, self.longest)

    def pooled(self, queries: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        starts = [0, *starts_of(queries, self.similarity, self.longest, 1)]
        lengths = [end - start for start, end in pairwise([*starts, queries.shape[2]])]
        parts = torch.split(queries, lengths, dim=2)
        means = [part.mean(2, keepdim=True) * part.shape[2] ** 0.5 for part in parts]
        return torch.cat(means, dim=2), lengths
