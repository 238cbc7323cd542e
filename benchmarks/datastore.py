"""Perplexity of the last tenth of a book, with a datastore of the nine tenths before it (kNN-LM).

    .venv/bin/python benchmarks/datastore.py [--book FILE] [--other FILE] [--model NAME] [--layers 0,-1]

Rows: the model alone; as tuned while building; the paper's temperature of 1; fewer inverted lists looked through; and
as a control the datastore of another book (--other), at the same temperature and weight.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import tokloom
from tokloom.engine.request_context import RequestContext
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode._datastore import Datastore, build, neighbour_distribution, place
from tokloom.methods.decode.knn_lm import mix
from tokloom.models.language_model import LanguageModel

WINDOW, OVERLAP, K = 512, 128, 1024
Window = tuple[torch.Tensor, np.ndarray, np.ndarray]
"""Logits (rows, vocabulary), hidden states (rows, width), the tokens that follow (rows)."""


def windows(model: LanguageModel, tokens: list[int], layer: int) -> list[Window]:
    """Each token once, with a context of at least `OVERLAP` tokens but for the first ones."""
    found = []
    for start in range(0, len(tokens) - OVERLAP, WINDOW - OVERLAP):
        piece = tokens[start : start + WINDOW]
        host = RequestContext(model, Dense(), 0, kv=None, prefill_chunk=WINDOW)
        step = Step(tuple(range(len(piece))), model.device, prompt=True)
        output = host.forward(host.open(len(piece)), piece, step, hidden_layer=place(layer))
        first = OVERLAP if start else 0
        following = np.array(piece[first + 1 :])
        found.append((output.logits[first:-1], output.hidden[first:-1].numpy(), following))
    return found


def perplexity(parts: list[Window], store: Datastore | None, temperature: float, weight: float, probes: int | None):  # type: ignore[no-untyped-def]
    """Perplexity, and milliseconds a search takes a token."""
    logprobs, seconds = [], 0.0
    for logits, hidden, following in parts:
        scores = logits.log_softmax(-1).numpy()
        if store is not None:
            start = time.perf_counter()
            distances, tokens = store.search(hidden, K, probes)
            seconds += time.perf_counter() - start
            scores = mix(logits.numpy(), neighbour_distribution(distances, temperature), tokens, weight)
        logprobs.append(scores[np.arange(len(following)), following])
    count = sum(map(len, logprobs))
    return math.exp(-np.concatenate(logprobs).mean()), 1000 * seconds / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--book", type=Path, default=Path("examples/alice_in_wonderland.txt"))
    parser.add_argument("--other", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", default="0,-1")
    args = parser.parse_args()
    model = tokloom.load(args.model)
    text = args.book.read_text(encoding="utf-8")
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10)
    tokens = model.encode(text[cut:])
    with tempfile.TemporaryDirectory() as folder:
        for layer in map(int, args.layers.split(",")):
            parts = windows(model, tokens, layer)
            start = time.perf_counter()
            path = Path(folder) / f"layer{layer}"
            about = build(path, model, [text[:cut]], layer=layer)
            print(f"\nkeys of layer {layer} (0: the last MLP's input): {about.count} in "
                  f"{time.perf_counter() - start:.0f} s, "
                  f"{sum(f.stat().st_size for f in path.iterdir()) / 1e6:.0f} MB; "
                  f"tuned on held-out windows {about.perplexity:.2f} -> {about.tuned_perplexity:.2f}")  # fmt: skip
            store, tuned = Datastore(path), (about.temperature, about.weight)
            rows = [
                ("the model alone", None, (1.0, 0.0), None),
                ("as tuned", store, tuned, None),
                ("temperature 1, weight 0.25", store, (1.0, 0.25), None),
                ("8 lists", store, tuned, 8),
                ("1 list", store, tuned, 1),
            ]
            if args.other is not None:
                other = Path(folder) / f"other{layer}"
                build(other, model, [args.other.read_text(encoding="utf-8")[: len(text)]], layer=layer)
                rows.append((f"datastore of {args.other.stem}", Datastore(other), tuned, None))
            for name, used, (temperature, weight), probes in rows:
                found, taken = perplexity(parts, used, temperature, weight, probes)
                print(f"{name:<36}{found:8.2f}   temperature {temperature:6.2f}  weight {weight:.2f}  {taken:6.2f} ms")


if __name__ == "__main__":
    main()
