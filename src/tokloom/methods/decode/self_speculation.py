"""The model drafts for itself: it attends to few slots while it drafts, and to all of them when it verifies.

Paper: none (baseline)
Formula: a selecting attention policy keeps every key and value. So drafts are made on the request's own KV cache, one
    token a pass under that policy, the likeliest each, until `depth` tokens or until the chance that all are right
    falls below `threshold` (the product of the model's probabilities, each corrected by how often drafts of like
    probability were right); their slots are taken back, and one pass of the request's own attention verifies them all.
Shapes: a chain of up to `depth` tokens.
Effect: no second model and no second cache, and exactly the text of the request's own attention. It pays where reading
    the cache is most of a pass: at 8k tokens of context a drafting pass of this model takes half of a dense one.
Differs: drafting waits until the context is `min_context` times the policy's budget; before
    that a draft costs what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import Field

from tokloom import registry
from tokloom.attention.policy import AttentionPolicy
from tokloom.attention.policy import Calibration as PolicyCalibration
from tokloom.decode.candidates import probabilities_of, top_tokens
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.decode.prediction import REWINDING, Prediction
from tokloom.engine.forward import calibrated
from tokloom.engine.prediction import PlainPrediction
from tokloom.errors import CompositionError, SpecError
from tokloom.kv.store import Step
from tokloom.methods.decode.draft_model import BINS
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


@method(stage="decode", renamed={"least": "min_context"})
class SelfSpeculation(Drafter):
    """One model, one cache, two attentions."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "tokens", REWINDING)

    attention: str = Field(default="tidal_decode:budget=256")
    """The policy of drafting passes; one that selects and drops nothing."""
    depth: int = Field(default=4, ge=1, le=32)
    """Most tokens drafted in a chain."""
    threshold: float = Field(default=0.4, ge=0, lt=1)
    """A chain ends where the chance that all of it is right falls below this."""
    min_context: float = Field(default=4.0, ge=0)
    """Drafting begins at a context of so many times the policy's budget."""

    def __post_init__(self) -> None:
        if not self.policy().rewinds or self.policy().plain:
            raise SpecError(
                f"{self.name}:attention", self.attention, "a policy that selects, and neither observes nor evicts",
                "Take one such as tidal_decode, token_select, quest.",
            )  # fmt: skip

    def policy(self) -> AttentionPolicy:
        """That of drafting passes."""
        return registry.build(self.attention, AttentionPolicy, f"{self.name}:attention")

    def start(self, model: LanguageModel) -> SelfSpeculationState:
        policy = self.policy()
        return SelfSpeculationState(self, policy, calibrated(model, policy))


class SelfSpeculationState(DraftState):
    """Learns how far the model's probabilities under few slots are to be trusted."""

    def __init__(self, options: SelfSpeculation, policy: AttentionPolicy, calibration: PolicyCalibration) -> None:
        self.options, self.policy, self.calibration = options, policy, calibration
        self.min_context = int(options.min_context * getattr(policy, "budget", 0))
        self.rates = HitRates([0.3 + 0.7 * (i + 0.5) / BINS for i in range(BINS)])

    def check(self, prediction: Prediction) -> None:
        if not isinstance(prediction, PlainPrediction):
            raise CompositionError(
                "self_speculation", type(prediction).__name__, "it drafts on the KV store of the model's own prediction"
            )

    def propose(self, request: DraftRequest) -> DraftTree:
        prediction, tokens = cast("PlainPrediction", request.prediction), request.tokens
        store = prediction.store
        depth = min(self.options.depth, request.limit, request.depth, self.policy.max_draft_tokens(store.seen))
        if len(tokens) < self.min_context or len(tokens) + depth > prediction.window:
            return DraftTree()
        drafted: list[int] = []
        probabilities: list[float] = []
        kinds: list[int] = []
        probability, last = 1.0, tokens[-1]
        with store.trying(self.policy, self.calibration):
            while len(drafted) < depth:
                step = Step((len(tokens) - 1 + len(drafted),), prediction.host.model.device)
                logits = prediction.host.forward(store, [last], step).logits
                best = top_tokens(logits, 1)
                last, given = int(best[0, 0]), float(probabilities_of(logits, best)[0, 0])
                kind = min(int(given * BINS), BINS - 1)
                probability *= min(0.999, given * self.rates.rate(kind) / ((kind + 0.5) / BINS))
                if probability < self.options.threshold or last in prediction.eos_ids:
                    break
                drafted.append(last)
                probabilities.append(probability)
                kinds.append(kind)
        return DraftTree.chain(drafted, probabilities, kinds)

    def observe(self, seen: Verified) -> None:
        """The model stays as it is."""

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)
