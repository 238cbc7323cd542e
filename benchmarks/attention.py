"""Attention policies beside dense attention, on the same weights and the same kind of store.

    .venv/bin/python benchmarks/attention.py [--methods all] [--budget 800] [--context 7680] [--weights exact,bf16,int8]
        [--kv fp32,bf16,int8] [--parts decode,prefill,keys] [--keys 32768] [--rounds 5] [--json FILE]

decode: both read the same prompt of --context tokens and then take turns, --steps tokens at a time (A B A B ...). "ms"
is the median time of a token, "x dense" the median over the rounds of dense's time over the policy's; above 1 the
policy is the faster one. Also what keys and values took at most, and what the budget and one chunk alone would take.
prefill: the time to read --prefill tokens over dense's, in turns too ("overhead"; 1.00 is none).
keys: the attention of all layers for one token over --keys keys, policies that select against dense attention: what a
pass takes less a pass with next to no keys. The keys are drawn at random, in a store that is filled without reading a
text, and the queries are the model's own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import tokloom
from tokloom.attention.policy import AttentionPolicy
from tokloom.compare.placement import Contender, contenders
from tokloom.engine.forward import forward, new_store
from tokloom.engine.request_context import RequestContext
from tokloom.errors import TokloomError
from tokloom.kv.store import KVStore, Step
from tokloom.spec import split_specs

TEXT = Path(__file__).parent.parent / "src" / "tokloom" / "evaluate" / "data" / "haystack.txt"


@dataclass
class Row:
    """One policy against dense attention. Times in milliseconds, sizes in MiB."""

    part: str
    weights: str
    kv: str
    method: str
    ms: float | None = None
    dense_ms: float | None = None
    times_dense: float | None = None
    peak_mib: float | None = None
    dense_peak_mib: float | None = None
    bound_mib: float | None = None
    """Of the budget and one chunk, where the policy drops slots."""
    error: str | None = None


class Reader:
    """One policy over one text: read, then decoded as the text goes on."""

    def __init__(self, model: tokloom.LanguageModel, policy: AttentionPolicy, kv: str, chunk: int) -> None:
        self.model = model
        self.host = RequestContext(model, policy, 256, kv=kv, prefill_chunk=chunk)
        self.store: KVStore

    def read(self, tokens: list[int]) -> float:
        """Seconds that the prompt takes, with a fresh store."""
        self.host.stores.clear()
        start = time.perf_counter()
        self.store = self.host.open(len(tokens))
        self.host.prefill(self.store, tokens)
        return time.perf_counter() - start

    def decode(self, tokens: list[int]) -> list[float]:
        """Seconds of each token."""
        times = []
        for token in tokens:
            start = time.perf_counter()
            self.host.forward(self.store, [token], Step((self.store.seen,), self.model.device))
            self.store.accept([0])
            times.append(time.perf_counter() - start)
        return times


def in_turns(rounds: int, dense: Callable[[], list[float]], policy: Callable[[], list[float]]) -> tuple[float, ...]:
    """Medians of the policy's and of dense's times in ms, and of the ratio within a round; one round warms up."""
    theirs, ours, ratios = [], [], []
    for number in range(rounds + 1):
        one, other = dense(), policy()
        if number:
            theirs += one
            ours += other
            ratios.append(statistics.median(one) / statistics.median(other))
    return 1000 * statistics.median(ours), 1000 * statistics.median(theirs), statistics.median(ratios)


def decode(args: argparse.Namespace, model: tokloom.LanguageModel, rows: list[Contender], kv: str) -> list[Row]:
    tokens = model.encode_prompt(TEXT.read_text(encoding="utf-8"), chat=False)
    context = min(args.context, model.window - args.steps * (args.rounds + 1) - 1)
    dense = Reader(model, AttentionPolicy(), kv, args.chunk)
    dense.read(tokens[:context])
    found = []
    for row in rows:
        line = Row("decode", model.weights, kv, row.spec, error=row.error)
        found.append(line)
        try:
            if row.component is None:
                continue
            policy = Reader(model, row.component, kv, args.chunk)
            policy.read(tokens[:context])
            dense.store.rewind(context)
            places = {reader: iter(range(context, len(tokens), args.steps)) for reader in (dense, policy)}

            def some(reader: Reader, places: Any = places) -> list[float]:
                start = next(places[reader])
                return reader.decode(tokens[start : start + args.steps])

            line.ms, line.dense_ms, line.times_dense = in_turns(
                args.rounds, lambda: some(dense), lambda policy=policy: some(policy)
            )
            line.peak_mib = policy.store.peak_bytes / 2**20
            line.dense_peak_mib = dense.store.peak_bytes / 2**20
            if policy.store.slots()["evicted"] and row.budget is not None:
                line.bound_mib = line.dense_peak_mib * (row.budget + args.chunk) / dense.store.seen
        except TokloomError as error:
            line.error = str(error)
        show(line)
    return found


def prefill(args: argparse.Namespace, model: tokloom.LanguageModel, rows: list[Contender], kv: str) -> list[Row]:
    tokens = model.encode_prompt(TEXT.read_text(encoding="utf-8"), chat=False)[: args.prefill]
    dense = Reader(model, AttentionPolicy(), kv, args.chunk)
    found = []
    for row in rows:
        line = Row("prefill", model.weights, kv, row.spec, error=row.error)
        found.append(line)
        try:
            if row.component is None:
                continue
            policy = Reader(model, row.component, kv, args.chunk)
            line.ms, line.dense_ms, line.times_dense = in_turns(
                args.rounds, lambda: [dense.read(tokens)], lambda policy=policy: [policy.read(tokens)]
            )
        except TokloomError as error:
            line.error = str(error)
        show(line)
    return found


def keys(args: argparse.Namespace, model: tokloom.LanguageModel, rows: list[Contender], kv: str) -> list[Row]:
    """Attention alone; for policies that choose among all slots."""
    config = model.model.config.get_text_config()
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    text = itertools.cycle(model.encode_prompt(TEXT.read_text(encoding="utf-8"), chat=False))

    def filled(policy: AttentionPolicy, count: int) -> KVStore:
        generator = torch.Generator().manual_seed(0)
        store = new_store(model, policy, count + 256, kv)
        for start in range(0, count, args.chunk):
            positions = tuple(range(start, min(start + args.chunk, count)))
            store.begin(Step(positions, model.device, prompt=True))
            for layer in store.layers:
                layer.update(*(torch.randn(1, kv_heads, len(positions), width, generator=generator) for _ in range(2)))
                layer.finish(torch.randn(1, heads, len(positions), width, generator=generator), None)
        store.prepare()
        return store

    def steps(store: KVStore) -> list[float]:
        times = []
        for _ in range(args.steps):
            start = time.perf_counter()
            forward(model, store, [next(text)], Step((store.seen,), model.device), False)
            times.append(time.perf_counter() - start)
        return times

    dense, rest = filled(AttentionPolicy(), args.keys), filled(AttentionPolicy(), 1)
    found = []
    for row in rows:
        policy = row.component
        if policy is None or type(policy).select is AttentionPolicy.select or "attention_weights" in policy.needs:
            continue
        line = Row("keys", model.weights, kv, row.spec)
        found.append(line)
        try:
            store = filled(policy, args.keys)
            others: list[float] = []

            def less(store: KVStore, others: list[float] = others) -> list[float]:
                """Without what a pass takes with next to no keys, in the same round."""
                others[:] = steps(rest)
                return [seconds - statistics.median(others) for seconds in steps(store)]

            line.ms, line.dense_ms, line.times_dense = in_turns(
                args.rounds, lambda less=less: less(dense), lambda less=less, store=store: less(store)
            )
        except TokloomError as error:
            line.error = str(error)
        show(line)
    return found


def show(row: Row) -> None:
    head = f"{row.part:<8}{row.weights:<7}{row.kv:<6}{row.method:<52}"
    if row.error is not None or row.ms is None:
        print(f"{head} {row.error}", flush=True)
        return
    line = f"{head}{row.ms:>9.2f}{row.dense_ms:>9.2f}"
    line += f"{1 / row.times_dense:>9.2f} overhead" if row.part == "prefill" else f"{row.times_dense:>9.2f} x dense"
    if row.peak_mib is not None:
        line += f"{row.peak_mib:>9.1f} of {row.dense_peak_mib:.1f} MiB"
    if row.bound_mib is not None:
        line += f" (budget and chunk: {row.bound_mib:.1f})"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--budget", type=int, default=800)
    parser.add_argument("--context", type=int, default=7680)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--keys", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="exact,bf16,int8")
    parser.add_argument("--kv", default="fp32,bf16,int8")
    parser.add_argument("--parts", default="decode,prefill,keys")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows = contenders("attention", split_specs(args.methods), [args.budget])
    parts = {"decode": decode, "prefill": prefill, "keys": keys}
    chosen = args.parts.split(",")
    found: list[Row] = []
    print(f"{'part':<8}{'weights':<7}{'kv':<6}{'method':<52}{'ms':>9}{'dense':>9}")
    with torch.inference_mode():
        for weights in args.weights.split(","):
            model = tokloom.load(args.model, weights=weights)
            for kv in args.kv.split(","):
                for part in chosen:
                    if part == "decode" or weights == args.weights.split(",")[0]:  # the others don't hang on weights
                        found += parts[part](args, model, rows, kv)
    if args.json is not None:
        options = {name: str(value) for name, value in vars(args).items()}
        args.json.write_text(json.dumps({"options": options, "rows": [asdict(row) for row in found]}, indent=1))


if __name__ == "__main__":
    main()
