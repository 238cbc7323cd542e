"""Drafts in a search: every branch has its own verified, and what is found is what is found without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.methods.decode.test_token_recycling import always_draft
from tests.test_every_method import prepared
from tokloom import Engine, Sampling, registry
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five one two three four five one two"
DRAFTERS = [name for name in registry.names("decode") if registry.card(name).kind == "Drafter"]
SEARCHES = [
    "best_of:n=3",
    "beam_search:width=2,expansions=2,stride=4",
    "lookahead_search:width=1,expansions=2,stride=2,lookahead=6",
]
PAIRS = [(SEARCHES[0], drafter) for drafter in DRAFTERS] + [
    (search, drafter) for search in SEARCHES[1:] for drafter in ("prompt_lookup", "token_recycling")
]


@pytest.mark.parametrize("constraint", [None, 'regex:pattern="[a-z ]{0,30}!"'])
@pytest.mark.parametrize(("search", "drafter"), PAIRS)
def test_the_same_output(
    search: str,
    drafter: str,
    constraint: str | None,
    tiny_llama: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sampling = Sampling(max_new_tokens=10, temperature=0.5, seed=4)
    plain = Engine(tiny_llama, search=search).generate(PROMPT, sampling=sampling, constraint=constraint)
    engine = Engine(
        tiny_llama, search=search, drafter=prepared(drafter, tiny_llama) if drafter in DRAFTERS else drafter
    )
    always_draft(engine)
    for _ in range(2):
        drafted = engine.generate(PROMPT, sampling=sampling, constraint=constraint)
        assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text)
        assert drafted.stop_reason == plain.stop_reason
    assert drafted.ledger.row("decode").counts["branches"] == plain.ledger.row("decode").counts["branches"]


@pytest.mark.parametrize("search", SEARCHES)
def test_fewer_passes(search: str, tiny_llama: LanguageModel) -> None:
    """The model as its own draft model is right wherever decoding is greedy."""
    sampling = Sampling(max_new_tokens=24, temperature=0.01, seed=4)
    plain = Engine(tiny_llama, search=search).generate(PROMPT, sampling=sampling).ledger.row("decode")
    engine = Engine(tiny_llama, search=search, drafter="draft_model:threshold=0,depth=5")
    always_draft(engine)
    row = engine.generate(PROMPT, sampling=sampling).ledger.row("decode")
    assert row.counts["accepted"] > 0
    assert row.counts["drafted"] >= row.counts["accepted"]
    assert row.forward_passes < 0.8 * plain.forward_passes


def test_under_a_policy_that_evicts(tiny_llama: LanguageModel) -> None:
    spec = "h2o:budget=24,interval=4"
    sampling = Sampling(max_new_tokens=16, temperature=0.5, seed=4)
    plain = Engine(tiny_llama, attention=spec, search="best_of:n=3").generate(PROMPT, sampling=sampling)
    engine = Engine(tiny_llama, attention=spec, search="best_of:n=3", drafter="prompt_lookup")
    always_draft(engine)
    assert engine.generate(PROMPT, sampling=sampling).tokens == plain.tokens


def test_where_every_step_forks_nothing_is_drafted(tiny_llama: LanguageModel) -> None:
    engine = Engine(tiny_llama, search="beam_search:width=2,expansions=2", drafter="prompt_lookup")
    always_draft(engine)
    row = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=8)).ledger.row("decode")
    assert row.counts["drafted"] == 0
