"""Calibrations in the cache directory: made once, anew when damaged and when the code that makes them is another."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests import tiny_models
from tokloom import registry
from tokloom.attention.calibration import code_of, modules_of
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.engine.forward import calibrated
from tokloom.methods.attention.fasa import FASA, DominantChunks
from tokloom.models.language_model import LanguageModel

MODULE = """
from tokloom.attention.policy import AttentionPolicy

class Elsewhere(AttentionPolicy):
    name = "elsewhere"
    calibration_key = "elsewhere"

    def calibrate(self, layer, queries):
        return {"value": queries.new_full((1,), VALUE)}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    return tmp_path / "calibrations"


@pytest.fixture
def model() -> LanguageModel:
    """One that no request has used yet, so that its attention is still transformers' own."""
    return tiny_models.build_llama()


def again(model: LanguageModel, policy: AttentionPolicy) -> Calibration:
    """As a later process finds it."""
    model.calibrations.clear()
    return calibrated(model, policy)


def same(one: Calibration, other: Calibration) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in (*a, *b))


def test_made_once(cache: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calibrated(model, FASA())
    (path,) = cache.iterdir()
    monkeypatch.setattr(DominantChunks, "finish_calibration", None)  # a second time it is not asked
    assert same(again(model, FASA(budget=64)), made)
    assert list(cache.iterdir()) == [path]


def test_a_damaged_file_is_made_anew(cache: Path, model: LanguageModel) -> None:
    made = calibrated(model, FASA())
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert same(again(model, FASA()), made)
    assert path.stat().st_size > 100


def test_another_model_has_its_own(cache: Path, model: LanguageModel) -> None:
    calibrated(model, FASA())
    calibrated(tiny_models.build_qwen3(), FASA())
    assert len(list(cache.iterdir())) == 2


def from_elsewhere(path: Path, value: int, monkeypatch: pytest.MonkeyPatch) -> AttentionPolicy:
    """A policy of another package, as a process sees it that is started after its file was written."""
    path.write_text(MODULE.replace("VALUE", str(value)))
    module = ModuleType("elsewhere")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    code_of.cache_clear()
    exec(compile(path.read_text(), path, "exec"), vars(module))
    policy: AttentionPolicy = module.Elsewhere()
    return policy


def test_changed_code_makes_it_anew(cache: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache.parent / "elsewhere.py"
    for value, files in ((1, 1), (2, 2), (1, 2)):
        found = again(model, from_elsewhere(file, value, monkeypatch))
        assert [float(part["value"]) for part in found] == [value] * 3
        assert len(list(cache.iterdir())) == files


def test_every_file_of_the_package_counts(tmp_path: Path) -> None:
    codes = []
    for text in ("one = 1", "one = 2", "one = 1"):
        (tmp_path / "scores.py").write_text(text)
        code_of.cache_clear()
        codes.append(code_of((), (tmp_path,)))
    assert codes[0] == codes[2] != codes[1]


def test_the_code_of_parts_counts_and_of_the_methods_that_they_import() -> None:
    methods = "tokloom.methods.attention"
    assert f"{methods}.fasa" in modules_of(FASA())
    assert {f"{methods}.select", f"{methods}.fasa"} <= set(
        modules_of(registry.build("select:scorer=fasa", AttentionPolicy, "policy"))
    )
    assert f"{methods}.fasa" in modules_of(registry.build("act_qkv", AttentionPolicy, "policy"))  # `sample` is fasa's
    assert f"{methods}.quest" not in modules_of(FASA())


def test_bfloat16_is_kept_by_its_bits(
    cache: Path, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = from_elsewhere(tmp_path / "elsewhere.py", 3, monkeypatch)
    value = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    monkeypatch.setattr(type(policy), "calibrate", lambda *_: {"a.b": value})
    for part in (*calibrated(model, policy), *again(model, policy)):
        assert part["a.b"].dtype == torch.bfloat16
        assert torch.equal(part["a.b"], value)
    assert len(list(cache.iterdir())) == 1
