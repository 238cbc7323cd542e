"""`make new` writes a method of each kind that the registry can read, and a test that fails until it is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tokloom import registry
from tokloom.card import read_card
from tokloom.errors import ArgumentError, UnknownNameError

SCRIPT = Path(__file__).parents[1] / "tools" / "new_method.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_method", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NEW = script()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stage in NEW.KINDS:
        (tmp_path / "src" / "tokloom" / "methods" / stage).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("stage", "kind"), [(stage, kind) for stage, kinds in NEW.KINDS.items() for kind in kinds])
def test_each_kind_is_read_back(stage: str, kind: str, root: Path) -> None:
    method, test = NEW.write(stage, "brand_new", kind, root)
    card = read_card(method, f"tokloom.methods.{stage}.brand_new")
    assert card is not None
    assert (card.name, card.stage) == ("brand_new", stage)
    assert card.kind == {"Evicting": "AttentionPolicy", "Selecting": "AttentionPolicy"}.get(kind, kind)
    compile(method.read_text(encoding="utf-8"), str(method), "exec")
    assert "pytest.fail" in test.read_text(encoding="utf-8")


def test_every_kind_that_has_methods_is_offered() -> None:
    offered = {kind for kinds in NEW.KINDS.values() for kind in kinds}
    assert {card.kind for card in registry.cards().values()} <= offered


@pytest.mark.parametrize(
    ("stage", "name", "kind", "error"),
    [
        ("nowhere", "brand_new", "", UnknownNameError),
        ("attention", "Brand-New", "", ArgumentError),
        ("attention", "h2o", "", ArgumentError),
        ("attention", "brand_new", "Drafter", UnknownNameError),
    ],
)
def test_what_can_not_be_is_refused(stage: str, name: str, kind: str, error: type[Exception], root: Path) -> None:
    with pytest.raises(error):
        NEW.write(stage, name, kind, root)
    assert not list(root.rglob("*.py"))


def test_nothing_is_overwritten(root: Path) -> None:
    method, _ = NEW.write("attention", "brand_new", root=root)
    method.write_text("mine", encoding="utf-8")
    with pytest.raises(ArgumentError, match="brand_new"):
        NEW.write("attention", "brand_new", root=root)
    assert method.read_text(encoding="utf-8") == "mine"
