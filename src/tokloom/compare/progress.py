"""Shows a comparison's progress with rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from tokloom.compare.run import Progress as Told


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
