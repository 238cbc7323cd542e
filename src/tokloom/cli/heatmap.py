"""`tokloom heatmap`: a page that shows which tokens of a prompt each attention policy attends to."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tokloom.atomic import check_writable
from tokloom.cli import options as o
from tokloom.errors import ArgumentError


def heatmap(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text; if not given, one with a number hidden in it.", show_default=False),
    ] = None,
    continuation: Annotated[
        str | None, typer.Option(help="What follows it, the same for all; what dense attention generates if not given.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Specs of attention methods separated by commas, or all.")] = "all",
    budget: Annotated[int, typer.Option(min=1, help="Of all methods whose spec names none.")] = 96,
    length: Annotated[int, typer.Option(min=64, help="Tokens of the text with the number.")] = 480,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of a generated continuation.")] = 16,
    out: Annotated[Path, typer.Option(help="The page.", rich_help_panel="Output")] = Path("out/heatmap.html"),
    model: o.Model = "smollm2-135m",
    dtype: o.Dtype = None,
    weights: o.Weights = None,
    kv: o.KV = None,
    device: o.Device = None,
    threads: o.Threads = None,
) -> None:
    """Show which tokens of one prompt each attention policy keeps and attends to."""
    from tokloom.spec import split_specs

    o.engine_options(model=model, dtype=dtype, device=device, weights=weights, kv=kv)
    specs = split_specs(methods)
    o.check_names(spec for spec in specs if spec != "all")
    if continuation is not None and prompt is None:
        raise ArgumentError("--continuation", continuation, "given together with a prompt", "Add the prompt.")

    check_writable("--out", out)

    from rich.console import Console

    import tokloom
    from tokloom.compare import progress
    from tokloom.compare.heatmap import write_heatmap
    from tokloom.compare.placement import contenders, with_controls
    from tokloom.engine.request import Sampling
    from tokloom.evaluate.task import Task
    from tokloom.registry import make

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    rows = with_controls("attention", contenders("attention", specs, [budget]))
    loaded = tokloom.load(model, dtype=dtype, device=device, weights=weights)
    if prompt is None:
        needle = make("needle", {"length": length, "depths": (0.5,)}, Task, "task")
        example = next(needle.examples(loaded))
        prompt, continuation = example.prompt or "", f" {example.answers[0]}."
    elif continuation is None:
        engine = tokloom.Engine(loaded, kv=kv)
        continuation = engine.generate(prompt, sampling=Sampling(max_new_tokens=max_new_tokens)).text
    screen = Console(stderr=True)
    with progress.bar(screen) if screen.is_terminal else nullcontext() as told:
        write_heatmap(out, loaded, rows, prompt, continuation, told, kv=kv)
    sys.stderr.write(f"heat map in {out}\n")
