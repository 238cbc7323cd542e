"""The engine: one object that puts a model and one method per stage together, and one call to use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokloom import registry
from tokloom.attention.policy import AttentionPolicy
from tokloom.context.selector import ContextSelector, Document
from tokloom.decode.constraint import Constraint
from tokloom.decode.denoiser import Denoiser, DenoisingCache
from tokloom.decode.drafter import Drafter
from tokloom.decode.prediction import Prediction, Predictor
from tokloom.decode.search import Search, Verifier
from tokloom.engine import components
from tokloom.engine.denoising import DiffusionMode, denoise
from tokloom.engine.documents import prompt_over
from tokloom.engine.forward import check_model
from tokloom.engine.open_request import OpenRequest, Writer
from tokloom.engine.prediction import PlainPrediction
from tokloom.engine.prefix_cache import PrefixCache
from tokloom.engine.prompt import check_messages
from tokloom.engine.request import Chunk, Result, Sampling, Score, Stream, given_or
from tokloom.engine.request_context import RequestContext
from tokloom.engine.scoring import teacher_forced
from tokloom.engine.searching import check_search, searched, verifier_of
from tokloom.engine.speculation.drafting import Drafting
from tokloom.engine.together import run_together
from tokloom.errors import ArgumentError, BudgetError, CompositionError
from tokloom.kv.mapped_memory import MappedMemory
from tokloom.kv.store import PRECISIONS
from tokloom.ledger import Ledger
from tokloom.models.embedder import shared
from tokloom.models.language_model import LanguageModel
from tokloom.models.load import load, refuse_options
from tokloom.models.rotary import with_rotary
from tokloom.models.rotary_scaling import RotaryScaling

if TYPE_CHECKING:
    from tokloom.kv.layer import Watcher

    Progress = Callable[[str, int, int], None]

ONE_PROMPT = 2**62
"""A limit that no prompt's KV store reaches."""


