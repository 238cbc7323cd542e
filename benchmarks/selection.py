"""Scorers beside each other, on keys and queries of a real text: time, and what they find of the exact top-k.

    .venv/bin/python benchmarks/selection.py [--keys 7680,30720] [--methods quest,fasa,hisa,...] [--budget 800]
        [--layers 4,9,14,19,24,29] [--queries 6] [--threads 2] [--json FILE]

The keys are those of a text as the model reads it. Beyond --window tokens the text is read in several windows, each
from position 0 on, and their keys are laid end to end: real keys, though no query has seen all of them. The queries are
the last ones of the last window. "ms" is the median time of scoring and choosing in one layer, "recall" the share of
the exact top-k (select's) that is found, "IoU" what both have over what either has; both between sinks and local
window. The last columns compare HISA with its flat indexer, the method that is its host: IoU with that, and its time
over its.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import tokloom
from tokloom import registry
from tokloom.attention.policy import AttentionPolicy
from tokloom.attention.selection.selecting import Selecting
from tokloom.engine.forward import calibrated, new_store, prefill
from tokloom.kv.layer import KVLayer
from tokloom.kv.step import Step

TEXT = Path(__file__).parent.parent / "src" / "tokloom" / "evaluate" / "data" / "haystack.txt"
METHODS = (
    "select,fasa,misa,quest,act_qkv,ice_cache,rtpurbo,"
    "hisa,hisa:ratio=0.1,hisa:block=16,hisa:block=8,hisa:block=8;ratio=0.5,hisa:host=fasa,hisa:host=fasa;ratio=0.5"
)


Text = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys (1, kv_heads, count, d) and the last queries (1, heads, rows, d), by layer."""

Choices = list[list[set[int]]]
"""The slots chosen between sinks and local window, per query and KV head."""


@dataclass
class Row:
    keys: int
    method: str
    ms: float
    recall: float
    iou: float
    flat: str | None = None
    """Of HISA: the method that rates all slots as its host does."""
    flat_iou: float | None = None
    flat_ms: float | None = None


class Queries(AttentionPolicy):
    """Dense attention that keeps the queries of the last chunk, by layer."""

    name = "queries"
    needs = ("queries", "keys")

    def __init__(self) -> None:
        self.held: dict[int, torch.Tensor] = {}

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        self.held[layer.index] = queries.clone()


def read(model: tokloom.LanguageModel, count: int, window: int, layers: list[int]) -> Text:
    """The text's first `count` tokens, over and over if need be."""
    tokens = model.encode_prompt(TEXT.read_text(encoding="utf-8"), chat=False)
    windows: list[dict[int, torch.Tensor]] = []
    policy = Queries()
    for start in range(0, count, window):
        part = (tokens * (1 + count // len(tokens)))[start : min(count, start + window)]
        store = new_store(model, policy, len(part))
        for _ in prefill(model, store, part, 512):
            pass
        windows.append({i: store.layers[i].keys.clone() for i in layers})
    return {i: (torch.cat([keys[i] for keys in windows], dim=2), policy.held[i]) for i in layers}


def choose(model: tokloom.LanguageModel, policy: Selecting, read_: Text, queries: int) -> tuple[float, Choices]:
    """Median time of a choice in ms, and what is chosen."""
    found, times, times_by = [], [], calibrated(model, policy)
    for index, (keys, last) in read_.items():
        layer = KVLayer(index, policy, 0)
        layer.calibration = times_by[index] if times_by else {}
        count, shape = keys.shape[2], keys.shape
        layer.step = Step(tuple(range(count)), model.device, prompt=True)
        layer.update(keys, keys)
        layer.seen = count
        own = torch.zeros(1, shape[1], 1, shape[3])
        layer.step = Step((count,), model.device)
        layer.update(own, own)
        for row in range(-queries - 1, 0):
            layer.step = Step((count,), model.device)
            layer.carry = {}
            query = last[:, :, row : row + 1 or None].contiguous()
            start = time.perf_counter()
            chosen = policy.select(layer, query)
            passed = time.perf_counter() - start
            if row == -queries - 1 or chosen is None:  # the first one makes the index
                continue
            times.append(passed)
            between = range(policy.sink, count - policy.local + 1)
            slots = chosen.expand(1, shape[1], 1, -1)[0, :, 0].tolist()
            found.append([{slot for slot in head if slot in between} for head in slots])
    return 1000 * statistics.median(times), found


def overlap(one: Choices, other: Choices) -> tuple[float, float]:
    """The share of `other` that is in `one`, and the intersection over the union, of all together."""
    both = either = wanted = 0
    for heads, others in zip(one, other, strict=True):
        for a, b in zip(heads, others, strict=True):
            both, either, wanted = both + len(a & b), either + len(a | b), wanted + len(b)
    return both / wanted, both / either


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--keys", default="7680,30720")
    parser.add_argument("--window", type=int, default=7680)
    parser.add_argument("--methods", default=METHODS, help="separated by commas, options of one by semicolons")
    parser.add_argument("--budget", type=int, default=800)
    parser.add_argument("--layers", default="4,9,14,19,24,29")
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model = tokloom.load(args.model)
    rows: list[Row] = []
    with torch.inference_mode():
        sizes = [int(count) for count in args.keys.split(",")]
        texts = read(model, max(sizes), args.window, [int(index) for index in args.layers.split(",")])
        for count in sizes:
            some = {i: (keys[:, :, -count:], last) for i, (keys, last) in texts.items()}

            def chosen(spec: str, some: Text = some) -> tuple[float, Choices]:
                name, _, options = spec.replace(";", ",").partition(":")
                full = f"{name}:budget={args.budget},sink=4,local=32" + (f",{options}" if options else "")
                return choose(model, registry.build(full, Selecting, name), some, args.queries)

            _, exact = chosen("select")
            flats: dict[str, tuple[float, Choices]] = {}
            print(f"\n{count} keys, {args.budget} attended, {torch.get_num_threads()} threads")
            print(f"{'method':<32}{'ms':>8}{'recall':>8}{'IoU':>8}   HISA: IoU with its flat indexer, time over its")
            for spec in args.methods.split(","):
                ms, found = chosen(spec)
                recall, iou = overlap(found, exact)
                row = Row(count, spec, ms, recall, iou)
                line = f"{spec:<32}{ms:>8.3f}{recall:>8.3f}{iou:>8.3f}"
                if spec.startswith("hisa"):
                    row.flat = "fasa" if "host=fasa" in spec else "select"
                    if row.flat not in flats:
                        flats[row.flat] = chosen(row.flat)
                    row.flat_ms = flats[row.flat][0]
                    row.flat_iou = overlap(found, flats[row.flat][1])[1]
                    line += f"   {row.flat:<8}{row.flat_iou:>8.3f}{ms / row.flat_ms:>8.2f}"
                print(line, flush=True)
                rows.append(row)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
