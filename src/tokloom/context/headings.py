"""Finds the sections of a text: headings of plain text by general rules, headings of Markdown by their marks.

Plain text has no marks, so a heading is a short block of lines between empty lines that reads like one:
"CHAPTER I. Title", "Chapter 12", "BOOK TWO", "VII. TITLE", a roman numeral alone (with its title in the
next block), "Epilogue", or, where nothing is numbered, a line in capitals. A table of contents lists
the same lines without text between them; it becomes a section of its own, titled "Contents".
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tokloom.context.selector import Section
from tokloom.context.words import fold

CONTENTS = "Contents"
"""Title of the section that holds a table of contents."""

_PARTS = "BOOK|PART|VOLUME|ACT"
_CHAPTERS = "CHAPTER|ADVENTURE|STAVE|CANTO|LETTER|SCENE|SECTION|LECTURE|LESSON|APPENDIX"
_ONES = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN".split()
_ORDINALS = "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH".split()
_NUMBER = rf"(?:THE )?(?P<number>\d{{1,3}}|[IVXLC]+|{'|'.join(_ONES + _ORDINALS)})"
_TITLE = r"(?:(?:[.:)\]]|\s*[-–—]+|\s)\s*(?P<title>\S.*?))?[.:]?"

_KEYWORD = re.compile(rf"(?P<word>{_PARTS}|{_CHAPTERS})\s+{_NUMBER}\b{_TITLE}", re.I | re.S)
_BARE = re.compile(r"(?P<number>[IVXLC]+|\d{1,3})\.?")
_NUMBERED = re.compile(r"(?P<number>[IVXLC]+|\d{1,3}(?:\.\d{1,2})*)(?:[.)]\s+|\s*[-–—:]\s*|\s+)(?P<title>\S.*)", re.S)
_NAMED = re.compile(
    r"(?:(?:author['’]s |translator['’]s |editor['’]s )?(?:preface|introduction|foreword|note)|prologue|epilogue|"
    r"afterword|conclusions?|summary|abstract|acknowledge?ments?|appendix(?: [A-Z])?|glossary|bibliography|references|"
    r"index|footnotes|endnotes|dedication|postscript|introductory)\.?",
    re.I,
)
_CONTENTS = re.compile(r"(?:table of )?contents[.:]?|list of illustrations[.:]?|illustrations[.:]?", re.I)
_LICENCE = re.compile(r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG.*", re.I | re.S)
_BLOCK = re.compile(r"\S[^\n]*(?:\n[^\n\S]*\S[^\n]*)*")
_ROMAN = re.compile(r"C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}

_MAX_HEADING = 120  # characters of a heading
_MAX_TITLE = 70  # characters of a title in a block of its own, or of a line in capitals
_EMPTY_BODY = 60  # characters up to which there is "no text" between two headings


@dataclass(frozen=True)
class _Heading:
    kind: str  # part, chapter, numbered, bare, named, capitals, contents, licence
    title: str
    number: int | None
    start: int
    end: int  # of the heading itself, its title block included

    @property
    def key(self) -> str:
        """What a line of the table of contents and the heading itself have in common."""
        if self.kind in ("part", "chapter") and self.number is not None:
            return f"{self.title.split()[0].lower()} {self.number}"
        return re.sub(r"\W+", " ", fold(self.title)).strip()


def text_sections(text: str) -> tuple[Section, ...]:
    """Sections of a plain text, in order; empty if it has no headings. Level 1 is the outermost kind found."""
    headings = list(_candidates(text))
    headings = _consistent(text, headings)
    headings, contents = _without_contents(text, headings)
    kinds = {h.kind for h in headings}
    ranks = {"part": 0, "chapter": 1, "numbered": 1, "capitals": 1, "bare": 2}
    present = sorted({ranks[k] for k in kinds & set(ranks)})
    # An epilogue or a licence stands beside the chapters, whatever these look like.
    beside = min((ranks[k] for k in kinds & {"chapter", "numbered", "capitals", "bare"}), default=0)
    level = {rank: i for i, rank in enumerate(present, 1)}
    marks = [(h.start, level.get(ranks.get(h.kind, beside), 1), h.title) for h in headings if h.kind != "licence"]
    marks += [(h.start, 1, h.title) for h in headings if h.kind == "licence"]
    marks += [(start, 1, CONTENTS) for start, _ in contents]
    marks.sort()
    ends = dict(contents)
    return tuple(
        replace(section, end=min(section.end, ends.get(section.start, section.end)))
        for section in nest(marks, len(text))
    )


def markdown_sections(text: str) -> tuple[Section, ...]:
    """Sections of a Markdown text from its ``#`` and underlined headings; code fences and front matter are skipped."""
    marks: list[tuple[int, int, str]] = []
    fence = ""
    offset = 0
    previous: tuple[int, str] | None = None  # start and text of the line before, if it could be underlined
    lines = text.splitlines(keepends=True)
    matter = 0
    if lines and lines[0].rstrip() == "---":
        closing = [i for i, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")]
        matter = closing[0] + 1 if closing else 0
    for i, line in enumerate(lines):
        bare = line.strip()
        start, offset = offset, offset + len(line)
        if i < matter:
            continue
        opening = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            if opening and opening[1].startswith(fence) and bare == opening[1]:
                fence = ""
            previous = None
            continue
        if opening:
            fence, previous = opening[1], None
            continue
        atx = re.fullmatch(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*", line.rstrip("\r\n"))
        underline = re.fullmatch(r" {0,3}(=+|-{2,})[ \t]*", line.rstrip("\r\n"))
        if atx and atx[2]:
            marks.append((start, len(atx[1]), _plain(atx[2])))
            previous = None
        elif underline and previous is not None:
            marks.append((previous[0], 1 if underline[1][0] == "=" else 2, _plain(previous[1])))
            previous = None
        else:
            paragraph = bare and bare[0] not in ">|-*+" and not line.startswith(("    ", "\t"))
            previous = (start, bare) if paragraph else None
    return nest(marks, len(text))


def nest(marks: Sequence[tuple[int, int, str]], length: int) -> tuple[Section, ...]:
    """Sections from marks (start, level, title) in order of start: each ends at the next of its level or above."""
    sections = []
    for i, (start, level, title) in enumerate(marks):
        end = next((s for s, other, _ in marks[i + 1 :] if other <= level), length)
        sections.append(Section(title, level, start, end))
    return tuple(sections)


def _plain(title: str) -> str:
    """A Markdown title without link targets and emphasis."""
    title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[*_`]+(\S.*?\S|\S)[*_`]+", r"\1", title).strip()


def _value(number: str) -> int | None:
    upper = number.upper()
    for words in (_ONES, _ORDINALS):
        if upper in words:
            return words.index(upper) + 1
    if number[0].isdigit():
        return int(number.partition(".")[0])
    if not upper or not _ROMAN.fullmatch(upper):
        return None
    total = 0
    for char, after in zip(upper, upper[1:] + " ", strict=True):
        value = _VALUES[char]
        total += -value if _VALUES.get(after, 0) > value else value
    return total


def _candidates(text: str) -> Iterator[_Heading]:
    blocks = [(m.start(), m.end()) for m in _BLOCK.finditer(text)]
    taken = -1  # index of a block that serves as the title of the heading before it
    for i, (start, end) in enumerate(blocks):
        if i == taken or end - start > _MAX_HEADING or text.count("\n", start, end) > 2 or _listed(text[start:end]) > 1:
            continue
        body = " ".join(text[start:end].split())
        found = _read(body)
        if found is None:
            continue
        kind, title, number = found
        if i + 1 < len(blocks) and _untitled(kind, body):
            below = " ".join(text[slice(*blocks[i + 1])].split())
            if _is_title(below) and _kind(below) in ("", "capitals", "named"):
                title, end, taken = f"{title} {below}", blocks[i + 1][1], i + 1
        yield _Heading(kind, title, number, start, end)


def _untitled(kind: str, body: str) -> bool:
    """Whether a heading is only a number, so that its title may stand in the next block."""
    keyword = _KEYWORD.fullmatch(body) if kind in ("part", "chapter") else None
    return kind == "bare" or (keyword is not None and keyword["title"] is None)


def _kind(body: str) -> str:
    found = _read(body)
    return found[0] if found else ""


def _read(body: str) -> tuple[str, str, int | None] | None:
    """(kind, title, number) of a block of text that reads like a heading."""
    title = body.rstrip(".:").strip()
    if _LICENCE.fullmatch(body):
        return "licence", "Project Gutenberg licence", None
    if _CONTENTS.fullmatch(body):
        return "contents", CONTENTS, None
    keyword = _KEYWORD.fullmatch(body)
    if keyword and body[0].isupper() and (number := _value(keyword["number"])) is not None:
        after = keyword["title"] or ""
        # "Part two of the plan was simple." is a sentence, "Part Two" a heading.
        if not after or after[0].isupper() or not after[0].isalpha():
            return ("part" if keyword["word"].upper() in _PARTS.split("|") else "chapter"), title, number
    bare = _BARE.fullmatch(body)
    if bare and (number := _value(bare["number"])):
        return "bare", title, number
    numbered = _NUMBERED.fullmatch(body)
    if numbered and (number := _value(numbered["number"])) and _is_title(numbered["title"]):
        return "numbered", title, number
    if _NAMED.fullmatch(body) and body[0].isupper():
        return "named", title, None
    return ("capitals", title, None) if _is_capitals(body) else None


def _is_capitals(body: str) -> bool:
    letters = sum(char.isalpha() for char in body)
    worded = letters >= 3 and letters >= 0.6 * len(body) and len(body) <= _MAX_TITLE
    return worded and body.isupper() and body[0].isalnum() and (body[-1].isalnum() or body[-1] in ".?!)")


def _is_title(block: str) -> bool:
    """Whether a block reads like a title: one short line, capital first, no end of a sentence or of a salutation."""
    line = block.strip()
    if not line or len(line) > _MAX_TITLE or "\n" in line or not (line[0].isupper() or line[0].isdigit()):
        return False
    return line.isupper() or line[-1].isalnum() or line[-1] in "?!)’'"


def _consistent(text: str, headings: list[_Heading]) -> list[_Heading]:
    """Without the kinds that look like headings by chance in this text."""
    numbers: dict[str, list[int]] = {}
    for heading in headings:
        if heading.number is not None:
            numbers.setdefault(heading.kind, []).append(heading.number)
    keep = {"contents", "licence", "named"}
    keep |= {kind for kind in ("part", "chapter") if numbers.get(kind)}
    for kind in ("bare", "numbered"):
        found = numbers.get(kind, [])
        # A list of a few numbered items, or the pronoun "I" on a line of its own, is no structure: numbers must follow
        # one another, and the text between them must be more than a list's.
        runs = sum(b == a + 1 for a, b in itertools.pairwise(found))
        if runs >= 1 and runs >= len(found) // 2 and _room(text, headings, kind) >= 300:
            keep.add(kind)
    repeats = Counter(h.key for h in headings if h.kind == "capitals")
    if not keep & {"part", "chapter", "bare", "numbered"}:
        # Lines in capitals are signs, letterheads and shouts where chapters are numbered; here they may be all there
        # is. A line that recurs is a running head or a speaker, and lines with little between them are a play's.
        titles = [h for h in headings if h.kind == "capitals" and repeats[h.key] <= 2 and h.key != "the end"]
        if len(titles) >= 2 and _room(text, titles, "capitals") >= 200:
            return [h for h in headings if h.kind in keep or h in titles]
    return [h for h in headings if h.kind in keep]


def _room(text: str, headings: list[_Heading], kind: str) -> float:
    """Median characters of text between the headings of a kind."""
    of_kind = [h for h in headings if h.kind == kind]
    if not of_kind:
        return 0.0
    starts = [h.start for h in of_kind[1:]] + [len(text)]
    gaps = sorted(start - h.end for h, start in zip(of_kind, starts, strict=True))
    return float(gaps[len(gaps) // 2])


def _without_contents(text: str, headings: list[_Heading]) -> tuple[list[_Heading], list[tuple[int, int]]]:
    """Headings of the text proper, and the ranges of the tables of contents."""
    drop: set[int] = set()
    ranges: list[tuple[int, int]] = []
    bodies = [
        len(text[h.end : headings[i + 1].start if i + 1 < len(headings) else len(text)].strip())
        for i, h in enumerate(headings)
    ]
    last_of = {h.key: i for i, h in enumerate(headings)}
    i = 0
    while i < len(headings):
        j = i
        while j < len(headings) and bodies[j] <= _EMPTY_BODY:
            j += 1
        # The run's last entry is followed by whatever comes after the table: it belongs to it if it comes again.
        if j < len(headings) and j > i and last_of[headings[j].key] > j:
            j += 1
        again = [h for k, h in enumerate(headings[i:j], i) if last_of[h.key] > k]
        # Two headings on top of one another are a part and its first chapter; three and more are a list.
        if j - i >= 3 and (again or headings[i].kind == "contents"):
            while j > i and last_of[headings[j - 1].key] == j - 1 and headings[j - 1].kind != "contents":
                j -= 1  # the first heading of the text proper: it does not come again
            drop.update(range(i, j))
            ranges.append((headings[i].start, headings[j].start if j < len(headings) else headings[-1].end))
        i = max(j, i + 1)
    kept = [h for k, h in enumerate(headings) if k not in drop]
    for k, heading in enumerate(kept):
        if heading.kind == "contents":
            ranges.append((heading.start, kept[k + 1].start if k + 1 < len(kept) else len(text)))
    kept = [h for h in kept if h.kind != "contents"]
    first = kept[0].start if kept else 0
    ranges += [
        (start, end) for start, end in _listings(text[:first])
        if not any(a <= start < b for a, b in ranges)
    ]  # fmt: skip
    return kept, sorted(ranges)


def _listings(front: str) -> Iterator[tuple[int, int]]:
    """Blocks in a text's front matter that list numbered titles line by line."""
    for match in _BLOCK.finditer(front):
        lines = match[0].count("\n") + 1
        if lines >= 3 and _listed(match[0]) >= 0.7 * lines:
            yield match.start(), match.end()


def _listed(block: str) -> int:
    """How many lines of a block are headings of their own."""
    lines = [line.strip() for line in block.splitlines()]
    return sum(bool(_NUMBERED.fullmatch(line) or _KEYWORD.fullmatch(line)) for line in lines)
