"""What packed weights cost and save: speed, size and perplexity of each format beside torch's own linear layers.

    .venv/bin/python benchmarks/weights.py [--model NAME] [--tokens 8192]

One model per process, so that memory is its own. Decoding: plain greedy after a prompt of 512 tokens, rounds
interleaved over the formats. "floor" is the time that reading the packed weights once takes at the bandwidth that a
plain copy reaches here. Perplexity over the first `--tokens` tokens of The Time Machine in windows of 1024.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import tokloom
from tokloom import Engine, Sampling
from tokloom.models.packed_linear import WEIGHTS, PackedLinear

TEXT = Path(tokloom.__file__).parent / "evaluate" / "data" / "haystack.txt"
WINDOW = 1024


def bandwidth() -> float:
    """Bytes a second that are read when 512 MiB are summed on all threads."""
    data = torch.ones(2**27)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return data.numel() * 4 / best


def perplexity(model: tokloom.LanguageModel, count: int) -> float:
    tokens = model.encode(TEXT.read_text(encoding="utf-8"))[:count]
    total, seen = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, WINDOW):
            window = torch.tensor([tokens[start : start + WINDOW + 1]])
            logits = model.model(input_ids=window[:, :-1]).logits[0].float()
            total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
            seen += window.shape[1] - 1
    return float(torch.tensor(total / seen).exp())


def measure(name: str, weights: str, tokens: int) -> dict[str, float]:
    model = tokloom.load(name, weights=weights)
    prompt = model.decode(model.encode(TEXT.read_text(encoding="utf-8"))[5000:5512])
    engine = Engine(model)
    seconds, prefill = [], []
    for _ in range(3):
        result = engine.generate(prompt, sampling=Sampling(max_new_tokens=48))
        seconds.append(result.ledger.row("decode").seconds / (len(result.tokens) - 1))
        prefill.append(result.prompt_tokens / result.ledger.row("attention").seconds)
    packed = sum(m.nbytes for m in model.model.modules() if isinstance(m, PackedLinear))
    plain = sum(m.weight.nbytes for m in model.model.modules() if type(m) is torch.nn.Linear)
    return {
        "ms": 1000 * min(seconds),
        "prefill": max(prefill),
        "bytes": packed + plain,
        "perplexity": perplexity(model, tokens) if tokens else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.model, args.child, args.tokens)))
        return
    found: dict[str, list[dict[str, float]]] = {weights: [] for weights in WEIGHTS}
    for round_ in range(args.rounds):
        for weights, runs in found.items():
            tokens = args.tokens if round_ == 0 else 0
            command = [sys.executable, __file__, "--child", weights, "--model", args.model, "--tokens", str(tokens)]
            runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    speed = bandwidth()
    base = found["torch"]
    print(f"{args.model}, {torch.get_num_threads()} threads, reading at {speed / 1e9:.0f} GB/s")
    print(f"{'weights':<8}{'MiB':>7}{'ms/token':>10}{'x torch':>9}{'floor ms':>10}{'prefill/s':>11}{'perplexity':>12}")
    for weights, runs in found.items():
        ms = statistics.median(run["ms"] for run in runs)
        ratio = statistics.median(b["ms"] / run["ms"] for b, run in zip(base, runs, strict=True))
        prefill = statistics.median(run["prefill"] for run in runs)
        loss = runs[0]["perplexity"]
        change = 100 * (loss / base[0]["perplexity"] - 1)
        size = runs[0]["bytes"]
        print(
            f"{weights:<8}{size / 2**20:>7.0f}{ms:>10.1f}{ratio:>9.2f}{1000 * size / speed:>10.1f}"
            f"{prefill:>11.0f}{loss:>12.3f} ({change:+.2f}%)"
        )


if __name__ == "__main__":
    main()
