"""What the command line shows: numbers in words, the ledger, the cited passages, a method's card.

Everything here turns data into rich renderables; nothing prints. Texts that come from documents or
models are wrapped in `Text`, so that brackets in them are never read as markup.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tokloom.card import Card
    from tokloom.context.selector import Decision, Selection, Span
    from tokloom.ledger import Ledger, Row, Saving

ASK = 'tokloom ask BOOK "QUESTION" '
USAGES = {
    "ContextSelector": ASK + "--context ",
    "AttentionPolicy": ASK + "--attention ",
    "Predictor": ASK + "--predictor ",
    "RotaryScaling": ASK + "--rope ",
    "Search": ASK + "--search ",
    "Verifier": ASK + "--search best_of --verifier ",
    "Drafter": ASK + "--drafter ",
    "DraftSource": ASK + "--drafter dyspec:source=",
    "Denoiser": ASK + "--denoiser ",
    "DenoisingCache": ASK + "--denoising-cache ",
    "Constraint": ASK + "--constraint ",
    "Task": "tokloom compare STAGE --tasks ",
    "Peer": "tokloom compare decode --methods plain,",
}
"""How the command line takes a method, by its kind."""

IN_TABLE = ("seen", "held", "attended", "attendable")
"""Counts that stand in the table or, where they differ, among the savings."""


def integer(value: float | None) -> str:
    """41203 as "41,203"; nothing for None."""
    return "" if value is None else f"{value:,.0f}"


def size(count: float | None) -> str:
    """Bytes as "512 B", "3.4 KiB", "12.0 MiB"; nothing for None."""
    if count is None:
        return ""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if abs(count) < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds with the digits that mean something: "0.004", "1.24", "83.1"."""
    if seconds < 1:
        return f"{seconds:.3f}"
    return f"{seconds:,.2f}" if seconds < 10 else f"{seconds:,.1f}"


def rate(value: float | None) -> str:
    """Tokens per second: "8.4", "1,730"; nothing for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def saving(item: Saving) -> str:
    """A saving in words: "prompt tokens 41,203 -> 912 (97.8% saved)"."""
    show = size if "bytes" in item.what.lower().split() else integer
    change = f"{item.what} {show(item.without)} -> {show(item.with_)}"
    if item.share >= 0:
        return f"{change} ({item.share:.1%} saved)"
    return f"{change} ({-item.share:.1%} more)"


def counts(row: Row) -> str:
    """A row's further counts, those that are not zero: "drafted 96, accepted 61 (63.5%)"."""
    words = []
    if row.kv_bytes_peak is not None and row.kv_bytes_peak != row.kv_bytes:
        words.append(f"KV peak {size(row.kv_bytes_peak)}")
    for name, value in row.counts.items():
        if name in IN_TABLE or not value:
            continue
        whole = row.counts.get("drafted") if name == "accepted" else None
        share = f" ({value / whole:.1%})" if whole else ""
        words.append(f"{name.replace('_', ' ')} {integer(value)}{share}")
    return ", ".join(words)


def _plain_table(*columns: tuple[str, str]) -> Table:
    """A table without side borders; columns are (heading, "left" or "right"), never broken within a cell."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading, side in columns:
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    return table


WIDE = 100
"""Columns of a terminal from which on the ledger's headings stand on one line."""


def ledger(account: Ledger, width: int = WIDE) -> RenderableType:
    """The table of the stages, then what each method saved and counted. Columns that nobody counted are left out."""
    rows = account.rows
    columns: list[tuple[str, list[str], str]] = [
        ("tokens in", [integer(row.tokens_in) for row in rows], ""),
        ("tokens out", [integer(row.tokens_out) for row in rows], ""),
        ("KV held", [size(row.kv_bytes) for row in rows], ""),
        ("passes", [integer(row.forward_passes or None) for row in rows], integer(sum(r.forward_passes for r in rows))),
        ("seconds", [duration(row.seconds) for row in rows], duration(sum(row.seconds for row in rows))),
        ("tokens /s", [rate(row.tokens_per_second) for row in rows], ""),
    ]
    shown = [column for column in columns if any(column[1])]
    heads = [heading.replace(" ", "\n") if width < WIDE else heading.replace(" /", "/") for heading, _, _ in shown]
    table = _plain_table(("stage", "left"), ("method", "left"), *((head, "right") for head in heads))
    for column in table.columns:
        column.vertical = "bottom"  # where headings have two lines
    total = len(rows) > 1
    for i, row in enumerate(rows):
        last = total and i == len(rows) - 1
        table.add_row(row.stage, Text(row.method), *(cells[i] for _, cells, _ in shown), end_section=last)
    if total:
        table.add_row("total", "", *(whole for _, _, whole in shown))

    notes = Table.grid(padding=(0, 2))
    notes.add_column(no_wrap=True)
    notes.add_column(no_wrap=True, style="dim")
    notes.add_column()
    for row in rows:
        lines = [("saved" if item.share >= 0 else "cost", saving(item)) for item in row.savings]
        if counts(row):
            lines.append(("counted", counts(row)))
        for i, (kind, words) in enumerate(lines):
            notes.add_row(row.stage if i == 0 else "", kind, Text(words))
    return Group(table, Text(), notes) if notes.row_count else table


