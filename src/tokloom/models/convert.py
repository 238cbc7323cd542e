"""Dequantizes a GGUF file once and keeps the model in the cache directory, from where it loads at once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokloom.artifacts import cache_dir
from tokloom.atomic import atomic_directory, workspace, write_atomic
from tokloom.errors import ArgumentError, ModelError, ModelNotFoundError, UnsupportedModelError
from tokloom.models import bundled, gguf_blocks
from tokloom.models.gguf_rotary import apply_scaling
from tokloom.models.pretrained import check_causal, check_tokenizer, read_weights
from tokloom.models.quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ALIGNMENT = 64
"""Bytes at whose multiples tensors begin in the file: mapped at other addresses, matrix kernels take slower paths
and round differently from those on tensors that torch allocated."""


VERSION = 2
"""Of what is made of a file; one that was made by an earlier version is not used."""


@dataclass(frozen=True)
class Gguf:
    """A GGUF file, whole or in parts that are to be joined in order. `name` is for messages and cached directories."""

    name: str
    files: tuple[Path, ...]


def gguf_of(name: str) -> Gguf | None:
    """The file of a bundled model, or that `name` is the path of; None for a model without one."""
    if name in bundled.BUNDLED:
        return Gguf(name, bundled.find(bundled.BUNDLED[name]))
    path = Path(name).expanduser()
    return Gguf(path.stem, (path,)) if path.suffix.lower() == ".gguf" else None


def converted(gguf: Gguf) -> Path:
    """The directory with the model in float32, as transformers loads it, and its blocks; made on the first call.

    The directory's name holds the hash of the GGUF file's content, so that it never has to be made
    again or invalidated. Which content a file has is remembered by its path, size and time of change.
    Several processes may call this at once: one converts, the others wait.
    Raises ModelNotFoundError if the file can't be read, NotCausalLMError, UnsupportedModelError, and
    ArgumentError if the cache directory can't be written.
    """
    from filelock import FileLock

    root = cache_dir() / "models"
    remembered = root / "sources" / f"{_identity(gguf)}-{VERSION}"
    if remembered.is_file():
        target = root / remembered.read_text(encoding="utf-8")
        if _is_complete(target):
            return target
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", gguf.name)
    target = root / f"{stem}-{_content_hash(gguf)[:12]}-{VERSION}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{target.name}.lock"):
            if not _is_complete(target):
                shutil.rmtree(target, ignore_errors=True)
                _convert(gguf, target)
        write_atomic(remembered, target.name)
    except OSError as error:
        raise ArgumentError(
            "TOKLOOM_CACHE", str(cache_dir()), "a writable directory with room for the model in float32",
            f"{error}. Set the environment variable TOKLOOM_CACHE to another directory.",
        ) from error  # fmt: skip
    return target


def _convert(gguf: Gguf, target: Path) -> None:
    from rich.console import Console
    from transformers import modeling_gguf_pytorch_utils as reader

    status = f"Preparing {gguf.name}, this once: dequantizing its GGUF file"
    with Console(stderr=True).status(status), quiet(reader), workspace(target) as work:
        file = joined(gguf, work)
        model, tokenizer = _read_gguf(gguf.name, file)
        with atomic_directory(target) as draft:
            _save(model, tokenizer, draft)
            gguf_blocks.write(draft, gguf_blocks.collect(file, model))


def joined(gguf: Gguf, directory: Path) -> Path:
    """The whole file: itself if it is in one part, else its parts joined in `directory`."""
    if len(gguf.files) == 1:
        return gguf.files[0]
    target = directory / f"{gguf.name}.gguf"
    with target.open("wb") as whole:
        for part in gguf.files:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
    return target


def _read_gguf(name: str, file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    source, options = str(file.parent), {"gguf_file": file.name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        check_causal(name, config)
        apply_scaling(name, file, config)
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
        check_tokenizer(name, tokenizer)
        model = read_weights(name, source, config, torch.float32, local=True, gguf_file=file.name)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # of many kinds: whatever a reader meets in bytes that are not what they should be
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if "architecture" in said and "supported" in said:
            raise UnsupportedModelError(
                f"model={str(file)!r} can't be loaded: transformers can't read GGUF files of its architecture ({said})."
                " Load the original checkpoint, as a directory or by its hub id."
            ) from error
        raise ModelNotFoundError(
            f"model={str(file)!r} can't be loaded: it is no whole GGUF file of a language model ({said})."
            " Download it again, or load the original checkpoint as a directory."
        ) from error
    return model, tokenizer


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes model and tokenizer so that `from_pretrained` and `map_weights` load them."""
    model.config.__dict__.pop("quantization_config", None)  # the weights are no longer quantized
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    tied = {target for target, source in model.all_tied_weights_keys.items() if _same(model, target, source)}
    write_safetensors(directory / "model.safetensors", {k: t for k, t in model.state_dict().items() if k not in tied})


def _same(model: PreTrainedModel, left: str, right: str) -> bool:
    return bool(model.get_parameter(left) is model.get_parameter(right))


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes float32 tensors as a safetensors file in which each of a multiple of 64 bytes begins at one.

    The library's own writer aligns to 8 bytes only (see ALIGNMENT).
    """
    ordered = sorted(tensors.items(), key=lambda item: (item[1].nbytes % ALIGNMENT != 0, item[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, tensor in ordered:
            file.write(tensor.detach().float().contiguous().numpy().data.cast("B"))


def _is_complete(directory: Path) -> bool:
    return all(
        (directory / name).is_file()
        for name in ("config.json", "tokenizer.json", "model.safetensors", gguf_blocks.FILE)
    )


def _identity(gguf: Gguf) -> str:
    """What changes when a file is replaced, without reading it."""
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in gguf.files]
    return hashlib.sha256(json.dumps([gguf.name, facts]).encode()).hexdigest()[:24]


def _content_hash(gguf: Gguf) -> str:
    digest = hashlib.sha256()
    for file in gguf.files:
        with file.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
