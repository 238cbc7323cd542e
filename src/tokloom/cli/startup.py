"""A quick start of the command line: Python's garbage collector pauses while torch and a model are loaded.

The pause belongs to the command line, whose process is tokloom's own; `tokloom.Engine` leaves the caller's alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_start() -> Iterator[None]:
    """For a block that imports torch and transformers or loads a model: takes a sixth off its processor time.

    The collector would go through millions of new objects again and again, and none of them is garbage. What is alive
    at the end (modules, mostly) is left out of later collections.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
