"""Embeds texts, and keeps vectors on disk so that the next question about a document costs no second embedding.

One file per document and embedding model, ``<cache>/embeddings/<hash>.npz``, with the hash of each
text and its vector. A model takes part if it says what it is in an attribute `name`; a function
without one (a test's, a user's) is called every time.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_log = logging.getLogger(__name__)
_KEY = 16  # bytes of a text's hash


def embed_cached(embed: Embed, question: str, texts: Sequence[str], owners: Sequence[str]) -> tuple[Floats, Floats]:
    """Unit vectors of a question, float32 (dims,), and of texts, float32 (texts, dims).

    Args:
        owners: per text the whole text of the document that it is from; it decides on the file.
    """
    model = getattr(embed, "name", None)
    keys = [_hash(text) for text in texts]
    files = {owner: _path(model, owner) for owner in dict.fromkeys(owners)} if isinstance(model, str) else {}
    stored = {owner: _load(path) for owner, path in files.items()}
    known: dict[bytes, Floats] = {key: row for rows in stored.values() for key, row in rows.items()}
    missing = list(dict.fromkeys(key for key in keys if key not in known))
    of_key = dict(zip(keys, texts, strict=True))
    # The question goes alone: in one batch with long texts it would be padded to their length.
    asked = np.asarray(embed([question]), dtype=np.float32)[0]
    if missing:
        rows = np.asarray(embed([of_key[key] for key in missing]), dtype=np.float32)
        known.update(zip(missing, rows, strict=True))
        for owner, path in files.items():
            fresh = {key: known[key] for key, of in zip(keys, owners, strict=True) if of == owner}
            if fresh.keys() - stored[owner].keys():
                _save(path, stored[owner] | fresh)
    return asked, np.stack([known[key] for key in keys])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY]


def _path(model: str, owner: str) -> Path:
    from tokloom.artifacts import cache_dir

    name = hashlib.sha256(f"{model}\0".encode() + _hash(owner)).hexdigest()[:32]
    return cache_dir() / "embeddings" / f"{name}.npz"


def _load(path: Path) -> dict[bytes, Floats]:
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, rows = file["keys"], np.asarray(file["rows"], dtype=np.float32)
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape != (len(rows), _KEY) or rows.ndim != 2:
            raise ValueError("arrays of other shapes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        _log.warning("embeddings in %s can't be read (%s) and are made anew", path, error)
        return {}
    return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}


def _save(path: Path, vectors: dict[bytes, Floats]) -> None:
    from tokloom.artifacts import keep

    buffer = BytesIO()
    keys = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(-1, _KEY)
    np.savez(buffer, keys=keys, rows=np.stack(list(vectors.values())))
    keep(path, buffer.getvalue())
