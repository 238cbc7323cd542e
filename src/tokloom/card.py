"""What a method says of itself, read from its source with `ast`, so that nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
    if module == "tokloom":  # one of the names that it exports
        import tokloom

        module = tokloom._EXPORTS.get(name, "")
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
        name=module.rpartition(".")[2],
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
