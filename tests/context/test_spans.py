from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.context.fakes import count_words, request
from tokloom.context.headings import text_sections
from tokloom.context.selector import Document, Section
from tokloom.context.spans import characters_per_token, paragraphs, passage_characters, passages, regions, sentences

texts = st.lists(
    st.sampled_from(
        [
            "Alice",
            "was",
            "Mr.",
            "Bennet",
            "said.",
            "“Oh",
            "dear!”",
            "she",
            "H.",
            "G.",
            "3.14",
            "x" * 30,
            " ",
            "\n",
            "\n\n",
            "\t",
            "。",
            "茶",
            "...",
            "CHAPTER I",
            "\u00a0",
            "\r",
        ]
    ),
    max_size=60,
).map(" ".join)


def test_paragraphs_are_blocks_between_empty_lines() -> None:
    text = "\n one\ntwo \n \t\nthree\n\n\n\nfour"
    assert [text[a:b] for a, b in paragraphs(text)] == ["one\ntwo", "three", "four"]
    assert [text[a:b] for a, b in paragraphs(text, 5, 16)] == ["two", "th"]


@pytest.mark.parametrize(
    "expected",
    [
        ["Mr. Bennet made no answer.", "His wife did."],
        ["“My dear Mr. Bennet,” said his lady, “have you heard?”", "He had not."],
        ["‘Oh dear! Oh dear!", "I shall be late!’", "She heard it."],
        ["‘How late it is!’ said the Rabbit.", "Alice followed."],
        ["It is by H. G. Wells.", "I have read it."],
        ["It costs 3.50 dollars, i.e. nothing.", "Really?!", "Yes…", "Well."],
        ["So do I.", "And you?"],
        ["他来了。", "她没有来！", "为什么？"],
        ["No full stop at all"],
        ["First line", "Second paragraph."],
    ],
)
def test_sentences(expected: list[str]) -> None:
    glue = "" if expected[0][0] == "他" else "\n\n" if expected[0] == "First line" else " "
    text = glue.join(expected)
    assert [text[a:b] for a, b in sentences(text)] in (
        expected,
        ["‘Oh dear!", "Oh dear!", "I shall be late!’", "She heard it."],  # both are right
    )


@given(texts)
def test_paragraphs_and_sentences_hold_all_text_in_order(text: str) -> None:
    for cut in (paragraphs, sentences):
        pieces = cut(text)
        assert "".join("".join(text[a:b].split()) for a, b in pieces) == "".join(text.split())
        assert all(a < b and text[a:b] == text[a:b].strip() for a, b in pieces)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(pieces))


@given(texts, st.integers(1, 80))
@settings(max_examples=60)
def test_passages_hold_all_text_within_the_limit_and_cut_no_word(text: str, limit: int) -> None:
    document = Document("a", text, text_sections(text))
    found = passages((document, document), limit)
    one = [p for p in found if p.document == 0]
    assert [(p.start, p.end) for p in found if p.document == 1] == [(p.start, p.end) for p in one]
    assert "".join("".join(text[p.start : p.end].split()) for p in one) == "".join(text.split())
    for p, after in zip(one, [*one[1:], None], strict=False):
        assert 0 < p.end - p.start <= limit
        assert after is None or p.end <= after.start
        section = document.section_at(p.start)
        assert p.section == (document.sections.index(section) if section else -1)
        assert document.section_at(p.end - 1) == section
        if p.end < len(text) and not text[p.end].isspace() and not text[p.end - 1].isspace():
            # Cut inside a run without white space: only if it is longer than the limit, or between sentences of CJK.
            run = text[: p.end].split()[-1] + text[p.end :].split()[0]
            assert len(run) > limit or "。" in run


def test_a_long_paragraph_is_cut_between_sentences_into_even_pieces() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(20))
    lengths = [p.end - p.start for p in passages((Document("a", text),), 300)]
    assert len(lengths) == 2
    assert min(lengths) > 250
    assert all(text[p.start : p.end].endswith("here.") for p in passages((Document("a", text),), 300))


def test_short_paragraphs_are_grouped() -> None:
    text = "\n\n".join(f"Line {i}." for i in range(10))
    found = passages((Document("a", text),), 40)
    assert [p.paragraph for p in found] == [0, 4, 8]
    assert text[found[0].start : found[0].end] == "Line 0.\n\nLine 1.\n\nLine 2.\n\nLine 3."


def test_text_without_any_space_is_cut_hard() -> None:
    found = passages((Document("a", "x" * 1000),), 300)
    assert [p.end - p.start for p in found] == [250, 250, 250, 250]


def test_a_long_sentence_is_cut_after_a_clause() -> None:
    clause = "he saw the house and the garden and the wall"
    text = f"{clause}, {clause}; {clause} {clause}, {clause}."
    pieces = [text[p.start : p.end] for p in passages((Document("a", text),), 120)]
    assert pieces == [f"{clause}, {clause};", f"{clause} {clause},", f"{clause}."]


def test_regions_name_the_sections_around() -> None:
    sections = (Section("a", 1, 2, 10), Section("b", 2, 4, 8), Section("c", 1, 10, 12))
    assert list(regions(Document("d", "x" * 12, sections))) == [
        (0, 2, ()), (2, 4, (0,)), (4, 8, (0, 1)), (8, 10, (0,)), (10, 12, (2,)),
    ]  # fmt: skip


def test_characters_per_token_is_near_the_exact_mean(alice: str) -> None:
    exact = len(alice) / count_words(alice)
    documents = [Document("a", alice[:50_000]), Document("b", alice[50_000:])]
    assert characters_per_token(documents, count_words) == pytest.approx(exact, rel=0.1)
    assert characters_per_token([], count_words) == 1.0


def test_a_long_book_is_cut_in_two_seconds(alice: str) -> None:
    document = Document("a", alice * 5)
    start = time.perf_counter()
    found = passages((document,), 400)
    assert time.perf_counter() - start < 2
    assert len(found) > 2000


def test_passages_are_small_enough_for_several_in_a_small_budget() -> None:
    documents = [Document("a", "word " * 1000)]
    assert passage_characters(request("?", documents, 1000), 96) == pytest.approx(96 * 5, rel=0.02)
    assert passage_characters(request("?", documents, 100), 96) == pytest.approx(50 * 5, rel=0.02)
    assert passage_characters(request("?", documents, 4), 96) == pytest.approx(8 * 5, rel=0.05)