class Engine:
    """A model with one method per stage.

    Args:
        model: a `LanguageModel`, or a name, directory, GGUF file or hub id for `tokloom.load`.
        attention: an `AttentionPolicy` or a spec such as "h2o:budget=256".
        predictor: a `Predictor` or a spec, which changes the next-token distribution; None is the model's own.
        rope: a `RotaryScaling` or a spec such as "giraffe:basis=yarn,scale=2", which widens the model's window for this
            engine; None for the model's own positions.
        drafter: a `Drafter`, a spec such as "token_recycling", or None for plain decoding.
        drafter_state: a file with what the drafter learned, read if it is there; `save_drafter_state` writes it.
        denoiser: a `Denoiser` or a spec, only for a diffusion model; None is plain_denoising.
        search: a `Search` or a spec such as "best_of:n=8": the output is chosen among several.
        verifier: what a search chooses by: a `Verifier`, a spec, or a function of the text; None is what the search has
            in its options.
        denoising_cache: a `DenoisingCache` or a spec, likewise; None reads the whole text in every pass.
        context: a `ContextSelector` or a spec such as "context_bubble:budget=800"; used for requests with documents.
        dtype, device, weights: as for `tokloom.load`; only with a name.
        kv: how keys and values are stored, "fp32", "bf16", "int8" (with a scale for each token of a KV head) or "int4"
            (with a scale and a zero for each 32 elements); None is what the model computes in. Over a rounded store,
            drafting may decide near ties otherwise.
        prefill_chunk: tokens of the prompt that go through the model in one pass.
        prefix_bytes: memory for the KV stores of earlier prompts, so that what a later one begins with, whole chunks of
            it, need not be read again; 0 keeps none.
        offload: a directory on a disk. Keys and values then lie in temporary files there, and in RAM only what a pass
            touches. The text stays the same.

    Raises:
        UnknownNameError, SpecError: a component that does not exist or is not valid.
        CompositionError: a component needs what its stage does not give.
        UnsupportedModelError: the model's logits over the KV store would not be its own.
    """

    def __init__(
        self,
        model: str | LanguageModel = "smollm2-135m",
        *,
        attention: str | AttentionPolicy = "dense",
        predictor: str | Predictor | None = None,
        rope: str | RotaryScaling | None = None,
        drafter: str | Drafter | None = None,
        drafter_state: str | Path | None = None,
        denoiser: str | Denoiser | None = None,
        search: str | Search | None = None,
        verifier: str | Verifier | Callable[[str], float] | None = None,
        denoising_cache: str | DenoisingCache | None = None,
        context: str | ContextSelector = "context_bubble",
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        weights: str | None = None,
        kv: str | None = None,
        prefill_chunk: int = 512,
        prefix_bytes: int = 0,
        offload: str | Path | None = None,
    ) -> None:
        if not isinstance(prefill_chunk, int) or prefill_chunk < 1:
            raise ArgumentError("prefill_chunk", prefill_chunk, "an integer >= 1")
        if not isinstance(prefix_bytes, int) or prefix_bytes < 0:
            raise ArgumentError("prefix_bytes", prefix_bytes, "an integer >= 0")
        if kv is not None and kv not in PRECISIONS:
            raise ArgumentError("kv", kv, "one of " + ", ".join(PRECISIONS) + ", or None")
        given = {"attention": attention, "predictor": predictor, "rope": rope, "drafter": drafter, "search": search,
                 "context": context}  # fmt: skip
        self._built = {name: components.build(name, part) for name, part in given.items()}
        components.check(self._built)
        self.attention: AttentionPolicy = self._built["attention"]
        self.drafter: Drafter | None = self._built["drafter"]
        self.context: ContextSelector = self._built["context"]
        self.predictor: Predictor | None = self._built["predictor"]
        self.search: Search | None = self._built["search"]
        for argument, path in (("drafter_state", drafter_state), ("offload", offload)):
            if path is not None and not isinstance(path, (str, PathLike)):
                raise ArgumentError(argument, path, "a path, or None")
        if drafter_state is not None and self.drafter is None:
            raise ArgumentError("drafter_state", str(drafter_state), "None without a drafter", "Give drafter= too.")
        if isinstance(model, LanguageModel):
            refuse_options(dtype=dtype, device=device, weights=weights)
            self.model = model
        else:
            self.model = load(model, dtype=dtype, device=device, weights=weights)
        if self._built["rope"] is not None:
            self.model = with_rotary(self.model, self._built["rope"])
        check_model(self.model)
        self.kv, self.prefill_chunk = kv, prefill_chunk
        self.offload = None if offload is None else Path(offload)
        if offload is not None:
            MappedMemory(offload)  # raises if nothing can be written there
            if self.model.device.type != "cpu":
                raise ArgumentError("offload", str(offload), f"None for a model on {self.model.device}")
        self._prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        self.verifier = verifier
        check_search(self.search, verifier)
        self.way = DiffusionMode.fitting(self.model, denoiser, denoising_cache)
        if self.way is not None:
            policy = None if self.attention.plain else self.attention
            self.way.refuse(self.model, policy, self.predictor, self.drafter, self.search)
        unit = "tokens" if self.predictor is None else self.predictor.unit
        self._drafting = Drafting(self.drafter, self.model, unit) if self.drafter is not None else None
        self._embed = shared(str(self.model.device))
        if self._drafting is not None and drafter_state is not None and Path(drafter_state).exists():
            self._drafting.load(drafter_state)

    # --- public calls

    def save_drafter_state(self, path: str | Path) -> None:
        """Writes what the drafter learned to a file, for `drafter_state` of a later engine.

        Raises ArgumentError if there is no drafter, or the file can't be written."""
        if self._drafting is None:
            raise ArgumentError("drafter", None, "a drafter, whose state can be saved")
        self._drafting.save(path)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, str]] | None = None,
        documents: Sequence[Document | str | Path] | None = None,
        constraint: str | Constraint | None = None,
        sampling: Sampling | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Answers in one go; see `stream`."""
        stream = self.stream(
            prompt, messages=messages, documents=documents, constraint=constraint, sampling=sampling, progress=progress
        )
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, str]] | None = None,
        documents: Sequence[Document | str | Path] | None = None,
        constraint: str | Constraint | None = None,
        sampling: Sampling | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """Answers piece by piece.

        Args:
            prompt: text to continue as it is or, with documents, the question to answer from them.
            messages: a chat, ``{"role", "content"}`` each, through the model's chat template.
            documents: `Document`s, or paths of files and folders.
            constraint: a `Constraint` or a spec such as ``choices:options=["yes","no"]``.
            sampling: greedy with at most 128 tokens if not given.
            progress: called as (stage, done, total) while the prompt is read.

        Raises (at once, before any chunk):
            ArgumentError: neither or both of prompt and messages, an empty prompt, a bad option.
            DocumentError: a document that can't be read as text.
            BudgetError: the question does not fit the budget, or the prompt the model's window.
            ChatTemplateError: messages for a model without a chat template.
        """
        request = self._open(prompt, messages, documents, constraint, sampling)
        stream = Stream(iter(()))

        def chunks() -> Iterator[Chunk]:
            yield from request.run(progress)
            stream._result = request.finish()

        stream._chunks = chunks()
        return stream

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        constraint: str | Constraint | None = None,
        sampling: Sampling | Sequence[Sampling] | None = None,
        at_once: int = 8,
    ) -> list[Result]:
        """Continues several prompts, their rows together in each forward pass; each result is that of `generate`.

        Args:
            sampling: one for all, or one for each.
            at_once: how many are under way at a time, each with its KV store.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Collection):
            raise ArgumentError("prompts", prompts, "a list of texts")
        each = [sampling] * len(prompts) if sampling is None or isinstance(sampling, Sampling) else list(sampling)
        if len(each) != len(prompts):
            raise ArgumentError("sampling", sampling, f"one, or one for each of {len(prompts)} prompts in a list")
        if not isinstance(at_once, int) or at_once < 1:
            raise ArgumentError("at_once", at_once, "an integer >= 1")
        opens = [
            partial(self._open, prompt, None, None, constraint, its) for prompt, its in zip(prompts, each, strict=True)
        ]
        return run_together(opens, at_once)

    def sample(
        self,
        prompt: str | None = None,
        n: int = 1,
        *,
        messages: Sequence[dict[str, str]] | None = None,
        constraint: str | Constraint | None = None,
        sampling: Sampling | None = None,
        at_once: int = 8,
    ) -> list[Result]:
        """Draws several outputs for one prompt, which is read once; the i-th is what `generate` gives with seed + i.

        Raises ArgumentError also if the sampling is greedy, which has one output only.
        """
        sampling = given_or(Sampling(temperature=1.0), sampling)
        if not isinstance(n, int) or n < 1:
            raise ArgumentError("n", n, "an integer >= 1")
        if n > 1 and sampling.temperature == 0:
            raise ArgumentError("sampling", "temperature 0", "a temperature above 0 for more than one sample")
        prefixes = self._prefixes if self._prefixes is not None else PrefixCache(ONE_PROMPT)
        each = [sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + i) for i in range(n)]
        return run_together(
            [partial(self._open, prompt, messages, None, constraint, its, prefixes) for its in each], at_once
        )

    def score(self, prompt: str, continuation: str, *, watch: Watcher | None = None) -> Score:
        """How the model, with this engine's attention, rates `continuation` after `prompt`, both taken as they are.

        The continuation goes through the model one token a pass, as if it had been generated.

        watch: is told what each layer attends to, in every pass; see `tokloom.attention.trace.Trace`.
        """
        if self.way is not None:
            raise CompositionError(
                "score", self.model.name, "a diffusion model has no chances of a text, token by token"
            )
        if not isinstance(continuation, str):
            raise ArgumentError("continuation", continuation, "a text of at least one token")
        ledger = Ledger()
        tokens = self._plain_prompt(prompt, None, ledger)
        prediction = self._predict(len(continuation), watch)
        targets = prediction.encode(continuation)
        if not targets:
            raise ArgumentError("continuation", continuation, "a text of at least one token")
        self._check_window([*prediction.prompt(tokens), *targets[:-1]], prediction.window)
        return teacher_forced(prediction, tokens, targets, ledger)

    # --- the stages of a request

    def _plain_prompt(self, prompt: str | None, messages: Sequence[dict[str, str]] | None, ledger: Ledger) -> list[int]:
        with ledger.stage("tokenize", "model") as row:
            if messages is not None:
                check_messages(messages)
                tokens = self.model.chat_tokens(messages)
            else:
                if not isinstance(prompt, str) or not prompt:
                    raise ArgumentError("prompt", prompt, "a text that is not empty")
                tokens = self.model.encode_prompt(prompt, chat=False)
            row.tokens_out = len(tokens)
        return tokens

    def _predict(
        self, new_tokens: int, watch: Watcher | None = None, prefixes: PrefixCache | None = None
    ) -> Prediction:
        """The prediction of a new request."""
        host = RequestContext(
            self.model, self.attention, new_tokens, kv=self.kv, prefill_chunk=self.prefill_chunk,
            prefixes=prefixes if prefixes is not None else self._prefixes, watch=watch, offload=self.offload,
        )  # fmt: skip
        return PlainPrediction(host) if self.predictor is None else self.predictor.start(host)

    def _open(
        self,
        prompt: str | None,
        messages: Sequence[dict[str, str]] | None,
        documents: Sequence[Document | str | Path] | None,
        constraint: str | Constraint | None,
        sampling: Sampling | None,
        prefixes: PrefixCache | None = None,
    ) -> OpenRequest:
        """A request up to its prompt's tokens; arguments as of `stream`."""
        sampling = given_or(Sampling(), sampling)
        if (prompt is None) == (messages is None):
            raise ArgumentError("prompt and messages", (prompt, messages), "exactly one of the two")
        rule: Constraint | None = components.build("constraint", constraint)
        components.check({"constraint": rule})
        prediction = self._predict(sampling.max_new_tokens, prefixes=prefixes)
        if self.way is not None:
            self.way.refuse(self.model, rule)
        matcher = rule.start(prediction.vocabulary) if rule is not None else None
        ledger = Ledger()
        selection = None
        if documents is not None:
            if prompt is None:
                raise ArgumentError(
                    "documents", "given with messages", "a question as prompt= when documents are given"
                )
            tokens, selection = prompt_over(
                documents, prompt, self.context, self.model, self._embed, sampling.max_new_tokens, ledger
            )
        else:
            tokens = self._plain_prompt(prompt, messages, ledger)
        self._check_window(prediction.prompt(tokens), prediction.window)
        parts = [part.name for part in (self.predictor, self.drafter) if part is not None]
        return OpenRequest(
            prediction, tokens, sampling, rule, matcher, self._drafting, " + ".join(parts) or "plain", ledger,
            self._components(rule, documents is not None), selection, self._writer(),
        )  # fmt: skip

    def _writer(self) -> Writer | None:
        """How outputs are written if not one token after the other."""
        if self.way is not None:
            return partial(denoise, self.way)
        if self.search is not None:
            return partial(searched, self.search, verifier_of(self.search, self.verifier))
        return None

    # --- checks

    def _check_window(self, tokens: Sequence[int], window: int) -> None:
        if len(tokens) >= window:
            raise BudgetError(
                "prompt", f"{len(tokens)} tokens", f"fewer than {window}, the window of {self.model.name}",
                "Give long texts as documents=, so that a context method selects from them.",
            )  # fmt: skip

    def _components(self, constraint: Constraint | None, documents: bool) -> dict[str, str]:
        built = {name: part for name, part in self._built.items() if not components.BY_NAME[name].documents}
        rope = {"rope": self.model.rope}  # a loaded model may have its own; it stands first
        parts: dict[str, Any] = {**rope, **built, **rope, "constraint": constraint}
        if self.way is not None:
            parts |= {"denoiser": self.way.denoiser, "denoising_cache": self.way.cache}
        if documents:
            parts["context"] = self.context
        specs = {key: registry.spec_of(part) for key, part in parts.items() if part is not None}
        return {
            "model": self.model.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "weights": self.model.weights,
            **({"kv": self.kv} if self.kv is not None else {}),
            **specs,
        }
