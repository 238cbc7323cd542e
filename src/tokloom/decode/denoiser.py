"""Diffusion language models in the decode stage: which masked tokens are filled in, and what is read again for it.

A masked-diffusion model looks both ways and says of every masked token what it was. Text comes block by block: masks
are put behind it, and pass by pass some of them get the token that the model proposes, until none is left. A `Denoiser`
says which ones. A `DenoisingCache` says how a pass reads the text; without one, all of it is read each time. Each goes
with each, and what is proposed is drawn as `Sampling` says. The loop is `engine/denoising.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from tokloom.engine.request_context import RequestContext
    from tokloom.models.language_model import LanguageModel


@dataclass(frozen=True)
class Proposals:
    """What the model proposes in one pass.

    text: prompt and output so far, the mask token where nothing is known yet.
    places: the masked positions, ascending; tokens: what is proposed for each; chances: the model's probability of it.
    """

    text: Sequence[int]
    places: Sequence[int]
    tokens: Sequence[int]
    probabilities: Sequence[float]

    def filled(self) -> list[int]:
        """The text as it would be if all of them were taken."""
        out = list(self.text)
        for place, token in zip(self.places, self.tokens, strict=True):
            out[place] = token
        return out


def words(model: LanguageModel) -> torch.Tensor:
    """Bool (vocabulary,): the tokens that an output can have, its end among them."""
    vocabulary = model.vocabulary
    found = [id in model.eos_ids or id not in vocabulary.special_ids for id in range(vocabulary.size)]
    return torch.tensor(found, device=model.device)


class Unmasking(ABC):
    """A denoiser at work on one request."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Figures of its own for the ledger, by name."""

    @abstractmethod
    def choose(self, proposals: Proposals) -> dict[int, int]:
        """The tokens that are filled in now, by position; at least one."""


class Denoiser(ABC):
    """Interface of methods that say which masked tokens are filled in."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("logits",)
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    block: int
    """Tokens that are denoised together."""

    @abstractmethod
    def start(self, host: RequestContext) -> Unmasking:
        """Fresh state for one request. Raises CompositionError if the host's model can't take it."""


class Reading(ABC):
    """How the passes of one request read the text."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.rows = 0
        """Tokens read, summed over the passes."""

    @abstractmethod
    def read(self, text: Sequence[int], start: int) -> torch.Tensor:
        """Logits (len(text) - start, vocabulary) for the tokens themselves, from `start`, where the block begins."""

    @torch.inference_mode()
    def both_ways(self, tokens: Sequence[int], first: int, held: Any = None) -> torch.Tensor:
        """One pass over tokens at positions `first` and on, beside those held in a cache of transformers: logits
        (rows, vocabulary)."""
        self.rows += len(tokens)
        device = self.model.device
        output = self.model.model(
            input_ids=torch.tensor([list(tokens)], device=device),
            position_ids=torch.arange(first, first + len(tokens), device=device)[None],
            attention_mask=torch.ones(1, 1, len(tokens), first + len(tokens), dtype=torch.bool, device=device),
            past_key_values=held,
            use_cache=held is not None,
        )
        logits: torch.Tensor = output.logits[0]
        return logits.float()


class WholeText(Reading):
    """Everything, in every pass."""

    def read(self, text: Sequence[int], start: int) -> torch.Tensor:
        return self.both_ways(text, 0)[start:]


class DenoisingCache(ABC):
    """Interface of methods that spare reading all of the text in every pass."""

    stage: ClassVar[str] = "decode"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("keys",)
    example: ClassVar[dict[str, Any]] = {}
    """Options with which a test can build it, and with which it has an effect on a short text."""

    @abstractmethod
    def start(self, model: LanguageModel) -> Reading:
        """Fresh state for one request."""
