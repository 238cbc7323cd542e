"""Where the cache directory is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokloom.models.cache import cache_dir


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
