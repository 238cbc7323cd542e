"""Decoding speed and prompt memory beside transformers' own generate, in one run.

    .venv/bin/python benchmarks/decoding.py                    plain and drafted decoding
    .venv/bin/python benchmarks/decoding.py --memory           peak memory of an 8k prompt
    .venv/bin/python benchmarks/decoding.py --spec-bench FILE  the questions of Spec-Bench, by category

Same model, dtype and threads. Rounds are interleaved (A B C A B C ...); a figure is the median over
rounds of the ratio to transformers within the round, so that a drifting machine cancels out. The
texts are compared too: tokloom's greedy output must be transformers', token for token.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

import tokloom
from tokloom import Engine, Sampling

BOOK = Path(__file__).parent.parent / "examples" / "alice_in_wonderland.txt"
REPETITIVE = [
    "Copy the table below exactly.\n"
    + "\n".join(f"row {i}: name=item{i}; price={i * 3}.00; stock=yes" for i in range(12))
    + "\nCopy:\nrow 0: name=item0; price=0.00; stock=yes\n",
    "".join(f"2024-05-01 10:00:{i:02d} INFO worker-{i % 3}: request served in 12 ms, status 200\n" for i in range(12)),
    "def test_add():\n    assert add(1, 2) == 3\n\ndef test_sub():\n    assert sub(1, 2) == -1\n\n" * 3
    + "def test_mul():\n",
]  # fmt: skip


def transformers_generate(model: tokloom.LanguageModel, tokens: list[int], count: int) -> tuple[list[int], float]:
    """Output tokens and seconds a token after the first, as generate needs them."""
    model.model.set_attn_implementation("sdpa")
    ids = torch.tensor([tokens])

    def run(new: int) -> tuple[list[int], float]:
        start = time.perf_counter()
        output = model.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
            eos_token_id=sorted(model.eos_ids), pad_token_id=min(model.eos_ids),
        )  # fmt: skip
        return output[0, len(tokens) :].tolist(), time.perf_counter() - start

    _, first = run(1)
    output, whole = run(count)
    return output, (whole - first) / max(1, len(output) - 1)


def tokloom_generate(engine: Engine, prompt: str, count: int) -> tuple[list[int], float, dict[str, int]]:
    result = engine.generate(prompt, sampling=Sampling(max_new_tokens=count))
    row = result.ledger.row("decode")
    return (
        list(result.tokens),
        row.seconds / max(1, len(result.tokens) - 1),
        {"passes": row.forward_passes, **row.counts},
    )


def compare(
    model: tokloom.LanguageModel,
    reference: tokloom.LanguageModel,
    prompts: dict[str, list[str]],
    count: int,
    rounds: int,
) -> None:
    drafters = {"plain": None, "token_recycling": "token_recycling"}
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    speeds: dict[tuple[str, str], list[float]] = defaultdict(list)
    per_pass: dict[tuple[str, str], list[float]] = defaultdict(list)
    different = total = 0
    for round_ in range(rounds + 1):
        for kind, texts in prompts.items():
            for text in texts:
                tokens = model.encode_prompt(text, chat=False)
                expected, base = transformers_generate(reference, tokens, count)
                if len(expected) < 8:
                    continue
                speeds[kind, "transformers"].append(1 / base)
                plain = None
                for name, drafter in drafters.items():
                    engine = Engine(model, drafter=drafter)  # anew: what it learned from this very text must not help
                    output, seconds, counts = tokloom_generate(engine, text, count)
                    if round_ == 0:  # warms caches, matrices and the processor
                        continue
                    total += 1
                    different += output != expected
                    plain = seconds if name == "plain" else plain
                    ratios[kind, name].append(base / seconds)
                    speeds[kind, name].append(1 / seconds)
                    per_pass[kind, name].append((len(output) - 1) / max(1, counts["passes"]))
                    if name != "plain":
                        ratios[kind, name + " / plain"].append(plain / seconds)
    print(f"\n{'text':<24}{'method':<26}{'tokens/s':>10}{'x transformers':>16}{'x plain':>10}{'tokens/pass':>13}")
    for kind in prompts:
        print(
            f"{kind:<24}{'transformers generate':<26}{statistics.median(speeds[kind, 'transformers']):>10.1f}{1:>16.2f}"
        )
        for name in drafters:
            over = ratios.get((kind, name + " / plain"))
            print(
                f"{'':<24}{name:<26}{statistics.median(speeds[kind, name]):>10.1f}"
                f"{statistics.median(ratios[kind, name]):>16.2f}"
                f"{(f'{statistics.median(over):.2f}' if over else ''):>10}"
                f"{statistics.mean(per_pass[kind, name]):>13.2f}"
            )
    print(f"\noutputs that differ from transformers': {different} of {total}")


def peak_memory(which: str, length: int) -> None:
    """Child process: prints the growth of the peak resident size while an 8k prompt is read."""
    model = tokloom.load()
    text = BOOK.read_text(encoding="utf-8")
    tokens = model.encode(text)[:length]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        if which == "transformers":
            model.model.set_attn_implementation("sdpa")
            model.model(input_ids=torch.tensor([tokens]), use_cache=True, logits_to_keep=1)
        else:
            from tokloom.engine.forward import new_store, prefill

            store = new_store(model, Engine(model, attention=which).attention, 0)
            for _ in prefill(model, store, tokens, 512):
                pass
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--spec-bench", type=Path)
    parser.add_argument("--per-category", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    if args.child:
        peak_memory(args.child, args.length)
        return
    if args.memory:
        print(f"growth of the peak resident size while {args.length} prompt tokens are read (MiB)")
        for which in ("transformers", "dense", "h2o:budget=512", "token_select:budget=512"):
            command = [sys.executable, __file__, "--child", which, "--length", str(args.length)]
            print(
                f"  {which:<28}{subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip():>8}"
            )
        return
    model = tokloom.load()
    print(f"{model.name}, {model.dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if args.spec_bench:
        prompts: dict[str, list[str]] = defaultdict(list)
        for line in args.spec_bench.read_text(encoding="utf-8").splitlines():
            question = json.loads(line)
            kind = question["category"]
            if len(prompts[kind]) < args.per_category:
                chat = model.chat([{"role": "user", "content": question["turns"][0]}])
                if len(model.encode(chat)) < 1500:
                    prompts[kind].append(chat)
    else:
        book = model.encode(BOOK.read_text(encoding="utf-8"))
        prompts = {"context 512": [model.decode(book[5000:5512])], "repetitive": REPETITIVE}
    compare(model, tokloom.load(weights="torch"), prompts, args.tokens, args.rounds)


if __name__ == "__main__":
    main()
