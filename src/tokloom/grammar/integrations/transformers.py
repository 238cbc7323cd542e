"""A logits processor for `model.generate` of transformers.

processor = ConstraintLogitsProcessor('json_schema:path=invoice.json', tokenizer)
model.generate(**inputs, logits_processor=[processor])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LogitsProcessor

from tokloom import registry
from tokloom.decode.constraint import Constraint
from tokloom.errors import ArgumentError
from tokloom.grammar.integrations.row import Row
from tokloom.tokenize.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ConstraintLogitsProcessor(LogitsProcessor):
    """Holds every sequence of a batch to a constraint; greedy, sampled and beam search alike.

    One object may serve one `generate` after another; the output begins where the first call's `input_ids` end.

    Args:
        constraint: a `Constraint` or a spec such as ``regex:pattern="[0-9]+"``.
        tokenizer: the model's, with a `tokenizers` backend.
        vocabulary_size: width of the model's logits (`model.config.vocab_size`); the tokenizer's length if not given.
        eos_ids: tokens that end a text; the tokenizer's if not given.

    Raises:
        SpecError, GrammarError: the constraint is wrong.
        ArgumentError: no token that ends a text is known, or the vocabulary can't spell any valid output.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        constraint: str | Constraint,
        tokenizer: PreTrainedTokenizerFast,
        *,
        vocabulary_size: int | None = None,
        eos_ids: Iterable[int] | None = None,
    ) -> None:
        self.constraint: Constraint = registry.build(constraint, Constraint, "constraint")
        ends = [tokenizer.eos_token_id] if eos_ids is None else list(eos_ids)
        if not ends or None in ends:
            raise ArgumentError("eos_ids", ends, "the tokens that end a text", "The tokenizer names none: give them.")
        self.vocabulary = Vocabulary(tokenizer, vocabulary_size or len(tokenizer), ends)
        self._first = self.constraint.start(self.vocabulary)
        self._prompt: torch.Tensor | None = None
        self._rows: list[Row] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores (batch, vocabulary) with those of forbidden tokens at minus infinity.

        Raises:
            ArgumentError: every sequence holds a forbidden token (another processor forced it).
        """
        if self._prompt is None or not self._continues(input_ids):
            self._prompt = input_ids.clone()
            self._rows = [Row(self._first.fork(), self.vocabulary) for _ in range(len(input_ids))]
        outputs: list[list[int]] = input_ids[:, self._prompt.shape[1] :].tolist()
        width = scores.shape[-1]
        allowed, refusals = [], []
        for row, output in zip(self._rows, outputs, strict=True):
            try:
                row.follow(output)
                allowed.append(row.allowed(width))
            except ArgumentError as error:
                # Beam search fills up with forbidden tokens where fewer are allowed than it has beams. Such a beam
                # has a score of minus infinity; all that is left for it is to end.
                refusals.append(error)
                allowed.append(self._ends(width))
        if len(refusals) == len(self._rows):
            raise refusals[0]
        forbidden = ~torch.from_numpy(np.stack(allowed)).to(scores.device)
        return scores.masked_fill(forbidden, float("-inf"))

    def _ends(self, width: int) -> np.ndarray:
        ends = np.zeros(width, dtype=bool)
        ends[sorted(self.vocabulary.eos_ids)] = True
        return ends

    def _continues(self, input_ids: torch.Tensor) -> bool:
        prompt: Any = self._prompt
        length = prompt.shape[1]
        return (
            len(input_ids) == len(prompt)
            and input_ids.shape[1] >= length
            and torch.equal(input_ids[:, :length], prompt.to(input_ids.device))
        )
