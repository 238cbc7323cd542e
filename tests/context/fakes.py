"""Stand-ins for the models of the context stage, planted corpora, and measures of a selection."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tokloom.context.selector import ContextRequest, Document, Section, Selection, Span
from tokloom.context.words import terms


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors from hashed words: texts that share words are near one another. float32 (texts, 64)."""
    rows = np.zeros((len(texts), 64), dtype=np.float32)
    for i, text in enumerate(texts):
        for word in terms(text) or ["nothing"]:
            rows[i] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64).astype(np.float32)
    return cast(np.ndarray, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def count_words(text: str) -> int:
    """Words and punctuation marks, each a token."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def count_triples(text: str) -> int:
    """Every three characters a token, wherever a piece begins: tokens of pieces don't add up."""
    return -(-len(text) // 3)


def count_crowded(text: str) -> int:
    """More tokens for a whole than for its parts together, as no tokenizer does: the budget must hold even so."""
    return count_words(text) * (1 + text.count("["))


def request(
    question: str,
    documents: Sequence[Document],
    budget: int,
    count: Callable[[str], int] = count_words,
    embed: Callable[[Sequence[str]], np.ndarray] = embed,
) -> ContextRequest:
    return ContextRequest(question, documents, budget, count, embed, cast(Any, None))


def tokens(asked: ContextRequest, selection: Selection) -> int:
    return asked.count(selection.render())


def redundancy(spans: Sequence[Span]) -> float:
    """Mean over the spans of the largest share of its words that another span has as well."""
    words = [set(terms(span.text)) for span in spans]
    shares = [
        max((len(own & other) / len(own) for j, other in enumerate(words) if j != i), default=0.0)
        for i, own in enumerate(words)
        if own
    ]
    return sum(shares) / len(shares) if shares else 0.0


def handbook(seed: int) -> tuple[str, Document, list[str]]:
    """A question, a handbook, and the facts that a good answer needs.

    The primary fact stands in the handbook eight times in nearly the same words. Two secondary facts share only a word
    with the question. The last fact shares none: only the title of its section says what it is about. Forty
    sections are about other things, some of them with a word of the question.
    """
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]
    made: set[str] = set()

    def word() -> str:
        while (new := "".join(draw.choices(syllables, k=3)) + "r") in made:
            pass
        made.add(new)
        return new

    topic, aspect = word(), word()
    facts = [f"{word()} {word()}" for _ in range(4)]
    filler = [word() for _ in range(120)]

    def sentence(*parts: str) -> str:
        return (
            " ".join([draw.choice(filler).capitalize(), *draw.sample(filler, 5), *parts, *draw.sample(filler, 5)]) + "."
        )

    same = sentence(topic, aspect, facts[0], topic, aspect)
    repeats = [same.replace(".", f" {draw.choice(filler)} {draw.choice(filler)}.") for _ in range(8)]
    parts = [
        ("Overview", repeats[:4]),
        ("Details", repeats[4:]),
        ("Terms", [sentence(topic, facts[1], word(), word())]),
        ("Remarks", [sentence(aspect, facts[2], word(), word())]),
        (f"The {topic} {aspect}", [sentence(facts[3], word(), word(), word())]),
    ]
    parts += [
        (f"About {word()}", [sentence(word(), draw.choice(["", "", topic])) for _ in range(2)]) for _ in range(40)
    ]
    draw.shuffle(parts)
    text, sections = "", []
    for title, paragraphs in parts:
        start = len(text)
        # The title is known from the structure only, as that of a sheet or a page is.
        text += "\n\n".join(paragraphs) + "\n\n"
        sections.append(Section(title, 1, start, len(text)))
    return f"What is the {topic} {aspect}?", Document("handbook.txt", text, tuple(sections)), facts


def covered(selection: Selection, facts: Sequence[str]) -> float:
    """Share of the facts that stand in the selection."""
    text = selection.render()
    return sum(fact in text for fact in facts) / len(facts)


def minimal_pdf(pages: Sequence[str]) -> bytes:
    """A PDF with one line of text per page ("" for a page without any)."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{4 + 2 * i} 0 R' for i in range(len(pages)))}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += "".join(f"{offset:010} 00000 n \n" for offset in offsets).encode()
    return data + f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
