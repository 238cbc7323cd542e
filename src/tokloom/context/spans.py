"""Cuts documents into passages of bounded size: whole paragraphs where they fit, sentences where not.

Three grains, all of them exact ranges of `Document.text`: paragraphs (blocks between empty lines),
sentences, and passages, the unit of retrieval: neighbouring paragraphs of one section up to a limit,
or a paragraph above the limit cut between sentences, or a sentence above it cut between words.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokloom.context.selector import ContextRequest, Document, Span

_PARAGRAPH = re.compile(r"\S(?:[^\n]|\n(?![^\S\n]*(?:\n|\Z)))*")
_TERMINAL = re.compile(r"[.!?…]+[)\]\"'”’»*_]*(?=\s)|[。！？｡]+[」』”’）]*|[؟۔।]+(?=\s)")
_ABBREVIATIONS = frozenset(
    "mr mrs ms messrs mme dr prof st rev hon capt col gen lt sgt sr jr vs etc no nos vol fig figs eq sec ch pp ed eds "
    "inc ltd co corp dept est approx cf viz e.g i.e a.m p.m u.s jan feb mar apr jun jul aug sep sept oct nov "
    "dec".split()
)
_FEWEST = 8  # tokens below which a passage says nothing
_SAMPLE = 512  # characters of one sample for the estimate of characters per token
_WIDE_MARKS = "、，；：。！？｡､"  # punctuation without a space after it


@dataclass(frozen=True)
class Passage:
    """The unit of retrieval: characters [start, end) of `documents[document].text`.

    section: index of the innermost section in the document's `sections`, -1 outside of all.
    paragraph: number of the first paragraph in it, counted through the document; pieces of one paragraph share it.
    """

    document: int
    start: int
    end: int
    section: int
    paragraph: int

    def span(self, documents: Sequence[Document]) -> Span:
        return Span(documents[self.document], self.start, self.end)


def characters_per_token(documents: Sequence[Document], count: Callable[[str], int], samples: int = 12) -> float:
    """Mean characters of a token in these documents, from evenly spaced samples of 512 characters.

    Counting every passage of a book one by one takes longer than retrieval, so that passage sizes rest on this
    estimate; the budget itself is always counted exactly.
    """
    total = sum(len(document.text) for document in documents)
    if not total:
        return 1.0
    step = max(1, total // samples)
    pieces: list[str] = []
    before = 0
    for document in documents:
        first = -before % step
        pieces += [document.text[at : at + _SAMPLE] for at in range(first, len(document.text), step)]
        before += len(document.text)
    tokens = sum(count(piece) for piece in pieces)
    return max(0.25, sum(map(len, pieces)) / max(1, tokens))


def passage_characters(request: ContextRequest, tokens: int) -> int:
    """Characters of a passage of `tokens` tokens, or of half the budget, so that two always have room."""
    wanted = min(tokens, max(_FEWEST, request.budget // 2))
    return max(1, int(wanted * characters_per_token(request.documents, request.count)))


def paragraphs(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Ranges of the paragraphs in [start, end), trimmed of white space."""
    end = len(text) if end is None else end
    return [_trim(text, m.start(), m.end()) for m in _PARAGRAPH.finditer(text, start, end)]


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Ranges of the sentences in [start, end), trimmed of white space; an empty line always ends one.

    A full stop ends no sentence after a title or another common abbreviation ("Mr. Bennet"), after an initial
    ("H. G. Wells"), or before a small letter ("'Oh dear!' she said").
    """
    found = []
    for first, last in paragraphs(text, start, end):
        begin = first
        for match in _TERMINAL.finditer(text, first, last):
            if match.end() >= last or not _ends_sentence(text, match, last):
                continue
            found.append(_trim(text, begin, match.end()))
            begin = match.end()
        if begin < last:
            found.append(_trim(text, begin, last))
    return [(a, b) for a, b in found if a < b]


def _ends_sentence(text: str, match: re.Match[str], last: int) -> bool:
    after = match.end()
    while after < last and (text[after].isspace() or text[after] in "\"'“‘«([*_-–—"):
        after += 1
    if after < last and text[after].islower():
        return False
    if match[0][0] != ".":
        return True
    begin = match.start()
    while begin > 0 and (text[begin - 1].isalnum() or text[begin - 1] == "."):
        begin -= 1
    word = text[begin : match.start()]
    return not (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I"))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def regions(document: Document) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The document cut at every border of a section: (start, end, indices of the sections around, innermost last)."""
    sections = document.sections
    edges = {0, len(document.text)}.union(*((s.start, s.end) for s in sections))
    opening = sorted(range(len(sections)), key=lambda i: sections[i].start, reverse=True)
    around: list[int] = []
    for start, end in itertools.pairwise(sorted(edges)):
        around = [i for i in around if sections[i].end > start]
        while opening and sections[opening[-1]].start <= start:
            around.append(opening.pop())
        around.sort(key=lambda i: (sections[i].level, sections[i].start))
        yield start, end, tuple(around)


