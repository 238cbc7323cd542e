"""Shows a comparison's progress: a bar on a terminal, now and then a line in a pipe or file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from tokloom.compare.run import Progress as Told

INTERVAL = 10.0
"""Seconds between two lines at least."""


@contextmanager
def lines(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[Told]:
    """Lines on `stream`: the first cell, one at most every 10 s, and the last; yields what `compare` takes."""
    begun = clock()
    shown: float | None = None

    def told(done: int, total: int, what: str) -> None:
        nonlocal shown
        now = clock()
        if shown is None or done == total or now - shown >= INTERVAL:
            shown = now
            stream.write(f"compare: {done:,} of {total:,}, {now - begun:.0f} s, {what}\n")
            stream.flush()

    yield told


@contextmanager
def bar(console: Console) -> Iterator[Told]:
    """A bar on `console` for the time of the block; yields what `compare` takes as `progress`."""
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as display:
        row = display.add_task("loading", total=None)

        def told(done: int, total: int, what: str) -> None:
            display.update(row, completed=done, total=total, description=escape(what))

        yield told
