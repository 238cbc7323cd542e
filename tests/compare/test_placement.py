"""Where compared methods go, and which rows a comparison has."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom import registry
from tokloom.compare.placement import (
    CONTROLS,
    PARTS,
    PLACES,
    Constrained,
    contenders,
    engine_for,
    fixed_parts,
    with_controls,
)
from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError, SpecError, UnknownNameError
from tokloom.methods.decode.choices import Choices


def rows(*args: Any) -> list[tuple[str, str, int | None]]:
    return [(row.spec, row.label, row.budget) for row in contenders(*args)]


def test_every_comparable_method_has_a_place() -> None:
    """All methods of the three stages can be compared; a new interface there needs a line in PLACES, or in PARTS if
    its methods serve others only."""
    interfaces = {interface.__name__ for interface in (*PLACES, *PARTS)}
    for stage in ("context", "attention", "decode"):
        for name in registry.names(stage):
            assert registry.card(name).kind in interfaces, name


def test_a_row_per_budget() -> None:
    assert rows("attention", ["dense", "h2o", "token_select:local=8"], [64, 512]) == [
        ("dense", "dense", None),
        ("h2o:budget=64", "h2o", 64),
        ("h2o", "h2o", 512),  # 512 is its default
        ("token_select:budget=64,local=8", "token_select:local=8", 64),
        ("token_select:budget=512,local=8", "token_select:local=8", 512),
    ]


def test_a_budget_of_its_own() -> None:
    assert rows("attention", ["h2o:budget=100", "h2o"], [64]) == [
        ("h2o:budget=100", "h2o", 100),
        ("h2o:budget=64", "h2o", 64),
    ]
    assert rows("attention", ["h2o"]) == [("h2o", "h2o", 512)]


def test_the_same_row_once() -> None:
    assert len(rows("attention", ["h2o", "h2o:recent=0.5"], [64, 64])) == 1


def test_a_refused_budget_is_a_row() -> None:
    good, bad = contenders("attention", ["token_select"], [128, 32])
    assert good.error is None
    assert bad.component is None
    assert bad.budget == 32
    assert "token_select:budget=32" in str(bad.error)
    (only,) = contenders("attention", ["token_select"], [32])
    assert only.error == bad.error


def test_places() -> None:
    assert {row.place for row in contenders("attention", registry.names("attention"))} == {"attention", "rope"}
    (row,) = contenders("decode", ["token_recycling"])
    assert (row.place, row.component.name) == ("drafter", "token_recycling")
    (row,) = contenders("decode", ['choices:options=["a","b"]'])
    assert (row.place, row.component) == ("constraint", Choices(options=("a", "b")))
    (row,) = contenders("decode", ["plain"])
    assert (row.place, row.component, row.label) == ("drafter", None, "plain")


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (("vision", ["x"]), UnknownNameError, "no stage to compare named 'vision'"),
        (("attention", []), ArgumentError, "methods="),
        (("attention", "dense"), ArgumentError, "methods="),
        (("attention", [3]), ArgumentError, "methods=3"),
        (("attention", ["h2p"]), UnknownNameError, "Did you mean 'h2o'"),
        (("attention", ["token_recycling"]), SpecError, "is a Drafter of the stage decode"),
        (("attention", ["plain"]), UnknownNameError, "no method named 'plain'"),
        (("attention", ["h2o:recnt=1"]), SpecError, "h2o:recnt.*recent"),
        (("attention", ["h2o:recnt=1"], [64]), SpecError, "h2o:recnt"),
        (("attention", ["h2o:recent=2"], [64, 128]), SpecError, "h2o:recent"),
        (("attention", ["h2o"], [0]), ArgumentError, "budgets="),
        (("attention", ["h2o"], []), ArgumentError, "budgets="),
        (("attention", ["h2o"], [True]), ArgumentError, "budgets="),
        (("attention", ["dense"], [64]), ArgumentError, "none of the methods has an option budget"),
    ],
)
def test_wrong_calls(args: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        contenders(*args)


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method goes to its own argument, the fixed parts to theirs; a constraint goes to every generation."""
    made: list[dict[str, Any]] = []

    def make(model: FakeModel, **parts: Any) -> FakeEngine:
        made.append(parts)
        return FakeEngine(model)

    monkeypatch.setattr("tokloom.engine.engine.Engine", make)
    others = {"attention": "dense", "prefill_chunk": 64}
    h2o, drafter, constraint = (
        contenders(stage, [spec])[0]
        for stage, spec in (("attention", "h2o"), ("decode", "token_recycling"), ("decode", 'choices:options=["a"]'))
    )
    model: Any = FakeModel()
    for row in (h2o, drafter):
        engine_for(model, row, others)
    assert made == [
        {"attention": h2o.component, "prefill_chunk": 64},
        {"attention": "dense", "prefill_chunk": 64, "drafter": drafter.component},
    ]
    engine = engine_for(model, constraint, others)
    assert isinstance(engine, Constrained)
    assert made[2] == others
    engine.generate("x", sampling=Sampling())
    assert engine._engine.calls[0][1]["constraint"] == constraint.component  # type: ignore[attr-defined]
    assert engine.score("x", "y").ranks == (0,)
    assert fixed_parts(h2o, others) == {"prefill_chunk": 64}
    assert fixed_parts(constraint, others) == others


def test_all_methods_of_a_stage() -> None:
    names = [row.label for row in contenders("attention", ["all"], [1024])]
    assert names[:2] == list(CONTROLS["attention"])
    assert sorted(names) == sorted(registry.names("attention"))


def specs(*args: Any) -> list[str]:
    return [row.spec for row in with_controls(args[0], contenders(*args))]


def test_controls_are_added() -> None:
    """The baseline in front, the other at every budget of a row; none where they are listed."""
    assert specs("attention", ["h2o:budget=100", "token_select"], [200]) == [
        "dense", "h2o:budget=100", "token_select:budget=200", "streaming_llm:budget=200", "streaming_llm:budget=100",
    ]  # fmt: skip
    assert specs("attention", ["h2o", "streaming_llm:budget=64", "dense"], [200]) == [
        "h2o:budget=200", "streaming_llm:budget=64", "dense",
    ]  # fmt: skip
    assert specs("decode", ["token_recycling"]) == ["plain", "token_recycling"]
    assert specs("decode", ["token_recycling", "plain"]) == ["token_recycling", "plain"]
    assert specs("context", ["top_k"]) == ["top_k"]
