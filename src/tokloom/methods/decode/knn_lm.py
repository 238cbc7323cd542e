"""kNN-LM mixes the model's distribution with that of the tokens that followed similar contexts in the user's own text.

Paper: P105. Why do Nearest Neighbor Language Models Work? arXiv:2301.02828
Formula: p(w) = (1 - weight) p_model(w) + weight p_near(w), p_near(w) = sum over the k nearest keys h_i whose token is w
    of exp(-|h - h_i|^2 / temperature), normalised. h is what goes into the last layer's MLP after its norm; a key is
    the h of a context of the text, its token what followed there.
Shapes: hidden (rows, width) against keys (count, width) in half precision; logits (rows, vocabulary).
Effect: the paper finds lower perplexity on WikiText-103 and names three causes: the MLP's input as key rather than
    its output, approximate search, and a temperature above 1. Here with SmolLM2 and nine tenths of a book as datastore,
    perplexity of the last tenth falls from 29.6 to 27.2 as tuned (temperature 2.2, weight 0.15), and to 29.1 at
    temperature 1 and weight 0.25; with 8 of 620 inverted lists it is 27.4, with another book as datastore 30.7 (The
    Time Machine, k=1024; benchmarks/datastore.py). On windows held out while building, 37.3 becomes 33.5, and 34.2 with
    the last layer's output as key. Approximate search is faster here but no better.
Differs: temperature and weight, which the paper tunes by hand on a development set, are tuned on windows of the text
    that are held out while the datastore is built; options override them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from tokloom.decode.prediction import Prediction, Predictor
from tokloom.engine.prediction import AdjustedPrediction
from tokloom.errors import CompositionError
from tokloom.methods.decode._datastore import LAST_MLP, Datastore, Progress, build, neighbour_distribution, place
from tokloom.prepared import Prepared
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext
    from tokloom.models.language_model import LanguageModel


@method(stage="decode")
class KNNLM(Prepared, Predictor):
    """`tokloom prepare knn_lm:datastore=PATH FILE ...` builds the datastore."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "hidden_states")
    example: ClassVar[dict[str, Any]] = {"datastore": "datastore"}

    datastore: str = Field(min_length=1)
    """Directory of the datastore."""
    k: int = Field(default=1024, ge=1)
    """Neighbours looked for."""
    temperature: float | None = Field(default=None, gt=0)
    """Of the neighbours' distribution, in squared distances; null: as tuned when the datastore was built."""
    weight: float | None = Field(default=None, ge=0, lt=1)
    """Share of the neighbours' distribution; null: as tuned when the datastore was built."""
    probes: int | None = Field(default=None, ge=1)
    """Inverted lists looked through, of some 64 keys each; null: all of them, which is exact."""
    layer: int = LAST_MLP
    """When building, whose hidden states are the keys: 0 is what goes into the last layer's MLP; i > 0 what the i-th
    layer gives, -1 what the head sees."""

    def start(self, host: RequestContext) -> Prediction:
        return KNNPrediction(host, self, Datastore(self.datastore))

    def prepare(self, model: LanguageModel, texts: Sequence[str], progress: Progress | None = None) -> dict[str, Any]:
        about = build(self.datastore, model, texts, layer=self.layer, progress=progress)
        return {
            "keys": about.count, "temperature": about.temperature, "weight": about.weight,
            "perplexity of held-out text": about.perplexity, "with the datastore": about.tuned_perplexity,
        }  # fmt: skip


class KNNPrediction(AdjustedPrediction):
    """The model's prediction over one store, mixed row by row."""

    def __init__(self, host: RequestContext, options: KNNLM, datastore: Datastore) -> None:
        about = datastore.about
        size = host.model.vocabulary.size
        if (about.model, about.vocabulary) != (host.model.name, size):
            raise CompositionError(
                f"the datastore {options.datastore} of {about.model}", host.model.name, "the keys are another model's"
            )
        super().__init__(host, place(about.layer))
        self.options, self.datastore = options, datastore
        self.temperature = about.temperature if options.temperature is None else options.temperature
        self.weight = about.weight if options.weight is None else options.weight
        self.counts = {"searches": 0}

    def adjust(self, logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if self.weight == 0:
            return logits
        # numpy: torch's threads would wait actively after each operation, where the next pass needs the cores
        queries = hidden.cpu().numpy()
        distances, tokens = self.datastore.search(queries, self.options.k, self.options.probes)
        self.counts["searches"] += len(queries)
        mixed = mix(logits.cpu().numpy(), neighbour_distribution(distances, self.temperature), tokens, self.weight)
        return torch.from_numpy(mixed).to(logits.device)


def mix(
    logits: NDArray[np.float32], near: NDArray[np.float32], tokens: NDArray[np.int32], weight: float
) -> NDArray[np.float32]:
    """log((1 - weight) softmax(logits) + weight * neighbours), (rows, vocabulary) float32.

    near, tokens: (rows, k), each neighbour's weight and token."""
    top = logits.max(-1, keepdims=True)
    total = top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
    mixed: NDArray[np.float32] = logits - total + np.float32(np.log1p(-weight))
    for row, shares, following in zip(mixed, near, tokens, strict=True):
        found, which = np.unique(following, return_inverse=True)
        with np.errstate(divide="ignore"):  # a neighbour that is too far away counts for nothing
            share = np.log(weight * np.bincount(which, shares))
        row[found] = np.logaddexp(row[found], share)
    return mixed
