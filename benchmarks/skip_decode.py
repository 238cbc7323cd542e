"""What SkipDecode's schedule saves and costs: perplexity of a page by share of layers and by layers never skipped.

.venv/bin/python benchmarks/skip_decode.py [--model NAME] [--tokens 128]
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path

import torch

import tokloom
from tokloom.engine.request_context import RequestContext
from tokloom.kv.store import Step
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode.skip_decode import SkipDecode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    model = tokloom.load(args.model)
    tokens = model.encode(Path("examples/alice_in_wonderland.txt").read_text(encoding="utf-8")[16000:20000])
    prompt, page = tokens[:300], tokens[300 : 300 + args.tokens]
    for min_share in (1.0, 0.9, 0.8, 0.6):
        for warmup in (1, 4, 8, 16) if min_share < 1 else (1,):
            prediction = SkipDecode(min_share=min_share, warmup=warmup).start(
                RequestContext(model, Dense(), len(page), kv=None, prefill_chunk=512)
            )
            logprobs = [prediction.prefill(prompt, lambda done: None).log_softmax(-1)[page[0]]]
            start = time.perf_counter()
            for i, (token, target) in enumerate(pairwise(page)):
                logits = prediction.rows([token], Step((len(prompt) + i,), model.device))
                logprobs.append(logits[0].log_softmax(-1)[target])
            seconds = time.perf_counter() - start
            share = prediction.counts["layers run"] / prediction.counts["layers of plain decoding"]
            perplexity = math.exp(-float(torch.stack(logprobs).mean()))
            print(f"least {min_share:.1f}  never skipped {warmup:2}  layers run {share:4.0%}  perplexity "
                  f"{perplexity:9.2f}  {1000 * seconds / len(page):5.1f} ms a token", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
