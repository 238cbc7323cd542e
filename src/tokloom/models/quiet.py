"""Keeps transformers' own progress bars and warnings off the user's terminal, for as long as tokloom loads."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(*with_bars: Any) -> Iterator[None]:
    """Silences transformers' bars, log lines below errors and Python warnings; restores all of them.

    with_bars: modules with a `tqdm` of their own, which transformers' switch doesn't reach.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    own = [(module, module.tqdm) for module in with_bars]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for module, tqdm in own:
        module.tqdm = functools.partial(tqdm, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, tqdm in own:
            module.tqdm = tqdm
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
