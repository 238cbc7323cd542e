"""Finds every method, reads its card without importing it, and builds it from a spec.

A method is a class decorated with `@method(stage=...)` in a file of its own; the file's stem is
the method's public name. Bundled methods lie in `tokloom/<stage>/`; other packages declare theirs
in the entry-point group `tokloom.methods` (``name = "package.module"``). Both go through the same
checks. Listing reads sources with `ast`, so that `tokloom methods` imports neither torch nor any
method.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tokloom.errors import ArgumentError, CompositionError, SpecError, UnknownNameError

STAGES = ("tokenize", "context", "attention", "decode", "train", "vision", "evaluate")
ENTRY_POINT_GROUP = "tokloom.methods"
SECTIONS = ("Paper", "Formula", "Shapes", "Effect", "Differs")

_PAPER = re.compile(r"(?:P(?P<number>\d+)\. )?(?P<title>.+?)\.? arXiv:(?P<arxiv>\d{4}\.\d{4,5})", re.S)
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):", re.M)
_DEFINED: dict[str, type] = {}  # every class that @method has seen, by public name

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(pydantic.Field,))
def method(*, stage: str) -> Any:
    """Declares a class as a method of `stage` and makes it a frozen, validated options dataclass.

    The class's annotated fields are its options; the string literal under a field documents it.
    The public name is the stem of the file that holds the class.
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


@dataclass(frozen=True)
class Option:
    """One option of a method, as written in its source."""

    name: str
    type: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class Card:
    """What a method says of itself.

    `paper` is its number in the catalogue (None for a baseline or a paper outside it), `arxiv`
    its arXiv id, `kind` the interface that it implements (the name of its last base class).
    """

    name: str
    stage: str
    kind: str
    summary: str
    paper: int | None
    arxiv: str | None
    title: str
    effect: str
    sections: dict[str, str]
    options: tuple[Option, ...]
    module: str
    path: str

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "stage": self.stage,
            "kind": self.kind,
            "paper": f"P{self.paper}" if self.paper is not None else None,
            "arxiv": self.arxiv,
            "title": self.title,
            "summary": self.summary,
            "effect": self.effect,
            "sections": self.sections,
            "options": [vars(option) for option in self.options],
        }


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _method_class(tree: ast.Module) -> tuple[ast.ClassDef, str] | None:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("method"):
                for keyword in decorator.keywords:
                    if keyword.arg == "stage":
                        return node, str(_literal(keyword.value))
    return None


