"""Writes src/tokloom/grammar/regex/unicode.txt: the Unicode properties that a regular expression may name.

One line a property: its name or names, then the gaps and lengths of its ranges of code points, in hexadecimal.
Needs the `regex` package, whose tables are the source: python tools/unicode_properties.py
"""

from __future__ import annotations

from pathlib import Path

import regex
from regex import _regex_core

TARGET = Path(__file__).parents[1] / "src" / "tokloom" / "grammar" / "regex" / "unicode.txt"

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
BINARY = (
    "Alphabetic Uppercase Lowercase White_Space Hex_Digit ASCII_Hex_Digit ID_Start ID_Continue XID_Start XID_Continue "
    "Ideographic Emoji Emoji_Presentation Emoji_Modifier Emoji_Modifier_Base Emoji_Component Extended_Pictographic"
).split()
EVERYTHING = "".join(map(chr, range(0x110000)))


def scripts() -> list[list[str]]:
    """The names of each script: the long one and its abbreviations, in capitals, without underscores."""
    names: dict[int, list[str]] = {}
    for name, number in _regex_core.PROPERTIES["SCRIPT"][1].items():
        names.setdefault(number, []).append(name)
    return sorted(names.values())


def line(name: str, pattern: str) -> str:
    parts, end = [], 0
    for match in regex.finditer(f"(?:{pattern})+", EVERYTHING):
        parts.append(f"{match.start() - end:x},{match.end() - match.start():x}")
        end = match.end()
    return f"{name} {' '.join(parts)}\n"


def main() -> None:
    lines = [line(f"gc={name}", rf"\p{{gc={name}}}") for name in CATEGORIES]
    lines += [line(name, rf"\p{{{name}}}") for name in BINARY]
    for names in scripts():
        if names[0] == "UNKNOWN":
            continue
        for kind in ("sc", "scx"):
            lines.append(line(f"{kind}={'|'.join(names)}", rf"\p{{{kind}={names[0]}}}"))
    TARGET.write_text("".join(lines))


if __name__ == "__main__":
    main()
