"""The report: one page, every row in it, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.compare.test_records import record
from tests.compare.test_table import RECORDS, row
from tokloom.compare.report import render_report, write_report
from tokloom.errors import ArgumentError

FAILED = record("", method="spin", label="spin", budget=None, scores={}, costs={}, error="spin <b>can't</b> & won't")
RECORDS = [
    *row("dense", None, [1, 1, 1, 0.5, 0.75, 1], 40),
    *RECORDS,
    *row("dense", None, [1, 0], 41, "squad:limit=2"),
    FAILED,
]


class Page(HTMLParser):
    """Collects the ids, references, cells, and whether every element is closed."""

    VOID = frozenset({"meta", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.links.append(value or "")
        if tag == "tr":
            self.rows.append([])
        self.in_cell = self.in_cell or tag in ("td", "th")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def test_one_page_with_every_row() -> None:
    text = render_report(RECORDS, "tokloom compare attention --methods 'a,b' <x>")
    page = Page(text)
    assert page.open == []
    assert ["dense", "", "0.875 [0.71, 1.00]", "", "2.125 [2.00, 2.29]", "6"] in page.rows
    quality = next(cells for cells in page.rows if cells[0] == "h2o" and cells[1] == "64")
    assert quality[2].startswith("0.125")
    assert quality[3].startswith("-0.750")
    assert ["h2o", "256", "10.0×0.25", "2.00", "500", "2.50", "2.00"] in page.rows
    assert any(cells == ["spin", "", "spin <b>can't</b> & won't"] for cells in page.rows)
    assert "<pre>tokloom compare attention --methods &#x27;a,b&#x27; &lt;x&gt;</pre>" in text
    assert "squad:limit=2" in text
    assert "threads</dt><dd>2" in text


def test_plots() -> None:
    """A plot per task and cost, with axis names and units, a name per method and a label per budget."""
    text = render_report(RECORDS)
    plots = re.findall(r'<figure data-cost="(\w+)"( hidden)?><svg.*?</svg></figure>', text, re.S)
    assert plots == [("kv_bytes", ""), ("seconds", " hidden"), ("kv_bytes", "")]  # squad has one row: one plot will do
    first = text[text.index("<svg") : text.index("</svg>")]
    words = re.findall(r"<text[^>]*>([^<]*)</text>", first)
    for word in (
        "dense",
        "h2o",
        "64",
        "256",
        "keys and values held at the end (MiB)",
        "digit_accuracy (mean, 95% interval)",
    ):
        assert word in words


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render_report(RECORDS, "tokloom compare")
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import|<link|<img|<iframe|fetch\(", text)
    references = {link[1:] for link in page.links} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert references
    assert references <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))  # else a plot could take another one's marks


def test_colours_come_from_the_page() -> None:
    """Nothing in a plot has a colour of its own that light or dark could swallow."""
    text = render_report(RECORDS)
    for plot in re.findall(r"<svg.*?</svg>", text, re.S):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", plot)
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, re.S)
    assert used <= set(re.findall(r"(--[\w-]+):", light))
    assert set(re.findall(r"(--[\w-]+):", light)) - {"--font"} == set(re.findall(r"(--[\w-]+):", dark))


def test_the_same_records_give_the_same_page() -> None:
    assert render_report(RECORDS) == render_report(RECORDS)


def test_many_methods_and_long_names() -> None:
    records = [
        r for i in range(20) for r in row(f"token_select:local=8,sink={i},similarity=0.5", 64, [0.5, 1], 3.0 + i)
    ]
    assert render_report(records).count("similarity=0.5") > 60


def test_many_methods_are_spread_over_panels() -> None:
    """The baseline and the control are in each; all panels have the same axes."""
    records = [*row("dense", None, [1, 1], 40), *row("streaming_llm", 64, [0, 0.5], 3)]
    records += [r for i in range(14) for r in row(f"method_{i}", 64, [0.5, 1], 3.0 + i)]
    first = re.findall(r"<svg.*?</svg>", render_report(records), re.S)[0]
    words = re.findall(r"<text[^>]*>([^<]*)</text>", first)
    assert [words.count(name) for name in ("dense", "streaming_llm", "method_0", "method_13")] == [3, 3, 1, 1]
    assert words.count("digit_accuracy") == 3
    assert words.count("keys and values held at the end (MiB)") == 1


def test_only_errors() -> None:
    text = render_report([FAILED])
    assert "<svg" not in text
    assert "spin &lt;b&gt;can" in text


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, RECORDS, "tokloom compare")
    assert path.read_text(encoding="utf-8") == render_report(RECORDS, "tokloom compare")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one result"):
        render_report([])
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"report=.*can be written"):
        write_report(tmp_path / "file" / "report.html", RECORDS)
