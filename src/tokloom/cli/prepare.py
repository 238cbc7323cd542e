"""`tokloom prepare`: makes what a method needs beforehand from the user's own text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokloom.cli import options as o
from tokloom.errors import CompositionError


def prepare(
    method: Annotated[
        str, typer.Argument(metavar="SPEC", help="The method with its options, as it will be used.", show_default=False)
    ],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files or folders with text.", show_default=False)
    ],
    model: o.Model = "smollm2-135m",
    dtype: o.Dtype = None,
    weights: o.Weights = None,
    device: o.Device = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a datastore, exit heads or whatever else a method needs from your own text."""
    o.check_names([method])
    loading = o.engine_options(model=model, dtype=dtype, device=device, weights=weights, kv=None)

    from tokloom import registry
    from tokloom.cli import answer, output
    from tokloom.context.reader import read
    from tokloom.prepared import Prepared
    from tokloom.spec import parse_spec

    name, options = parse_spec(method)
    cls = registry.get(name)
    if not issubclass(cls, Prepared):
        raise CompositionError(name, "tokloom prepare", "it needs no preparation")
    built: Prepared = cls(**options)
    texts = [document.text for path in paths for document in read(path)]
    engine = answer.load_engine(loading, threads=threads, quiet=quiet or json)
    with output.working("preparing", quiet=quiet or json, lines=True) as say:
        figures = built.prepare(engine.model, texts, lambda what, done, total: say(f"{what} {done}/{total}"))
    if json:
        output.show_json({"method": registry.spec_of(built), **figures})
    elif not quiet:
        output.show(*(f"{label}: {_shown(value)}" for label, value in figures.items()))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
