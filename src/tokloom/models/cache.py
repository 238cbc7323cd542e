"""Where tokloom keeps what it can make again: converted models, embeddings, measured curves."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$TOKLOOM_CACHE, else $XDG_CACHE_HOME/tokloom, else ~/.cache/tokloom. It need not exist."""
    if own := os.environ.get("TOKLOOM_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser().absolute() if shared else Path.home() / ".cache") / "tokloom"
