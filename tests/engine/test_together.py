"""Several sequences in one forward pass, and what is built on it: every result is that of a request alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.test_attend import some_tokens
from tests.attention.test_ragged import VARIANTS, Ragged, shared
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.attention.policy import AttentionPolicy
from tokloom.engine.forward import Job, forward, forward_many, new_store, prefill
from tokloom.errors import ArgumentError
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.h2o import H2O
from tokloom.methods.attention.token_select import TokenSelect
from tokloom.models.language_model import LanguageModel

PROMPTS = [
    "one two three four five six seven one two three four five six seven one two three",
    "eleven",
    "one two three four five six seven one two three four five six seven eight nine ten",
    "two three",
]
POLICIES: dict[str, AttentionPolicy] = {
    "dense": Dense(),
    "ragged": Ragged(),
    "h2o": H2O(budget=24, interval=4),
    "token_select": TokenSelect(budget=24, sink=2, local=8),
}


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(VARIANTS), names=st.lists(st.sampled_from(sorted(POLICIES)), min_size=1, max_size=4),
       seed=st.integers(0, 100), all_logits=st.booleans(), data=st.data())  # fmt: skip
def test_a_joint_pass_equals_passes_alone(
    kind: str, names: list[str], seed: int, all_logits: bool, data: st.DataObject
) -> None:
    """Prompt chunks, single tokens and draft trees of stores of different lengths and policies, then one token more."""
    model = shared(kind)
    joint, alone = [], []
    for i, name in enumerate(names):
        past = data.draw(st.integers(1, 40))
        text = some_tokens(model, past, seed + i)
        what = data.draw(st.sampled_from(["chunk", "token", "tree"]))
        rows = {"chunk": data.draw(st.integers(1, 20)), "token": 1, "tree": 4}[what]
        positions, parents = tuple(range(past, past + rows)), None
        if what == "tree":
            positions, parents = (past, past + 1, past + 1, past + 2), (-1, 0, 0, 2)
        for jobs in (joint, alone):
            store = new_store(model, POLICIES[name], 0)
            for _ in prefill(model, store, text, 16):
                pass
            step = Step(positions, model.device, parents=parents, prompt=what == "chunk")
            jobs.append(Job(store, some_tokens(model, rows, seed + 50 + i), step))
    together = forward_many(model, joint, all_logits)
    for job, other, logits in zip(alone, joint, together, strict=True):
        expected = forward(model, *job, all_logits)
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
        for store in (job.store, other.store):
            store.accept([0, 2])
    after = [[Job(j.store, [9], Step((j.store.seen,), model.device)) for j in jobs] for jobs in (joint, alone)]
    for job, logits in zip(after[1], forward_many(model, after[0], True), strict=True):
        torch.testing.assert_close(logits, forward(model, *job, True), atol=2e-4, rtol=1e-4)
        assert job.store.pairs() == after[0][after[1].index(job)].store.pairs()


@pytest.mark.parametrize("kind", ["core", "modules", "sliding"])
@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("drafter", [None, "token_recycling"])
def test_generate_many_equals_generate(kind: str, name: str, drafter: str | None) -> None:
    model = shared(kind)
    samplings = [Sampling(max_new_tokens=12 + i, temperature=0.8 * (i % 2), seed=i) for i in range(len(PROMPTS))]
    engine = Engine(model, attention=POLICIES[name])
    expected = [engine.generate(p, sampling=s) for p, s in zip(PROMPTS, samplings, strict=True)]
    if drafter is not None:
        engine = Engine(model, attention=POLICIES[name], drafter=drafter)
        always_draft(engine)
    for at_once in (1, 3, 8):
        found = engine.generate_many(PROMPTS, sampling=samplings, at_once=at_once)
        for one, other in zip(found, expected, strict=True):
            assert one.tokens == other.tokens
            assert one.text == other.text
            assert one.stop_reason == other.stop_reason
            if drafter is None:
                rows = [(row.stage, row.tokens_out, row.counts) for row in one.ledger.rows]
                assert rows == [(row.stage, row.tokens_out, row.counts) for row in other.ledger.rows]


def test_constraints_hold_for_each(tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama)
    constraint = 'choices:options=["three three seven","four"]'
    found = engine.generate_many(PROMPTS, constraint=constraint)
    assert [r.tokens for r in found] == [engine.generate(p, constraint=constraint).tokens for p in PROMPTS]
    assert engine.generate_many([]) == []


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_sample_reads_the_prompt_once_and_equals_generate(tiny_llama: LanguageModel, name: str) -> None:
    engine = Engine(tiny_llama, attention=POLICIES[name])
    sampling = Sampling(max_new_tokens=12, temperature=1.2, seed=4)
    found = engine.sample(PROMPTS[0], 5, sampling=sampling)
    for i, result in enumerate(found):
        assert result.tokens == engine.generate(PROMPTS[0], sampling=replace(sampling, seed=4 + i)).tokens
    assert len({result.tokens for result in found}) > 1
    assert [r.ledger.row("attention").forward_passes for r in found] == [1, 0, 0, 0, 0]
    assert [r.ledger.row("attention").counts["reused"] for r in found] == [0] + [found[0].prompt_tokens] * 4
    assert [r.ledger.row("attention").counts["attended"] > 0 for r in found] == [True] + [False] * 4


def test_bad_arguments_are_named(tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama)
    with pytest.raises(ArgumentError, match="n=0"):
        engine.sample("one", 0)
    with pytest.raises(ArgumentError, match="temperature"):
        engine.sample("one", 2, sampling=Sampling())
    with pytest.raises(ArgumentError, match="at_once=0"):
        engine.generate_many(["one"], at_once=0)
    for wrong in ("one", 5, None):
        with pytest.raises(ArgumentError, match=r"^prompts="):
            engine.generate_many(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^sampling=5"):
        engine.sample("one", 2, sampling=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^seed="):
        engine.sample("one", 3, sampling=Sampling(temperature=1.0, seed=2**64 - 2))
    with pytest.raises(ArgumentError, match="one for each of 2"):
        engine.generate_many(["one", "two"], sampling=[Sampling()])
