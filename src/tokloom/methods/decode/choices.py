"""The answer is exactly one of the given strings, in any tokenization that spells it.

Paper: none (baseline)

Formula:
    A token t may come next after the output bytes p iff some option starts with p + bytes(t) and
    tokens spell the rest of it; end-of-sequence tokens iff p is an option.
    Both sets are tries of bytes (`tokloom._core`), walked together, so that a mask costs what the
    options that are still possible cost, not what the vocabulary costs.

Shapes:
    mask  int32 (ceil(vocabulary / 32),), bit i % 32 of word i // 32 for token i

Effect: every output is one of the options; tokens that leave no choice need no forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tokloom._core import ChoiceSet
from tokloom.decode.constraint import Constraint, Matcher
from tokloom.errors import ArgumentError, SpecError
from tokloom.registry import method

if TYPE_CHECKING:
    import numpy as np

    from tokloom.tokenize.vocabulary import Vocabulary

_ENDED = -1


@method(stage="decode")
class Choices(Constraint):
    """Constrains the output to one of `options`."""

    example: ClassVar[dict[str, Any]] = {"options": ("yes", "no")}

    options: tuple[str, ...] = ()
    """The strings, each as it is to stand in the output: with the space in front after a prompt that ends in a word."""

    def __post_init__(self) -> None:
        def refuse(value: object, valid: str) -> SpecError:
            return SpecError("choices:options", value, valid, 'For example: choices:options=["yes","no"].')

        if not self.options:
            raise refuse(self.options, "at least one string")
        seen: set[str] = set()
        for option in self.options:
            if not option:
                raise refuse(self.options, "strings that are not empty")
            if option in seen:
                raise refuse(self.options, f"each string once; {option!r} is given twice")
            try:
                option.encode()
            except UnicodeEncodeError as error:
                raise refuse(option, f"Unicode text ({error.reason})") from None
            seen.add(option)

    def start(self, vocabulary: Vocabulary) -> ChoicesMatcher:
        choices = ChoiceSet(vocabulary.trie, [option.encode() for option in self.options])
        if choices.unspellable:
            raise ArgumentError(
                "choices:options",
                self.options[choices.unspellable[0]],
                "a string that the model's tokens can spell",
                "Drop it, or spell it in characters that the vocabulary has.",
            )
        return ChoicesMatcher(choices, vocabulary.eos_ids)


class _Step(NamedTuple):
    """The state after a token, and the step before it. Forks share the steps that they have in common."""

    state: int
    before: _Step | None


class ChoicesMatcher(Matcher):
    """Follows one output. After an end-of-sequence token nothing may come: the mask is all zero."""

    def __init__(self, choices: ChoiceSet, eos_ids: frozenset[int]) -> None:
        self._choices = choices
        self._eos_ids = eos_ids
        self._last = _Step(choices.start, None)

    def mask(self, out: np.ndarray) -> None:
        state = self._last.state
        if state == _ENDED:
            out[:] = 0
            return
        self._choices.mask(state, out)
        if self._choices.complete(state):
            bits = out.view("uint32")  # bit 31 overflows a signed word
            for token in self._eos_ids:
                bits[token // 32] |= 1 << (token % 32)

    def accept(self, token: int) -> None:
        state = self._last.state
        if state != _ENDED:
            after = self._choices.step(state, token)
            if after >= 0:
                self._last = _Step(after, self._last)
                return
            if token in self._eos_ids and self._choices.complete(state):
                self._last = _Step(_ENDED, self._last)
                return
        raise ArgumentError("token", token, "a token that the mask allows", "Call mask() before choosing a token.")

    def rollback(self, count: int) -> None:
        step = self._last
        for taken in range(count):
            if step.before is None:
                raise ArgumentError("count", count, f"at most {taken}, the number of accepted tokens")
            step = step.before
        if count < 0:
            raise ArgumentError("count", count, "an integer >= 0")
        self._last = step

    def fork(self) -> ChoicesMatcher:
        forked = ChoicesMatcher(self._choices, self._eos_ids)
        forked._last = self._last
        return forked

    def forced(self) -> list[int]:
        """Tokens up to the next choice; the end-of-sequence token, if there is but one, when nothing else may come."""
        state = self._last.state
        if state == _ENDED:
            return []
        if self._choices.final(state):
            return list(self._eos_ids) if len(self._eos_ids) == 1 else []
        return self._choices.forced(state)

    @property
    def is_complete(self) -> bool:
        state = self._last.state
        return state == _ENDED or self._choices.complete(state)
