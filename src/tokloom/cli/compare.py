"""`tokloom compare`: methods of a stage side by side on tasks, as a table, a file of results and a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tokloom.atomic import check_writable
from tokloom.cli import options as o
from tokloom.errors import ArgumentError, UsageError


@dataclass(frozen=True)
class Whole:
    """What is compared of a stage if nothing is said."""

    methods: str
    tasks: str
    budgets: str | None = None


WHOLE = {
    "attention": Whole(
        "all",
        "needle:length=640,generate=false,needle:length=2048,generate=false,needle:keys=4,generate=false,"
        "needle:values=3,generate=false,needle_threads,perplexity,top_k_overlap",
        "256,128",
    ),
    "decode": Whole(
        "plain,prompt_lookup,suffix_automaton,token_recycling,dyspec,aded,merged,"
        "transformers_generate,transformers_generate:prompt_lookup=10,transformers_generate:assistant=bfloat16,"
        "llama_cpp,llama_cpp:prompt_lookup=10",
        "spec_bench",
    ),
}


def integers(name: str, text: str | None) -> list[int] | None:
    """The numbers of ``--budgets 128,256``. Raises ArgumentError if it holds anything else."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(name, text, "integers separated by commas", f"For example: {name} 128,256,512.") from None


@o.takes_components(fixed=True)
def compare(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="context, attention or decode.", show_default=False)],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Specs separated by commas, or all; the first is the baseline. Needed for context.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Specs separated by commas; see tokloom methods evaluate. Needed for context.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="A row each for methods with a budget, e.g. 128,256,512.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most examples of each task.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines; what it holds is not run again. out/compare/STAGE.jsonl if not given.",
            rich_help_panel="Output",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a page with the curves of quality over cost.", rich_help_panel="Output"),
    ] = None,
    model: o.Model = "smollm2-135m",
    dtype: o.Dtype = None,
    weights: o.Weights = None,
    kv: o.KV = None,
    offload: o.Offload = None,
    device: o.Device = None,
    threads: o.Threads = None,
    *,
    components: dict[str, str | None],
) -> None:
    """Run methods side by side: quality and cost, each with its difference to the first.

    For attention everything has a default: all methods, two budgets, needles, threads, perplexity and the overlap with
    dense attention. For decode too: drafters beside plain decoding, transformers and llama.cpp on questions of
    Spec-Bench. Results are kept, so that a stopped comparison goes on where it was.
    """
    from tokloom.spec import split_specs

    whole = WHOLE.get(stage)
    if whole is not None and methods is None and budgets is None:
        budgets = whole.budgets
    methods = methods if methods is not None else whole.methods if whole is not None else None
    tasks = tasks if tasks is not None else whole.tasks if whole is not None else None
    if methods is None or tasks is None:
        missing = "--methods" if methods is None else "--tasks"
        raise UsageError(f"{missing} is missing. See: tokloom methods {stage if methods is None else 'evaluate'}.")

    fixed: dict[str, Any] = {name: spec for name, spec in components.items() if spec is not None}
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "weights": weights}
    o.engine_options(model=model, kv=kv, offload=offload, **loading, **fixed)
    if kv is not None:
        fixed["kv"] = kv
    if offload is not None:
        fixed["offload"] = str(offload)
    rows, evaluations, sizes = split_specs(methods), split_specs(tasks), integers("--budgets", budgets)
    o.check_names(spec for spec in (*rows, *evaluations) if spec not in ("plain", "all"))
    if report is not None:
        check_writable("--report", report)
    path = results if results is not None else Path("out") / "compare" / f"{stage}.jsonl"

    from rich.console import Console

    from tokloom.cli import output
    from tokloom.cli.startup import quick_start

    with quick_start():
        from tokloom.compare import progress, run, table

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    screen = Console(stderr=True)
    with progress.bar(screen) if screen.is_terminal else progress.lines(sys.stderr) as told:
        records = run.compare(stage, rows, evaluations, sizes, model, limit, path, told, engine=fixed, **loading)
    output.show(table.render(records, output.console().width))
    answered = sum(record.error is None for record in records)
    sys.stderr.write(f"{answered:,} answers in {path}\n")
    if report is not None:
        from tokloom.compare.report import write_report

        others = {**loading, "threads": threads, **fixed}
        write_report(report, records, _command(stage, methods, tasks, budgets, limit, model, others))
        sys.stderr.write(f"report in {report}\n")
    if not answered:
        raise typer.Exit(1)


def _command(
    stage: str,
    methods: str,
    tasks: str,
    budgets: str | None,
    limit: int | None,
    model: str,
    others: Mapping[str, object],
) -> str:
    """The command that makes the same comparison, for the report."""
    options = {"methods": methods, "tasks": tasks, "budgets": budgets, "limit": limit, "model": model, **others}
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["tokloom", "compare", stage, *words])
