"""The grammar engines that the benchmarks run side by side, behind one small interface.

`prepare` is what an engine does once for a tokenizer; `Compiled.session` begins one output.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

NAMES = ("tokloom", "xgrammar", "llguidance")


@dataclass
class Tokens:
    """A tokenizer as all engines get it."""

    name: str
    tokenizer: Any
    size: int
    eos: int
    words: int = field(init=False)

    def __post_init__(self) -> None:
        self.words = (self.size + 31) // 32

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class Session(ABC):
    """One output. `out` holds the mask that `mask` wrote last."""

    out: np.ndarray

    @abstractmethod
    def mask(self) -> None:
        """Writes the mask of the next token into `out`; nothing else, as this is what is timed."""

    @abstractmethod
    def accept(self, token: int) -> bool:
        """Advances; False if the token is refused."""

    def allows(self, token: int) -> bool:
        return bool(int(self.out[token >> 5]) >> (token & 31) & 1)


class Compiled(ABC):
    """A grammar made ready."""

    @abstractmethod
    def session(self) -> Session: ...

    @property
    def nbytes(self) -> int | None:
        """Memory of the grammar alone; None where the engine doesn't say."""
        return None


class Refused(Exception):  # noqa: N818 - what happened, not what went wrong
    """The engine can't compile this."""


class Engine(ABC):
    """One engine over one tokenizer."""

    name: str
    notation: str = "gbnf"
    """The notation of the benchmark's grammars that suits the engine best."""
    resources: Mapping[str, Any] = MappingProxyType({})
    """Documents that schemas may refer to, by URI, for engines that take them."""

    @abstractmethod
    def __init__(self, tokens: Tokens) -> None:
        """All that is done once a tokenizer."""

    @abstractmethod
    def schema(self, schema: Any) -> Compiled:
        """Raises Refused."""

    @abstractmethod
    def grammar(self, text: str) -> Compiled:
        """Raises Refused."""

    @property
    def shared_nbytes(self) -> int | None:
        """Memory that all grammars of the tokenizer share."""
        return None


def engine(name: str) -> type[Engine]:
    """The engine's class. Raises ImportError if its package is not installed."""
    found: type[Engine] = importlib.import_module(f"engines.{name}_engine").Adapter
    return found


def installed(names: Sequence[str]) -> list[str]:
    """Those that can be imported; says on stderr what is missing and how to get it."""
    import sys

    found = []
    for name in names:
        try:
            engine(name)
        except ImportError as error:
            print(f"{name} is left out: {error}. To compare: pip install -e '.[peers]'", file=sys.stderr)
        else:
            found.append(name)
    return found


ENDS = ("<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<eos>", "</s>", "<|eot_id|>")


def from_file(path: Path) -> Tokens:
    """The tokenizer of a tokenizer.json."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    vocabulary = tokenizer.get_vocab()
    end = next((end for end in ENDS if end in vocabulary), None)
    if end is None:
        raise SystemExit(f"{path}: none of the tokens {', '.join(ENDS)} is in it, so there is no end of text")
    tokenizer.eos_token = end
    name = next((part for part in reversed(path.parts[:-1]) if part not in ("models", "package")), path.stem)
    return Tokens(name, tokenizer, len(tokenizer), vocabulary[end])


def bundled() -> Tokens:
    """SmolLM2's tokenizer, from the model that comes with tokloom."""
    import tokloom

    model = tokloom.load("smollm2-135m")
    eos = min(model.eos_ids)
    model.tokenizer.eos_token_id = eos
    return Tokens("smollm2", model.tokenizer, model.vocabulary.size, eos)
