"""Writes the two files of a new method: `make new STAGE=attention NAME=recent_only [KIND=Evicting]`.

The method's class has the hooks of its interface to fill in, and the test fails until it shows something. Nothing that
is there is overwritten.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

from tokloom import registry
from tokloom.errors import ArgumentError, TokloomError, UnknownNameError

ROOT = Path(__file__).parent.parent

KINDS = {
    "attention": {
        "AttentionPolicy": "tokloom.attention.policy",
        "Evicting": "tokloom.attention.eviction",
        "Selecting": "tokloom.attention.selection.selecting",
        "RotaryScaling": "tokloom.models.rotary_scaling",
    },
    "context": {"ContextSelector": "tokloom.context.selector"},
    "decode": {
        "Drafter": "tokloom.decode.drafter",
        "Predictor": "tokloom.decode.prediction",
        "Constraint": "tokloom.decode.constraint",
        "Search": "tokloom.decode.search",
        "Verifier": "tokloom.decode.search",
        "Denoiser": "tokloom.decode.denoiser",
        "DenoisingCache": "tokloom.decode.denoiser",
        "DraftSource": "tokloom.decode.draft_source",
    },
    "evaluate": {"Task": "tokloom.evaluate.task", "Peer": "tokloom.evaluate.peer"},
}
"""What a method of each stage may derive from, the usual one first, with its module."""

METHOD = '''"""One sentence that says what it does.

Paper: P0. Title. arXiv:0000.00000
Formula: what is computed, in the paper's symbols.
Shapes: of what the formula names.
Effect: what the paper claims and what the test shows, in 60 words at most.
Differs: where it departs from the paper, and why.
"""

from __future__ import annotations

{imports}


@method(stage="{stage}")
class {cls}({kind}):
    """What it is, in a line."""
{hooks}'''

TEST = '''"""{name}: equality with its formula written out slowly, its effect with its control, bad options."""

from __future__ import annotations

import pytest


def test_it_is_what_the_formula_says() -> None:
    pytest.fail("Write the formula out slowly and compare with it.")


@pytest.mark.model
def test_the_effect_holds_and_its_control_does_not() -> None:
    pytest.fail("Show the paper's effect on a real model, beside the control that must not show it.")
'''


def write(stage: str, name: str, kind: str = "", root: Path = ROOT) -> tuple[Path, Path]:
    """Writes the files and returns their paths. Raises ArgumentError or UnknownNameError for what can't be."""
    if stage not in KINDS:
        raise UnknownNameError("stage with methods", stage, KINDS)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ArgumentError("NAME", name, "a name of small letters, digits and underscores", "It names the file too.")
    if name in registry.names():
        raise ArgumentError("NAME", name, "a name that no other method has")
    kind = kind or next(iter(KINDS[stage]))
    if kind not in KINDS[stage]:
        raise UnknownNameError(f"kind of the stage {stage}", kind, KINDS[stage])
    method = root / "src" / "tokloom" / "methods" / stage / f"{name}.py"
    test = root / "tests" / "methods" / stage / f"test_{name}.py"
    for path in (method, test):
        if path.exists():
            raise ArgumentError("NAME", name, f"a name whose file is not there yet: {path}")
    hooks, imports = _hooks(kind, KINDS[stage][kind])
    cls = "".join(part.capitalize() for part in name.split("_"))
    method.write_text(METHOD.format(stage=stage, cls=cls, kind=kind, hooks=hooks, imports=imports), encoding="utf-8")
    test.parent.mkdir(parents=True, exist_ok=True)
    test.write_text(TEST.format(name=name), encoding="utf-8")
    return method, test


def _hooks(kind: str, module: str) -> tuple[str, str]:
    """The abstract methods of an interface, to be filled in, and the imports that a method file of it needs."""
    cls = getattr(importlib.import_module(module), kind)
    parts, used = [], ""
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        hook = inspect.getattr_static(cls, name)
        source = inspect.getsource(hook.fget if isinstance(hook, property) else hook)
        node = ast.parse(textwrap.dedent(source)).body[0]
        assert isinstance(node, ast.FunctionDef)
        node.decorator_list = [each for each in node.decorator_list if ast.unparse(each) != "abstractmethod"]
        node.body = [ast.parse(f'raise NotImplementedError("{name}")').body[0]]
        text = ast.unparse(node)
        used += text
        parts.append("\n" + textwrap.indent(text, "    ") + "\n")
    return "".join(parts), "\n".join([*_imports(module, used), "", f"from {module} import {kind}", _METHOD])


_METHOD = "from tokloom.registry import method"


def _imports(module: str, used: str) -> list[str]:
    """Imports of the interface's own module whose names the hooks use, annotations included."""
    tree = ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8"))
    lines = []
    for node in ast.walk(tree):
        if (isinstance(node, ast.ImportFrom) and node.module != "__future__") or isinstance(node, ast.Import):
            names = [a for a in node.names if re.search(rf"\b{re.escape(a.asname or a.name)}\b", used)]
            if names:
                node.names = names
                lines.append(ast.unparse(node))
    own = [each.name for each in tree.body if isinstance(each, ast.ClassDef) and re.search(rf"\b{each.name}\b", used)]
    if own:
        lines.append(f"from {module} import {', '.join(own)}")
    return lines


def main(arguments: list[str]) -> int:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    try:
        paths = write(given.get("STAGE", ""), given.get("NAME", ""), given.get("KIND", ""))
    except TokloomError as error:
        print(error, file=sys.stderr)
        return 2
    print("wrote", *(path.relative_to(ROOT) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