def excerpt(text: str, width: int, lines: int = 3) -> str:
    """The first `lines` lines of a text at this width, white space collapsed, cut with an ellipsis."""
    cut = " ".join(text[: width * (lines + 1) * 4].split())
    return "\n".join(textwrap.wrap(cut, width, max_lines=lines, placeholder=" ..."))


def place(span: Span) -> Text:
    """Where a span comes from: "book.txt, characters 1,200-1,804, Chapter IV"."""
    where = Text(span.document.name, style="bold")
    where.append(f", characters {span.start:,}-{span.end:,}", style="not bold")
    if span.section:
        where.append(f", {' '.join(span.section.split())}", style="not bold")
    return where


def citations(spans: Sequence[Span], width: int) -> RenderableType:
    """The cited passages, numbered as they are in the prompt."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="cyan", no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    for i, span in enumerate(spans, 1):
        quoted = Text(excerpt(span.text, width - len(f"[{len(spans)}] ")), style="dim")
        grid.add_row(Text(f"[{i}]"), Group(place(span), quoted))
    return grid


def _scores(decision: Decision) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in decision.scores.items())


def trace(selection: Selection) -> RenderableType:
    """Why each span was taken or left, in the order of the decisions."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for decision in selection.trace:
        verdict = Text("taken", style="green") if decision.taken else Text("left", style="yellow")
        reason = Text(decision.reason)
        if decision.scores:
            reason.append(f"  {_scores(decision)}", style="dim")
        grid.add_row(verdict, Group(place(decision.span), reason))
    return grid


def paper(card: Card) -> str:
    """A method's paper in short: "P28", or "-" for a baseline."""
    return f"P{card.paper}" if card.paper is not None else "-"


def one_line(card: Card) -> str:
    """What the method is: the first sentence of its card, in one line."""
    text = " ".join(card.summary.split())
    sentence = re.match(r".+?[.!?](?=\s+[A-Z]|$)", text)
    return sentence[0] if sentence else text


def method_table(cards: Iterable[Card], *, lines: bool) -> RenderableType:
    """All methods with kind, paper and what they are.

    `lines` gives one line a method that begins with its stage, for pipes; else the stages are
    headings and the sentences wrapped, for a terminal.
    """
    heads = [("method", "left"), ("kind", "left"), ("paper", "left"), ("arXiv", "left")]
    table = _plain_table(*([("stage", "left")] if lines else []), *heads)
    table.add_column("what it is", no_wrap=lines)
    stage = ""
    for card in cards:
        cells = (Text(card.name), Text(card.kind), paper(card), card.arxiv or "-", Text(one_line(card)))
        if lines:
            table.add_row(card.stage, *cells)
            continue
        if card.stage != stage:
            if stage:
                table.add_row()
            table.add_row(Text(card.stage, style="bold cyan"))
            stage = card.stage
        table.add_row(*cells)
    return table


def usage(card: Card) -> str:
    """How the method is chosen on the command line; empty for what has no option there."""
    if card.kind not in USAGES:
        return ""
    shown = {o.name: o.default for o in card.options if o.name == "budget"}
    shown |= {o.name: "..." for o in card.options if o.default in (None, "()", "[]", "''")}
    return USAGES[card.kind] + card.name + ":" * bool(shown) + ",".join(f"{k}={v}" for k, v in shown.items())


def method_card(card: Card) -> RenderableType:
    """One method in full."""
    heading = Text.assemble((card.name, "bold"), (f"  {card.stage} · {card.kind}", "dim"))
    blocks: list[RenderableType] = [heading, Text(card.summary)]

    def section(title: str, body: RenderableType) -> None:
        blocks.extend((Text(), Text(title, style="bold"), Padding(body, (0, 0, 0, 2))))

    for title, text in card.sections.items():
        section(title, Text(reflow(text) if title in ("Formula", "Shapes") else sentence_case(" ".join(text.split()))))
    if card.options:
        options = Table.grid(padding=(0, 2))
        options.add_column(no_wrap=True, style="bold")
        options.add_column()
        for option in card.options:
            default = "required" if option.default is None else f"default {option.default}"
            words = Text.assemble((f"{option.type}, {default}", "cyan"))
            if option.doc:
                words.append(f"\n{option.doc}")
            options.add_row(option.name, words)
        section("Options", options)
    else:
        section("Options", Text("none"))
    if usage(card):
        section("Use", Text(usage(card)))
    return Group(*blocks)


def sentence_case(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def reflow(text: str) -> str:
    """A formula without the indentation of its source; lines that the source's width broke are joined again."""
    first, newline, rest = text.partition("\n")
    raw = (first + newline + textwrap.dedent(rest)).splitlines()
    lines: list[str] = []
    broken = False
    for line in raw:
        if broken and line.strip():
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.rstrip())
        broken = len(line) > 80
    return "\n".join(lines)
