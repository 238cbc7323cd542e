"""Import paths of version 0.1.0 that users may have written, and where they lead now. Goes with the next version.

Methods lay in their stage's folder, `tokloom.decode.json_schema`; they lie in `tokloom.methods.decode.json_schema`.
A stage's interfaces lay in `tokloom.<stage>.stage`. What users name is exported by `tokloom` itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

STAGES = ("attention", "context", "decode", "evaluate")

MODULES = {
    "attention.kv_layer": ("kv.layer",),
    "attention.kv_store": ("kv.store", "kv.step", "kv.precision"),
    "attention.selection_parts": ("attention.selection.parts",),
    "attention.stage": ("attention.policy", "models.rotary_scaling", "kv.keeper"),
    "attention.step": ("kv.step",),
    "context.stage": ("context.selector",),
    "decode.denoise": ("decode.denoiser",),
    "decode.stage": ("decode.prediction", "decode.drafter", "decode.constraint", "decode.search", "prepared"),
    "evaluate.stage": ("evaluate.task",),
    "models.encodings": ("tokenize.encodings",),
    "models.vocabulary": ("tokenize.vocabulary",),
}
"""Former modules, with those that have their names now."""


def _targets(name: str) -> tuple[str, ...]:
    """The modules that hold what `name`, a path below tokloom, held; empty if there was no such module."""
    if name in MODULES:
        return MODULES[name]
    stage, _, rest = name.partition(".")
    if stage in STAGES and rest and "." not in rest:
        folder = Path(__file__).parent / "methods" / stage
        if (folder / f"{rest}.py").exists() and not rest.startswith("_"):
            return (f"methods.{stage}.{rest}",)
    return ()


class _Loader(Loader):
    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = [f"tokloom.{target}" for target in targets]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        found = [importlib.import_module(target) for target in self._targets]
        if len(found) == 1:
            sys.modules[module.__name__] = found[0]  # the import system gives what stands there
        for each in found:
            module.__dict__.update({name: value for name, value in vars(each).items() if not name.startswith("__")})


class Finder(MetaPathFinder):
    """Asked last, so that it answers only for modules that are there no more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        targets = _targets(name) if package == "tokloom" else ()
        if not targets:
            return None
        where = " or ".join(f"tokloom.{target}" for target in targets)
        warnings.warn(f"{fullname} has moved to {where}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Loader(targets))


def install() -> None:
    """Lets `import` find former modules."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
