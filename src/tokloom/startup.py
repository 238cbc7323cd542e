"""A quick start: imports and loading make objects by the million, none of them garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses Python's garbage collector for a block that imports torch and transformers or loads a model.

    Otherwise the collector goes through all objects made so far again and again, which takes a
    quarter of the time to the first token. If the block was the first to import transformers, what
    is alive at its end (modules, mostly) is taken out of later collections.
    """
    if not gc.isenabled():
        yield
        return
    first = "transformers" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if first and "transformers" in sys.modules:
            gc.freeze()
        gc.enable()
