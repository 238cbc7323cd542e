"""Slow, obvious eviction: one query at a time, one KV head at a time, with lists of what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface

from tests.attention.test_attend import reference_logits, step_at
from tokloom.attention.eviction import Evicting
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVStore, Step
from tokloom.models.language_model import LanguageModel


@dataclass
class Head:
    """What one KV head of one layer holds, by text position."""

    layer: int
    head: int
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    drawn: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    """Attention that each position has drawn, summed over the group: (query position, weight)."""
    seen: int = 0
    ends: list[int] = field(default_factory=list)
    """Where prompt chunks ended."""

    @property
    def positions(self) -> list[int]:
        return sorted(self.keys)

    @property
    def deciding(self) -> bool:
        """The prompt is over."""
        return self.seen not in self.ends

    def keep(self, positions: Sequence[int]) -> None:
        for held in (self.keys, self.values, self.drawn):
            for position in set(held) - set(positions):
                del held[position]


Evict = Callable[[list[Head]], None]
"""Drops from the KV heads of one layer what the method would, `Head.keep`."""


def run(model: LanguageModel, tokens: list[int], chunks: Sequence[int], interval: int, evict: Evict) -> torch.Tensor:
    """All logits of a prompt of such chunks and then single tokens, under `evict` after each chunk and whenever the
    number of tokens is a multiple of `interval`."""
    ends = [sum(chunks[: i + 1]) for i in range(len(chunks))]

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):  # type: ignore[no-untyped-def]
        group = query.shape[1] // key.shape[1]
        heads = [Head(module.layer_idx, head, ends=ends) for head in range(key.shape[1])]
        out = torch.zeros_like(query)
        for i in range(query.shape[2]):
            for head in heads:
                head.keys[i], head.values[i], head.drawn[i] = key[0, head.head, i], value[0, head.head, i], []
                for h in range(head.head * group, (head.head + 1) * group):
                    scores = torch.stack([query[0, h, i] @ head.keys[j] * scaling for j in head.positions])
                    for weight, j in zip(scores.softmax(0), head.positions, strict=True):
                        out[0, h, i] += weight * head.values[j]
                        head.drawn[j].append((i, float(weight)))
                head.seen = i + 1
            if i + 1 in ends or (i + 1 > ends[-1] and (i + 1) % interval == 0):
                evict(heads)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("slow_eviction", attend)
    model.model.set_attn_implementation("slow_eviction")
    return reference_logits(model, tokens)


def check_steps(model: LanguageModel, policy: Evicting, tokens: list[int], chunks: Sequence[int], evict: Evict) -> None:
    """The engine's logits after the prompt and after each single token are those of the slow eviction."""
    expected = run(model, tokens, chunks, policy.interval, evict)
    store = new_store(model, policy, 0)
    length = sum(chunks)
    logits = read(model, store, tokens, chunks)
    torch.testing.assert_close(logits, expected[length - 1], atol=1e-4, rtol=1e-4)
    for i in range(length, len(tokens)):
        logits = forward(model, store, [tokens[i]], step_at(model, i), all_logits=True)[0]
        torch.testing.assert_close(logits, expected[i], atol=1e-4, rtol=1e-4)
        assert store.slots()["held"] <= policy.budget


def read(model: LanguageModel, store: KVStore, tokens: list[int], chunks: Sequence[int]) -> torch.Tensor:
    """Reads a prompt in chunks of these sizes; the logits after it."""
    start = 0
    for size in chunks:
        step = Step(tuple(range(start, start + size)), model.device, prompt=True)
        logits = forward(model, store, tokens[start : start + size], step, all_logits=False)[-1]
        start += size
    return logits


def check_trees(model: LanguageModel, policy: Evicting, tokens: list[int], prompt: int) -> None:
    """Draft trees as long as `max_draft_tokens` allows give the logits, the slots and the scores of single steps."""
    single, tree = new_store(model, policy, 0), new_store(model, policy, 0)
    for store in (single, tree):
        for _ in prefill(model, store, tokens[:prompt], 32):
            pass
    start = prompt
    while start < len(tokens):
        stop = min(start + tree.max_draft_tokens(), len(tokens))
        expected = [
            forward(model, single, [tokens[i]], step_at(model, i), all_logits=True)[0] for i in range(start, stop)
        ]
        # the true path interleaved with wrong guesses at every level
        rows, parents, positions, path = [tokens[start]], [-1], [start], [0]
        for depth, token in enumerate(tokens[start + 1 : stop], 1):
            above = path[-1]
            rows += [(token + 1) % 100 + 5, token]
            parents += [above, above]
            positions += [start + depth] * 2
            path.append(len(rows) - 1)
        step = Step(tuple(positions), model.device, parents=tuple(parents))
        logits = forward(model, tree, rows, step, all_logits=True)
        for row, wanted in zip(path, expected, strict=True):
            torch.testing.assert_close(logits[row], wanted, atol=1e-4, rtol=1e-4)
        tree.accept(path)
        for a, b in zip(single.layers, tree.layers, strict=True):
            assert a.positions.tolist() == b.positions.tolist()
            torch.testing.assert_close(a.values, b.values, atol=1e-4, rtol=1e-4)
        start = stop


def check_dense(model: LanguageModel, policy: Evicting, tokens: list[int], chunk: int) -> None:
    """With a budget that is never exceeded the logits are those of dense attention."""
    expected = reference_logits(model, tokens)
    store = new_store(model, policy, 0)
    half = len(tokens) // 2
    *_, (_, logits) = prefill(model, store, tokens[:half], chunk)
    torch.testing.assert_close(logits, expected[half - 1], atol=1e-4, rtol=1e-4)
    for i in range(half, len(tokens)):
        logits = forward(model, store, [tokens[i]], step_at(model, i), all_logits=True)[0]
        torch.testing.assert_close(logits, expected[i], atol=1e-4, rtol=1e-4)
