"""tokloom: makes a language model cheaper, longer in context, controllable and measurable, token by token.

What users name is exported here; the layout of the folders is no API. Names are imported on first use, so that
`import tokloom` costs nothing and listing methods needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokloom import _moved

__version__ = "0.1.0"

_moved.install()

_EXPORTS = {
    "load": "tokloom.models.load",
    "LanguageModel": "tokloom.models.language_model",
    "Engine": "tokloom.engine.engine",
    "Result": "tokloom.engine.request",
    "Sampling": "tokloom.engine.request",
    "Document": "tokloom.context.selector",
    "TokloomError": "tokloom.errors",
    "method": "tokloom.registry",
    "AttentionPolicy": "tokloom.attention.policy",
    "Evicting": "tokloom.attention.eviction",
    "Selecting": "tokloom.attention.selection.selecting",
    "KVLayer": "tokloom.kv.layer",
    "RotaryScaling": "tokloom.models.rotary_scaling",
    "Predictor": "tokloom.decode.prediction",
    "Drafter": "tokloom.decode.drafter",
    "Constraint": "tokloom.decode.constraint",
    "Search": "tokloom.decode.search",
    "Verifier": "tokloom.decode.search",
    "ContextSelector": "tokloom.context.selector",
    "Task": "tokloom.evaluate.task",
    "JsonSchema": "tokloom.methods.decode.json_schema",
    "Regex": "tokloom.methods.decode.regex",
    "Choices": "tokloom.methods.decode.choices",
    "ContextFree": "tokloom.methods.decode.grammar",
    "StructuralTag": "tokloom.methods.decode.structural_tag",
}
__all__ = [
    "AttentionPolicy",
    "Choices",
    "Constraint",
    "ContextFree",
    "ContextSelector",
    "Document",
    "Drafter",
    "Engine",
    "Evicting",
    "JsonSchema",
    "KVLayer",
    "LanguageModel",
    "Predictor",
    "Regex",
    "Result",
    "RotaryScaling",
    "Sampling",
    "Search",
    "Selecting",
    "StructuralTag",
    "Task",
    "TokloomError",
    "Verifier",
    "__version__",
    "load",
    "method",
]

if TYPE_CHECKING:
    from tokloom.attention.eviction import Evicting
    from tokloom.attention.policy import AttentionPolicy
    from tokloom.attention.selection.selecting import Selecting
    from tokloom.context.selector import ContextSelector, Document
    from tokloom.decode.constraint import Constraint
    from tokloom.decode.drafter import Drafter
    from tokloom.decode.prediction import Predictor
    from tokloom.decode.search import Search, Verifier
    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result, Sampling
    from tokloom.errors import TokloomError
    from tokloom.evaluate.task import Task
    from tokloom.kv.layer import KVLayer
    from tokloom.methods.decode.choices import Choices
    from tokloom.methods.decode.grammar import ContextFree
    from tokloom.methods.decode.json_schema import JsonSchema
    from tokloom.methods.decode.regex import Regex
    from tokloom.methods.decode.structural_tag import StructuralTag
    from tokloom.models.language_model import LanguageModel
    from tokloom.models.load import load
    from tokloom.models.rotary_scaling import RotaryScaling
    from tokloom.registry import method


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tokloom' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
