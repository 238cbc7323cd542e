"""A memory-mapped store of (hidden state of a context, token that followed it) with nearest-neighbour search.

A directory: `index.faiss` (keys in half precision in an inverted file of faiss), `values.i32` (a token a key) and
`about.json`. `build` makes it from the user's own text, window by window; stopped, it goes on where it was. The
directory appears when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tokloom.artifacts import Artifact
from tokloom.atomic import check_writable, write_atomic
from tokloom.engine.capture import MlpInput
from tokloom.errors import ArgumentError, DocumentError

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

STORE = Artifact(
    "datastore",
    version=2,
    argument="datastore",
    remedy="Remove what is there and build it from your text: tokloom prepare knn_lm:datastore={path} FILE ...",
)
OVERLAP = 4
"""A window repeats this part (one fourth) of the one before, so that every key has a context."""
HELD_OUT = 10
"""One window in so many is kept apart to tune temperature and weight on."""
TUNING_KEYS = 1024
LIST_SIZE = 64
"""Keys of an inverted list, on average, until there are `MAX_LISTS`."""
MAX_LISTS = 1024
TEMPERATURES = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Tried in tuning, as shares of the median squared distance of the nearest neighbour."""
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)

LAST_MLP = 0
"""Stands for what goes into the last layer's MLP, where otherwise the number of a layer stands."""

Progress = Callable[[str, int, int], None]


def place(layer: int) -> int | MlpInput:
    """Where the keys of a datastore come from, as `RequestContext.forward` takes it."""
    return MlpInput(-1) if layer == LAST_MLP else layer


@dataclass(frozen=True)
class About:
    """What a datastore says of itself.

    layer: whose hidden states the keys are: `LAST_MLP`, or of 1 to the number of layers as in `engine/capture.py`.
    temperature, weight: best on text held out while building.
    perplexity, tuned_perplexity: of that text, by the model alone and with these.
    """

    model: str
    vocabulary: int
    layer: int
    width: int
    count: int
    temperature: float
    weight: float
    perplexity: float
    tuned_perplexity: float
    source: str
    """Hash of the text, model, layer and window."""


class Datastore:
    """An opened datastore. Nothing is read before it is searched.

    Raises ArtifactError if there is none at `path`, or if it is damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import faiss

        folder = Path(path)
        try:
            header = (folder / "about.json").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise STORE.damaged(path, error) from None
        of = STORE.check(path, header)
        try:
            self.about = About(**of)
            self.index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            self.values: NDArray[np.int32] = np.memmap(folder / "values.i32", dtype=np.int32, mode="r")
            held = {self.about.count, self.index.ntotal, len(self.values)}
            if len(held) > 1 or self.about.width != self.index.d:
                raise ValueError("its files do not belong together")
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: faiss's own
            raise STORE.damaged(path, str(error)) from None

    def search(
        self, queries: NDArray[np.float32], k: int, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The k nearest keys of each query (rows, width): squared distances and tokens, (rows, k), nearest first.

        probes: how many inverted lists to look through; None is all, which is exact. Where fewer keys than k are
            found, distances end in infinities.
        """
        distances, places = _search(self.index, queries, min(k, len(self.values)), probes)
        return distances, self.values[np.maximum(places, 0)]


