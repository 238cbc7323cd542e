"""StreamingLLM keeps the first tokens of the text, on which attention rests (sinks), and the most recent ones.

Paper: Efficient Streaming Language Models with Attention Sinks. arXiv:2309.17453
Formula: keep the slots of positions < `sink` and the newest ones, `budget` in all.
Shapes: kept slots (batch, kv_heads, budget - interval), the same for every KV head.
Effect: the paper: perplexity stays that of a sliding window with recomputation over millions of tokens, where a plain
    window without sinks breaks down. The control of all evicting methods: as many slots, by position alone.
Differs: positions stay those of the text; the paper renumbers the kept ones, which a text beyond the model's window
    would need. Eviction comes every `interval` tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from tokloom.attention.eviction import Evicting
from tokloom.errors import SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.kv.layer import KVLayer


@method(stage="attention")
class StreamingLLM(Evicting):
    """No state."""

    example: ClassVar[dict[str, Any]] = {**Evicting.example, "sink": 2}

    sink: int = Field(default=4, ge=0)
    """First tokens of the text that are always kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sink >= self.size:
            raise SpecError("streaming_llm:sink", self.sink, f"less than budget - interval ({self.size})")

    def kept(self, layer: KVLayer) -> torch.Tensor:
        sinks = torch.arange(self.sink, device=layer.device)
        newest = torch.arange(layer.count - self.size + self.sink, layer.count, device=layer.device)
        return torch.cat([sinks, newest]).expand(*layer.positions.shape[:2], self.size)
