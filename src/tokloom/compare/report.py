"""One self-contained HTML page about a comparison: plots of quality against cost, the numbers, how they were made."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from tokloom.atomic import write_atomic
from tokloom.compare.costs import COSTS, Cost
from tokloom.compare.placement import CONTROLS
from tokloom.compare.plot import drawable, plot
from tokloom.compare.summary import Summary, columns, ratio, summarise
from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    from tokloom.compare.records import Record

_FIRST_PLOTTED = {"attention": "kv_bytes", "context": "prompt_tokens", "decode": "seconds"}
"""Which cost a stage is mainly about: its plot is shown first."""


def write_report(path: str | Path, records: Iterable[Record], command: str | None = None) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the HTML file; missing folders are made.
        records: of one comparison, as `compare` returns them.
        command: the command line that makes the same comparison, to be shown.

    Raises:
        ArgumentError: there are no records, or the file can't be written.
    """
    page = render_report(list(records), command)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, page)
    except OSError as error:
        raise ArgumentError(
            "report", str(path), f"a file that can be written ({error.strerror})", "Choose another path."
        ) from None


def render_report(records: Sequence[Record], command: str | None = None) -> str:
    """The page as text. Raises ArgumentError without records."""
    if not records:
        raise ArgumentError("records", [], "at least one result", "Run tokloom compare first.")
    summaries = summarise(records)
    tasks = list(dict.fromkeys(summary.task for summary in summaries))
    template = Template(resources.files("tokloom.compare").joinpath("page.html").read_text(encoding="utf-8"))
    labels = list(dict.fromkeys(summary.label for summary in summaries))
    baseline = next(summary for summary in summaries if summary.baseline)
    answered = sum(record.error is None for record in records)
    model, stage = records[0].model, records[0].stage
    return template.substitute(
        title=_text(f"{stage} methods on {model}"),
        subtitle=_text(f"{', '.join(labels)} · {', '.join(tasks)} · {answered:,} answers · {_dates(records)}"),
        explanation=_text(
            "Quality is the mean over the examples with its 95% bootstrap interval. Difference and × compare with "
            f"{_name(baseline)} on the same examples; a cost without × is the same as there. Seconds are medians and "
            "depend on the machine; counts do not."
        ),
        tasks="\n".join(
            _task([summary for summary in summaries if summary.task == task], i, stage) for i, task in enumerate(tasks)
        ),
        command=f"<pre>{_text(command)}</pre>" if command else "",
        facts="\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in _facts(records)),
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _name(summary: Summary) -> str:
    return summary.label if summary.budget is None else f"{summary.label} at budget {summary.budget}"


def _dates(records: Sequence[Record]) -> str:
    days = sorted({record.time[:10] for record in records if record.time})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    facts: dict[str, dict[str, None]] = {"model": {records[0].model: None}}
    for record in records:
        for name, value in {**record.settings, **record.versions}.items():
            facts.setdefault(name, {})["none" if value is None else str(value)] = None
    times = sorted(record.time for record in records if record.time)
    shown = [(name.replace("_", " "), ", ".join(values)) for name, values in facts.items()]
    return [*shown, ("first answer", times[0]), ("last answer", times[-1])] if times else shown


def _task(rows: Sequence[Summary], number: int, stage: str) -> str:
    first = _FIRST_PLOTTED.get(stage, "seconds")
    control = next(iter(CONTROLS.get(stage, ())[1:]), None)
    drawn = [cost for cost in COSTS if cost.plotted and drawable(rows, cost) and cost in columns(rows)]
    plotted = [cost for cost in drawn if _differs(rows, cost)] or drawn[:1]
    shown = next((cost.key for cost in plotted if cost.key == first), plotted[0].key if plotted else "")
    maximum = max(row.answered for row in rows)
    return (
        f"<section><h2>{_text(rows[0].task)}</h2>"
        f'<p class="soft">{maximum} example{"s" * (maximum != 1)}; quality is {_text(rows[0].metric)}</p>'
        f"{_choice(plotted, number, shown)}"
        + "".join(
            f'<figure data-cost="{cost.key}"{" hidden" * (cost.key != shown)}>{plot(rows, cost, control)}</figure>'
            for cost in plotted
        )
        + _table(rows, [], "Quality")
        + (_table([row for row in rows if row.answered], columns(rows), "Cost") if columns(rows) else "")
        + "</section>"
    )


def _differs(rows: Sequence[Summary], cost: Cost) -> bool:
    """Whether the methods differ in this cost by more than 1%: else its plot would show one vertical line."""
    values = [row.costs[cost.key] for row in drawable(rows, cost)]
    return max(values) > 1.01 * min(values)


def _choice(plotted: Sequence[Cost], number: int, shown: str) -> str:
    buttons = "".join(
        f'<label><input type="radio" name="cost-{number}" value="{cost.key}"{" checked" * (cost.key == shown)}>'
        f"<span>{_text(cost.heading)}</span></label>"
        for cost in plotted
    )
    return f'<fieldset class="choice"><legend>Quality against</legend>{buttons}</fieldset>' if plotted else ""


def _table(rows: Sequence[Summary], costs: Sequence[Cost], caption: str) -> str:
    """The quality of all rows, or the given costs of them."""
    budgets = any(row.budget is not None for row in rows)
    others = list(dict.fromkeys(name for row in rows for name in row.other))
    headings = [cost.heading for cost in costs] if costs else [rows[0].metric, "difference", *others, "answered"]
    head = "".join(f"<th>{_text(name)}</th>" for name in ["method", *["budget"] * budgets, *headings])
    body = []
    for row in rows:
        cells = [f"<th>{_text(row.label).replace(',', ',<wbr>').replace(':', ':<wbr>')}</th>"]
        if budgets:
            cells.append(f"<td>{'' if row.budget is None else f'{row.budget:,}'}</td>")
        if row.answered:
            cells += _cost_cells(row, costs) if costs else _quality_cells(row, others)
        else:
            cells.append(f'<td class="error" colspan="{len(headings)}">{_text(" ".join(row.errors))}</td>')
        body.append(("<tr class='baseline'>" if row.baseline else "<tr>") + "".join(cells) + "</tr>")
        if row.answered and row.errors and not costs:
            words = f"{row.failed} failed: {' '.join(row.errors)}"
            body.append(f'<tr><td></td><td class="error" colspan="{len(headings) + budgets}">{_text(words)}</td></tr>')
    return (
        f'<div class="wide"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _quality_cells(row: Summary, others: Sequence[str]) -> list[str]:
    texts = [
        row.quality.text() if row.quality else "",
        row.difference.text("+") if row.difference else "",
        *(row.other[name].text() if name in row.other else "" for name in others),
        str(row.answered),
    ]
    return [f"<td>{_text(text)}</td>" for text in texts]


def _cost_cells(row: Summary, costs: Sequence[Cost]) -> list[str]:
    cells = []
    for cost in costs:
        value = cost.text(row.costs[cost.key]) if cost.key in row.costs else ""
        times = ratio(row.ratios[cost.key]) if cost.key in row.ratios else ""
        if times:
            times = f'<span class="times">{times}</span>'
        cells.append(f"<td>{_text(value)}{times}</td>")
    return cells
