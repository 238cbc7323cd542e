"""Perplexity by position within and beyond the trained window, for each basis of `giraffe`.

    python benchmarks/rope_scaling.py [--tokens 12288] [--scale 2] [--bin 2048]

SmolLM2-135M reads The Time Machine densely; one row a basis, one column for every `bin` positions.
"""

from __future__ import annotations

import argparse
import math
from importlib.resources import files

import torch

import tokloom
from tokloom.engine.forward import forward, new_store
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.attention.giraffe import Giraffe
from tokloom.models.language_model import LanguageModel
from tokloom.models.rotary import with_rotary

CHUNK = 512


def losses(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """-ln p of each token but the first, given all before it."""
    store, found = new_store(model, Dense(), len(tokens)), []
    for start in range(0, len(tokens), CHUNK):
        piece = tokens[start : start + CHUNK]
        step = Step(tuple(range(start, start + len(piece))), model.device, prompt=True)
        scores = forward(model, store, piece, step, all_logits=True).log_softmax(-1)
        targets = tokens[start + 1 : start + len(piece) + 1]
        found.append(-scores[torch.arange(len(targets)), targets])
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=12288)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--bin", type=int, default=2048)
    chosen = parser.parse_args()
    model = tokloom.load("smollm2-135m")
    text = (files("tokloom.evaluate") / "data" / "haystack.txt").read_text(encoding="utf-8")
    tokens = model.encode(text)[: chosen.tokens]
    bins = range(0, len(tokens) - 1, chosen.bin)
    print("basis".ljust(12) + "".join(f"{start:>9}" for start in bins))
    for basis in (None, "linear", "ntk", "power", "truncated", "yarn"):
        scaled = model if basis is None else with_rotary(model, Giraffe(basis=basis, scale=chosen.scale))
        loss = losses(scaled, tokens)
        row = (math.exp(float(loss[start : start + chosen.bin].mean())) for start in bins)
        print((basis or "plain").ljust(12) + "".join(f"{perplexity:9.2f}" for perplexity in row), flush=True)


if __name__ == "__main__":
    main()
