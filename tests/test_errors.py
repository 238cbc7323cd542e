"""Every error names the argument, the value it had, what is valid and the next step."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tokloom import errors
from tokloom.engine.request import Sampling
from tokloom.errors import (
    ArgumentError,
    BudgetError,
    ChatTemplateError,
    CompositionError,
    DocumentError,
    ModelNotFoundError,
    NotCausalLMError,
    SpecError,
    TokloomError,
    UnknownNameError,
    UnsupportedModelError,
    UsageError,
)

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, TokloomError)]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_tree_in_the_docstring_is_the_tree_in_the_code(cls: type[TokloomError]) -> None:
    assert cls.__name__ in (errors.__doc__ or "")
    assert cls.__doc__


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_exit_code_is_2_exactly_for_what_the_caller_can_fix(cls: type[TokloomError]) -> None:
    assert cls.exit_code == (2 if issubclass(cls, UsageError) else 1)


def test_argument_error_names_argument_value_valid_and_next_step() -> None:
    error = ArgumentError("budget", 3, "an integer >= 16", "Raise --budget.")
    assert str(error) == "budget=3 is not valid: expected an integer >= 16. Raise --budget."
    assert (error.argument, error.value) == ("budget", 3)
    assert (error.valid, error.hint) == ("an integer >= 16", "Raise --budget.")
    assert str(ArgumentError("budget", 3, "an integer")).endswith("an integer.")


def test_argument_error_shortens_long_values() -> None:
    message = str(ArgumentError("prompt", "x" * 10_000, "a short text"))
    assert len(message) < 200
    assert "..." in message


@pytest.mark.parametrize("cls", [BudgetError, SpecError])
def test_special_argument_errors_can_be_caught_as_argument_errors(cls: type[ArgumentError]) -> None:
    with pytest.raises(ArgumentError, match="a=1 is not valid: expected b"):
        raise cls("a", 1, "b")


def test_unknown_name_suggests_the_nearest() -> None:
    error = UnknownNameError("method", "token_selct", ["h2o", "token_select", "bm25"])
    assert error.suggestions == ["token_select"]
    assert str(error) == "There is no method named 'token_selct'. Did you mean 'token_select'?"


def test_unknown_name_without_a_near_one_lists_all_in_order() -> None:
    error = UnknownNameError("stage", "zzz", ["b", "a"], "Next step.")
    assert str(error) == "There is no stage named 'zzz'. Known: a, b. Next step."
    assert error.known == ["a", "b"]


def test_unknown_name_takes_a_generator() -> None:
    assert "Did you mean 'dense'?" in str(UnknownNameError("method", "dence", (n for n in ["dense"])))


def test_document_error_names_the_file_and_the_problem() -> None:
    error = DocumentError("book.txt", "is empty", "Give another file.")
    assert str(error) == "book.txt: is empty. Give another file."
    assert (error.path, error.problem) == ("book.txt", "is empty")


def test_composition_error_names_both_sides() -> None:
    assert str(CompositionError("h2o", "engine", "it gives no weights")) == (
        "h2o and engine can't be combined: it gives no weights."
    )


@pytest.mark.parametrize("cls", [ModelNotFoundError, NotCausalLMError, ChatTemplateError])
def test_wrong_model_names_are_both_usage_and_model_errors(cls: type[TokloomError]) -> None:
    assert issubclass(cls, UsageError)
    assert issubclass(cls, errors.ModelError)
    assert not issubclass(UnsupportedModelError, UsageError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.0),
        ("seed", "7"),
        ("stop", ("",)),
        ("stop", (3,)),
    ],
)
def test_sampling_refuses_by_name_value_and_range(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        Sampling(**{name: value})
    assert caught.value.argument == name
    assert caught.value.valid in str(caught.value)
    assert repr(value) in str(caught.value)


def test_sampling_takes_one_stop_string_as_a_text() -> None:
    assert Sampling(stop="END").stop == ("END",)  # type: ignore[arg-type]
