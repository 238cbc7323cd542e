"""`tokloom.load`: a causal language model by its bundled name, its directory, its GGUF file or its hub id."""

from __future__ import annotations

import os
import re
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokloom.errors import ArgumentError, ModelNotFoundError
from tokloom.models import bundled
from tokloom.models.convert import Gguf, converted
from tokloom.models.language_model import LanguageModel
from tokloom.models.pretrained import load_pretrained
from tokloom.models.quiet import quiet

if TYPE_CHECKING:
    import torch

DTYPES = {
    "float32": "float32", "fp32": "float32",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16",
    "float64": "float64", "fp64": "float64",
}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOADING = threading.Lock()  # loading switches settings of transformers off and on again


def load(
    model: str | os.PathLike[str] = bundled.DEFAULT,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    weights: str | None = None,
) -> LanguageModel:
    """Loads a causal language model.

    Args:
        model: a bundled model ("smollm2-135m", "gemma3-270m"; their packages must be installed), a
            directory that transformers can load, a .gguf file, or a hub id such as "Qwen/Qwen3-0.6B".
            Only a hub id makes transformers use the network.
        dtype: "float32", "bfloat16" or "float16" (or short "fp32", "bf16", "fp16"), or a torch.dtype.
            None is float32 on a CPU, where it is the fastest and most exact, and the checkpoint's own elsewhere.
        device: as torch names it ("cpu", "cuda:0", "mps"). None is the accelerator if there is one, else the CPU.
        weights: how linear layers keep theirs on a CPU, packed for tokloom's kernels: "exact" keeps every value
            of the checkpoint in the smallest form that can (the blocks of a GGUF file, bf16 or fp32); "fp32",
            "bf16", "int8" and "int4" (with factors for every 32 inputs) convert. "torch" leaves nn.Linear as it
            is. None is "exact", "torch" off the CPU.

    A GGUF file is dequantized on its first load and kept in the cache directory ($TOKLOOM_CACHE, else
    ~/.cache/tokloom); later loads map it into memory.

    Raises ModelNotFoundError, NotCausalLMError, UnsupportedModelError, or ArgumentError for a bad dtype, device or
    weights.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise ArgumentError("model", model, "a bundled model, a directory, a .gguf file or a hub id")
    with _LOADING:
        from tokloom.models.gguf_blocks import read as read_blocks
        from tokloom.models.packed_linear import check_weights, pack

        place = _device(device)
        precision = _dtype(dtype, place)
        check_weights(weights, place)
        shown = os.fspath(model)
        source, local = _resolve(shown)
        with quiet() if local else nullcontext():  # a download shows its progress
            loaded, tokenizer = load_pretrained(shown, source, local=local, dtype=precision)
            placed: Any = loaded
            placed = placed.to(place)
            blocks = read_blocks(Path(source)) if local else {}
            return LanguageModel(shown, placed, tokenizer, pack(placed, weights, blocks))


def refuse_options(**options: object) -> None:
    """Raises ArgumentError if an option of `load` is given where the model is loaded already."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(name, value, "None with a loaded model", "Give it to tokloom.load.")


def _resolve(name: str) -> tuple[str, bool]:
    """Where transformers finds the model, and whether that is a directory (else a hub id)."""
    if name in bundled.BUNDLED:
        return str(converted(Gguf(name, bundled.find(bundled.BUNDLED[name])))), True
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), True
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelNotFoundError(
                f"model={name!r} can't be loaded: it is a {path.suffix or 'file without a suffix'}, and of single files"
                " only .gguf holds a whole model. Give the directory with its config.json and tokenizer instead."
            )
        return str(converted(Gguf(path.stem, (path,)))), True
    if path.suffix.lower() == ".gguf":
        raise ModelNotFoundError(f"model={name!r} can't be loaded: there is no such file in {path.absolute().parent}.")
    if _HUB_ID.fullmatch(name):
        return name, False
    if "/" in name or os.sep in name:
        raise ModelNotFoundError(
            f"model={name!r} can't be loaded: there is no such directory, and a hub id has the form"
            ' "organisation/model". Check the path, or load a bundled model: ' + ", ".join(bundled.BUNDLED) + "."
        )
    raise bundled.unknown(name)


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """A torch.dtype; None is the checkpoint's own."""
    import torch

    if dtype is None:
        return torch.float32 if device.type == "cpu" else None
    known = {getattr(torch, name) for name in DTYPES.values()}
    found: Any = getattr(torch, DTYPES.get(dtype, ""), None) if isinstance(dtype, str) else dtype
    if found not in known:
        raise ArgumentError("dtype", dtype, "one of " + ", ".join(DTYPES) + " or a torch.dtype of these")
    precision: torch.dtype = found
    return precision


def _device(device: str | torch.device | None) -> torch.device:
    """A device on which a tensor can be made."""
    import torch

    if device is None:
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    here = ["cpu"]
    if (accelerator := torch.accelerator.current_accelerator()) is not None:
        here += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    valid = "one of " + ", ".join(here)
    hint = "Leave it out to take the best one."
    try:
        place = torch.device(device)
        if place.type == "meta":  # has shapes but no values
            raise ArgumentError("device", device, valid, hint)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise ArgumentError("device", str(device), valid, hint) from error
    return place
