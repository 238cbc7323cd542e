"""What the tests of selecting methods share: who is seen by their definition, their layers, their calibrations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tests.attention import reference
from tests.attention.test_attend import reference_logits, some_tokens, step_at
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.attention.selection.selecting import Selecting
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVStore, Step
from tokloom.models.language_model import LanguageModel

PROMPT, END = 46, 58

Chosen = Callable[[int, torch.Tensor, torch.Tensor, list[int]], list[set[int]]]
"""(layer, the queries of all heads (heads, d), all keys (heads, n, d), candidates): the slots chosen, per KV head."""


def grouped(queries: torch.Tensor, keys: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each KV head the queries of its group (group, d) and its keys (n, d); 2 query heads a KV head, as in the tiny
    models. `keys` (heads, n, d) are repeated for each query head."""
    return [(queries[h : h + 2], keys[h]) for h in range(0, queries.shape[0], 2)]


def votes(queries: torch.Tensor, keys: torch.Tensor, candidates: list[int], scale: float) -> dict[int, float]:
    """The sum of softmaxes over the candidates, (group, d) against (n, d)."""
    total = dict.fromkeys(candidates, 0.0)
    for q in queries:
        weights = (keys[candidates] @ q * scale).softmax(0)
        for j, weight in zip(candidates, weights.tolist(), strict=True):
            total[j] += weight
    return total


def in_int8(rows: torch.Tensor) -> torch.Tensor:
    """Rows (..., d) rounded to levels of -127 to 127 times a scale of their own."""
    scale = rows.abs().amax(-1, keepdim=True) / 127
    return (rows / scale).round() * scale


def best(scores: dict[int, float], count: int) -> list[int]:
    return sorted(scores, key=lambda j: -scores[j])[:count]


def visible(policy: Selecting, chosen: Chosen):  # type: ignore[no-untyped-def]
    """Who is seen, for `register_per_head`: all within the prompt, then sinks, the local window and what is chosen."""

    def seen(layer: int, i: int, queries: torch.Tensor, keys: torch.Tensor) -> list[set[int]]:
        heads = queries.shape[0]
        if i < PROMPT or i + 1 <= policy.budget:
            return [set(range(i + 1))] * heads
        candidates = list(range(policy.sink, i - policy.local + 1))
        always = set(range(policy.sink)) | set(range(i - policy.local + 1, i + 1))
        per_kv_head = chosen(layer, queries, keys[:, : i + 1], candidates)
        return [always | per_kv_head[h * len(per_kv_head) // heads] for h in range(heads)]

    return seen


def check(model: LanguageModel, policy: Selecting, chosen: Chosen) -> None:
    """Single steps, and a draft tree, after a prompt of two chunks: the logits of the definition."""
    tokens = some_tokens(model, END)
    reference.register_per_head("selecting", visible(policy, chosen))
    single, tree = (prompt_read(model, policy, tokens) for _ in range(2))
    model.model.set_attn_implementation("selecting")
    expected = reference_logits(model, tokens)
    model.model.set_attn_implementation("tokloom")
    for i in range(PROMPT, END):
        logits = forward(model, single, [tokens[i]], step_at(model, i), all_logits=True)
        torch.testing.assert_close(logits[0], expected[i], atol=1e-4, rtol=1e-4)
    for start in range(PROMPT, END, 4):  # each tree builds on what the one before left
        rows, parents, positions, path = [tokens[start]], [-1], [start], [0]
        for depth, token in enumerate(tokens[start + 1 : start + 4], 1):
            above = path[-1]
            rows += [(token + 1) % 100 + 5, token]
            parents += [above, above]
            positions += [start + depth] * 2
            path.append(len(rows) - 1)
        step = Step(tuple(positions), model.device, parents=tuple(parents))
        logits = forward(model, tree, rows, step, all_logits=True)
        for depth, row in enumerate(path):
            torch.testing.assert_close(logits[row], expected[start + depth], atol=1e-4, rtol=1e-4)
        tree.accept(path)


def prompt_read(model: LanguageModel, policy: AttentionPolicy, tokens: list[int]) -> KVStore:
    store = new_store(model, policy, 0)
    for _ in prefill(model, store, tokens[:PROMPT], 32):
        pass
    return store


def calibration(model: LanguageModel, policy: AttentionPolicy) -> Calibration:
    return [layer.calibration for layer in new_store(model, policy, 0).layers]


@dataclass
class Overlap:
    """Of one method's choices with those of exact top-k, summed over layers, heads and tokens."""

    chosen: int = 0
    exact: int = 0
    both: int = 0
    mass: list[float] = field(default_factory=list)
    """What the choice holds of the attention that exact top-k holds."""

    @property
    def recall(self) -> float:
        return self.both / self.exact

    @property
    def iou(self) -> float:
        return self.both / (self.chosen + self.exact - self.both)

    @property
    def share(self) -> float:
        return sum(self.mass) / len(self.mass)


class Compared(AttentionPolicy):
    """Attends densely; asks other policies what they would choose, and compares that with what `exact` would."""

    name = "compared"
    needs = ("queries", "keys")

    def __init__(self, model: LanguageModel, exact: Selecting, others: dict[str, Selecting]) -> None:
        self.exact, self.others = exact, others
        self.found = {name: Overlap() for name in others}
        self.calibrations = {name: calibration(model, p) for name, p in others.items() if p.calibrates}

    def select(self, layer, queries):  # type: ignore[no-untyped-def]
        if layer.step.prompt:
            return
        best = self._sets(self.exact, layer, queries)
        keys = layer.keys[0].repeat_interleave(queries.shape[1] // layer.kv_heads, 0)
        weights = (queries[0] @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5).softmax(-1)[:, 0]
        weights = weights.view(layer.kv_heads, -1, weights.shape[-1]).sum(1)
        for name, policy in self.others.items():
            layer.calibration = self.calibrations[name][layer.index] if name in self.calibrations else {}
            found = self.found[name]
            for head, (chosen, exact) in enumerate(zip(self._sets(policy, layer, queries), best, strict=True)):
                found.chosen, found.exact = found.chosen + len(chosen), found.exact + len(exact)
                found.both += len(chosen & exact)
                held, maximum = (float(weights[head, sorted(slots)].sum()) for slots in (chosen, exact))
                found.mass.append(held / maximum)
        return

    def _sets(self, policy: Selecting, layer, queries) -> list[set[int]]:  # type: ignore[no-untyped-def]
        """What is chosen between sinks and local window, per KV head."""
        layer.step.shared.clear()
        selected = policy.select(layer, queries).expand(1, layer.kv_heads, 1, -1)[0, :, 0].tolist()
        between = set(range(policy.sink, layer.past + 1 - policy.local))
        return [set(slots) & between for slots in selected]


def compare(model: LanguageModel, text: str, exact: Selecting, others: dict[str, Selecting]) -> dict[str, Overlap]:
    """Overlaps at the four tokens after the text, in every layer."""
    tokens = model.encode(text)
    policy = Compared(model, exact, others)
    store = KVStore(model.model.config.num_hidden_layers, policy)
    new_store(model, exact, 0)  # refuses what the store can't serve
    for _ in prefill(model, store, tokens[:-4], 512):
        pass
    for i in range(len(tokens) - 4, len(tokens)):
        forward(model, store, [tokens[i]], step_at(model, i), all_logits=False)
    return policy.found
