"""`tokloom methods`: lists the methods from their sources, and shows one in full."""

from __future__ import annotations

from typing import Annotated

import typer

from tokloom.errors import UnknownNameError


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[STAGE|METHOD]", help="A stage to list, or a method to show.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the methods with their kinds and papers and what they are, or show one in full."""
    from tokloom import registry
    from tokloom.cli import output, render

    cards = registry.cards()
    if name in cards:
        card = cards[name]
        if json:
            output.show_json(card.as_json())
        else:
            output.show(render.method_card(card))
    elif name is None or name in registry.STAGES:
        listed = [card for card in cards.values() if name in (None, card.stage)]
        if json:
            output.show_json([card.as_json() for card in listed])
        else:
            terminal = output.console().is_terminal
            output.show(render.method_table(listed, lines=not terminal), width=None if terminal else output.PIPE_WIDTH)
    else:
        raise UnknownNameError("stage or method", name, [*registry.STAGES, *cards], "List all: tokloom methods.")
