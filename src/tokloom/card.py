"""What a method says of itself, read from its source with `ast`, so that nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokloom.errors import SpecError

SECTIONS = ("Paper", "Formula", "Shapes", "Effect", "Differs")

_PAPER = re.compile(r"(?:P(?P<number>\d+)\. )?(?P<title>.+?)\.? arXiv:(?P<arxiv>\d{4}\.\d{4,5})", re.S)
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):", re.M)


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
    its arXiv id, `kind` the interface that it implements, found through its base classes.
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


@dataclass(frozen=True)
class _Source:
    """A parsed file, and the module that it is."""

    path: Path
    module: str

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def imports(self) -> dict[str, tuple[str, str]]:
        """The module and the name there, "" for a module as a whole, of every name that is imported."""
        found: dict[str, tuple[str, str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.asname: (alias.name, "") for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom):
                package = self.module.split(".")
                if self.path.name == "__init__.py":
                    package.append("__init__")
                before = package[: -node.level] if node.level else []
                module = ".".join([*before, *([node.module] if node.module else [])])
                found |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
        return found

    def other(self, module: str) -> _Source | None:
        """Another module of this one's package, or of tokloom."""
        package, *rest = module.split(".")
        root = Path(__file__).parent
        if package != "tokloom":
            if package != self.module.split(".")[0]:
                return None
            up = self.module.count(".") - (self.path.name != "__init__.py")
            root = self.path.parents[up] if up >= 0 else self.path.parent
        for path in (root.joinpath(*rest).with_suffix(".py"), root.joinpath(*rest, "__init__.py")):
            if path.is_file():
                return _Source(path, module)
        return None

    def find(self, name: str) -> tuple[ast.ClassDef, _Source] | None:
        """The class that is called so in this file, wherever it is defined."""
        if name in self.classes():
            return self.classes()[name], self
        head, _, attribute = name.partition(".")
        module, imported = self.imports().get(head, ("", ""))
        if attribute:  # policy.AttentionPolicy
            module, imported = f"{module}.{imported}".rstrip("."), attribute
        source = self.other(module) if module and imported else None
        return source.find(imported) if source is not None and source.path != self.path else None

    def bases(self, node: ast.ClassDef) -> list[tuple[ast.ClassDef, _Source]]:
        """Definitions of the bases, those that can be found."""
        found = [self.find(ast.unparse(base)) for base in node.bases]
        return [base for base in found if base is not None]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _interface(node: ast.ClassDef, source: _Source) -> str | None:
    """The interface that a class derives from: the class whose body says its `stage`. Of several, that of the last
    base."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "stage":
            return node.name
    for base, where in reversed(source.bases(node)):
        found = _interface(base, where)
        if found is not None:
            return found
    return None


def _all_options(node: ast.ClassDef, source: _Source) -> tuple[Option, ...]:
    """The options of a class, after those of bases whose fields are options; its own take the place of a base's."""
    found: dict[str, Option] = {}
    for base, where in source.bases(node):
        if "dataclass" in map(_called, base.decorator_list):
            found |= {option.name: option for option in _all_options(base, where)}
    found |= {option.name: option for option in _options(node)}
    return tuple(found.values())


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
    """The card of the method in a source file; None if the file declares no method.

    Raises SpecError if the method derives from no interface that can be found.
    """
    if "method(" not in path.read_text(encoding="utf-8"):
        return None
    source = _Source(path, module)
    tree = source.tree
    found = _method_class(tree)
    if found is None:
        return None
    node, stage = found
    kind = _interface(node, source)
    if kind is None:
        bases = ", ".join(ast.unparse(base) for base in node.bases) or "nothing"
        raise SpecError(
            f"the method in {path}",
            f"class {node.name}, derived from {bases}",
            "a class whose bases lead to an interface, such as AttentionPolicy or Drafter",
            "Name the interface as the last base, imported from tokloom.",
        )
    summary, sections = _sections(ast.get_docstring(tree) or ast.get_docstring(node) or "")
    paper = " ".join(sections.get("Paper", "").split())
    match = _PAPER.match(paper)
    return Card(
        name=module.rpartition(".")[2],
        stage=stage,
        kind=kind,
        summary=summary,
        paper=int(match["number"]) if match and match["number"] else None,
        arxiv=match["arxiv"] if match else None,
        title=match["title"] if match else paper,
        effect=" ".join(sections.get("Effect", "").split()),
        sections=sections,
        options=_all_options(node, source),
        module=module,
        path=str(path),
    )