def _default_source(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Field"):
        if node.args:
            return ast.unparse(node.args[0])
        for keyword in node.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
            if keyword.arg == "default_factory":
                return ast.unparse(keyword.value) + "()"
        return None
    return ast.unparse(node) if node is not None else None


def _all_options(node: ast.ClassDef, tree: ast.Module) -> tuple[Option, ...]:
    """The options of a class, after those of bases that it imports; its own take the place of a base's."""
    found: dict[str, Option] = {}
    imported = {
        alias.asname or alias.name: (item.module, alias.name)
        for item in tree.body
        if isinstance(item, ast.ImportFrom) and item.module and not item.level
        for alias in item.names
    }
    for base in node.bases:
        module, name = imported.get(ast.unparse(base), ("", ""))
        for inherited, whole in _base(module, name):
            found |= {option.name: option for option in _all_options(inherited, whole)}
    found |= {option.name: option for option in _options(node)}
    return tuple(found.values())


@cache
def _base(module: str, name: str) -> list[tuple[ast.ClassDef, ast.Module]]:
    """The definition of a base class in this package, if it is one whose fields are options."""
    package, _, path = module.partition(".")
    if package != "tokloom":
        return []
    tree = ast.parse((Path(__file__).parent / (path.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    return [
        (node, tree)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name and "dataclass" in map(_called, node.decorator_list)
    ]


def _called(decorator: ast.expr) -> str:
    name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
    return "dataclass" if name.endswith("dataclass") else name


def _options(node: ast.ClassDef) -> Iterator[Option]:
    for i, item in enumerate(node.body):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        kind = ast.unparse(item.annotation)
        if kind.startswith("ClassVar"):
            continue
        doc = ""
        if i + 1 < len(node.body):
            after = node.body[i + 1]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                doc = " ".join(str(after.value.value).split())
        yield Option(item.target.id, kind, _default_source(item.value), doc)


def _sections(docstring: str) -> tuple[str, dict[str, str]]:
    parts = _SECTION.split(docstring)
    summary = " ".join(parts[0].split())
    texts = {}
    for head, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip("\n").splitlines()
        texts[head] = "\n".join(line.strip() if i == 0 else line for i, line in enumerate(lines)).strip()
    return summary, texts


def read_card(path: Path, module: str) -> Card | None:
    """The card of the method in a source file; None if the file declares no method."""
    source = path.read_text(encoding="utf-8")
    if "method(" not in source:
        return None
    tree = ast.parse(source)
    found = _method_class(tree)
    if found is None:
        return None
    node, stage = found
    summary, sections = _sections(ast.get_docstring(tree) or ast.get_docstring(node) or "")
    paper = " ".join(sections.get("Paper", "").split())
    match = _PAPER.match(paper)
    return Card(
        name=path.stem,
        stage=stage,
        kind=ast.unparse(node.bases[-1]).rpartition(".")[2] if node.bases else "",
        summary=summary,
        paper=int(match["number"]) if match and match["number"] else None,
        arxiv=match["arxiv"] if match else None,
        title=match["title"] if match else paper,
        effect=" ".join(sections.get("Effect", "").split()),
        sections=sections,
        options=_all_options(node, tree),
        module=module,
        path=str(path),
    )


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
        for path in sorted((root / stage).glob("*.py")):
            add(read_card(path, f"tokloom.{stage}.{path.stem}"))
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


def _split(text: str, separator: str) -> list[str] | None:
    """Splits at separators that lie outside brackets and double quotes; None if those don't close."""
    parts, depth, quoted, escaped, start = [], 0, False, False, 0
    for i, char in enumerate(text):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
            if depth < 0:
                return None
        elif char == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth or quoted:
        return None
    parts.append(text[start:])
    return parts


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``"name:key=value,key=value"`` as (name, options). A value in [, { or " is read as JSON, null as None."""
    name, _, rest = spec.partition(":")
    name = name.strip()
    if not name:
        raise SpecError("spec", spec, 'a text like "name" or "name:key=value,key=value"')
    options: dict[str, Any] = {}
    parts = _split(rest, ",") if rest.strip() else []
    if parts is None:
        raise SpecError("spec", spec, "brackets and quotes that close", "Put a text with brackets in double quotes.")
    for part in parts:
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier():
            raise SpecError("spec", spec, f'options like "key=value" after the colon, not {part!r}')
        if key in options:
            raise SpecError("spec", spec, f"each option once; {key!r} is given twice")
        if value[:1] in ("[", "{", '"'):
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise SpecError(f"{name}:{key}", value, f"JSON ({error})") from None
        else:
            options[key] = None if value == "null" else value
    return name, options


def split_specs(text: str) -> list[str]:
    """``"a,b:x=1,y=2,c"`` as the specs a, b:x=1,y=2 and c. Raises SpecError if one of them is empty."""
    parts = _split(text, ",")
    if parts is None:
        raise SpecError("specs", text, "brackets and quotes that close", "Put a text with brackets in double quotes.")
    specs: list[str] = []
    for part in parts:
        key, equals, _ = part.partition("=")
        if specs and equals and ":" not in key:  # a further option of the spec before
            specs[-1] += f",{part}"
        else:
            specs.append(part.strip())
    if not all(specs):
        raise SpecError("specs", text, 'specs like "name" or "name:key=value", separated by commas')
    return specs


def format_spec(name: str, options: dict[str, Any]) -> str:
    """The spec that `parse_spec` reads as these options (numbers come back as texts)."""
    values = []
    for key, value in options.items():
        plain = isinstance(value, str) and value == value.strip() and value != "null"
        if not plain or set(value) & set(',=:"[](){}'):
            value = json.dumps(value, ensure_ascii=False, default=str)
        values.append(f"{key}={value}")
    return name + (":" + ",".join(values) if values else "")


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
    return SpecError(f"{cls.name}:{key}", first["input"], expected, f"See: tokloom methods {cls.name}.")


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
