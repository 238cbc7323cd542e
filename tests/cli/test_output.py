"""Lines on stderr where it is no terminal."""

from __future__ import annotations

import time

import pytest

from tokloom.cli import output


def test_work_tells_of_itself_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "INTERVAL", 0.05)
    with output.working("preparing", lines=True) as say:
        say("datastore 3/9")
        time.sleep(0.3)
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first == "tokloom: preparing"
    assert 1 <= len(between) <= 6
    assert all("datastore 3/9" in line for line in between)
    assert last.startswith("tokloom: preparing: done after")


def test_loading_tells_of_itself_only_if_it_is_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with output.announced("loading m"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(output, "INTERVAL", 0.05)

    def fail() -> None:
        with output.announced("loading m"):
            time.sleep(0.3)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    lines = capsys.readouterr().err.splitlines()
    assert "so far" in lines[0]
    assert "stopped" in lines[-1]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "INTERVAL", 0.02)
    with output.working("preparing", quiet=True, lines=True) as say, output.announced("loading m", quiet=True):
        say("1/2")
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
