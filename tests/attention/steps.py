"""What tests of selecting policies share: single steps against a formula, and trees against single steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.attention import reference
from tests.attention.test_attend import reference_logits, some_tokens, step_at
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.kv.store import KVStore, Step
from tokloom.models.language_model import LanguageModel

Visible = Callable[[int, int, torch.Tensor, torch.Tensor], set[int]]


def read(model: LanguageModel, policy: AttentionPolicy, tokens: list[int], chunk: int = 64) -> KVStore:
    store = new_store(model, policy, 0)
    for _ in prefill(model, store, tokens, chunk):
        pass
    store.prepare()
    return store


def check_steps(model: LanguageModel, policy: AttentionPolicy, visible: Visible, prompt: int, total: int) -> None:
    """After a prompt of one chunk every single step gives the logits of the formula."""
    tokens = some_tokens(model, total)
    reference.register("formula", visible)
    model.model.set_attn_implementation("formula")
    expected = reference_logits(model, tokens)
    store = read(model, policy, tokens[:prompt])
    for i in range(prompt, total):
        logits = forward(model, store, [tokens[i]], step_at(model, i), all_logits=True)
        torch.testing.assert_close(logits[0], expected[i], atol=1e-4, rtol=1e-4)


def check_trees(model: LanguageModel, policy: AttentionPolicy, prompt: int, trees: int, depth: int) -> None:
    """Trees of `depth` drafted levels, as deep as `max_draft_tokens` lets them, give the logits of single steps."""
    tokens = some_tokens(model, prompt + trees * (depth + 1))
    single, tree = (read(model, policy, tokens[:prompt]) for _ in range(2))
    expected = [
        forward(model, single, [tokens[i]], step_at(model, i), all_logits=True)[0] for i in range(prompt, len(tokens))
    ]
    start = prompt
    while start < len(tokens):
        levels = min(depth, tree.max_draft_tokens() - 1, len(tokens) - start - 1)
        rows, parents, positions, path = [tokens[start]], [-1], [start], [0]
        for level, token in enumerate(tokens[start + 1 : start + levels + 1], 1):
            above = path[-1]
            rows += [(token + 1) % 100 + 5, token]
            parents += [above, above]
            positions += [start + level] * 2
            path.append(len(rows) - 1)
        step = Step(tuple(positions), model.device, parents=tuple(parents))
        logits = forward(model, tree, rows, step, all_logits=True)
        for level, row in enumerate(path):
            torch.testing.assert_close(logits[row], expected[start - prompt + level], atol=1e-4, rtol=1e-4)
        tree.accept(path)
        start += levels + 1
