"""Every error that tokloom raises on purpose.

    TokloomError
    ├── UsageError              the caller can fix it; exit code 2 on the command line
    │   ├── ArgumentError       an argument's value is not valid
    │   │   ├── ArtifactError   a kept file is damaged, of another kind, version or owner, or can't be written
    │   │   ├── BudgetError     a token budget is too small for what must fit
    │   │   └── SpecError       a component spec "name:key=value" can't be read, or an option is refused
    │   ├── UnknownNameError    no method, model or task of that name; suggests the nearest
    │   ├── DocumentError       a document can't be read as text
    │   ├── GrammarError        a schema, regex or grammar is wrong, unsupported or can't be matched; says where
    │   └── CompositionError    two components can't work together; names both sides
    └── ModelError              the model can't serve; exit code 2 when the name is wrong, else 1
        ├── ModelNotFoundError
        ├── NotCausalLMError
        ├── ChatTemplateError
        ├── UnsupportedModelError   its architecture can't take tokloom's KV store
        └── LogitsError             its logits are NaN or infinite

A message has four parts: the argument, the value it had, what is valid, and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TokloomError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(TokloomError):
    """The caller asked for something that can't be done as asked."""

    exit_code = 2


class ArgumentError(UsageError):
    """An argument's value is not valid."""

    def __init__(self, argument: str, value: object, valid: str, hint: str = "") -> None:
        self.argument, self.value, self.valid, self.hint = argument, value, valid, hint
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        message = f"{argument}={shown} is not valid: expected {valid}."
        super().__init__(f"{message} {hint}".rstrip())


class ArtifactError(ArgumentError):
    """A file that tokloom keeps can't be used or written: says what was expected and what is there."""

    def __init__(self, argument: str, path: str, expected: str, found: str, hint: str = "") -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(argument, path, f"{expected}, found {found}", hint)


class BudgetError(ArgumentError):
    """A token budget is too small for what must fit into it."""


class SpecError(ArgumentError):
    """A component spec can't be read, or one of its options is unknown or ill-typed."""


class UnknownNameError(UsageError):
    """No thing of that kind has that name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name = kind, name
        self.known = sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        self.suggestions = near
        if near:
            tail = "Did you mean " + " or ".join(repr(n) for n in near) + "?"
        else:
            tail = "Known: " + ", ".join(self.known) + "."
        super().__init__(f"There is no {kind} named {name!r}. {tail} {hint}".rstrip())


class DocumentError(UsageError):
    """A document can't be read as text."""

    def __init__(self, path: str, problem: str, hint: str = "") -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}. {hint}".rstrip())


class GrammarError(UsageError):
    """A schema, regular expression or grammar can't be compiled.

    where: a JSON pointer ("#/properties/age"), an offset ("character 17") or a line and column ("line 3, column 8").
    """

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        self.where, self.problem = where, problem
        super().__init__(f"{where}: {problem}. {hint}".rstrip())


class CompositionError(UsageError):
    """Two components can't work together."""

    def __init__(self, left: str, right: str, problem: str) -> None:
        self.left, self.right = left, right
        super().__init__(f"{left} and {right} can't be combined: {problem}.")


class ModelError(TokloomError):
    """The model can't serve."""


class ModelNotFoundError(ModelError, UsageError):
    """No bundled model, directory, GGUF file or hub id of that name can be loaded."""

    exit_code = 2


class NotCausalLMError(ModelError, UsageError):
    """What was found is not a causal language model."""

    exit_code = 2


class ChatTemplateError(ModelError, UsageError):
    """Messages were given to a model without a chat template."""

    exit_code = 2


class UnsupportedModelError(ModelError):
    """The model's architecture can't take tokloom's KV store."""


class LogitsError(ModelError):
    """A model's logits are NaN or infinite."""
