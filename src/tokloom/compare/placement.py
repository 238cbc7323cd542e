"""Where in an engine a compared method goes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tokloom import registry
from tokloom.decode.draft_source import DraftSource
from tokloom.engine.components import KINDS
from tokloom.errors import ArgumentError, SpecError, UnknownNameError
from tokloom.evaluate.peer import Peer, PeerEngine
from tokloom.spec import format_spec, parse_spec

if TYPE_CHECKING:
    from tokloom.decode.constraint import Constraint
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result, Score
    from tokloom.models.language_model import LanguageModel

PEER = "peer"
"""The place of other engines, which are rows of any stage."""

PLACES: dict[type, str] = {kind.cls(): kind.name for kind in KINDS if kind.compared} | {Peer: PEER}
"""Which argument of `Engine`, or for a constraint of `Engine.generate`, takes a method of which interface."""

PARTS: tuple[type, ...] = (DraftSource, *(kind.cls() for kind in KINDS if not kind.compared))
"""Interfaces of what is only a part of other methods."""

STAGES = ("context", "attention", "decode")
"""Stages whose methods can be compared: those that have a place in an engine."""

ALL = "all"
"""Stands for every method of the stage."""

PLAIN = "plain"
"""Stands for decoding without a predictor, drafter or constraint: the baseline of the decode stage."""

CONTROLS = {"attention": ("dense", "streaming_llm"), "decode": (PLAIN,)}
"""Rows that a stage's comparisons have whether they are asked for or not: a baseline, and what a method must beat."""


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: a method with its options.

    spec: the canonical spec, with the budget if it is not the default.
    label: the spec without the budget: what the rows of one method over several budgets share.
    place: a value of `PLACES`.
    component: the method; None for plain decoding, or if `error` says why it can't be made.
    """

    spec: str
    label: str
    budget: int | None
    place: str
    component: Any = field(default=None, compare=False)
    error: str | None = None


def contenders(stage: str, methods: Sequence[str], budgets: Sequence[int] | None = None) -> list[Contender]:
    """The rows of a comparison, methods in the given order, each over the budgets.

    "all" is every method of the stage. A method without an option `budget`, or whose spec names one, is one row. A
    budget that a method refuses is a row with an error.

    Raises:
        ArgumentError: an unknown stage, no methods, a budget below 1, or budgets that no method takes.
        UnknownNameError, SpecError: a method that does not exist, is of another stage, or an option it refuses.
    """
    if stage not in STAGES:
        raise UnknownNameError("stage to compare", str(stage), STAGES)
    if isinstance(methods, str) or not methods:
        raise ArgumentError("methods", methods, "one or more specs of methods", f"List them: tokloom methods {stage}.")
    if budgets is not None and (not budgets or not all(_count(budget) for budget in budgets)):
        raise ArgumentError("budgets", budgets, "one or more integers >= 1")
    found: dict[tuple[str, str, int | None], Contender] = {}
    for spec in itertools.chain.from_iterable(_every(stage) if spec == ALL else [spec] for spec in methods):
        for contender in _rows(stage, spec, list(dict.fromkeys(budgets or ()))):
            found.setdefault((contender.place, contender.spec, contender.budget), contender)
    rows = list(found.values())
    if budgets is not None and all(row.budget is None for row in rows):
        raise ArgumentError("budgets", list(budgets), "None: none of the methods has an option budget")
    return rows


def with_controls(stage: str, rows: Sequence[Contender]) -> list[Contender]:
    """The rows and the stage's controls, where they aren't among them: the first one, the baseline, before all others,
    further ones at every budget that another row has.

    Raises UnknownNameError if a control does not exist.
    """
    listed = {parse_spec(row.label)[0] for row in rows}
    budgets = sorted({row.budget for row in rows if row.budget is not None}, reverse=True)
    baseline, *others = CONTROLS.get(stage, ("",))
    before = _rows(stage, baseline, budgets) if baseline and baseline not in listed else ()
    after = [row for name in others if name not in listed for row in _rows(stage, name, budgets)]
    return [*before, *rows, *after]


def _every(stage: str) -> list[str]:
    """The methods of a stage, its controls first."""
    names = registry.names(stage)
    first = [name for name in CONTROLS.get(stage, ()) if name in names]
    return [*first, *(name for name in names if name not in first)]


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rows(stage: str, spec: str, budgets: list[int]) -> Iterable[Contender]:
    if not isinstance(spec, str):
        raise ArgumentError("methods", spec, 'specs like "name" or "name:key=value"')
    if stage == "decode" and spec == PLAIN:
        yield Contender(PLAIN, PLAIN, None, "drafter")
        return
    name, options = parse_spec(spec)
    card, cls = registry.card(name), registry.get(name)
    interface = next((i for i in PLACES if issubclass(cls, i)), None)
    if interface is None or (card.stage != stage and PLACES[interface] != PEER):
        hint = f"{name} is a {card.kind} of the stage {card.stage}."
        raise SpecError("methods", spec, f"methods of the stage {stage} ({', '.join(registry.names(stage))})", hint)
    place = PLACES[interface]
    if "budget" not in {field.name for field in fields(cls)} or "budget" in options or not budgets:
        yield _contender(registry.make(name, options, interface, "methods"), place)
        return
    rows: list[Contender] = []
    refusals: list[SpecError] = []
    for budget in budgets:
        chosen = {**options, "budget": budget}
        try:
            rows.append(_contender(registry.make(name, chosen, interface, "methods"), place))
        except SpecError as refusal:
            refusals.append(refusal)
            label = format_spec(name, options)
            rows.append(Contender(format_spec(name, chosen), label, budget, place, error=str(refusal)))
    if len(refusals) == len(budgets):
        # A refused budget is a finding and gets a row; an option that is wrong whatever the budget is a wrong call.
        try:
            registry.make(name, options, interface, "methods")
        except SpecError:
            raise refusals[0] from None
    yield from rows


def _contender(component: Any, place: str) -> Contender:
    spec = registry.spec_of(component)
    name, options = parse_spec(spec)
    options.pop("budget", None)
    return Contender(spec, format_spec(name, options), getattr(component, "budget", None), place, component)


class Constrained:
    """An engine all of whose generations obey a constraint; what a task needs of an engine, no more."""

    def __init__(self, engine: Engine, constraint: Constraint) -> None:
        self._engine, self._constraint = engine, constraint
        self.model = engine.model

    def generate(self, *args: Any, **kwargs: Any) -> Result:
        return self._engine.generate(*args, **{**kwargs, "constraint": self._constraint})

    def score(self, *args: Any, **kwargs: Any) -> Score:
        return self._engine.score(*args, **kwargs)


def engine_for(
    model: LanguageModel, contender: Contender, others: Mapping[str, Any]
) -> Engine | Constrained | PeerEngine:
    """An engine on a loaded model with the contender in its place and `others` as further arguments of `Engine`.

    Raises:
        CompositionError: the contender and what it would work with can't be combined.
    """
    from tokloom.engine.engine import Engine

    if contender.place == PEER:
        return PeerEngine(model, contender.component)
    if contender.place == "constraint":
        return Constrained(Engine(model, **others), contender.component)
    return Engine(model, **{**others, contender.place: contender.component})


def fixed_parts(contender: Contender, others: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Engine` that are the same for all contenders of this place; other engines have none."""
    if contender.place == PEER:
        return {}
    return {name: value for name, value in others.items() if name != contender.place}
