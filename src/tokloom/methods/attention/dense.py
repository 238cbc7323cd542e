"""Dense causal attention over every token: what the model was trained with.

Paper: none (baseline)
Formula: out_i = sum_j softmax_j(q_i k_j / sqrt(d)) v_j over all j <= i.
Shapes: q (batch, heads, rows, d); k, v (batch, kv_heads, slots, d); out (batch, rows, heads, d).
Effect: the reference that every other policy is compared with; nothing is evicted, every slot attended.
"""

from __future__ import annotations

from tokloom.attention.policy import AttentionPolicy
from tokloom.registry import method


@method(stage="attention")
class Dense(AttentionPolicy):
    """No hook: the store keeps all and every query sees all."""
