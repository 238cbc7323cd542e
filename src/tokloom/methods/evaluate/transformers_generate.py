"""transformers' own `generate`: plain, with its prompt lookup, or with an assistant model that drafts.

Paper: Fast Inference from Transformers via Speculative Decoding. arXiv:2211.17192

Formula: greedy. assistant: the assistant drafts a few tokens, which the model verifies in one pass; prompt_lookup: the
    draft is what followed the last tokens where they occurred before.

Shapes: prompt tokens in, tokens out; batch 1, on the device of the compared model.

Effect: what an engine is compared with. On a CPU a pass takes several times as long as in tokloom's own kernels, and
    drafts gain little over it.

Differs: the assistant, if given as a precision, is the same model in it: small models seldom have a smaller one of
    the same vocabulary. Token counts of passes are those that its streamer hands over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from transformers.generation.streamers import BaseStreamer

from tokloom.errors import CompositionError
from tokloom.evaluate.peer import Answer, Peer
from tokloom.models.load import DTYPES, load
from tokloom.models.quiet import quiet
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel


@method(stage="evaluate")
class TransformersGenerate(Peer):
    dtype: str = "float32"
    """Precision of the model."""
    prompt_lookup: int = Field(default=0, ge=0)
    """Most tokens drafted by looking up the prompt; 0 is off."""
    assistant: str = ""
    """The model that drafts, by what `tokloom.load` takes, or a precision: the same model in it."""

    def start(self, model: LanguageModel) -> _Session:
        if self.prompt_lookup and self.assistant:
            raise CompositionError(f"{self.name}:prompt_lookup", "assistant", "one of them drafts, not both")
        options: dict[str, Any] = {}
        if self.prompt_lookup:
            options["prompt_lookup_num_tokens"] = self.prompt_lookup
        if self.assistant:
            own = self.assistant in DTYPES
            drafts = _loaded(model, model.name, self.assistant) if own else _loaded(model, self.assistant, self.dtype)
            if drafts.vocabulary.size != model.vocabulary.size:
                raise CompositionError(self.name, self.assistant, f"its vocabulary is not that of {model.name}")
            options["assistant_model"] = drafts.model
        return _Session(_loaded(model, model.name, self.dtype), options)


def _loaded(model: LanguageModel, name: str, dtype: str) -> LanguageModel:
    """A model with the layers of transformers; the compared one itself if it has them in that precision."""
    if name == model.name and model.weights == "torch" and str(model.dtype) == f"torch.{DTYPES.get(dtype)}":
        return model
    return load(name, weights="torch", dtype=dtype, device=model.device)


class _Stopwatch(BaseStreamer):
    """Notes when transformers hands over tokens: the prompt, then what each pass gave."""

    def __init__(self) -> None:
        self.puts: list[tuple[float, int]] = []

    def put(self, value: torch.Tensor) -> None:
        self.puts.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        """The last tokens came with the last `put`."""


class _Session:
    def __init__(self, model: LanguageModel, options: dict[str, Any]) -> None:
        self._model, self._options = model, options

    def answer(self, tokens: Sequence[int], count: int) -> Answer:
        ids, watch = torch.tensor([list(tokens)], device=self._model.device), _Stopwatch()
        ends = sorted(self._model.eos_ids)
        with quiet():  # it warns of arguments that its own drafting passes on
            start = time.perf_counter()
            generate: Any = self._model.model.generate
            output = generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, streamer=watch, **self._options,
            )  # fmt: skip
        times = [at for at, _ in watch.puts[1:]]
        found = tuple(output[0, len(tokens) :].tolist())
        return Answer(found, times[0] - start, times[-1] - times[0], len(times) - 1)