def neighbour_distribution(distances: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """The weight of each neighbour, softmax(-distance / temperature) along the last axis."""
    scores = -(distances - distances[..., :1]) / temperature
    weights: NDArray[np.float32] = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    return weights


def build(
    path: str | os.PathLike[str],
    model: LanguageModel,
    texts: Sequence[str],
    *,
    layer: int = LAST_MLP,
    window: int = 512,
    progress: Progress | None = None,
) -> About:
    """Makes a datastore of `texts` at `path`; one that was made of the same stays.

    layer: whose hidden states are the keys: `LAST_MLP`, or the number of a layer as in `engine/capture.py`.
    window: tokens that go through the model together; at most the model's own.

    Raises:
        DocumentError: the texts have too few tokens.
        ArgumentError: a bad layer or window, or `path` is something else.
    """
    window = min(window, model.window)
    layers = model.model.config.get_text_config().num_hidden_layers
    if not -layers <= layer <= layers:
        raise ArgumentError("layer", layer, f"an integer in [{-layers}, {layers}]")
    if window < OVERLAP * 2:
        raise ArgumentError("window", window, f"at least {OVERLAP * 2} tokens")
    layer = layer + layers + 1 if layer < 0 else layer
    documents = [model.encode_prompt(text, chat=False) for text in texts if text]
    pieces = list(_windows(documents, window))
    if len(pieces) < 2:
        raise DocumentError("the texts", f"have too few tokens: a datastore needs more than a window of {window}")
    digest = hashlib.sha256(f"{STORE.version} {model.name} {model.weights} {layer} {window}".encode())
    for document in documents:
        digest.update(np.array([len(document), *document], dtype=np.int64).tobytes())
    target = Path(path)
    if (target / "about.json").is_file():
        about = Datastore(target).about
        if about.source == digest.hexdigest():
            return about
        raise ArgumentError("datastore", str(path), "a new path: another datastore is there", "Remove it first.")
    if target.exists():
        raise ArgumentError("datastore", str(path), "a path where nothing is")
    check_writable("datastore", target)
    work = target.with_name(target.name + ".building")
    work.mkdir(parents=True, exist_ok=True)
    collected = _Collected(work, digest.hexdigest())
    collected.run(model, documents, pieces, layer, progress)
    about = _finish(collected, model, layer, digest.hexdigest(), progress)
    write_atomic(work / "about.json", STORE.header(asdict(about)))
    collected.remove()
    work.rename(target)
    return about


@dataclass(frozen=True)
class _Window:
    """Tokens [start, end) of a document; keys are those of [first, end) that have a follower."""

    document: int
    start: int
    first: int
    end: int
    held_out: bool


def _windows(documents: Sequence[Sequence[int]], size: int) -> Iterator[_Window]:
    number = 0
    for which, tokens in enumerate(documents):
        start = 0
        while start + 1 < len(tokens):
            first = start + (size // OVERLAP if start else 0)
            end = min(start + size, len(tokens) - 1)
            if first >= end:
                break
            number += 1
            yield _Window(which, start, first, end, number % HELD_OUT == 2)
            start += size - size // OVERLAP


class _Collected:
    """Keys, values and the held-out windows' log-probabilities on disk, as far as they have come."""

    FILES: ClassVar[dict[str, Any]] = {
        "keys.f16": np.float16, "values.i32": np.int32, "logprobs.f32": np.float32, "held_out.i32": np.int32,
    }  # fmt: skip

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source = folder, source
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            state = {}
        if state.get("source") != source:
            state = {"windows": 0, "sizes": dict.fromkeys(self.FILES, 0)}
        self.windows: int = state["windows"]
        self.sizes: dict[str, int] = state["sizes"]
        for name, size in self.sizes.items():  # what was written after the last state is written again
            with open(folder / name, "ab") as file:
                file.truncate(size)

    def run(
        self, model: LanguageModel, documents: list[list[int]], pieces: list[_Window], layer: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        from tokloom.attention.policy import AttentionPolicy
        from tokloom.engine.request_context import RequestContext
        from tokloom.kv.store import Step

        for done in range(self.windows, len(pieces)):
            piece, tokens = pieces[done], documents[pieces[done].document]
            host = RequestContext(model, AttentionPolicy(), 0, kv=None, prefill_chunk=piece.end - piece.start)
            step = Step(tuple(range(piece.end - piece.start)), model.device, prompt=True)
            rows = tokens[piece.start : piece.end]
            output = host.forward(
                host.open(len(rows)), rows, step, all_logits=piece.held_out, hidden_layer=place(layer)
            )  # fmt: skip
            skipped = piece.first - piece.start
            keys = output.hidden[skipped:].cpu().numpy().astype(np.float16)
            if not np.isfinite(keys).all():
                raise ArgumentError("layer", layer, "a layer whose hidden states fit half precision", "Try layer=0.")
            values = np.array(tokens[piece.first + 1 : piece.end + 1], dtype=np.int32)
            new: dict[str, NDArray[Any]] = {"keys.f16": keys, "values.i32": values}
            if piece.held_out:
                scores = output.logits[skipped:].log_softmax(-1).cpu().numpy()
                new["logprobs.f32"] = scores[np.arange(len(values)), values]
                new["held_out.i32"] = self.sizes["values.i32"] // 4 + np.arange(len(values), dtype=np.int32)
            self._append(new)
            self._save(done + 1)
            if progress is not None:
                progress("datastore", done + 1, len(pieces))

    def _append(self, new: dict[str, NDArray[Any]]) -> None:
        for name, array in new.items():
            with open(self.folder / name, "ab") as file:
                file.write(np.ascontiguousarray(array, dtype=self.FILES[name]).tobytes())
            self.sizes[name] += array.size * np.dtype(self.FILES[name]).itemsize

    def _save(self, windows: int) -> None:
        state = {"source": self.source, "windows": windows, "sizes": self.sizes}
        write_atomic(self.folder / "state.json", json.dumps(state))

    def read(self, name: str) -> NDArray[Any]:
        """One of the files, memory-mapped; keys as (count, width)."""
        array = np.memmap(self.folder / name, dtype=self.FILES[name], mode="r")
        return array.reshape(self.sizes["values.i32"] // 4, -1) if name == "keys.f16" else array

    def remove(self) -> None:
        """Deletes what the finished datastore does not need."""
        for name in ("keys.f16", "logprobs.f32", "held_out.i32", "state.json"):
            (self.folder / name).unlink()


def _finish(collected: _Collected, model: LanguageModel, layer: int, source: str, progress: Progress | None) -> About:
    """Tunes on the held-out windows, then writes the index of all keys."""
    import faiss

    keys, values = collected.read("keys.f16"), collected.read("values.i32")
    held_out, logprobs = collected.read("held_out.i32"), collected.read("logprobs.f32")
    kept = np.ones(len(values), dtype=bool)
    kept[held_out] = False
    if progress is not None:
        progress("index", 0, 2)
    rest = np.flatnonzero(kept)
    chosen = np.linspace(0, len(held_out) - 1, min(TUNING_KEYS, len(held_out))).astype(np.int64)
    queries = held_out[chosen]
    distances, places = _search(_index(keys, rest), keys[queries].astype(np.float32), min(1024, len(rest)), None)
    hits = values[rest[places]] == values[queries][:, None]
    temperature, weight, tuned = _tune(distances, hits, logprobs[chosen])
    if progress is not None:
        progress("index", 1, 2)
    faiss.write_index(_index(keys, np.arange(len(values))), str(collected.folder / "index.faiss"))
    if progress is not None:
        progress("index", 2, 2)
    return About(
        model=model.name, vocabulary=model.vocabulary.size, layer=layer, width=keys.shape[1],
        count=len(values), temperature=temperature, weight=weight,
        perplexity=math.exp(-float(logprobs[chosen].mean())), tuned_perplexity=tuned, source=source,
    )  # fmt: skip


def _tune(
    distances: NDArray[np.float32], hits: NDArray[np.bool_], logprobs: NDArray[np.float32]
) -> tuple[float, float, float]:
    """Temperature and weight of least perplexity, and that perplexity. hits: whose token is the right one."""
    scale = float(np.median(distances[:, 0])) or 1.0
    model = np.exp(logprobs.astype(np.float64))
    best = (scale, 0.0, math.inf)
    for share in TEMPERATURES:
        near = (neighbour_distribution(distances, share * scale) * hits).sum(-1)
        for weight in WEIGHTS:
            perplexity = math.exp(-float(np.log((1 - weight) * model + weight * near).mean()))
            if perplexity < best[2]:
                best = (share * scale, weight, perplexity)
    return best


def _index(keys: NDArray[np.float16], rows: NDArray[np.int64]) -> Any:
    """An inverted file over these rows; a search through all of its lists is exact for keys in half precision."""
    import faiss

    lists = max(1, min(len(rows) // LIST_SIZE, MAX_LISTS))
    index: Any = faiss.index_factory(keys.shape[1], f"IVF{lists},SQfp16")
    index.by_residual = False
    index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = 0, 10, 1
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), lists * LIST_SIZE)).astype(np.int64)]
    index.train(keys[sample].astype(np.float32))
    for start in range(0, len(rows), 8192):  # the keys may not fit the memory in single precision
        index.add(keys[rows[start : start + 8192]].astype(np.float32))
    return index


def _search(
    index: Any, queries: NDArray[np.float32], k: int, probes: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe = index.nlist if probes is None else min(probes, index.nlist)
    distances, places = index.search(np.ascontiguousarray(queries, dtype=np.float32), k, params=parameters)
    distances[places < 0] = np.inf
    return distances, places
