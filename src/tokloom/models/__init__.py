"""Language models and their vocabularies: how tokloom finds, converts and loads them.

The public names are imported on first use, so that importing the package needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Embedder": "tokloom.models.embedder",
    "LanguageModel": "tokloom.models.language_model",
    "Vocabulary": "tokloom.models.vocabulary",
}
__all__ = ["Embedder", "LanguageModel", "Vocabulary"]

if TYPE_CHECKING:
    from tokloom.models.embedder import Embedder
    from tokloom.models.language_model import LanguageModel
    from tokloom.models.vocabulary import Vocabulary


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tokloom.models' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
