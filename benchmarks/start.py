"""Seconds from the start of a fresh process to the first token, model converted before.

    .venv/bin/python benchmarks/start.py [--runs 5] [--model NAME]

Beside it, in turn: the same with transformers alone (from_pretrained and one forward pass), and the mere imports of
torch and of transformers' model code. tokloom pauses the garbage collector during its imports, so that it can be
below them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import tokloom
from tokloom.models import bundled
from tokloom.models.convert import Gguf, converted

PROGRAMS = {
    "tokloom, first token": "import tokloom; next(tokloom.Engine({model!r}).stream('The capital of France is'))",
    "tokloom, weights='torch'": (
        "import tokloom; next(tokloom.Engine({model!r}, weights='torch').stream('The capital of France is'))"
    ),
    "transformers, one forward pass": (
        "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "t = AutoTokenizer.from_pretrained({path!r}); m = AutoModelForCausalLM.from_pretrained({path!r});"
        "m(**t('The capital of France is', return_tensors='pt'))"
    ),
    "imports alone": "import torch, transformers.modeling_utils, transformers.models.llama.modeling_llama",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=bundled.DEFAULT, choices=list(bundled.BUNDLED))
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    tokloom.load(args.model)
    path = str(converted(Gguf(args.model, bundled.find(bundled.BUNDLED[args.model]))))
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(args.runs):
        for name, program in PROGRAMS.items():
            code = program.format(model=args.model, path=path)
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        print(f"{name:<32}median {statistics.median(taken):.2f} s   {min(taken):.2f} to {max(taken):.2f}")


if __name__ == "__main__":
    main()
