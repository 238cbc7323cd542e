"""A logits processor for vLLM's V1 engine.

    llm = LLM(model, logits_processors=["tokloom.grammar.integrations.vllm:ConstraintLogitsProcessor"])
    SamplingParams(extra_args={"tokloom": {"json_schema": {"schema": {"type": "object"}}}})

A request names one constraint with its options. Options that read files of the server are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from tokloom import registry
from tokloom.decode.constraint import Constraint
from tokloom.errors import ArgumentError, TokloomError
from tokloom.grammar.integrations.row import Row
from tokloom.tokenize.vocabulary import Vocabulary

KEY = "tokloom"
_LOG = logging.getLogger(__name__)


class ConstraintLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Holds the requests that ask for it to their constraints; others are left alone."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuses a request whose constraint is wrong. Raises ValueError, as vLLM asks."""
        try:
            requested(sampling_params)
        except TokloomError as error:
            raise ValueError(str(error)) from error

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._config = vllm_config.model_config
        self._vocabulary: Vocabulary | None = None
        self._rows: dict[int, tuple[Row, Sequence[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token may be forbidden."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows the batch: requests that left, came and moved, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._rows.pop(index, None)
            constraint = requested(params)
            if constraint is not None:
                vocabulary = self._known_vocabulary()
                self._rows[index] = (Row(constraint.start(vocabulary), vocabulary), output)
        for first, second, direction in batch_update.moved:
            moved, replaced = self._rows.pop(first, None), self._rows.pop(second, None)
            if moved is not None:
                self._rows[second] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[first] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Sets the logits (batch, vocabulary) of forbidden tokens to minus infinity, in place.

        A request of which no token is left, because min_tokens, a bias or bad words forbid all that its constraint
        allows, is given up with a message in the log.
        """
        for index, (row, output) in list(self._rows.items()):
            try:
                row.follow(output)
                allowed = torch.from_numpy(row.allowed(logits.shape[-1]).copy()).to(logits.device)
                if not (logits[index][allowed] > float("-inf")).any():
                    raise row.nothing_left()
            except TokloomError:  # one request must not stop the engine for the others
                _LOG.exception("tokloom gives request %d of the batch up; its output is free from here", index)
                del self._rows[index]
                continue
            logits[index].masked_fill_(~allowed, float("-inf"))
        return logits

    def _known_vocabulary(self) -> Vocabulary:
        """The model's vocabulary; read when the first request needs it."""
        if self._vocabulary is None:
            from transformers import AutoTokenizer

            config = self._config
            tokenizer: Any = AutoTokenizer.from_pretrained(config.tokenizer, revision=config.tokenizer_revision)
            ends = config.hf_config.eos_token_id
            ends = tokenizer.eos_token_id if ends is None else ends
            ids = [ends] if isinstance(ends, int) else list(ends)
            self._vocabulary = Vocabulary(tokenizer, config.get_vocab_size(), ids)
        return self._vocabulary


def requested(sampling_params: Any) -> Constraint | None:
    """The constraint that a request asks for; None if it asks for none.

    Raises:
        ArgumentError: it is not one constraint with its options, or an option reads a file.
        SpecError, GrammarError: the constraint is wrong.
    """
    wanted = (sampling_params.extra_args or {}).get(KEY)
    if wanted is None:
        return None
    valid = 'one constraint with its options, like {"regex": {"pattern": "[0-9]+"}}'
    if not isinstance(wanted, dict) or len(wanted) != 1:
        raise ArgumentError(KEY, wanted, valid)
    (name, options), *_ = wanted.items()
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ArgumentError(KEY, wanted, valid)
    if "path" in options:
        raise ArgumentError(f"{KEY}.{name}.path", options["path"], "no path: the server's files are not the client's")
    return registry.make(name, options, Constraint, KEY)
