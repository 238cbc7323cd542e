"""Entropy Adaptive Decoding over bytes, between two models with different tokenizers.

    python benchmarks/entropy_adaptive.py examples/alice_in_wonderland.txt

For each threshold: the share of bytes that the large model predicted, and bits a byte on pieces of the text, each byte
rated by whichever model was at work.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from tokloom import Engine, load
from tokloom.methods.decode.entropy_adaptive import EntropyAdaptive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--large", default="gemma3-270m")
    parser.add_argument("--small", default="smollm2-135m")
    parser.add_argument("--thresholds", nargs="*", type=float, default=[0.0, 0.5, 1.0, 1.5, 2.0, 20.0])
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--stay", type=int, default=8)
    parser.add_argument("--pieces", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=160)
    options = parser.parse_args()
    large = load(options.large)
    text = options.text.read_text(encoding="utf-8")
    places = [20_000 + i * (len(text) - 25_000) // options.pieces for i in range(options.pieces)]
    print("threshold  by the large model  switches  bits a byte  CPU s")
    for threshold in options.thresholds:
        predictor = EntropyAdaptive(
            small=options.small, base="byte_level:minimum=0.001", threshold=threshold, window=options.window,
            stay=options.stay,
        )  # fmt: skip
        engine = Engine(large, predictor=predictor)
        total, count, by_large, switches, began = 0.0, 0, 0, 0, time.process_time()
        for at in places:
            score = engine.score(text[at : at + 600], text[at + 600 : at + 600 + options.bytes])
            counts = score.ledger.row("decode").counts
            total -= sum(score.logprobs) / math.log(2)
            count += len(score.tokens)
            by_large += counts["by the large model"]
            switches += counts["switches"]
        used = time.process_time() - began
        print(f"{threshold:9.2f} {by_large / count:19.2f} {switches:9d} {total / count:12.3f} {used:6.1f}", flush=True)


if __name__ == "__main__":
    main()
