"""The decode stage: which token comes next.

Three interfaces. A `Predictor` says what the distribution over next tokens is (without one: the model's own). A
`Drafter` proposes a tree of tokens that one pass of the prediction verifies. A `Constraint` says which tokens may come
next. All are immutable options; what changes during requests lies in the object that `start` returns.

The loop that uses them is `engine/loop.py`. It accepts a drafted token only if the sampler, given
the prediction's own logits at that node (masked by the constraint), draws that very token: drafts
change speed, never the text, for greedy and for seeded sampling alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tokloom.decode.draft_tree import DraftTree
from tokloom.errors import ArgumentError, CompositionError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tokloom.attention.kv_store import Step
    from tokloom.attention.stage import AttentionPolicy
    from tokloom.engine.branch import Branch
    from tokloom.engine.host import Host
    from tokloom.models.language_model import LanguageModel
    from tokloom.models.vocabulary import Vocabulary

GIVES = frozenset({"logits", "tokens", "hidden_states"})
"""What a drafter or predictor may list in `needs`."""
REWINDING = "rewinding"
"""A further need: a KV store whose last tokens can be taken back, which not every attention policy allows."""


def gives(attention: AttentionPolicy) -> frozenset[str]:
    """What drafters and predictors get under this policy."""
    return GIVES | ({REWINDING} if attention.rewinds else set())


class Prediction(ABC):
    """The next-token distribution during one request, over a vocabulary that may be another than the model's.

    Order of the calls: `prefill` once; then, pass by pass, `rows` and `accept`.
    """

    reads_opening: ClassVar[bool] = False
    """It reads a prompt and the output's beginning alike, so that `prefill` may be given both."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.counts: dict[str, int] = {}
        """Figures of its own for the ledger, by name."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the tokens that it predicts; the model's own unless overridden."""
        return self.host.model.vocabulary

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens of `vocabulary` that end a text."""
        return self.vocabulary.eos_ids

    @property
    def window(self) -> int:
        """The most tokens of `vocabulary`, prompt included."""
        return self.host.model.window

    def prompt(self, tokens: Sequence[int]) -> list[int]:
        """The prompt, given in the model's tokens, in those of `vocabulary`."""
        return list(tokens)

    def encode(self, text: str) -> list[int]:
        """A text that follows the prompt in tokens of `vocabulary`, none added."""
        return self.host.model.encode(text)

    @abstractmethod
    def prefill(self, tokens: Sequence[int], progress: Callable[[int], None]) -> torch.Tensor:
        """Reads the prompt, given in the model's tokens; returns the logits (vocabulary,) after it.

        progress: to be called after each pass with the number of tokens read so far."""

    @abstractmethod
    def rows(self, tokens: Sequence[int], step: Step) -> torch.Tensor:
        """Logits (rows, vocabulary) after each row: what was not read yet of the text, and a draft tree below it.

        step: who descends from whom, positions counted in tokens of `vocabulary`. Its first `skipped` rows are left
            out of what is returned: nobody asks what follows them."""

    @staticmethod
    def rows_together(asked: Sequence[tuple[Prediction, Sequence[int], Step]]) -> list[torch.Tensor]:
        """`rows` of several requests of one engine, in one pass where that is possible."""
        return [prediction.rows(tokens, step) for prediction, tokens, step in asked]

    @abstractmethod
    def accept(self, path: list[int]) -> None:
        """Ends a pass: these of its rows, in the order of the text and from row 0 on, became part of it.

        Called after every call of `rows`, also where there was no tree."""

    def fork(self) -> Prediction:
        """The same text, independent from now on. Raises CompositionError where that is not possible."""
        raise CompositionError(type(self).__name__, "search", "it can't go on from one text in several ways")

    def room(self) -> int:
        """How many tokens the next pass may add; 1 allows no drafts."""
        return self.host.room()


class Prepared(ABC):
    """A method that first makes something of the user's own text: a base class before the interface.

    `tokloom prepare SPEC FILE ...` calls it."""

    @abstractmethod
    def prepare(
        self, model: LanguageModel, texts: Sequence[str], progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, Any]:
        """Makes it, where the method's options say; returns figures to show by name.

        progress: called as (stage, done, total)."""


class Predictor(ABC):
    """Interface of methods that change what the next-token distribution is."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits",)

    @property
    def unit(self) -> str:
        """What is predicted: the model's tokens, or bytes. What a drafter learned of one is nothing to the other."""
        return "tokens"

    @abstractmethod
    def start(self, host: Host) -> Prediction:
        """A fresh prediction for one request. Raises CompositionError if the host's model can't take it."""


@dataclass(frozen=True)
class DraftRequest:
    """What a drafter is asked.

    tokens: prompt and output so far, in the prediction's vocabulary.
    limit: the most nodes.
    least: nodes with a lower chance never pay; a drafter may leave them out.
    prediction: of this request; a drafter that speculates with the model itself runs passes of its own over the
        request's store through `prediction.host`, and takes them back.
    depth: of guesses that may be verified this time. A drafter whose levels each cost a pass need not go deeper; others
        may, and learn of it whether they were right.
    """

    tokens: Sequence[int]
    limit: int
    prediction: Prediction
    least: float = 0.0
    depth: int = 2**31


