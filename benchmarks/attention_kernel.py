"""The attention kernel beside torch's scaled_dot_product_attention, with the heads of the default model.

    .venv/bin/python benchmarks/attention_kernel.py [--heads 9] [--kv-heads 3] [--width 64] [--rounds 5]

Each call has keys and values of its own, 96 MB of them in turn, as the layers of a model have: what is read comes from
memory. Rounds interleaved over the rows of the table; times are the tenth percentile of all calls, since on a shared
machine the median call is often one that waited for another process. GB/s counts the keys and values that are
attended to, GFLOP/s the products of both matrices. Torch has no int8, and gathers before it attends; its 16 rows are
not masked, which spares it work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from tokloom import _core

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
COLD = 96 * 2**20


@dataclass
class Row:
    rows: int
    slots: int
    storage: str
    chosen: int | None
    calls: dict[str, list[Callable[[], object]]]
    times: dict[str, list[float]] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        for name, calls in self.calls.items():
            end = time.perf_counter() + seconds
            found = self.times.setdefault(name, [])
            at = len(found)
            while (start := time.perf_counter()) < end:
                calls[at % len(calls)]()
                found.append(time.perf_counter() - start)
                at += 1


def build(args: argparse.Namespace, rows: int, slots: int, storage: str, chosen: int | None) -> Row:
    heads, kv_heads, width = args.heads, args.kv_heads, args.width
    dtype = DTYPES[storage]
    queries = torch.randn(heads, rows, width)
    scales = torch.full((kv_heads, slots), 0.03)
    bytes_each = 2 * kv_heads * (chosen + rows if chosen else slots) * width * dtype.itemsize
    copies = max(2, min(64, COLD // bytes_each)) if rows == 1 else 2
    stores = 2 if chosen else copies
    held = [
        [(torch.randn(kv_heads, slots, width) * (30 if storage == "int8" else 1)).to(dtype) for _ in range(2)]
        for _ in range(stores)
    ]
    calls: dict[str, list[Callable[[], object]]] = {"tokloom": [], "torch": []}
    for i in range(copies):
        keys, values = held[i % stores]
        out = torch.empty(rows, heads, width)
        index = torch.randperm(slots - rows)[:chosen].sort().values if chosen else None
        kernel = partial(
            _core.attend, queries=queries.data_ptr(), query_strides=(rows * width, width), keys=keys.data_ptr(),
            values=values.data_ptr(), out=out.data_ptr(), out_strides=(width, heads * width), heads=heads,
            kv_heads=kv_heads, rows=rows, head_dim=width, capacity=slots, count=slots, scale=width**-0.5,
            storage=storage, threads=torch.get_num_threads(), key_scales=scales.data_ptr(),
            value_scales=scales.data_ptr(), index=0 if index is None else index.data_ptr(), chosen=chosen or -1,
        )  # fmt: skip
        # The defaults hold on to the tensors whose addresses the kernel has.
        calls["tokloom"].append(lambda run=kernel, _keep=(queries, keys, values, out, index, scales): run())
        if storage != "int8":
            calls["torch"].append(partial(in_torch, queries.to(dtype)[None], keys[None], values[None], index))
    if storage == "int8":
        del calls["torch"]
    return Row(rows, slots, storage, chosen, calls)


def in_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    if index is not None:
        own = torch.arange(k.shape[2] - q.shape[2], k.shape[2])
        index = torch.cat([index, own])
        k, v = k.index_select(2, index), v.index_select(2, index)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{_core.kernels()}, {torch.get_num_threads()} threads, {args.heads} heads, {args.kv_heads} KV heads, ", end=""
    )
    print(f"head_dim {args.width}")
    print(
        f"{'rows':>4}{'slots':>7}{'chosen':>8}{'storage':>9}{'us':>10}{'GB/s':>7}{'GFLOP/s':>9}{'torch us':>10}{'x':>6}"
    )
    with torch.inference_mode():
        for slots, chosen in ((512, None), (4096, None), (32768, None), (32768, 3277)):
            for rows in (1, 16):
                table = [build(args, rows, slots, storage, chosen) for storage in DTYPES]
                for _ in range(args.rounds):
                    for row in table:
                        row.run(0.1)
                for row in table:
                    show(args, row)


def show(args: argparse.Namespace, row: Row) -> None:
    typical = {name: statistics.quantiles(times, n=10)[0] for name, times in row.times.items()}
    attended = row.chosen + row.rows if row.chosen else row.slots
    read = 2 * args.kv_heads * attended * args.width * DTYPES[row.storage].itemsize
    work = 4 * args.heads * row.rows * attended * args.width
    mine = typical["tokloom"]
    line = f"{row.rows:>4}{row.slots:>7}{row.chosen or '-':>8}{row.storage:>9}{mine * 1e6:>10.1f}"
    line += f"{read / mine / 1e9:>7.1f}{work / mine / 1e9:>9.1f}"
    if "torch" in typical:
        line += f"{typical['torch'] * 1e6:>10.1f}{typical['torch'] / mine:>6.1f}"
    print(line)


if __name__ == "__main__":
    main()
