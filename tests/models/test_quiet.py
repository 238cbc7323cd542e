"""Silence while loading, and noise as before afterwards."""

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging as transformers_logging

from tokloom.models.quiet import quiet

logging: Any = transformers_logging


def test_silences_bars_log_lines_and_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    module = types.SimpleNamespace(tqdm=tqdm)
    with quiet(module):
        logging.get_logger("transformers.test").warning("a log line")
        warnings.warn("a warning", stacklevel=1)
        assert list(logging.tqdm(range(2))) == [0, 1]
        assert list(module.tqdm(range(2))) == [0, 1]
    assert capfd.readouterr() == ("", "")
    assert module.tqdm is tqdm


@pytest.mark.parametrize("bars", [True, False])
def test_restores_what_was_set_before(bars: bool) -> None:
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        with pytest.raises(KeyError), quiet():
            raise KeyError("x")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() is bars
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
