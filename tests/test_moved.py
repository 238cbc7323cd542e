"""What users name is exported by the package; import paths of version 0.1.0 still lead there, with a warning."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import tokloom


@pytest.mark.parametrize("name", [name for name in tokloom.__all__ if name != "__version__"])
def test_exported_names_are_there_and_typed(name: str) -> None:
    assert getattr(tokloom, name).__name__ == name
    tree = ast.parse(Path(tokloom.__file__).read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert name in typed


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("decode.json_schema", "JsonSchema"),
        ("decode.regex", "Regex"),
        ("decode.grammar", "ContextFree"),
        ("decode.choices", "Choices"),
        ("decode.structural_tag", "StructuralTag"),
        ("attention.h2o", "H2O"),
        ("attention.stage", "AttentionPolicy"),
        ("attention.stage", "RotaryScaling"),
        ("decode.stage", "Drafter"),
        ("decode.stage", "Predictor"),
        ("decode.stage", "Prepared"),
        ("context.stage", "Document"),
        ("evaluate.stage", "Task"),
        ("attention.kv_layer", "KVLayer"),
        ("models.vocabulary", "Vocabulary"),
    ],
)
def test_former_paths_lead_to_the_same_class(old: str, name: str) -> None:
    import sys

    sys.modules.pop(f"tokloom.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"tokloom\.{old} has moved to tokloom\."):
        module = importlib.import_module(f"tokloom.{old}")
    found = getattr(module, name)
    assert found is getattr(importlib.import_module(found.__module__), name)
    assert inspect.getmodule(found).__name__ == found.__module__  # the real module is as it was


@pytest.mark.parametrize(
    "path", ["decode.no_such_method", "decode._covers", "nowhere.stage", "attention.selection.nope"]
)
def test_what_never_was_is_not_found(path: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"tokloom.{path}")


def test_a_former_name_of_an_option_is_still_taken() -> None:
    from tokloom.registry import build

    with pytest.warns(DeprecationWarning, match="ems:least is called min_share now"):
        old = build("ems:least=0.5", tokloom.AttentionPolicy, "attention")
    assert old == build("ems:min_share=0.5", tokloom.AttentionPolicy, "attention")