@lru_cache(maxsize=8)
def passages(documents: tuple[Document, ...], characters: int) -> tuple[Passage, ...]:
    """The passages of documents in order, none longer than `characters`, none across the border of a section.

    Together they hold every character that is not white space. A word is cut only if it is longer than `characters`.
    The result is kept for the last few sets of documents, because a book is asked more than one question.
    """
    return tuple(passage for i, document in enumerate(documents) for passage in _cut(i, document, characters))


def _cut(index: int, document: Document, limit: int) -> Iterator[Passage]:
    text = document.text
    number = 0
    for start, end, around in regions(document):
        section = around[-1] if around else -1
        held: tuple[int, int, int] | None = None  # start, end and first paragraph of the passage in the making
        for first, last in paragraphs(text, start, end):
            if held and last - held[0] > limit:
                yield Passage(index, held[0], held[1], section, held[2])
                held = None
            if last - first > limit:
                for a, b in _pieces(text, first, last, limit):
                    yield Passage(index, a, b, section, number)
            else:
                held = (held[0], last, held[2]) if held else (first, last, number)
            number += 1
        if held:
            yield Passage(index, held[0], held[1], section, held[2])


def _pieces(text: str, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    """A long paragraph as pieces of about the same length: a piece of one last word would retrieve nothing."""
    units = [piece for a, b in sentences(text, start, end) for piece in _hard(text, a, b, limit)]
    held: tuple[int, int] | None = None
    aim = 0.0
    for a, b in units:
        if held and (b - held[0] > limit or (b - held[0]) - aim > aim - (held[1] - held[0])):
            yield held
            held = None
        if not held:
            aim = (end - a) / math.ceil((end - a) / limit)
        held = (held[0], b) if held else (a, b)
    if held:
        yield held


def _hard(text: str, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    """A long sentence as pieces of about the same length, cut after a clause if it can be, else between words.

    Only where a run without white space is longer than `limit` is it cut within, after a mark of punctuation of
    scripts without spaces if it has one, else between characters.
    """
    while end - start > limit:
        aim = start + math.ceil((end - start) / math.ceil((end - start) / limit))
        gaps = [i for i in range(start + 1, start + limit + 1) if text[i].isspace()]
        marks = [i for i in range(start + 1, start + limit + 1) if text[i - 1] in _WIDE_MARKS]
        near = [i for i in (*gaps, *marks) if i - start >= (aim - start) / 2] or gaps[-1:]
        clauses = [i for i in near if text[i - 1] in ",;:—–-" + _WIDE_MARKS]
        whole = character_end(text, start, aim)  # of one character that is longer than the limit, a part
        at = min(clauses or near, key=lambda i: abs(i - aim), default=whole if whole > start else aim)
        yield _trim(text, start, at)
        start, _ = _trim(text, at, end)
    if start < end:
        yield start, end


def character_end(text: str, start: int, end: int) -> int:
    """The last place at or before `end` that is not inside what a reader takes for one character; at least `start`."""
    while start < end < len(text) and (_joins(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return end


def _joins(char: str) -> bool:
    """It belongs to the character before: accents, vowel signs, joiners, variation selectors, tones of skin."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me") or char == "\u200d" or "\U0001f3fb" <= char <= "\U0001f3ff"


def mark_before(text: str, first: int, end: int, start: int) -> int:
    """Behind the last sentence in [first, end), or its last clause, if that costs at most an eighth of [start, end)."""
    earliest = max(first + 1, end - (end - start) // 8)
    for marks in ("。！？｡!?.…؟۔।", _WIDE_MARKS + ",;:"):
        for at in range(end, earliest - 1, -1):
            if text[at - 1] in marks or (text[at - 1] in "」』”’）" and text[at - 2 : at - 1] in marks):
                return at
    return end
