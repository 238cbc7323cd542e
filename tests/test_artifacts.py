"""Where the cache directory is, and what becomes of it where nothing can be written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tokloom.artifacts import cache_dir, keep


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
