"""docs/glossary.md is kept: documentation and identifiers don't use the words that it rules out."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tokloom"
GLOSSARY = ROOT / "docs" / "glossary.md"

WORDS = ("chance", "chances", "likeliest", "anew", "of late", "beside", "as of", "but for", "whoever", "nobody")
NAMES = {
    *("chance", "chances", "likeliest", "certain", "least", "most", "room", "holds"),
    *("Pace", "Acceptance", "Following", "Way", "Host", "Written", "GrammarPlace"),
}
# Plain English for space that is left; not the limit of a draft.
ALLOWED = {
    ("compare/plot.py", "room"),
    ("context/retrieval.py", "room"),
    ("evaluate/haystack.py", "room"),
}
# Generated from the code, whose docstrings still have some of the words.
GENERATED = {ROOT / "docs" / "cli.md", ROOT / "docs" / "json-schema.md"}


def pages() -> list[Path]:
    written = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "design").glob("*.md"), ROOT / "README.md"]
    return sorted(set(written) - GENERATED - {GLOSSARY})


def banned_words(page: str) -> list[str]:
    """Each banned word of the prose, in lower case; code and generated blocks are no prose."""
    prose = re.sub(r"^```.*?^```|<!-- (\w+):begin -->.*?<!-- \1:end -->|`[^`\n]+`", " ", page, flags=re.S | re.M)
    words = "|".join(word.replace(" ", r"\s+") for word in WORDS)
    return [" ".join(found.lower().split()) for found in re.findall(rf"\b(?:{words})\b", prose, re.I)]


def banned_names(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of each banned identifier; comments, strings and longer names don't count."""
    for token in tokenize.generate_tokens(StringIO(code).readline):
        if token.type == tokenize.NAME and token.string in NAMES:
            yield token.start[0], token.string


def source_names() -> Iterator[tuple[str, int, str]]:
    for path in sorted(SOURCE.rglob("*.py*")):
        if path.suffix in {".py", ".pyi"}:
            for line, name in banned_names(path.read_text(encoding="utf-8")):
                yield path.relative_to(SOURCE).as_posix(), line, name


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_documentation_uses_the_glossary(page: Path) -> None:
    assert banned_words(page.read_text(encoding="utf-8")) == []


def test_identifiers_use_the_glossary() -> None:
    assert [found for found in source_names() if (found[0], found[2]) not in ALLOWED] == []


def test_every_exception_is_needed() -> None:
    assert {(path, name) for path, _, name in source_names()} >= ALLOWED


def test_the_glossary_lists_every_banned_word_and_name() -> None:
    rows = [line for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    last = "\n".join(row.rsplit("|", 2)[1].replace("`", "") for row in rows)
    assert [word for word in WORDS if not re.search(rf"\b{word}\b[^,\n]*\*", last)] == []
    assert [name for name in NAMES if not re.search(rf"\b{name}\b[^,\n]*†", last)] == []


def test_banned_words_are_found_in_prose_only() -> None:
    page = "The Chance is\n```python\nchance = 1\n```\nmeasured of\nlate, `beside` it. A mischance, besides.\n"
    assert banned_words(page) == ["chance", "of late"]
    assert banned_words("<!-- methods:begin -->\nanew\n<!-- methods:end -->\nanew") == ["anew"]


def test_banned_names_are_whole_identifiers_outside_strings() -> None:
    code = 'class Pace: ...\nmost = least_used("least")  # certain\nprint(f(holds=1), at_most, HOST)\n'
    assert list(banned_names(code)) == [(1, "Pace"), (2, "most"), (3, "holds")]
