"""A quick start: what torch and transformers do on import that nobody needs for a first token."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quick_start() -> Iterator[None]:
    """For a block that imports torch and transformers or loads a model: takes a third off its time.

    Python's garbage collector pauses, because it would go again and again through millions of new
    objects of which none is garbage. If the block was the first to import transformers, what is alive
    at its end (modules, mostly) is taken out of later collections, and scipy.optimize, of which
    transformers wants one function for object detection, is imported when that function is called.
    """
    if not gc.isenabled():
        yield
        return
    first = "transformers" not in sys.modules
    later = _ScipyLater.enter() if first else None
    gc.disable()
    try:
        yield
    finally:
        if later is not None:
            later.leave()
        if first and "transformers" in sys.modules:
            gc.freeze()
        gc.enable()


class _ScipyLater(types.ModuleType):
    """Stands in for scipy.optimize (a quarter of a second) until something of it is really used."""

    @classmethod
    def enter(cls) -> _ScipyLater | None:
        """Takes the module's place; None if scipy is not installed or the module is imported already."""
        scipy = importlib.util.find_spec("scipy")
        if "scipy.optimize" in sys.modules or scipy is None or not scipy.submodule_search_locations:
            return None
        later = cls("scipy.optimize")
        later.__path__ = [str(Path(place) / "optimize") for place in scipy.submodule_search_locations]
        sys.modules[later.__name__] = later
        return later

    def leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def linear_sum_assignment(self, *args: Any, **options: Any) -> Any:
        """What transformers imports by name."""
        self.leave()
        return importlib.import_module(self.__name__).linear_sum_assignment(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import machinery's questions
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)
