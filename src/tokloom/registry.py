"""Finds every method, reads its card without importing it, and builds it from a spec.

A method is a class decorated with `@method(stage=...)` in a file of its own; the file's stem is
the method's public name. Bundled methods lie in `tokloom/<stage>/`; other packages declare theirs
in the entry-point group `tokloom.methods` (``name = "package.module"``). Both go through the same
checks. Listing reads sources with `ast`, so that `tokloom methods` imports neither torch nor any
method.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tokloom.card import Card, read_card
from tokloom.errors import ArgumentError, CompositionError, SpecError, UnknownNameError
from tokloom.spec import format_spec, parse_spec

STAGES = ("tokenize", "context", "attention", "decode", "train", "vision", "evaluate")
ENTRY_POINT_GROUP = "tokloom.methods"

_DEFINED: dict[str, type] = {}  # every class that @method has seen, by public name

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(pydantic.Field,))
def method(*, stage: str, renamed: Mapping[str, str] | None = None) -> Any:
    """Declares a class as a method of `stage` and makes it a frozen, validated options dataclass.

    The class's annotated fields are its options; the string literal under a field documents it.
    The public name is the stem of the file that holds the class.

    renamed: former names of options with today's. They are still taken, with a DeprecationWarning, for one version.
    """
    if stage not in STAGES:
        raise ArgumentError("stage", stage, "one of " + ", ".join(STAGES))

    def declare(cls: C) -> C:
        config = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)
        options = pydantic_dataclass(frozen=True, config=config)(cls)
        name = cls.__module__.rpartition(".")[2]
        validated = options.__init__

        @functools.wraps(validated)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            for old in [old for old in renamed or {} if old in kwargs]:
                new = (renamed or {})[old]
                warnings.warn(f"{name}:{old} is called {new} now", DeprecationWarning, stacklevel=2)
                kwargs.setdefault(new, kwargs.pop(old))
            try:
                validated(self, *args, **kwargs)
            except pydantic.ValidationError as error:
                raise _refusal(options, error) from None

        options.__init__ = init  # type: ignore[method-assign]
        options.name = name  # type: ignore[attr-defined]
        options.stage = stage  # type: ignore[attr-defined]
        _DEFINED[name] = options
        return options  # type: ignore[return-value]

    return declare


@cache
def cards() -> dict[str, Card]:
    """All cards by name, in the order of the stages."""
    root = Path(__file__).parent
    found: dict[str, Card] = {}

    def add(card: Card | None) -> None:
        if card is None:
            return
        if card.name in found:
            raise SpecError(
                "method",
                card.name,
                f"a name that {found[card.name].module} has not taken",
                f"Rename the file {card.path}.",
            )
        found[card.name] = card

    for stage in STAGES:
        for path in _method_files(root / "methods" / stage):
            name = path.parent.name if path.name == "__init__.py" else path.stem
            add(read_card(path, f"tokloom.methods.{stage}.{name}"))
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = importlib.util.find_spec(entry.module)
        except ModuleNotFoundError:  # its parent package is missing
            spec = None
        if spec is None or spec.origin is None:
            raise SpecError(
                f"entry point {entry.name}",
                entry.value,
                "a module that can be imported",
                "Reinstall or remove the package that declares it.",
            )
        found_card = read_card(Path(spec.origin), entry.module)
        if found_card is None:
            raise SpecError(
                f"entry point {entry.name}",
                entry.value,
                "a module with a class under @method(stage=...)",
                "Correct or remove the package that declares it.",
            )
        add(found_card)
    return dict(sorted(found.items(), key=lambda item: (STAGES.index(item[1].stage), item[0])))


def _method_files(folder: Path) -> list[Path]:
    """The files of a stage that hold a method; a long one is a folder, whose `__init__.py` has the class."""
    found = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    return sorted(path for path in found if not path.name.startswith("_") or path.parent != folder)


def names(stage: str | None = None) -> list[str]:
    """Public names of all methods, or of one stage's."""
    if stage is not None and stage not in STAGES:
        raise UnknownNameError("stage", stage, STAGES)
    return [name for name, card in cards().items() if stage in (None, card.stage)]


