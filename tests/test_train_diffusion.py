"""The training script of examples: an interrupted training goes on to the very weights of one that was not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent.parent / "examples/train_diffusion.py"
SMALL = ["--steps", "6", "--vocabulary", "258", "--width", "32", "--layers", "1", "--length", "16", "--batch", "2"]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_diffusion", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train_diffusion.py", str(text), "--out", str(out), *SMALL, *more])
    script.main()


def test_goes_on_where_it_was_interrupted(
    script: ModuleType, alice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(alice[2000:6000], encoding="utf-8")
    run(script, text, tmp_path / "whole", monkeypatch)
    monkeypatch.setattr(script, "SAVE_EVERY", 0.0)
    true_loss, calls = script.loss_of, 0

    def breaks(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (4, 12):  # once in each model
            raise KeyboardInterrupt
        return true_loss(*arguments)

    monkeypatch.setattr(script, "loss_of", breaks)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(script, text, tmp_path / "parts", monkeypatch)
    with pytest.raises(SystemExit, match="other options"):
        run(script, text, tmp_path / "parts", monkeypatch, "--rate", "0.5")
    run(script, text, tmp_path / "parts", monkeypatch)
    for name in ("diffusion", "guide"):
        whole, parts = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(bool((whole[key] == parts[key]).all()) for key in whole)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["diffusion", "guide"]
