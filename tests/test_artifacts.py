"""Where the cache directory is, and what becomes of it where nothing can be written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokloom.artifacts import Arrays, Artifact, cache_dir, keep
from tokloom.errors import ArtifactError


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TOKLOOM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"TOKLOOM_CACHE": "~/a"}, Path.home() / "a"),
        ({"TOKLOOM_CACHE": "", "XDG_CACHE_HOME": "/b"}, Path("/b/tokloom")),
        ({}, Path.home() / ".cache" / "tokloom"),
    ],
)
def test_order_of_the_variables(environment: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKLOOM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == expected


def test_what_can_not_be_kept_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path / "deep" / "file", "a")
    assert (tmp_path / "deep" / "file").read_text() == "a"
    with caplog.at_level(logging.WARNING):
        keep(tmp_path / "deep" / "file" / "in the way", "b")
    assert "can't be kept" in caplog.text


THING = Artifact("thing", 2, argument="thing", remedy="Make {path} again.", folder="things")
ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "3.b": np.array([1, 2], dtype=np.int8)}
ABOUT = {"by": "a test", "model": "tiny", "sizes": [1, 2]}


def equal(one: Arrays, other: Arrays) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    THING.save(path, ARRAYS, ABOUT)
    assert equal(THING.load(path, ABOUT), ARRAYS)
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    ("other", "about", "expected", "found"),
    [
        (Artifact("thing", 2), {**ABOUT, "model": "large"}, "thing (version 2) for model tiny", "model large"),
        (Artifact("thing", 2), {"by": "a test", "sizes": [1, 2]}, "thing (version 2) for model tiny", "no model"),
        (Artifact("thing", 1), ABOUT, "thing (version 2)", "version 1"),
        (Artifact("thing", 3), {}, "thing (version 2)", "version 3"),
        (Artifact("plan", 2), ABOUT, "thing (version 2)", "plan (version 2)"),
    ],
)
def test_a_file_of_another_owner_version_or_kind_is_refused(
    other: Artifact, about: dict[str, Any], expected: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    other.save(path, ARRAYS, about)
    with pytest.raises(ArtifactError) as caught:
        THING.load(path, ABOUT)
    assert (caught.value.argument, caught.value.expected, caught.value.found) == ("thing", expected, found)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(f"Make {path} again.")


def test_what_tokloom_did_not_write_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    (tmp_path / "text").write_text("text")
    for name, found in (
        ("arrays.npz", "did not write"), ("text", "damage: .*zip"), ("none", "no file"), ("", "damage: .*directory"),
    ):  # fmt: skip
        with pytest.raises(ArtifactError, match=found):
            THING.load(tmp_path / name, ABOUT)


def test_damage_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    THING.save(path, ARRAYS, ABOUT)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="damage"):
            THING.load(path, ABOUT)
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:  # some bytes, like times, mean nothing
            assert equal(THING.load(path, ABOUT), ARRAYS)
        except ArtifactError:
            continue


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file"
    THING.save(path, ARRAYS, ABOUT)
    with monkeypatch.context() as patch:
        patch.setattr(*((os, call) if call == "fsync" else (Path, call)), interrupted)
        with pytest.raises(KeyboardInterrupt):
            THING.save(path, {}, ABOUT)
    assert equal(THING.load(path, ABOUT), ARRAYS)
    assert os.listdir(tmp_path) == ["file"]


def test_a_path_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(ArtifactError, match=r"^thing=.*can be written"):
            THING.save(path, ARRAYS, ABOUT)


def test_of_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [{"a": np.full(50_000, writer)} for writer in range(4)]
    THING.save(path, contents[0], ABOUT)

    def write(writer: int) -> None:
        for _ in range(10):
            THING.save(path, contents[writer], ABOUT)
            held = THING.load(path, ABOUT)
            assert any(equal(held, each) for each in contents)

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, range(len(contents))))
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_cached_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    made: list[int] = []

    def make() -> Arrays:
        made.append(1)
        return dict(ARRAYS)

    for _ in range(2):
        assert equal(THING.cached(ABOUT, make), ARRAYS)
    assert len(made) == 1
    THING.cached({**ABOUT, "model": "large"}, make)
    assert len(made) == 2
    assert len(list((tmp_path / "things").iterdir())) == 2


def test_a_cached_file_that_is_damaged_or_of_another_version_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    THING.keep(ABOUT, ARRAYS)
    path = THING.cache_path(ABOUT)
    whole = path.read_bytes()
    Artifact("thing", 1).save(path, ARRAYS, ABOUT)
    for data in (path.read_bytes(), whole[:-9], b""):
        path.write_bytes(data)
        caplog.clear()
        assert equal(THING.cached(ABOUT, lambda: dict(ARRAYS)), ARRAYS)
        assert "made again" in caplog.text
        assert THING.find(ABOUT) is not None


def test_without_torch() -> None:
    code = "import sys, tokloom.artifacts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
