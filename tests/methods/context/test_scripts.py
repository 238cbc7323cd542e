"""All selectors on texts of other scripts and Unicode forms."""

from __future__ import annotations

import unicodedata
from typing import Literal

import pytest

from tests.context import fakes
from tokloom.context.selector import ContextSelector, Document
from tokloom.methods.context.context_bubble import ContextBubble
from tokloom.methods.context.top_k import TopK
from tokloom.methods.context.truncate import Truncate


@pytest.mark.parametrize("selector", [TopK(), ContextBubble()])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_fact_is_found_in_any_unicode_form_and_cited_by_the_originals_offsets(
    selector: ContextSelector, form: Literal["NFC", "NFD"]
) -> None:
    fact = unicodedata.normalize(form, "Die Gebühr für Übernachtungen im Cafe\u0301 Zürich betra\u0308gt 73 Kronen.")
    filler = "\n\n".join(f"A gardener of row {i} moved the long ladders and counted old lamps." for i in range(60))
    text = f"{filler}\n\n{fact}\n\n{filler}"
    asked = fakes.request("Gebühr ÜBERNACHTUNGEN Café?", [Document("notes", text)], 80)
    spans = selector.select(asked).spans
    found = [span for span in spans if "73" in span.text]
    assert len(found) == 1
    assert fact in text[found[0].start : found[0].end]


@pytest.mark.parametrize("selector", [TopK(), ContextBubble(), Truncate()])
@pytest.mark.parametrize(
    "unit", ["港の船は七時に出ます。", "港の船は七時に出ます、", "เรือออกจากท่าเวลาเจ็ดโมง", "rope_", "港"]
)
def test_a_text_without_blanks_fills_the_budget(selector: ContextSelector, unit: str) -> None:
    text = unit * (4000 // len(unit))
    asked = fakes.request((unit * 6)[:6], [Document("notes", text)], 300, lambda some: len(some.encode()))
    selection = selector.select(asked)
    assert selection.spans
    assert fakes.tokens(asked, selection) <= 300
    if isinstance(selector, Truncate):
        assert fakes.tokens(asked, selection) > 300 * 0.8
    assert all(unicodedata.category(text[span.end]) != "Mn" for span in selection.spans if span.end < len(text))


@pytest.mark.parametrize("selector", [TopK(), ContextBubble()])
def test_a_first_passage_that_does_not_fit_is_cut(selector: ContextSelector) -> None:
    """The estimate of a passage's size is from a sample; the asked one has far more tokens than its length says."""
    dense = "zeppelin" + "#" * 70
    text = "\n\n".join(["quiet words " * 12] * 40 + [dense] + ["quiet words " * 12] * 40)
    asked = fakes.request("zeppelin?", [Document("notes", text)], 24)
    selection = selector.select(asked)
    assert selection.spans
    assert fakes.tokens(asked, selection) <= 24
