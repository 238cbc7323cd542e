"""What `ask` and `generate` do alike: load, stream the answer, show where it came from and what it cost.

The answer goes to stdout as it comes, unwrapped, whether a terminal or a pipe reads it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tokloom.cli import render
from tokloom.cli.output import announced, console, show, working
from tokloom.cli.startup import quick_start

if TYPE_CHECKING:
    from pathlib import Path

    from tokloom.engine.engine import Engine
    from tokloom.engine.request import Result

CUT = {
    "length": "The answer was cut at --max-new-tokens.",
    "window": "The answer was cut because the model's context is full.",
}


def load_engine(options: dict[str, Any], *, threads: int | None, quiet: bool) -> Engine:
    """The engine; torch and transformers are imported here and nowhere earlier."""
    with announced(f"loading {options['model']}", quiet=quiet), quick_start():  # a first load shows its own progress
        import torch

        import tokloom

        if threads is not None:
            torch.set_num_threads(threads)
        return tokloom.Engine(**options)


def stream_answer(engine: Engine, request: dict[str, Any], *, quiet: bool) -> Result:
    """Prints the answer piece by piece and returns the result."""
    with working("choosing passages" if request.get("documents") else "reading the prompt", quiet=quiet) as say:
        stream = engine.stream(
            **request, progress=lambda stage, done, total: say(f"reading the {stage}: {done:,} of {total:,} tokens")
        )
        text = next((chunk.text for chunk in stream if chunk.text), "")
    while text:
        sys.stdout.write(text)
        sys.stdout.flush()
        last, text = text, next((chunk.text for chunk in stream if chunk.text), "")
        if not text and not last.endswith("\n"):
            sys.stdout.write("\n")
    return stream.result


def keep_state(engine: Engine, path: Path | None) -> None:
    """Writes what the drafter learned to the file of ``--drafter-state``, if one is given."""
    if path is not None:
        engine.save_drafter_state(path)


def show_account(result: Result, *, trace: bool = False) -> None:
    """The cited passages, the trace if wanted, and the ledger."""
    if result.citations:
        show(Text("\nPassages", style="bold"), render.citations(result.citations, console().width))
    if trace and result.selection:
        show(Text("\nWhy", style="bold"), render.trace(result.selection))
    show(Text(), render.ledger(result.ledger, console().width))
    if result.stop_reason in CUT:
        show(Text(CUT[result.stop_reason], style="yellow"))
