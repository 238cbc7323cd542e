"""What a prediction may use of the engine during one request: the model, KV stores and passes over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from tokloom.engine.capture import Capture, MlpInput
from tokloom.engine.forward import Job, forward, forward_many, new_store, prefill
from tokloom.kv.mapped_memory import MappedMemory

if TYPE_CHECKING:
    from pathlib import Path

    from tokloom.attention.policy import AttentionPolicy
    from tokloom.engine.prefix_cache import PrefixCache
    from tokloom.kv.layer import Watcher
    from tokloom.kv.store import KVStore, Step
    from tokloom.models.language_model import LanguageModel

SPARE = 64
"""Slots reserved beyond what the request can fill, for draft trees."""


class PassOutput(NamedTuple):
    """Of a pass. logits: (rows, vocabulary) float32. hidden: (rows, hidden size) float32, empty if not asked for."""

    logits: torch.Tensor
    hidden: torch.Tensor


class RequestContext:
    """The engine's side of one request.

    Attributes:
        model: that the request is for; policy: how its attention goes over the store.
        stores: all that were opened, those of other models included; the first one is the account's.
        new_tokens: the most tokens that the output will have.
        offload: directory of the files in which keys and values lie; None keeps them in RAM.
        prefixes: what earlier prompts left; reused: how many tokens of this one's came from there.
    """

    def __init__(
        self,
        model: LanguageModel,
        policy: AttentionPolicy,
        new_tokens: int,
        *,
        kv: str | None,
        prefill_chunk: int,
        watch: Watcher | None = None,
        prefixes: PrefixCache | None = None,
        offload: Path | None = None,
    ) -> None:
        self.model, self.policy, self.new_tokens = model, policy, new_tokens
        self.stores: list[KVStore] = []
        self.prefixes, self.reused = prefixes, 0
        self._kv, self._chunk, self._watch, self._offload = kv, prefill_chunk, watch, offload

    def beside(self, model: LanguageModel) -> RequestContext:
        """A host for a second model in the same request, with the same attention; its stores count with this one's."""
        other = RequestContext(
            model, self.policy, self.new_tokens, kv=self._kv, prefill_chunk=self._chunk, prefixes=self.prefixes,
            offload=self._offload,
        )  # fmt: skip
        other.stores = self.stores
        return other

    def open(self, prompt: int) -> KVStore:
        """An empty store for a prompt of so many tokens and the output."""
        memory = None if self._offload is None else MappedMemory(self._offload)
        store = new_store(self.model, self.policy, prompt + self._room, self._kv, self._watch, memory)
        self.stores.append(store)
        return store

    def prefill(
        self,
        store: KVStore,
        tokens: Sequence[int],
        progress: Callable[[int], None] | None = None,
        hidden_layer: int | MlpInput | None = None,
    ) -> PassOutput:
        """Reads a prompt into an empty store, chunk by chunk; the logits (1, vocabulary) are those after it.

        progress: called after each chunk with the number of tokens read.
        hidden_layer: of which layer to return the hidden states, all tokens' (see `Capture`).
        """
        capture = self._capture(hidden_layer)
        logits, hidden = torch.empty(0), []
        prefixes = self.prefixes if capture is None else None  # hidden states of what is not read are nowhere
        key = (self.model, self._kv, self._chunk)
        after_plan = prefixes.plan(key, tokens, self._chunk) if prefixes is not None else set()
        found = prefixes.find(key, tokens, self._chunk) if prefixes is not None else None
        if found is not None:
            store.resume(found.store, len(tokens) + self._room)
            logits = found.logits
            self.reused += store.seen
        for done, after in prefill(self.model, store, tokens, self._chunk, capture):
            logits = after
            if prefixes is not None and done in after_plan:
                prefixes.put(key, tokens[:done], store, logits)
            if capture is not None:
                hidden.append(capture.hidden)
            if progress is not None:
                progress(done)
        store.shrink(self._room)
        store.prepare()
        return PassOutput(logits[None], torch.cat(hidden) if hidden else torch.empty(0))

    def forward(
        self,
        store: KVStore,
        tokens: Sequence[int],
        step: Step,
        *,
        all_logits: bool = True,
        hidden_layer: int | MlpInput | None = None,
    ) -> PassOutput:
        """One pass. After a tree, `store.accept` says which rows stay; other rows stay at once.

        all_logits: after each row but the step's skipped ones, which have no hidden states here either; else
            (1, vocabulary) after the last one, and all hidden states.
        hidden_layer: as in `prefill`; a layer's output other than the last's costs a pass over the layers one by one.
        """
        capture = self._capture(hidden_layer)
        logits = forward(self.model, store, tokens, step, all_logits, capture)
        if capture is None:
            return PassOutput(logits, torch.empty(0))
        return PassOutput(logits, capture.hidden[step.skipped :] if all_logits else capture.hidden)

    def forward_many(self, jobs: Sequence[Job], hidden_layer: int | MlpInput | None = None) -> list[PassOutput]:
        """One pass over stores of this request and of others of the same engine; see `forward`."""
        capture = self._capture(hidden_layer)
        logits = forward_many(self.model, jobs, all_logits=True, capture=capture)
        if capture is None:
            return [PassOutput(each, torch.empty(0)) for each in logits]
        hidden = torch.split(capture.hidden, [job.step.rows for job in jobs])
        parts = [each[job.step.skipped :] for each, job in zip(hidden, jobs, strict=True)]
        return [PassOutput(*each) for each in zip(logits, parts, strict=True)]

    def max_draft_tokens(self) -> int:
        """Tokens that the next pass may add, as far as the stores' attention goes."""
        return min((store.max_draft_tokens() for store in self.stores), default=1)

    @property
    def _room(self) -> int:
        return min(self.new_tokens, 256) + SPARE

    def _capture(self, layer: int | MlpInput | None) -> Capture | None:
        if layer is None:
            return None
        return Capture(layer, self.model.model.config.get_text_config().num_hidden_layers)
