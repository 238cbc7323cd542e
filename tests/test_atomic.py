"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from tokloom.atomic import STALE_AFTER, atomic_directory, check_writable, workspace, write_atomic
from tokloom.errors import ArgumentError


def test_writes_text_and_bytes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["file.txt"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", "a")
    (tmp_path / "plain").write_text("a")
    with atomic_directory(tmp_path / "directory"):
        pass
    (tmp_path / "made").mkdir()
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)}
    assert modes["atomic"] == modes["plain"]
    assert modes["directory"] == modes["made"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(fd: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with atomic_directory(target) as draft:
        (draft / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_directory_does_not_appear(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with atomic_directory(tmp_path / "made") as draft:
            (draft / "a").write_text("1")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write()
    assert os.listdir(tmp_path) == []


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    target = tmp_path / "made"
    both = threading.Barrier(2)

    def write(text: str) -> None:
        with atomic_directory(target) as draft:
            (draft / "a").write_text(text)
            both.wait(timeout=10)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (target / "a").read_text() in ("1", "2")
    assert os.listdir(tmp_path) == ["made"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")
    with pytest.raises(OSError, match="made"), atomic_directory(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_text() == "a file"
    assert os.listdir(tmp_path) == ["made"]


def test_only_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """A draft counts as left behind when nothing in it was written for a while. Those of other targets stay."""
    old = time.time() - STALE_AFTER - 60
    for name in (".made.dead.tmp", ".made.busy.tmp", ".other.dead.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
        os.utime(tmp_path / name / "part", (old, old))
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / ".made.busy.tmp" / "part")
    with workspace(tmp_path / "made") as work:
        names = set(os.listdir(tmp_path))
    assert names == {".made.busy.tmp", ".other.dead.tmp", work.name}
    assert not work.exists()


def test_a_path_is_checked_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    check_writable("--out", tmp_path / "deep" / "er" / "page.html")
    check_writable("--out", tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
    for path in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(ArgumentError, match=r"^--out=.*can be written to"):
            check_writable("--out", path)
