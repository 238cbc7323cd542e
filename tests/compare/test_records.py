"""The file of results: what is written is read again, and a crash costs one line at most."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokloom.compare.records import Record, RecordFile, parse, read
from tokloom.errors import ArgumentError, DocumentError

NUMBERS = st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False), max_size=3)


def record(example: str = "1", **changes: object) -> Record:
    values: dict[str, object] = {
        "model": "fake", "stage": "attention", "method": "h2o:budget=64", "label": "h2o", "budget": 64,
        "place": "attention", "task": "needle", "metric": "digit_accuracy", "example": example, "digest": "d",
        "settings": {"threads": 2}, "versions": {"torch": "2"}, "scores": {"digit_accuracy": 0.5},
        "costs": {"seconds": 1.5}, "time": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Record(**{**values, **changes})  # type: ignore[arg-type]


@given(st.text(), NUMBERS, NUMBERS, st.none() | st.text())
def test_a_line_is_read_again(
    example: str, scores: dict[str, float], costs: dict[str, float], error: str | None
) -> None:
    before = record(example, scores=scores, costs=costs, error=error)
    line = before.line()
    assert "\n" not in line
    assert parse(line) == before


def test_infinite_scores_are_valid_json() -> None:
    line = record(scores={"nll": float("inf")}).line()
    assert json.loads(line, parse_constant=pytest.fail)["scores"] == {"nll": None}
    assert str(parse(line).scores["nll"]) == "nan"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"}, {"method": "h2o"}, {"budget": 65}, {"task": "needle:seed=1"}, {"digest": "e"},
        {"settings": {"threads": 1}}, {"versions": {"torch": "3"}}, {"example": "2"},
    ],
)  # fmt: skip
def test_cells_differ(change: dict[str, object]) -> None:
    assert record(**change).cell != record().cell  # type: ignore[arg-type]
    assert record(scores={}, costs={}, error="x", time="").cell == record().cell


def test_append_and_reopen(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    with RecordFile(path) as file:
        file.append(record("1", error="at first"))
        file.append(record("2"))
        file.append(record("1"))
    assert [r.example for r in read(path)] == ["1", "2", "1"]
    with RecordFile(path) as file:
        assert file.records == {r.cell: r for r in (record("1"), record("2"))}  # the newest of a cell counts
        assert not file.torn


def test_torn_at_any_byte(tmp_path: Path) -> None:
    """Whatever part of the last line a crash leaves, the lines before it survive and appending goes on."""
    path = tmp_path / "results.jsonl"
    whole = record("1").line().encode() + b"\n"
    last = record("ü").line().encode()
    for cut in range(1, len(last) + 1):
        path.write_bytes(whole + last[:cut])
        assert [r.example for r in read(path)] == ["1"]
        with RecordFile(path) as file:
            assert file.torn
            assert path.read_bytes() == whole
            file.append(record("3"))
        assert [r.example for r in read(path)] == ["1", "3"]


@pytest.mark.parametrize(
    "content",
    ["some notes", "some notes\n", '{"a": 1}\n', "[]\n", '{"schema": 1}\n', '{"schema": 2, "model": "x"}\n', "\n"],
)
def test_other_files_stay_as_they_are(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(DocumentError, match=r"notes\.txt: line 1 is not a result.*not changed"):
        RecordFile(path)
    assert path.read_text() == content


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    content = record("1").line()[:50] + "\n" + record("2").line() + "\n" + record("3").line()[:9]
    path.write_text(content)
    with pytest.raises(DocumentError, match="line 1"):
        RecordFile(path)
    assert path.read_text() == content


def test_one_comparison_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with RecordFile(path), pytest.raises(ArgumentError, match="no other comparison"):
        RecordFile(path)
    with RecordFile(path) as file:
        file.append(record())


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"results=.*can be written to"):
        RecordFile(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"results=.*can be written to"):
        RecordFile(tmp_path / "file" / "results.jsonl")
    with pytest.raises(DocumentError, match="can't be read"):
        list(read(tmp_path / "none.jsonl"))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    write = os.write
    with RecordFile(path) as file:
        file.append(record("1"))
        before = path.read_bytes()
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:20]))
        with pytest.raises(ArgumentError, match=r"No space left.*resume"):
            file.append(record("2"))
        assert path.read_bytes() == before
        monkeypatch.undo()
        file.append(record("2"))
    assert [r.example for r in read(path)] == ["1", "2"]
