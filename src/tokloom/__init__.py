"""tokloom: makes a language model cheaper, longer in context, controllable and measurable, token by token.

The public names are imported on first use, so that `import tokloom` costs nothing and listing
methods needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokloom.startup import quick_start

__version__ = "0.1.0"

_EXPORTS = {
    "load": "tokloom.models.load",
    "LanguageModel": "tokloom.models.language_model",
    "Engine": "tokloom.engine.engine",
    "Result": "tokloom.engine.request",
    "Sampling": "tokloom.engine.request",
    "Document": "tokloom.context.selector",
    "TokloomError": "tokloom.errors",
}
__all__ = ["Document", "Engine", "LanguageModel", "Result", "Sampling", "TokloomError", "__version__", "load"]

if TYPE_CHECKING:
    from tokloom.context.selector import Document
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result, Sampling
    from tokloom.errors import TokloomError
    from tokloom.models.language_model import LanguageModel
    from tokloom.models.load import load


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tokloom' has no attribute {name!r}")
    with quick_start():
        return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
