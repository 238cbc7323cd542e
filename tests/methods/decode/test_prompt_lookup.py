"""Prompt lookup against a search from the back, and what its record of hits does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.errors import SpecError
from tokloom.methods.decode.prompt_lookup import PromptLookup
from tokloom.models.language_model import LanguageModel

texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(texts, st.integers(1, 4), st.integers(1, 4), st.integers(1, 8))
def test_the_draft_is_what_followed(text: list[int], longest: int, shortest: int, length: int) -> None:
    if shortest > longest:
        return
    expected: list[int] = []
    for size in range(longest, shortest - 1, -1):
        places = [i for i in range(size, len(text)) if text[i - size : i] == text[len(text) - size :]]
        if places:
            written = list(text)
            for i in range(length):  # also what it has written itself
                written.append(written[places[-1] + i])
            expected = written[len(text) :]
            break
    state = PromptLookup(longest=longest, shortest=shortest, length=length).start(FAKE)
    tree = propose(state, text)
    assert list(tree.tokens) == expected
    assert list(tree.parents) == list(range(-1, len(expected) - 1))


def test_chances_follow_the_hits() -> None:
    state = PromptLookup().start(FAKE)
    text = [1, 2, 3, 4, 5, 1, 2, 3]
    before = propose(state, text)
    assert paths(before)[:2] == [(4,), (4, 5)]
    for _ in range(40):
        state.judge([(before.marks[0], False)])
    assert propose(state, text).probabilities[0] < 0.2
    for _ in range(200):
        state.judge([(mark, True) for mark in before.marks])
    assert propose(state, text).probabilities[-1] > 0.7


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(SpecError, match="prompt_lookup:shortest=4"):
        PromptLookup(longest=3, shortest=4)


@pytest.mark.model
def test_effect_copies_cost_few_passes(smollm2: LanguageModel) -> None:
    """Half the passes or less where the output repeats the prompt; the same text."""
    prompt = "Repeat this list three times.\n" + "apples, pears, plums, cherries and figs; " * 4
    sampling = Sampling(max_new_tokens=64)
    engine = Engine(smollm2, drafter="prompt_lookup")
    always_draft(engine)
    drafted = engine.generate(prompt, sampling=sampling)
    assert drafted.tokens == Engine(smollm2).generate(prompt, sampling=sampling).tokens
    assert drafted.ledger.row("decode").forward_passes <= len(drafted.tokens) / 2
