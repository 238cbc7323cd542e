"""A row keeps its matcher in step with tokens that grow, shrink and change."""

from __future__ import annotations

import numpy as np
import pytest

from tests import tiny_models
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.integrations.row import Row
from tokloom.methods.decode.choices import Choices
from tokloom.models.language_model import LanguageModel


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_models.build_llama()


def row(model: LanguageModel) -> Row:
    return Row(Choices(options=("one two", "one three", "four")).start(model.vocabulary), model.vocabulary)


def allowed(followed: Row, model: LanguageModel) -> set[int]:
    return set(np.flatnonzero(followed.allowed(model.vocabulary.size)).tolist())


def fresh(model: LanguageModel, output: list[int]) -> set[int]:
    other = row(model)
    other.follow(output)
    return allowed(other, model)


def test_grows_shrinks_and_changes(model: LanguageModel) -> None:
    two, three, four = (model.encode(text) for text in ("one two", "one three", "four"))
    followed = row(model)
    for output in ([], two[:1], two, three[:1], four, [], three, two[:1]):
        followed.follow(output)
        assert allowed(followed, model) == fresh(model, output)


def test_after_the_end_only_the_end_is_allowed(model: LanguageModel) -> None:
    eos = min(model.eos_ids)
    followed = row(model)
    followed.follow([*model.encode("four"), eos, 0, 0])
    assert followed.is_over
    assert followed.is_complete
    assert allowed(followed, model) == set(model.eos_ids)
    followed.follow(model.encode("four"))  # taken back
    assert not followed.is_over
    assert eos in allowed(followed, model)


def test_a_forbidden_token_is_refused_and_the_rest_kept(model: LanguageModel) -> None:
    followed = row(model)
    start, wrong = model.encode("four")[:1], model.encode("seven")[0]
    with pytest.raises(ArgumentError, match="token="):
        followed.follow([*start, wrong])
    assert allowed(followed, model) == fresh(model, start)


def test_widths(model: LanguageModel) -> None:
    followed = row(model)
    size = model.vocabulary.size
    full = followed.allowed(size)
    assert followed.allowed(size + 70).tolist() == [*full.tolist(), *[False] * 70]
    assert followed.allowed(size - 5).tolist() == full[:-5].tolist()


def test_a_stuck_matcher_is_an_error(model: LanguageModel) -> None:
    followed = row(model)
    matcher = followed._matcher
    matcher.mask = lambda out: out.fill(0)  # type: ignore[method-assign]
    with pytest.raises(GrammarError, match="no token"):
        followed.mask()
