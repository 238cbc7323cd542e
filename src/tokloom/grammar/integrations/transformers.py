"""A logits processor for `model.generate` of transformers.

processor = ConstraintLogitsProcessor('json_schema:path=invoice.json', tokenizer)
model.generate(**inputs, logits_processor=[processor])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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

_NO_MORE_THAN_ONE = 0.01
"""Logarithm of a sum of probabilities, with room for rounding."""


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
            ArgumentError: a sequence holds a forbidden token (another processor forced it), or no token is left for
                it (another processor forbids all that the constraint allows, as `min_new_tokens` does with the end).
        """
        if self._prompt is None or not self._continues(input_ids):
            self._prompt = input_ids.clone()
            self._rows = [Row(self._first.fork(), self.vocabulary) for _ in range(len(input_ids))]
        outputs: list[list[int]] = input_ids[:, self._prompt.shape[1] :].tolist()
        width = scores.shape[-1]
        allowed: list[np.ndarray] = []
        refusals: dict[int, ArgumentError] = {}
        for i, (row, output) in enumerate(zip(self._rows, outputs, strict=True)):
            try:
                row.follow(output)
                allowed.append(row.allowed(width))
            except ArgumentError as error:
                # Beam search fills up with forbidden tokens where fewer are allowed than it has beams. Such a beam
                # has a score of minus infinity; all that is left for it is to end.
                refusals[i] = error
                allowed.append(self._ends(width))
        masked = scores.masked_fill(~torch.from_numpy(np.stack(allowed)).to(scores.device), float("-inf"))
        stuck = {int(i) for i in (~(masked > float("-inf")).any(-1)).nonzero().flatten().tolist()}
        # Beam search gives logarithms of probabilities, others logits: only a beam may have nothing left.
        beams = bool(stuck) and bool((scores.float().logsumexp(-1) <= _NO_MORE_THAN_ONE).all())
        self._check(refusals, stuck, beams=beams)
        for i in stuck:
            if i in refusals or self._rows[i].is_over:  # what follows an end is padding, whatever others forbid
                masked[i, sorted(self.vocabulary.eos_ids)] = 0.0
        return masked

    def _check(self, refusals: Mapping[int, ArgumentError], stuck: Collection[int], *, beams: bool) -> None:
        """Raises ArgumentError if a sequence can't go on; a beam, only with all others of its prompt.

        Args:
            refusals: by sequence, why its output is not one of the constraint.
            stuck: sequences that every token is forbidden to.
            beams: there is reason to take the sequences of a prompt for beams.
        """
        if len(refusals) == len(self._rows):
            raise refusals[min(refusals)]
        if not refusals and not stuck:
            return
        prompt: Any = self._prompt
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, tokens in enumerate(prompt.tolist()):
            groups.setdefault(tuple(tokens), []).append(i)
        for group in groups.values():
            if len(group) == 1 and group[0] in refusals:
                raise refusals[group[0]]
            live = [i for i in group if i not in refusals and not self._rows[i].is_over]
            stopped = [i for i in live if i in stuck]
            if stopped and (stopped == live or not beams):
                raise self._rows[stopped[0]].nothing_left()

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
