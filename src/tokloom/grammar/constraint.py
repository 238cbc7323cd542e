"""What constraints to a grammar have in common: each makes its grammar when it is made, and matchers of it later."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from tokloom.decode.constraint import Constraint, Matcher
from tokloom.errors import DocumentError, SpecError
from tokloom.grammar.compiled import compile_expression

if TYPE_CHECKING:
    from tokloom.grammar.expression import Grammar
    from tokloom.tokenize.vocabulary import Vocabulary


class GrammarConstraint(Constraint):
    """A constraint whose outputs are the language of a grammar.

    A wrong option or grammar is refused when the constraint is made, before any model is loaded.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "_grammar", self.build())

    @abstractmethod
    def build(self) -> Grammar:
        """The grammar, of the options. Raises SpecError, DocumentError or GrammarError."""

    @property
    def grammar(self) -> Grammar:
        built: Grammar = self._grammar  # type: ignore[attr-defined]
        return built

    def start(self, vocabulary: Vocabulary) -> Matcher:
        return compile_expression(self.grammar, vocabulary).matcher()


def one_of(method: str, **options: object) -> str:
    """The name of the option that is given. Raises SpecError if none is, or several are."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        names = " or ".join(options)
        value = {name: options[name] for name in given} or None
        raise SpecError(f"{method}:{next(iter(options))}", value, f"exactly one of {names}")
    return given[0]


def read_text(path: str) -> str:
    """The text of a file. Raises DocumentError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(path, error.strerror or "can't be read") from None
    except UnicodeDecodeError as error:
        raise DocumentError(path, f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
