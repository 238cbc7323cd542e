"""What the command line shows: figures in words, and tables without empty columns."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from rich.console import Console, RenderableType

from tests.cli.fake_engine import sample_result
from tokloom.card import Card, Option
from tokloom.cli import render
from tokloom.context.selector import Document, Selection, Span
from tokloom.ledger import Ledger, Row, Saving


def text_of(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**29, "1.50 GiB"),
        (2**41, "2048.00 GiB"),
    ],
)  # fmt: skip
def test_size(count: int | None, shown: str) -> None:
    assert render.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0004, "0.000"), (0.0312, "0.031"), (1.239, "1.24"), (83.06, "83.1"), (4000, "4,000.0")]
)
def test_duration(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (8.44, "8.4"), (1729.9, "1,730")])
def test_rate(value: float | None, shown: str) -> None:
    assert render.rate(value) == shown


@pytest.mark.parametrize(
    ("saving", "shown"),
    [
        (Saving("prompt tokens", 41203, 912), "prompt tokens 41,203 -> 912 (97.8% saved)"),
        (Saving("KV bytes", 4 * 2**20, 2**20), "KV bytes 4.0 MiB -> 1.0 MiB (75.0% saved)"),
        (Saving("forward passes", 10, 12), "forward passes 10 -> 12 (20.0% more)"),
        (Saving("forward passes", 10, 10), "forward passes 10 -> 10 (0.0% saved)"),
    ],
)
def test_saving_in_words(saving: Saving, shown: str) -> None:
    assert render.saving(saving) == shown


def test_counts_leave_out_zeros_and_what_the_table_has() -> None:
    row = Row("decode", "m", counts={"drafted": 96, "accepted": 61, "forced": 0, "held": 7, "big_one": 1234})
    assert render.counts(row) == "drafted 96, accepted 61 (63.5%), big one 1,234"
    assert render.counts(Row("decode", "m", counts={"drafted": 0, "accepted": 0})) == ""


def test_ledger_has_a_row_a_stage_a_total_and_what_was_saved(document: Document) -> None:
    shown = text_of(render.ledger(sample_result(document).ledger), 100)
    lines = [line.split() for line in shown.splitlines()]
    assert " ".join(lines[0]) == "stage method tokens in tokens out KV held passes seconds tokens/s"
    assert lines[2:5] == [
        ["context", "context_bubble", "41,203", "912", "1.50", "27,469"],
        ["attention", "h2o", "950", "512", "5.0", "MiB", "2", "0.500", "1,900"],
        ["decode", "token_recycling", "12", "5", "0.250", "48.0"],
    ]
    assert lines[6] == ["total", "7", "2.25"]
    assert [" ".join(line) for line in lines[8:]] == [
        "context saved prompt tokens 41,203 -> 912 (97.8% saved)",
        "counted spans 2",
        "attention counted KV peak 7.0 MiB",
        "decode saved forward passes 11 -> 5 (54.5% saved)",
        "counted drafted 20, accepted 7 (35.0%)",
    ]


@pytest.mark.parametrize("width", [80, 99, 100, 160])
def test_ledger_fits_the_terminal(document: Document, width: int) -> None:
    shown = text_of(render.ledger(sample_result(document).ledger, width), width)
    assert max(map(len, shown.splitlines())) <= width
    heads = " ".join(shown.split("─")[0].split())
    assert ("tokens/s" in heads) == (width >= 100)
    assert "token_recycling" in shown
    assert "5.0 MiB" in shown


def test_ledger_hides_columns_that_nobody_counted() -> None:
    rows = [Row("tokenize", "model", tokens_out=7, seconds=0.1), Row("decode", "plain", tokens_out=3, seconds=0.2)]
    heads = text_of(render.ledger(Ledger(rows))).splitlines()[0]
    assert "tokens out" in heads
    for missing in ("tokens in", "KV held", "passes"):
        assert missing not in heads


def test_what_cost_more_is_not_called_saved() -> None:
    row = Row("context", "m", savings=[Saving("prompt tokens", 44, 46)])
    assert (
        text_of(render.ledger(Ledger([row]))).split()[-9:] == "context cost prompt tokens 44 -> 46 (4.5% more)".split()
    )


def test_kv_peak_is_told_only_when_it_is_not_what_is_held() -> None:
    row = Row("attention", "dense", kv_bytes=4096, kv_bytes_peak=4096)
    shown = text_of(render.ledger(Ledger([row])))
    assert "KV held" in shown
    assert "peak" not in shown
    assert "total" not in shown


def test_citations_name_file_characters_and_section_and_quote_three_lines(document: Document) -> None:
    spans = (Span(document, 0, 300), Span(document, 500, 520))
    lines = text_of(render.citations(spans, 80)).splitlines()
    assert lines[0] == "[1] moby.txt, characters 0-300, Loomings"
    assert lines[1].startswith("    Call me Ishmael. Some years ago [never mind how long precisely]")
    assert lines[3].endswith(" ...")
    assert lines[4] == "[2] moby.txt, characters 500-520"
    assert len(lines) == 6


def test_trace_gives_verdict_reason_and_scores(document: Document) -> None:
    selection = sample_result(document).selection
    assert selection is not None
    shown = text_of(render.trace(selection), 100)
    assert "taken moby.txt, characters 0-12, Loomings" in shown
    assert "best match  bm25 3.25  cosine 0.5" in shown
    assert "left  moby.txt, characters 12-20" in shown
    assert text_of(render.trace(Selection(()))).strip() == ""


@given(st.text(max_size=600), st.integers(20, 100), st.integers(1, 4))
def test_excerpt_keeps_to_its_lines_and_width(text: str, width: int, lines: int) -> None:
    shown = render.excerpt(text, width, lines)
    assert len(shown.splitlines()) <= lines
    assert all(len(line) <= width for line in shown.split("\n"))
    first = text.split()[:1]
    if first and len(first[0]) < width - 4:
        assert shown.startswith(first[0])


def card(**changes: object) -> Card:
    values: dict[str, object] = {
        "name": "keeper", "stage": "attention", "kind": "AttentionPolicy", "summary": "Keeps [what] matters.",
        "paper": 76, "arxiv": "2306.14048", "title": "T", "effect": "the bytes fall to 12.5 percent. More here.",
        "sections": {"Paper": "P76. T. arXiv:2306.14048", "Formula": "a = b\n    c = d"},
        "options": (Option("budget", "int", "512", "Slots [kept]."), Option("name", "str", None, "")),
        "module": "m", "path": "p",
    }  # fmt: skip
    return Card(**{**values, **changes})  # type: ignore[arg-type]


def test_method_card_shows_all_of_it() -> None:
    shown = text_of(render.method_card(card()))
    assert shown.splitlines()[:2] == ["keeper  attention · AttentionPolicy", "Keeps [what] matters."]
    assert "Formula\n  a = b\n  c = d" in shown
    assert "budget  int, default 512\n          Slots [kept]." in shown
    assert "name    str, required" in shown
    assert 'tokloom ask BOOK "QUESTION" --attention keeper:budget=512,name=...' in shown


def test_one_line_is_the_first_sentence() -> None:
    assert render.one_line(card()) == "Keeps [what] matters."
    assert render.one_line(card(summary="kNN keeps 12.5 percent. More here.")) == "kNN keeps 12.5 percent."
    assert render.one_line(card(summary="no stop")) == "no stop"


def test_methods_stand_under_their_stages_on_a_terminal() -> None:
    cards = [card(), card(name="other", summary="word " * 60 + "."), card(name="third", stage="decode")]
    lines = text_of(render.method_table(cards, lines=False), 80).splitlines()
    assert lines[2] == "attention"
    assert lines[3].split()[:3] == ["keeper", "AttentionPolicy", "P76"]
    assert lines.index("decode") > 8
    assert max(map(len, lines)) <= 80


def test_methods_take_one_line_each_in_a_pipe() -> None:
    cards = [card(), card(name="other", summary="word " * 60 + ".")]
    lines = text_of(render.method_table(cards, lines=True), 10_000).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["attention", "keeper"], ["attention", "other"]]


def test_usage_of_a_kind_without_an_option_is_empty() -> None:
    assert render.usage(card(kind="Trainer")) == ""
    assert render.usage(card(kind="Task", options=())) == "tokloom compare STAGE --tasks keeper"


def test_usage_shows_the_budget_and_what_must_be_given() -> None:
    assert render.usage(card()).endswith("--attention keeper:budget=512,name=...")
    options = (Option("options", "tuple[str, ...]", "()", ""), Option("seed", "int", "0", ""))
    assert render.usage(card(kind="Constraint", options=options)).endswith("--constraint keeper:options=...")


def test_reflow_joins_lines_that_the_source_broke_and_keeps_the_author_s() -> None:
    wrapped = "x " * 45 + "\n    and the rest\n    next line"
    assert render.reflow(wrapped) == "x " * 45 + "and the rest\nnext line"
    assert render.reflow("a = b\n      c\n    d") == "a = b\n  c\nd"
