"""Draws docs/mask.svg: how a mask comes about, with what the engine says of SmolLM2's tokens.

python docs/draw_mask.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

import tokloom
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.json_schema import from_json_schema

SCHEMA = {"type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"]}
OUTPUT = '{"paid": t'
SHOWN = ("rue", "r", "rust", "e", "true", '"', "}", " yes", "ru", "1")
WIDTH, HEIGHT = 940, 390
INK, QUIET, YES, NO, PAPER = "#1f2937", "#6b7280", "#047857", "#9ca3af", "#f3f4f6"


def text(
    x: float, y: float, content: str, *, size: int = 14, fill: str = INK, mono: bool = False, end: str = ""
) -> str:
    family = "ui-monospace, Menlo, monospace" if mono else "system-ui, sans-serif"
    anchor = f' text-anchor="{end}"' if end else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-family="{family}" fill="{fill}"{anchor} '
        f'xml:space="preserve">{escape(content)}</text>'
    )


def box(x: float, y: float, width: float, height: float, *, fill: str = PAPER, line: str = "#d1d5db") -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{line}"/>'


def arrow(x: float, y: float, to: float) -> str:
    return f'<path d="M{x} {y}H{to - 6}" stroke="{QUIET}" marker-end="url(#tip)"/>'


def allowed_tokens() -> tuple[dict[str, tuple[int, bool]], int, int]:
    """The shown tokens with id and verdict, how many are allowed, and of how many."""
    vocabulary = tokloom.load().vocabulary
    matcher = compile_expression(from_json_schema(SCHEMA), vocabulary).matcher()
    matcher.accept_bytes(OUTPUT.encode())
    words = np.zeros((vocabulary.size + 31) // 32, dtype=np.int32)
    matcher.mask(words)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    ids = {token: id for id, token in enumerate(vocabulary.token_bytes) if token}
    found = {name: (ids[name.encode()], bool(bits[ids[name.encode()]])) for name in SHOWN if name.encode() in ids}
    return found, int(bits.sum()), vocabulary.size


def main() -> None:
    tokens, count, total = allowed_tokens()
    parts = [text(20, 34, "1  the output so far", fill=QUIET), box(20, 48, 190, 40)]
    parts.append(text(34, 73, OUTPUT, mono=True, size=16))
    parts.append(text(20, 128, "2  where that is in the grammar", fill=QUIET))
    for i, (rule, here) in enumerate((('object  "{"', False), ('member  "paid" ":"', False), ("boolean t|rue", True))):
        parts.append(
            box(20 + 14 * i, 142 + 46 * i, 190, 36, fill="#ecfdf5" if here else PAPER, line=YES if here else "#d1d5db")
        )
        parts.append(text(34 + 14 * i, 165 + 46 * i, rule, mono=True))
    parts.append(text(20, 312, "a stack of rules; on top the bytes", size=13, fill=QUIET))
    parts.append(text(20, 330, "that may come next: r, then u, e", size=13, fill=QUIET))
    parts.append(arrow(244, 210, 300))
    parts.append(text(310, 34, "3  the vocabulary, as a tree", fill=QUIET))
    for i, (name, (id, good)) in enumerate(tokens.items()):
        y = 62 + 28 * i
        parts.append(f'<path d="M312 {y}H340" stroke="{YES if good else NO}" stroke-width="{2 if good else 1}"/>')
        parts.append(text(348, y + 5, name.replace(" ", "·"), mono=True, fill=YES if good else NO))
        parts.append(text(500, y + 5, f"token {id}", size=12, fill=QUIET, end="end"))
    parts.append(text(310, 62 + 28 * len(tokens), "a branch that can't fit is left whole", size=13, fill=QUIET))
    parts.append(arrow(520, 170, 576))
    parts.append(text(590, 34, "4  the mask, a bit a token", fill=QUIET))
    for i, (id, good) in enumerate(tokens.values()):
        y = 48 + 28 * i
        parts.append(box(590, y, 24, 24, fill="#d1fae5" if good else PAPER, line=YES if good else "#d1d5db"))
        parts.append(text(602, y + 17, str(int(good)), mono=True, fill=YES if good else NO, end="middle"))
        parts.append(text(624, y + 17, f"bit {id % 32} of word {id // 32}", size=12, fill=QUIET))
    parts.append(text(590, 62 + 28 * len(tokens), f"{count} of {total:,} tokens", size=13, fill=QUIET))
    parts.append(arrow(752, 170, 808))
    parts.append(text(822, 34, "5  the logits", fill=QUIET))
    for i, (_, good) in enumerate(tokens.values()):
        parts.append(
            text(822, 66 + 28 * i, "as they are" if good else "-inf", mono=True, fill=YES if good else NO, size=13)
        )
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head = f'<defs>{tip}<path d="M0 0L8 4L0 8z" fill="{QUIET}"/></marker></defs>'
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    body = "\n".join(part for part in parts if part)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="How a mask comes about">'
    Path(__file__).with_name("mask.svg").write_text(f"{svg}\n{head}\n{back}\n{body}\n</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
