"""The forward pass beside transformers and llama.cpp: decoding, prompts, draft trees, memory and loading, in one run.

    .venv/bin/python benchmarks/forward.py [--model NAME] [--rounds 3] [--json FILE]
    .venv/bin/python benchmarks/forward.py --llama OTHER_VENV/bin/python     with llama-cpp-python from another venv

Every engine is a process of its own, alone while it runs, with the same tokens, greedy, batch 1 and the same number of
threads; rounds are interleaved (A B C A B C ...) and a figure is the median over them. "floor" is the time that reading
the weights and the cached keys and values once takes at the bandwidth that this machine reaches just before; "x floor"
how far a token is above it. "tree" is what a pass of 16 drafted rows costs in passes of one. "exact" holds every weight
at the very value that transformers' float32 has, in the form that the file keeps it in, and multiplies as exactly.

--json writes the rows and `decode_ratio_vs_transformers`: tokens a second of tokloom's default over those of
transformers' generate in float32, which has the same values, at 512 tokens of context (median of the rounds' ratios);
`decode_ratios_vs_transformers` has one for each precision of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parent.parent / "src" / "tokloom" / "evaluate" / "data" / "haystack.txt"
CONTEXTS = (512, 4096)
NEW = 24
SAME = {"fp32": "transformers fp32", "bf16": "transformers bf16", "exact": "transformers fp32"}
ENGINES = (
    "transformers fp32", "transformers bf16", "fp32", "bf16", "exact", "exact, kv bf16", "exact, kv int8", "int8",
    "int4", "int4, kv bf16",
)  # fmt: skip


# --- children: one engine each; a line of JSON in, a line of JSON out


def serve(measure: Any) -> None:
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def interval(times: list[float]) -> float:
    """The median time between two tokens."""
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def peak() -> float:
    """MiB that the process has held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tokloom_child(model: str, weights: str, kv: str | None) -> None:
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401 - not part of loading a model

    import tokloom
    from tokloom.engine.forward import forward, new_store, prefill
    from tokloom.kv.store import Step
    from tokloom.methods.attention.dense import Dense
    from tokloom.models.packed_linear import PackedLinear

    start = time.perf_counter()
    loaded = tokloom.load(model, weights=weights)
    seconds = time.perf_counter() - start
    layers = [m for m in loaded.model.modules() if isinstance(m, PackedLinear)]

    def measure(tokens: list[int], new: int) -> dict[str, float]:
        before = peak()
        store = new_store(loaded, Dense(), len(tokens) + new + 64, kv)
        start = time.perf_counter()
        for _, logits in prefill(loaded, store, tokens, 512):
            after = logits
        read = time.perf_counter() - start
        memory = peak() - before
        token = int(after.argmax())
        times = [time.perf_counter()]
        for i in range(new):
            step = Step((len(tokens) + i,), loaded.device)
            token = int(forward(loaded, store, [token], step, all_logits=True)[0].argmax())
            times.append(time.perf_counter())
        each = interval(times)
        wide = []
        for _ in range(3):
            parents = (-1, *(i // 2 for i in range(15)))
            first = len(tokens) + new
            depths = [0]
            for parent in parents[1:]:
                depths.append(depths[parent] + 1)
            step = Step(tuple(first + depth for depth in depths), loaded.device, parents=parents)
            start = time.perf_counter()
            forward(loaded, store, [token] * 16, step, all_logits=True)
            wide.append(time.perf_counter() - start)
            store.accept([])
        kept = sum(layer.count * layer.bytes // layer.positions.shape[2] for layer in store.layers if layer.count)
        del store
        return {
            "token": each, "prompt": len(tokens) / read, "memory": memory, "tree": min(wide) / each, "load": seconds,
            "weights": sum(layer.nbytes for layer in layers), "kv": kept,
        }  # fmt: skip

    torch.inference_mode().__enter__()
    serve(measure)


def transformers_child(model: str, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    from tokloom.models.load import _resolve

    source, _ = _resolve(model)
    start = time.perf_counter()
    loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa").eval()
    seconds = time.perf_counter() - start
    config = loaded.config.get_text_config()

    class Clock(BaseStreamer):
        """When the prompt and each token were there."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def measure(tokens: list[int], new: int) -> dict[str, float]:
        ids, before, clock = torch.tensor([tokens]), peak(), Clock()
        loaded.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new + 1, min_new_tokens=new + 1,
            do_sample=False, pad_token_id=0, streamer=clock,
        )  # fmt: skip
        first, each, memory = clock.times[1] - clock.times[0], interval(clock.times[1:]), peak() - before
        size = 2 if dtype == "bfloat16" else 4
        slot = 2 * config.num_key_value_heads * getattr(config, "head_dim", 64) * size
        return {
            "token": each, "prompt": len(tokens) / first, "memory": memory, "load": seconds,
            "weights": sum(p.numel() for p in loaded.parameters()) * size,
            "kv": config.num_hidden_layers * slot * len(tokens),
        }  # fmt: skip

    torch.inference_mode().__enter__()
    serve(measure)


LLAMA = """
import json, resource, statistics, sys, time
import llama_cpp
path, threads, window = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
llm = llama_cpp.Llama(path, n_ctx=window, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
seconds = time.perf_counter() - start
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for line in sys.stdin:
    asked = json.loads(line)
    tokens, new = asked["tokens"], asked["new"]
    before = peak()
    llm.reset()
    start = time.perf_counter()
    llm.eval(tokens)
    read = time.perf_counter() - start
    memory = peak() - before
    token = llm.sample(temp=0)
    times = []
    for _ in range(new):
        start = time.perf_counter()
        llm.eval([token])
        token = llm.sample(temp=0)
        times.append(time.perf_counter() - start)
    each = statistics.median(times)
    print(json.dumps({"token": each, "prompt": len(tokens) / read, "memory": memory, "load": seconds}), flush=True)
"""


class Child:
    """A running engine."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, tokens: list[int], new: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"tokens": tokens, "new": new}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"an engine ended: {' '.join(self.process.args)[:200]}")  # type: ignore[arg-type]
        found: dict[str, float] = json.loads(line)
        return found


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    import torch
    from rich.progress import Progress
    from weights import bandwidth  # beside this file

    import tokloom
    from tokloom.models.convert import gguf_of, joined

    tokenizer = tokloom.load(args.model, weights="torch")
    text = tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    window, threads = tokenizer.window, torch.get_num_threads()
    del tokenizer
    contexts = [c for c in args.contexts if c + NEW + 20 <= window]
    names = [name for name in ENGINES if not args.only or name in args.only]
    with tempfile.TemporaryDirectory() as directory:
        source = gguf_of(args.model)
        file = joined(source, Path(directory)) if source is not None else None
        commands = {n: [sys.executable, __file__, "--child", n, "--model", args.model] for n in names}
        if args.llama and file is not None:
            size = str(max(contexts) + NEW + 64)
            commands["llama.cpp"] = [args.llama, "-c", LLAMA, str(file), str(threads), size]
        rows: dict[tuple[str, int], list[dict[str, float]]] = {}
        with Progress(transient=True) as progress:
            task = progress.add_task("measuring", total=args.rounds * len(contexts) * len(commands))
            for _ in range(args.rounds):
                for name, command in commands.items():
                    speed = bandwidth()
                    child = Child(command)  # alone: what others hold would have to be brought back into memory
                    child.measure(text[:16], 2)
                    for context in contexts:
                        progress.update(task, description=f"{name}, {context} tokens")
                        found = child.measure(text[1000 : 1000 + context], NEW)
                        rows.setdefault((name, context), []).append(found | {"bandwidth": speed})
                        progress.advance(task)
                    child.process.kill()
                    child.process.wait()
    return [summary(name, context, found, rows) for (name, context), found in rows.items()]


def summary(name: str, context: int, found: list[dict[str, float]], rows: Any) -> dict[str, Any]:
    def middle(key: str) -> float | None:
        values = [each[key] for each in found if key in each]
        return statistics.median(values) if values else None

    row: dict[str, Any] = {"engine": name, "context": context, "tokens_per_second": 1 / statistics.median(
        each["token"] for each in found)}  # fmt: skip
    for other in ("transformers fp32", "transformers bf16", "llama.cpp"):
        base = rows.get((other, context))
        if base:
            pairs = zip(base, found, strict=True)
            row[f"x {other}"] = statistics.median(b["token"] / each["token"] for b, each in pairs)
    row |= {"prompt_per_second": middle("prompt"), "tree_of_16": middle("tree"), "load_seconds": middle("load")}
    row["prompt_mib"] = max(each["memory"] for each in found)
    if "weights" in found[0]:
        floors = [(each["weights"] + each["kv"]) / each["bandwidth"] for each in found]
        row["mib"] = (found[0]["weights"] + found[0]["kv"]) / 2**20
        row["floor_ms"] = 1000 * statistics.median(floors)
        row["x floor"] = statistics.median(each["token"] / f for each, f in zip(found, floors, strict=True))
    return row


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = {
        "engine": "engine", "context": "context", "tokens_per_second": "tok/s", "x transformers fp32": "x tf fp32",
        "x transformers bf16": "x tf bf16", "x llama.cpp": "x llama.cpp", "mib": "MiB read", "floor_ms": "floor ms",
        "x floor": "x floor", "prompt_per_second": "prompt/s", "prompt_mib": "prompt MiB", "tree_of_16": "tree",
        "load_seconds": "load s",
    }  # fmt: skip
    table = Table()
    for key, title in columns.items():
        table.add_column(title, justify="left" if key == "engine" else "right")

    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) and value < 20 else (
            f"{value:.0f}" if isinstance(value, float) else str(value))  # fmt: skip

    for row in sorted(rows, key=lambda r: r["context"]):
        table.add_row(*(shown(row.get(key)) for key in columns))
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--only", nargs="+", choices=ENGINES, help="these engines alone")
    parser.add_argument("--llama", metavar="PYTHON", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child and args.child.startswith("transformers"):
        transformers_child(args.model, "bfloat16" if args.child.endswith("bf16") else "float32")
    elif args.child:
        weights, _, kv = args.child.partition(", kv ")
        tokloom_child(args.model, weights, kv or None)
    else:
        rows = run(args)
        show(rows)
        ratios = {
            row["engine"]: row.get(f"x {SAME[row['engine']]}")
            for row in rows
            if row["engine"] in SAME and row["context"] == min(args.contexts)
        }
        if args.json:
            from tokloom.atomic import write_atomic

            report = {
                "model": args.model, "rows": rows, "decode_ratio_vs_transformers": ratios.get("exact"),
                "decode_ratios_vs_transformers": ratios,
            }  # fmt: skip
            write_atomic(args.json, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
