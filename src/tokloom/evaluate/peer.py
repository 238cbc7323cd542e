"""Other engines as rows of a comparison: what a user would pick instead, asked the very same prompts.

A `Peer` is a method of the evaluate stage that `tokloom compare` takes among the methods of any stage. It answers
greedily, from tokens to tokens; `PeerEngine` is what a task needs of an engine, around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tokloom.engine.request import Result, Sampling, StopReason
from tokloom.errors import CompositionError
from tokloom.ledger import Ledger, Row

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


@dataclass(frozen=True)
class Answer:
    """tokens: of the output, an end-of-sequence token included. first: seconds until the first pass had given its
    tokens; seconds: what all later ones took; passes: forward passes of these."""

    tokens: tuple[int, ...]
    first: float
    seconds: float
    passes: int


class Session(Protocol):
    """A peer with the model loaded."""

    def answer(self, tokens: Sequence[int], count: int) -> Answer:
        """Continues a prompt greedily by at most `count` tokens, and ends after one of the model's `eos_ids`."""


class Peer(ABC):
    """Interface of other engines. Options are fields of the subclass."""

    stage: ClassVar[str] = "evaluate"
    name: ClassVar[str]
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def start(self, model: LanguageModel) -> Session:
        """Loads what `model` was loaded from into the other engine, with as many threads as torch has.

        Raises CompositionError if it can't be used with this model or on this machine.
        """


class PeerEngine:
    """What a task needs of an engine, of a peer; the peer is started by the first question."""

    def __init__(self, model: LanguageModel, peer: Peer) -> None:
        self.model, self.peer = model, peer
        self._session: Session | None = None

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        documents: object = None,
        constraint: object = None,
        sampling: Sampling | None = None,
    ) -> Result:
        """As `Engine.generate`. Raises CompositionError for all but a prompt or messages and greedy decoding."""
        sampling = sampling if sampling is not None else Sampling()
        for what, given in (
            ("documents", documents), ("a constraint", constraint), ("stop strings", sampling.stop),
            ("a temperature", sampling.temperature),
        ):  # fmt: skip
            if given:
                raise CompositionError(self.peer.name, what, "in a comparison it continues a prompt greedily, no more")
        if messages is not None:
            tokens = self.model.chat_tokens(messages)
        else:
            tokens = self.model.encode_prompt(prompt or "", chat=False)
        if self._session is None:
            self._session = self.peer.start(self.model)
        answer = self._session.answer(tokens, sampling.max_new_tokens)
        ended: StopReason = "end" if answer.tokens and answer.tokens[-1] in self.model.eos_ids else "length"
        rows = [
            Row("attention", self.peer.name, tokens_in=len(tokens), seconds=answer.first),
            Row(
                "decode", self.peer.name,
                tokens_out=len(answer.tokens), forward_passes=answer.passes, seconds=answer.seconds,
            ),
        ]  # fmt: skip
        return Result(self.model.decode(answer.tokens), answer.tokens, len(tokens), ended, Ledger(rows))

    def score(self, *_: Any, **__: Any) -> Any:
        """Raises CompositionError: the chances of a given text are not asked of other engines."""
        raise CompositionError(self.peer.name, "a task that scores given texts", "it is asked for outputs only")
