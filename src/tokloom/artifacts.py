"""Where tokloom keeps what it can make again: converted models, embeddings, measured curves."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tokloom.atomic import write_atomic

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """$TOKLOOM_CACHE, else $XDG_CACHE_HOME/tokloom, else ~/.cache/tokloom. It need not exist."""
    if own := os.environ.get("TOKLOOM_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser().absolute() if shared else Path.home() / ".cache") / "tokloom"


def keep(path: Path, data: bytes | str) -> None:
    """Writes a file of the cache, whole or not at all. Where that is not possible it is made anew the next time, and a
    warning says so."""
    try:
        write_atomic(path, data)
    except OSError as error:
        _log.warning("%s can't be kept (%s) and is made anew the next time", path, error.strerror)