@dataclass(frozen=True)
class Verified:
    """A pass that is over: what was asked, and what the model said.

    text: prompt and output before it, its last token included.
    tokens: the rows, that last token first, then the tree's nodes, accepted or not.
    parents: the row above each, -1 for the first.
    logits: (rows, vocabulary), what the prediction said after each.
    path: the rows that are part of the text now, in its order; begins with row 0.
    """

    text: Sequence[int]
    tokens: Sequence[int]
    parents: Sequence[int]
    logits: torch.Tensor
    path: Sequence[int]


class DraftState(ABC):
    """A drafter at work. It may serve many requests, one after the other or interleaved.

    No method may keep state that is tied to one request: they get all of it as arguments.
    """

    def check(self, prediction: Prediction) -> None:  # noqa: B027 - most drafters draft for any
        """Raises CompositionError if it can't draft for such a prediction; before its prompt is read."""

    def read(self, tokens: Sequence[int], known: int = 0) -> None:  # noqa: B027 - a drafter may have no use for it
        """Sees the prompt of a request before its output is drafted, and later whatever `observe` did not show.

        tokens: prompt and output so far. known: how many of them it has seen."""

    @abstractmethod
    def propose(self, request: DraftRequest) -> DraftTree:
        """A tree of at most `request.limit` nodes to follow `request.tokens`."""

    @abstractmethod
    def observe(self, seen: Verified) -> None:
        """Learns from a pass."""

    def judge(self, outcomes: Sequence[tuple[Any, bool]]) -> None:  # noqa: B027 - as above
        """Is told of nodes that it proposed, by their marks, whether the text went on with them, their parents having
        been right. Also of nodes that were not verified; after `observe`."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it learned, for a file (`Engine.save_drafter_state`); empty if there is nothing to keep."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - as above
        """Takes over what `arrays` of another state with the same options and model gave. Raises ValueError, IndexError
        or TypeError if they can't be that."""


class Drafter(ABC):
    """Interface of drafting methods."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    published: ClassVar[float | None] = None
    """Tokens a pass that others measured on Spec-Bench with Vicuna-7B, greedy; None if not known."""
    needs: ClassVar[tuple[str, ...]] = ("logits", "tokens")

    @abstractmethod
    def start(self, model: LanguageModel) -> DraftState:
        """A fresh state for this model."""


class Matcher(ABC):
    """Follows one output under a constraint.

    Masks are bitmasks in the layout of xgrammar and llguidance: int32, ceil(vocabulary / 32)
    words, bit i % 32 of word i // 32 set when token i may come next.
    """

    @abstractmethod
    def mask(self, out: np.ndarray) -> None:
        """Writes the mask of the next token into `out`, int32 (ceil(vocabulary / 32),).

        End-of-sequence tokens are set where the output so far is complete."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """Advances by one token. Raises ArgumentError, unchanged, if the mask forbids it."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Takes the last `count` accepted tokens back. Raises ArgumentError if there are fewer."""

    @abstractmethod
    def fork(self) -> Matcher:
        """An independent matcher in the same state."""

    @abstractmethod
    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says; empty if there is a choice."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """The output so far satisfies the constraint, so that it may end here."""

    @property
    def is_stuck(self) -> bool:
        """No token may come next, though the output is not complete. A constraint that leads into no dead end need
        not say more."""
        return False

    def after(self, token: int) -> Matcher | None:
        """An independent matcher after one more token; None if the mask forbids it."""
        forked = self.fork()
        try:
            forked.accept(token)
        except ArgumentError:
            return None
        return forked

    def expected(self) -> DraftTree:
        """What the constraint makes likely, as far as it can say at next to no cost; chance 1 only for what `forced`
        has."""
        certain = self.forced()
        return DraftTree.chain(certain, [1.0] * len(certain))


@dataclass(frozen=True)
class Candidate:
    """An output, whole or so far, as a verifier sees it.

    prompt: the tokens before it, in the model's vocabulary. logprob: natural log-probability of `tokens` under the
    prediction. complete: nothing follows.
    """

    prompt: Sequence[int]
    text: str
    tokens: tuple[int, ...]
    logprob: float
    complete: bool


class Verifier(ABC):
    """Says how good outputs are, whole ones and unfinished ones: what a search goes by."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def score(self, model: LanguageModel, candidates: Sequence[Candidate]) -> list[float]:
        """One number for each, higher is better; compared among candidates of one request only."""


class Search(ABC):
    """A strategy over whole outputs: which are begun, which go on, which is given."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits",)

    @abstractmethod
    def run(self, root: Branch, judge: Callable[[Sequence[Branch]], list[float]]) -> Branch:
        """The output to give.

        root: before the first token. judge: the verifier's scores of branches, whole or so far."""


class Constraint(ABC):
    """Interface of constraints on the output."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def start(self, vocabulary: Vocabulary) -> Matcher:
        """A matcher at the start of the output. Raises ArgumentError if this vocabulary can't spell
        any valid output."""

    def parse(self, text: str) -> Any:
        """What a complete output stands for; None if it is text and nothing more."""
        return None
