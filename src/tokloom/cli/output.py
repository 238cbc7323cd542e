"""Where things are printed: results on stdout, anything that moves or complains on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

PIPE_WIDTH = 10_000
"""Columns for a table with one line an entry, when nobody looks at it on a terminal."""

INTERVAL = 10.0
"""Seconds between two lines on progress at least, where stderr is no terminal."""


def console() -> Console:
    """Stdout as it is now; its numbers and paths are not coloured by guesswork."""
    return Console(highlight=False)


def show(*renderables: RenderableType, width: int | None = None) -> None:
    """Prints; into a pipe or file without the blanks that fill a terminal's lines."""
    screen = Console(highlight=False, width=width)
    if screen.is_terminal:
        screen.print(*renderables, sep="\n")
        return
    with screen.capture() as captured:
        screen.print(*renderables, sep="\n")
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def show_json(data: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def working(what: str, *, quiet: bool = False, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows on stderr that something long is going on, if that is a terminal. Yields a way to say what.

    lines: print a line now and then if it is no terminal.
    """
    screen = Console(stderr=True)
    if quiet or not (lines or screen.is_terminal):
        yield lambda _: None
        return
    if not screen.is_terminal:
        with beats(what) as say:
            yield say
        return
    with screen.status(Text(what)) as status:
        yield lambda text: status.update(Text(text))


@contextmanager
def announced(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Says what is going on in a line that stands still, and takes it away; a further display may draw over it.

    Where stderr is no terminal, lines tell of what takes more than 10 s, such as the conversion of a large GGUF file.
    """
    screen = Console(stderr=True)
    if quiet:
        yield
        return
    if not screen.is_terminal:
        with beats(what, at_once=False):
            yield
        return
    screen.print(Text(what, style="dim"), end="", no_wrap=True, overflow="ellipsis")
    try:
        yield
    finally:
        screen.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))


@contextmanager
def beats(what: str, *, at_once: bool = True) -> Iterator[Callable[[str], None]]:
    """Lines on stderr: at the start, every 10 s while it lasts, and at the end. Yields a way to say what is done.

    at_once=False: nothing of what is over within 10 s.
    """
    stream, begun, over, now = sys.stderr, time.monotonic(), threading.Event(), [what]
    shown = at_once

    def line(text: str) -> None:
        nonlocal shown
        shown = True
        stream.write(f"tokloom: {text}\n")
        stream.flush()

    def beat() -> None:
        while not over.wait(INTERVAL):
            line(f"{now[0]}, {time.monotonic() - begun:.0f} s so far")

    def say(text: str) -> None:
        now[0] = f"{what}: {text}"

    if at_once:
        line(what)
    thread = threading.Thread(target=beat, name="tokloom-progress", daemon=True)
    thread.start()
    finished = False
    try:
        yield say
        finished = True
    finally:
        over.set()
        thread.join()
        if shown:
            line(f"{what}: {'done' if finished else 'stopped'} after {time.monotonic() - begun:.0f} s")


def complain(message: str) -> None:
    """One error on stderr, its head in red if that is a terminal."""
    text = Text.assemble(("tokloom: error:", "bold red"), " ", message)
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)
