"""Results of comparisons as JSON lines: one finished example of one row a line, appended so that a crash costs one.

A line is written by a single `write` and is on disk when `append` returns. A crash can therefore only leave the
last line torn, which opening the file detects and drops. A record counts as the result of a cell only if everything
that could change it is the same: model, settings, method, task, the example's own text, and the versions.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tokloom.errors import ArgumentError, DocumentError

if sys.platform != "win32":
    import fcntl

SCHEMA = 1
_START = '{"schema": '


@dataclass(frozen=True)
class Record:
    """One example answered by one row of a comparison, or the reason why it was not.

    model: the model's name. stage: of the compared methods.
    method, label, budget, place: as in `placement.Contender`.
    task: its canonical spec. metric: its main metric.
    example: the example's key; "" if the error holds for the whole row. digest: hash of the example's texts.
    settings: what else was the same for all rows: dtype, device, threads, the engine's other components.
    scores: by metric. costs: as `costs.costs_of` names them.
    error: why there are no scores, in words.
    time: end of the run, ISO 8601 in UTC.
    """

    model: str
    stage: str
    method: str
    label: str
    budget: int | None
    place: str
    task: str
    metric: str
    example: str
    digest: str
    settings: dict[str, Any]
    versions: dict[str, str]
    scores: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    time: str = ""

    @property
    def cell(self) -> str:
        """What makes two records results of the same thing."""
        parts = [
            self.model, self.place, self.method, self.budget, self.task, self.example, self.digest,
            self.settings, self.versions,
        ]  # fmt: skip
        return json.dumps(parts, sort_keys=True)

    def line(self) -> str:
        """As one line of JSON, without its end. NaN and infinity, which JSON lacks, become null."""
        data = {"schema": SCHEMA, **asdict(self)}
        for name in ("scores", "costs"):
            data[name] = {k: v if abs(v) < float("inf") else None for k, v in data[name].items()}
        return json.dumps(data, ensure_ascii=False, allow_nan=False)


def parse(line: str) -> Record:
    """The record of a line. Raises ValueError if it is none."""
    data = json.loads(line)
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise ValueError(f"not a record of schema {SCHEMA}")
    for name in ("scores", "costs"):
        data[name] = {k: float("nan") if v is None else v for k, v in data[name].items()}
    try:
        return Record(**data)
    except TypeError as error:
        raise ValueError(str(error)) from None


def read(path: Path) -> Iterator[Record]:
    """All records of a file, without changing it; a torn last line is left out.

    Raises:
        DocumentError: the file can't be read, or a line in it is no record.
    """
    for record, _ in _read(path):
        yield record


def _read(path: Path) -> Iterator[tuple[Record, int]]:
    """Records, each with the offset in bytes where its line ends."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DocumentError(str(path), f"can't be read ({error.strerror})", "Check --results.") from None
    end = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            start = _START.encode()
            if not (line.startswith(start) or start.startswith(line)):
                raise _not_ours(path, number, "it does not begin like a record")
            return
        end += len(line)
        try:
            record = parse(line.decode("utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_ours(path, number, str(error)) from None
        yield record, end


def _not_ours(path: Path, number: int, why: str) -> DocumentError:
    return DocumentError(
        str(path), f"line {number} is not a result of tokloom compare ({why})",
        "Give a file of results, or a new name; the file was not changed.",
    )  # fmt: skip


class RecordFile:
    """A file of results, open for one comparison at a time.

    Opening reads it, checks every line before anything is changed, and drops a torn last line.

    Raises:
        ArgumentError: it can't be written to, or another comparison has it open.
        DocumentError: it holds something else than results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = False
        """Whether a torn line was dropped."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise ArgumentError(
                "results", str(path), f"a file that can be written to ({error.strerror})", "Choose another path."
            ) from None
        try:
            self._lock()
            found = list(_read(path))
            self._end = found[-1][1] if found else 0
            if os.fstat(self._file).st_size > self._end:
                self.torn = True
                os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise
        self.records = {record.cell: record for record, _ in found}
        """The newest record of each cell."""

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ArgumentError(
                    "results", str(self.path), "a file that no other comparison writes to at the same time",
                    "Wait for it, or choose another path.",
                ) from None  # fmt: skip

    def append(self, record: Record) -> None:
        """Writes one record; it is on disk, whole, when this returns. Raises ArgumentError if the disk refuses it."""
        line = (record.line() + "\n").encode()
        try:
            written = os.write(self._file, line)
            if written < len(line):  # the disk is full
                os.ftruncate(self._file, self._end)
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            raise ArgumentError(
                "results", str(self.path), f"a file that can be written to ({error.strerror})",
                "What was finished before is kept: run the same command again to resume.",
            ) from None  # fmt: skip
        self._end += len(line)
        self.records[record.cell] = record

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)
