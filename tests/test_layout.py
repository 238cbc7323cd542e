"""The layout of the package, read from its sources: methods stand on top and alone, and imports form no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "tokloom"
METHODS = ROOT / "methods"
FILES = sorted(ROOT.rglob("*.py"))

MAY_IMPORT_METHODS = frozenset({"__init__.py"})
"""Files outside methods/ that import from it, as paths below src/tokloom; others go through the registry."""

CIRCLES = [
    ["applicators", "assertions", "normal"],
    ["arrays", "compiler", "objects"],
]
"""The circles that there are, all in grammar/json_schema: a recursive translator, cut into files, tied by types."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def names_imported(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of this package, those for types and within functions included, as the full name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)


def modules_imported(path: Path) -> set[str]:
    found = set()
    for _, name in names_imported(path):
        inside = name if name in MODULES else name.rpartition(".")[0]
        if inside in MODULES and MODULES[inside] != path:
            found.add(inside)
    return found


def method_classes(path: Path) -> list[str]:
    return [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "method"
    ]


def holds_a_method(path: Path) -> bool:
    """Whether the file must: it lies in a stage's folder of methods, or is the `__init__.py` of a method's own."""
    parts = path.relative_to(METHODS).parts if path.is_relative_to(METHODS) else ()
    if len(parts) == 3:  # a method that is a folder
        return parts[-1] == "__init__.py"
    return len(parts) == 2 and not parts[-1].startswith("_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_methods_has_one_method_and_no_other_has_any(path: Path) -> None:
    assert len(method_classes(path)) == holds_a_method(path)


def test_nothing_below_imports_a_method() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for path in FILES
        if not path.is_relative_to(METHODS)
        for _, name in names_imported(path)
        if name == "tokloom.methods" or name.startswith("tokloom.methods.")
    }
    assert importing == MAY_IMPORT_METHODS


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which leads to all others of its group (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_ones: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        open_ones.append(node)
        for other in arrows[node]:
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in open_ones:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            group = open_ones[open_ones.index(node) :]
            del open_ones[open_ones.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in arrows:
        if node not in number:
            visit(node)
    return sorted(found)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_imports_form_no_circle_but_the_named() -> None:
    """Imports for annotations and within functions count too."""
    arrows = {name: modules_imported(path) for name, path in MODULES.items()}
    named = [[f"tokloom.grammar.json_schema.{name}" for name in group] for group in CIRCLES]
    assert circles(arrows) == named


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module)
def test_every_folder_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path))


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in FILES}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
