from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokloom.context.headings import CONTENTS, markdown_sections, text_sections
from tokloom.context.selector import Section

PROSE = "It was a fine day in the village, and nobody thought of anything but the harvest.\n" * 8


def titles(text: str) -> list[str]:
    return [section.title for section in text_sections(text)]


def outline(text: str) -> list[tuple[int, str]]:
    return [(section.level, section.title) for section in text_sections(text)]


def book(*headings: str) -> str:
    return "A TITLE\n\nby An Author\n\n\n" + "".join(f"{heading}\n\n{PROSE}\n\n" for heading in headings)


@pytest.mark.parametrize(
    "headings",
    [
        ["CHAPTER I. Down the Hole", "CHAPTER II. The Pool", "CHAPTER III. A Race"],
        ["Chapter 1", "Chapter 2", "Chapter 12"],
        ["CHAPTER ONE", "CHAPTER TWO", "CHAPTER THREE"],
        ["STAVE ONE: MARLEY'S GHOST", "STAVE TWO: THE FIRST OF THE SPIRITS"],
        ["VII. THE BLUE STONE", "VIII. THE SPECKLED BAND", "IX. THE THUMB"],
        ["I", "II", "III", "IV"],
        ["Letter 1", "Letter 2", "Chapter 1", "Chapter 2", "Epilogue"],
        ["PREFACE", "CHAPTER I", "CHAPTER II", "APPENDIX A"],
        ["1. Introduction", "2. Methods", "3. Results"],
        ["THE OLD HOUSE", "A STRANGER COMES", "THE END OF SUMMER"],
    ],
)
def test_headings_of_many_styles_are_found(headings: list[str]) -> None:
    assert titles(book(*headings)) == (["A TITLE", *headings] if "OLD" in headings[0] else headings)


def test_a_title_in_its_own_block_belongs_to_its_number() -> None:
    text = book(" I\n\n\n Introduction", " II\n\n\n The Machine", "CHAPTER III\n\nThe Return")
    assert titles(text) == ["I Introduction", "II The Machine", "CHAPTER III The Return"]


def test_parts_hold_chapters_and_chapters_hold_numbers() -> None:
    text = book("PART ONE\n\nCHAPTER I", "CHAPTER II", "PART TWO\n\nCHAPTER I", "I.", "II.", "III.")
    assert outline(text) == [
        (1, "PART ONE"), (2, "CHAPTER I"), (2, "CHAPTER II"), (1, "PART TWO"), (2, "CHAPTER I"),
        (3, "I"), (3, "II"), (3, "III"),
    ]  # fmt: skip


CHAPTERS = ["CHAPTER I. The Start", "CHAPTER II. The Middle", "CHAPTER III. The End of It"]


@pytest.mark.parametrize(
    "listing",
    [
        "\n".join(CHAPTERS),
        "CONTENTS\n\n" + "\n".join(CHAPTERS),
        "CONTENTS\n\n" + "\n\n".join(CHAPTERS),
        "\n\n".join(CHAPTERS),
        "Contents\n\n\n" + "\n\n".join(f"{chapter} ..... {i}" for i, chapter in enumerate(CHAPTERS)),
    ],
)
def test_a_table_of_contents_is_a_section_of_its_own_and_not_the_chapters(listing: str) -> None:
    text = f"A BOOK\n\n\n{listing}\n\n\n" + "".join(f"{c}\n\n{PROSE}\n\n" for c in CHAPTERS)
    sections = text_sections(text)
    assert [s.title for s in sections] == [CONTENTS, *CHAPTERS]
    assert all(PROSE in text[s.start : s.end] for s in sections[1:])
    assert PROSE[:20] not in text[sections[0].start : sections[0].end]


@pytest.mark.parametrize(
    "inside",
    [
        "“MY DEAR FRIEND,--",
        "“CAROLINE BINGLEY”",
        '"BALLARAT."',
        "            THE RED LEAGUE\n\n                 IS\n\n              DISSOLVED.",
        "          CHORUS.",
        "*    *    *    *    *",
        "THE END",
        "1. Flour\n\n2. Milk\n\n3. Two eggs",
        "Chapter 7 of his memoirs tells another story.",
        "Part two of the plan was simple.",
    ],
)
def test_signs_letters_lists_and_sentences_are_no_headings(inside: str) -> None:
    text = book("Chapter 1", "Chapter 2").replace(PROSE, f"{PROSE}\n\n{inside}\n\n{PROSE}", 1)
    assert titles(text) == ["Chapter 1", "Chapter 2"]


def test_a_play_has_no_section_per_speaker() -> None:
    assert titles("\n\n".join(["HAMLET", "To be.", "GHOST", "Mark me.", "HAMLET", "I will.", "GHOST", "Swear."])) == []


def test_the_licence_of_a_gutenberg_book_is_not_its_last_chapter() -> None:
    text = book("Chapter 1", "Chapter 2") + "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n\n" + PROSE
    sections = text_sections(text)
    assert [s.title for s in sections] == ["Chapter 1", "Chapter 2", "Project Gutenberg licence"]
    assert sections[1].end == sections[2].start


def test_alice_has_twelve_chapters(alice: str) -> None:
    sections = text_sections(alice)
    assert [s.title.split(".")[0] for s in sections] == [
        f"CHAPTER {n}" for n in "I II III IV V VI VII VIII IX X XI XII".split()
    ]
    assert sections[0].title == "CHAPTER I. Down the Rabbit-Hole"
    assert alice[sections[6].start :].startswith("CHAPTER VII. A Mad Tea-Party")
    assert sections[-1].end == len(alice)


def test_markdown_headings_nest_and_code_is_skipped() -> None:
    text = (
        "---\ntitle: x\n# not this\n---\n# One *bold*\n\ntext\n\n## Two [link](http://a)\n\n```sh\n# comment\n```\n\n"
        "Three\n=====\n\n~~~~\n# no\n~~~\n# still no\n~~~~\n#hashtag\n\nFour\n----\n\n- item\n---\n"
        "    # indented code\n"
    )
    sections = markdown_sections(text)
    assert [(s.level, s.title) for s in sections] == [(1, "One bold"), (2, "Two link"), (1, "Three"), (2, "Four")]
    assert text[sections[0].start : sections[0].end].startswith("# One")
    assert sections[0].end == sections[2].start


lines = st.lists(
    st.sampled_from(
        [
            "CHAPTER I",
            "CHAPTER II. A Title",
            "II",
            "III.",
            "CONTENTS",
            "THE HOUSE",
            "",
            "",
            "Some words here.",
            PROSE,
            "Epilogue",
            "# A",
            "## B",
            "***",
            "1. One",
            "2. Two",
            "```",
            "---",
            "PART ONE",
        ]
    ),
    max_size=40,
)


@given(lines)
def test_sections_are_ordered_nested_and_inside_the_text(parts: list[str]) -> None:
    text = "\n".join(parts)
    for find in (text_sections, markdown_sections):
        sections: tuple[Section, ...] = find(text)
        assert list(sections) == sorted(sections, key=lambda s: s.start)
        for i, section in enumerate(sections):
            assert 0 <= section.start < section.end <= len(text)
            assert section.title.strip()
            assert text[section.start : section.end].strip()
            for later in sections[i + 1 :]:
                assert later.start >= section.end or later.end <= section.end