def card(name: str) -> Card:
    """The card of one method. Raises UnknownNameError with the nearest names."""
    try:
        return cards()[name]
    except KeyError:
        raise UnknownNameError("method", name, cards(), "List them: tokloom methods.") from None


def get(name: str) -> type:
    """The class of one method; imports its module only."""
    if name not in _DEFINED:
        importlib.import_module(card(name).module)
    return _DEFINED[name]


def _refusal(cls: Any, error: pydantic.ValidationError) -> SpecError:
    """pydantic's complaint as a SpecError that names the option and what is valid."""
    first = error.errors()[0]
    types = {field.name: field.type for field in fields(cls)}
    where = first["loc"][0] if first["loc"] else ""
    key = list(types)[where] if isinstance(where, int) and where < len(types) else str(where)  # int: positional
    shown = {key: getattr(t, "__name__", str(t)) for key, t in types.items()}
    if key not in types:
        valid = ", ".join(f"{option} ({kind})" for option, kind in shown.items())
        near = UnknownNameError("option", key, types).suggestions
        hint = f"Did you mean {near[0]!r}?" if near else ""
        expected = f"an option of {cls.name}: {valid or 'it has none'}"
        return SpecError(f"{cls.name}:{key}", first["input"], expected, hint)
    expected = f"{shown[key]} ({first['msg']})"
    given = None if first["type"] == "missing" else first["input"]  # pydantic shows the whole call
    return SpecError(f"{cls.name}:{key}", given, expected, f"See: tokloom methods {cls.name}.")


def build(spec: str | T, expects: type[T], argument: str) -> T:
    """A component from a spec or from an object that already is one.

    Args:
        spec: ``"name:key=value,..."`` or an instance of `expects`.
        expects: the stage's interface.
        argument: what to call it in errors.

    Raises:
        UnknownNameError: no method of that name.
        SpecError: the method is of another kind, or an option is unknown or ill-typed.
    """
    if isinstance(spec, expects):
        return spec
    if not isinstance(spec, str):
        raise ArgumentError(argument, spec, f'a {expects.__name__} or a spec like "name:key=value"')
    name, options = parse_spec(spec)
    return make(name, options, expects, argument)


def make(name: str, options: dict[str, Any], expects: type[T], argument: str) -> T:
    """A component from its name and options. Raises as `build` does."""
    kind = expects.__name__
    alike = [n for n, c in cards().items() if c.kind == kind]
    if not alike:  # a base class of some methods of a kind, which their cards don't tell
        alike = [n for n in names(getattr(expects, "stage", None)) if issubclass(get(n), expects)]
    if name not in cards():
        raise UnknownNameError(kind, name, alike, f"List them: tokloom methods {getattr(expects, 'stage', '')}.")
    cls = get(name)
    if not issubclass(cls, expects):
        raise SpecError(argument, name, f"a {kind} ({', '.join(alike)}); {name} is a {card(name).kind}")
    return cls(**options)


def spec_of(component: Any) -> str:
    """The spec that builds this component again; only options that differ from the default."""
    changed = {}
    for field in fields(component):
        value = getattr(component, field.name)
        default = field.default
        if isinstance(default, pydantic.fields.FieldInfo):
            default = default.default
        if value != default:
            changed[field.name] = value
    name: str = component.name
    return format_spec(name, changed)


def check_needs(component: Any, gives: frozenset[str]) -> None:
    """Raises CompositionError, naming both sides, if a component needs what its stage does not give."""
    missing = sorted(set(component.needs) - gives)
    if missing:
        raise CompositionError(
            f"{component.name} (needs {', '.join(component.needs)})",
            f"the {component.stage} stage (gives {', '.join(sorted(gives))})",
            f"nothing gives {', '.join(missing)}",
        )
