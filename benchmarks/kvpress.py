"""tokloom's policies beside NVIDIA's kvpress: same model, same tokens, same slots, same tasks.

kvpress 0.5.5 needs transformers 5.2, so that it lives in an environment of its own:

    python3 -m venv OTHER && OTHER/bin/pip install kvpress==0.5.5 'transformers==5.2.*' torch==2.13.0
    .venv/bin/python benchmarks/kvpress.py --python OTHER/bin/python [--length 640] [--budget 128] [--examples 10]
        [--rounds 3] [--json FILE]

Both read the whole prompt at once and then keep the slots that the budget allows; what follows is fed token by token
and scored (teacher forcing): the digits of needles, and held-out text. These presses don't evict while decoding, so
that kvpress gets the slots that tokloom has left after the prompt; from then on tokloom stays within the budget, where
kvpress's slots grow by a token a step, to its advantage in the held-out text (64 tokens). "overhead" is the time to
read a prompt over that of the same engine without compression, in turns; median of the ratios. The dense rows show
whether both compute the same.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

PRESSES = {
    "dense": (None, "sdpa"),
    "streaming_llm": ("StreamingLLMPress", "sdpa"),
    "snap_kv": ("SnapKVPress", "sdpa"),
    "h2o": ("ObservedAttentionPress", "eager"),
    "Knorm": ("KnormPress", "sdpa"),
    "ExpectedAttention": ("ExpectedAttentionPress", "sdpa"),
}
"""kvpress's class for a method of tokloom's, or for none of them, and the attention that it needs."""


# --- the other environment: one request a line in, one answer a line out


def serve(directory: str, threads: int) -> None:
    import kvpress
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(threads)
    models: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, attention = PRESSES[request["method"]]
        if attention not in models:
            models[attention] = AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, attn_implementation=attention
            )
        model, prompt = models[attention], torch.tensor([request["prompt"]])
        n = prompt.shape[1]
        press = None if name is None else getattr(kvpress, name)(compression_ratio=1 - (request["slots"] + 0.5) / n)

        def read(press: Any, model: Any = model, prompt: Any = prompt) -> tuple[Any, torch.Tensor, float]:
            cache = DynamicCache()
            start = time.perf_counter()
            with torch.inference_mode(), press(model) if press is not None else nullcontext():
                logits = model(prompt, past_key_values=cache, logits_to_keep=1).logits[0, -1]
            return cache, logits, time.perf_counter() - start

        ratios = []
        for _ in range(request["rounds"]):
            *_, plain = read(None)
            *_, pressed = read(press)
            ratios.append(pressed / plain)
        cache, logits, _ = read(press)
        slots = cache.layers[0].keys.shape[2]
        logprobs, ranks = [], []
        for i, target in enumerate(request["targets"]):
            scores = logits.log_softmax(-1)
            logprobs.append(float(scores[target]))
            ranks.append(int((scores > scores[target]).sum()))
            position = torch.tensor([n + i])
            token = torch.tensor([[target]])
            with torch.inference_mode():
                output = model(token, past_key_values=cache, position_ids=position[None], cache_position=position)
            logits = output.logits[0, -1]
        answer = {"logprobs": logprobs, "ranks": ranks, "slots": slots, "ratios": ratios}
        print(json.dumps(answer), flush=True)


# --- this environment


def ours(model: Any, method: str, budget: int, prompt: str, after: str, rounds: int) -> dict[str, Any]:
    from tokloom import Engine
    from tokloom.attention.trace import Trace

    spec = method if method == "dense" else f"{method}:budget={budget}"
    chunk = len(model.encode_prompt(prompt, chat=False))
    engines = [Engine(model, attention=policy, prefill_chunk=chunk) for policy in ("dense", spec)]
    ratios = []
    for _ in range(rounds):
        plain, pressed = (engine.score(prompt, after).ledger.row("attention").seconds for engine in engines)
        ratios.append(pressed / plain)
    trace = Trace()
    scored = engines[1].score(prompt, after, watch=trace)
    slots = int(trace.steps(0)[0][0].sum()) - 1  # without the token of the step itself
    return {"logprobs": scored.logprobs, "ranks": scored.ranks, "slots": slots, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of the environment with kvpress")
    parser.add_argument("--length", type=int, default=640)
    parser.add_argument("--budget", type=int, default=128)
    parser.add_argument("--examples", type=int, default=10, help="of each task")
    parser.add_argument("--rounds", type=int, default=3, help="of the prompt's time")
    parser.add_argument("--methods", default=",".join(PRESSES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.threads)
        return
    if args.python is None:
        parser.error("--python is needed: see the commands above")

    import tokloom
    from tokloom.methods.evaluate.needle import Needle
    from tokloom.methods.evaluate.perplexity import Perplexity
    from tokloom.models.bundled import BUNDLED, find
    from tokloom.models.convert import Gguf, converted

    torch.set_num_threads(args.threads)
    name = "smollm2-135m"
    model = tokloom.load(name)
    directory = converted(Gguf(name, find(BUNDLED[name])))
    child = subprocess.Popen(
        [args.python, "-P", __file__, "--serve", str(directory), "--threads", str(args.threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    tasks = {
        "needle": Needle(length=args.length, repeats=-(-args.examples // 5)),
        "perplexity": Perplexity(prefix=args.length, length=64, windows=args.examples),
    }
    answers: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    examples = [list(made.examples(model))[: args.examples] for made in tasks.values()]
    with suppress(KeyboardInterrupt):  # what has been answered by then is reported
        for i in range(args.examples):
            for task, of_task in zip(tasks, examples, strict=True):
                for example in of_task[i : i + 1]:  # a task may have fewer
                    print(f"{i + 1}/{args.examples} {task}", file=sys.stderr, flush=True)
                    compare(args, model, task, example, child, answers)
    child.stdin.close()
    child.terminate()
    child.wait()
    report(args, answers)


def compare(
    args: argparse.Namespace,
    model: Any,
    task: str,
    example: Any,
    child: subprocess.Popen[str],
    answers: dict[tuple[str, str, str], list[dict[str, Any]]],
) -> None:
    """One example by all methods and both engines."""
    from tokloom import registry

    assert child.stdin is not None
    assert child.stdout is not None
    prompt = example.prompt or ""
    after = f" {example.answers[0]}" if task == "needle" else example.answers[0]
    targets = model.encode(after)
    digits = [i for i, token in enumerate(targets) if any(c.isdigit() for c in model.decode([token]))]
    kept = digits if task == "needle" else list(range(len(targets)))
    slots = args.budget  # of presses that tokloom has no twin of: as many as the others have
    for method in args.methods.split(","):
        request = {
            "method": method, "prompt": model.encode_prompt(prompt, chat=False), "targets": targets,
            "slots": 0, "rounds": args.rounds,
        }  # fmt: skip
        both = {}
        if method in registry.names("attention"):
            both["tokloom"] = ours(model, method, args.budget, prompt, after, args.rounds)
            request["slots"] = both["tokloom"]["slots"]
            slots = min(slots, both["tokloom"]["slots"])
        else:
            request["slots"] = slots
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        both["kvpress"] = json.loads(child.stdout.readline())
        for engine, answer in both.items():
            answer["kept"] = kept
            answers.setdefault((task, method, engine), []).append(answer)


def report(args: argparse.Namespace, answers: dict[tuple[str, str, str], list[dict[str, Any]]]) -> None:
    print(f"{'task':<12}{'method':<20}{'engine':<10}{'slots':>7}{'first':>8}{'nll':>8}{'overhead':>10}{'n':>5}")
    rows = []
    for (task, method, engine), found in answers.items():
        scored = [(answer["logprobs"][i], answer["ranks"][i]) for answer in found for i in answer["kept"]]
        row = {
            "task": task, "method": method, "engine": engine, "n": len(found),
            "slots": statistics.fmean(answer["slots"] for answer in found),
            "first": statistics.fmean(rank == 0 for _, rank in scored),
            "nll": -statistics.fmean(logprob for logprob, _ in scored),
            "overhead": statistics.median(ratio for answer in found for ratio in answer["ratios"]),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{task:<12}{method:<20}{engine:<10}{row['slots']:>7.0f}{row['first']:>8.3f}{row['nll']:>8.3f}"
            f"{row['overhead']:>10.2f}{row['n']:>5}"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
