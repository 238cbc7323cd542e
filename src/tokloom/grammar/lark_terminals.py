"""The terminals of Lark's notation: texts, regular expressions, and those of its `common` library."""

from __future__ import annotations

import re
from functools import cache

from tokloom.errors import GrammarError
from tokloom.grammar.characters import fold_case
from tokloom.grammar.expression import Chars, Expression, text
from tokloom.grammar.regex import parse_regex
from tokloom.grammar.simplify import concat
from tokloom.grammar.source import Source, escaped

_LETTER = r"[A-Za-zçğıöşüÇĞİÖŞÜ]"
_INT = "[0-9]+"
_DECIMAL = rf"(?:{_INT}\.(?:{_INT})?|\.{_INT})"
_EXP = rf"(?:[eE][+-]?{_INT})"
_FLOAT = rf"(?:{_INT}{_EXP}|{_DECIMAL}{_EXP}?)"
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9A-Fa-f]",
    "INT": _INT,
    "SIGNED_INT": rf"[+-]?{_INT}",
    "DECIMAL": _DECIMAL,
    "_EXP": _EXP,
    "FLOAT": _FLOAT,
    "SIGNED_FLOAT": rf"[+-]?{_FLOAT}",
    "NUMBER": rf"{_FLOAT}|{_INT}",
    "SIGNED_NUMBER": rf"[+-]?(?:{_FLOAT}|{_INT})",
    "STRING_INNER": r'\\"|[^"]',
    "ESCAPED_STRING": r'"(?:\\[^\n]|[^"\\\n])*"',
    "LCASE_LETTER": "[a-zçğıöşü]",
    "UCASE_LETTER": "[A-ZÇĞİÖŞÜ]",
    "LETTER": _LETTER,
    "WORD": f"{_LETTER}+",
    "CNAME": f"(?:_|{_LETTER})(?:_|{_LETTER}|[0-9])*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*(?:[^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}


COMMON = tuple(_COMMON)
"""The names that `common` has."""


@cache
def common(name: str) -> Expression:
    """A terminal of the `common` library."""
    return parse_regex(_COMMON[name])


def string_terminal(source: Source, quoted: str, place: int, flag: str) -> Expression:
    """The text of a quoted string, in either case if the flag is "i"."""
    inner = Source(quoted[1:-1])
    chars: list[str] = []
    while not inner.at_end:
        char = inner.next("a character")
        if char == "\\":
            try:
                char = escaped(inner, "\\\"'/", "nrtfvba0")
            except GrammarError as error:
                source.refuse(error.problem, place + 1 + inner.place - 1)
        chars.append(char)
    string = "".join(chars)
    if not flag:
        return text(string)
    return concat(*(_either_case(char) for char in string))


def _either_case(char: str) -> Expression:
    folded = fold_case(((ord(char), ord(char)),))
    return text(char) if folded == ((ord(char), ord(char)),) else Chars(folded)


def regex_terminal(source: Source, pattern: str, flags: str, place: int) -> Expression:
    """A regular expression between slashes, with its flags behind."""
    pattern = re.sub(r"\\(\\|/)", lambda found: "/" if found[1] == "/" else found[0], pattern)
    marks = "".join(sorted(set(flags) - {"u", "l"}))
    if "l" in flags:
        source.refuse("the flag l (locale) is not supported", place)
    try:
        return parse_regex(f"(?{marks}){pattern}" if marks else pattern)
    except GrammarError as error:
        found = re.fullmatch(r"character (\d+)", error.where)
        offset = int(found[1]) - (len(marks) + 3 if marks else 0) if found else 1
        return source.refuse(f"in the regular expression: {error.problem}", place + max(offset, 1))
