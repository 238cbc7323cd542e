"""Embeds texts, and keeps vectors on disk so that the next question about a document costs no second embedding.

One file per document and embedding model in the cache directory, with the hash of each
text and its vector. A model takes part if it says what it is in an attribute `name`; a function
without one (a test's, a user's) is called every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tokloom.artifacts import Artifact

Floats = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

EMBEDDINGS = Artifact("embeddings", version=1)
_KEY = 16  # bytes of a text's hash


def embed_cached(embed: Embed, question: str, texts: Sequence[str], owners: Sequence[str]) -> tuple[Floats, Floats]:
    """Unit vectors of a question, float32 (dims,), and of texts, float32 (texts, dims).

    Args:
        owners: per text the whole text of the document that it is from; it decides on the file.
    """
    model = getattr(embed, "name", None)
    keys = [_hash(text) for text in texts]
    files = {owner: _key_of(model, owner) for owner in dict.fromkeys(owners)} if isinstance(model, str) else {}
    stored = {owner: _load(key) for owner, key in files.items()}
    known: dict[bytes, Floats] = {key: row for rows in stored.values() for key, row in rows.items()}
    missing = list(dict.fromkeys(key for key in keys if key not in known))
    of_key = dict(zip(keys, texts, strict=True))
    # The question goes alone: in one batch with long texts it would be padded to their length.
    asked = np.asarray(embed([question]), dtype=np.float32)[0]
    if missing:
        rows = np.asarray(embed([of_key[key] for key in missing]), dtype=np.float32)
        known.update(zip(missing, rows, strict=True))
        for owner, file in files.items():
            fresh = {key: known[key] for key, of in zip(keys, owners, strict=True) if of == owner}
            if fresh.keys() - stored[owner].keys():
                _save(file, stored[owner] | fresh)
    return asked, np.stack([known[key] for key in keys])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY]


def _key_of(model: str, owner: str) -> dict[str, str]:
    return {"model": model, "document": _hash(owner).hex()}


def _load(key: dict[str, str]) -> dict[bytes, Floats]:
    arrays = EMBEDDINGS.find(key)
    if arrays is None:
        return {}
    return {text.tobytes(): row for text, row in zip(arrays["keys"], arrays["rows"], strict=True)}


def _save(key: dict[str, str], vectors: dict[bytes, Floats]) -> None:
    keys = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(-1, _KEY)
    EMBEDDINGS.keep(key, {"keys": keys, "rows": np.stack(list(vectors.values()))})
