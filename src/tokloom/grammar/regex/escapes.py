"""Reads what stands for a set of characters in a regular expression: escapes, classes, properties."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from tokloom.errors import GrammarError
from tokloom.grammar.characters import Ranges, complement, fold_case, ranges, union
from tokloom.grammar.regex.classes import (
    ASCII_SPACE,
    DIGITS,
    ECMA_SPACE,
    WORD,
    python_class,
)
from tokloom.grammar.regex.properties import characters

Dialect: TypeAlias = Literal["ecma", "python"]

_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Flags:
    ignore_case: bool = False
    multiline: bool = False
    dot_all: bool = False
    verbose: bool = False
    ascii_only: bool = False


class CharacterReader:
    """A place in a pattern, and the sets of characters that are read from there."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self._text = pattern
        self._python = dialect == "python"
        self._place = 0
        self._flags = Flags()

    def _refuse(self, problem: str, place: int | None = None, hint: str = "") -> NoReturn:
        raise GrammarError(f"character {(self._place if place is None else place) + 1}", problem, hint)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._place)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self._place += len(text)
            return True
        return False

    def _next(self, what: str) -> str:
        if self._place >= len(self._text):
            self._refuse(f"the pattern ends where {what} was expected")
        self._place += 1
        return self._text[self._place - 1]

    def _skip_verbose(self) -> None:
        while self._flags.verbose and self._place < len(self._text):
            if self._text[self._place].isspace():
                self._place += 1
            elif self._peek("#"):
                end = self._text.find("\n", self._place)
                self._place = len(self._text) if end < 0 else end + 1
            else:
                return

    def _word(self) -> Ranges:
        if not self._python or self._flags.ascii_only:
            return WORD
        return python_class(r"\w")

    def _escaped_set(self) -> Ranges:
        """The set that an escape stands for; the place is behind the backslash."""
        place = self._place - 1
        char = self._next(r"a character after \ ")
        lower = char.lower()
        if lower in "dws":
            plain = not self._python or self._flags.ascii_only
            if lower == "d":
                chars = DIGITS if plain else python_class(r"\d")
            elif lower == "w":
                chars = self._word()
            else:
                chars = (ASCII_SPACE if self._python else ECMA_SPACE) if plain else python_class(r"\s")
            return complement(chars) if char.isupper() else chars
        if lower == "p":
            return self._named_property(place, negative=char == "P")
        return self._single(self._character(char, place), place)

    def _single(self, code: int, place: int) -> Ranges:
        if 0xD800 <= code <= 0xDFFF:
            self._refuse("half of a surrogate pair is no character of its own", place, r"Write \u{...} or both halves.")
        return ((code, code),)

    def _named_property(self, place: int, *, negative: bool) -> Ranges:
        if self._take("{"):
            name, closed, _ = self._text[self._place :].partition("}")
            if not closed:
                self._refuse(r"\p{ without its }", place)
            self._place += len(name) + 1
        else:
            name = self._next(r"a property after \p")
        if name.startswith("^"):
            name, negative = name[1:], not negative
        chars = characters(name)
        if chars is None:
            self._refuse(f"there is no Unicode property {name!r} here", place, r"For example: \p{L}, \p{Script=Greek}.")
        return complement(chars) if negative else chars

    def _hexadecimal(self, length: int, place: int) -> int:
        digits = self._text[self._place : self._place + length]
        if not re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", digits):
            self._refuse(f"an escape with {length} hexadecimal digits was expected", place)
        self._place += length
        return int(digits, 16)

    def _character(self, char: str, place: int) -> int:
        """The code point that an escape stands for; `char` follows the backslash."""
        if char in _CONTROLS:
            return ord(_CONTROLS[char])
        if char == "x":
            return self._hexadecimal(2, place)
        if char == "u":
            return self._unicode(place)
        if char == "0":
            octal = re.compile("[0-7]{0,2}").match(self._text, self._place)
            digits = octal[0] if octal else ""
            if digits and not self._python:
                self._refuse("octal escapes are not supported", place, r"Write \xHH.")
            self._place += len(digits)
            return int(digits or "0", 8)
        if self._python:
            if char == "a":
                return 7
            if char == "U":
                code = self._hexadecimal(8, place)
                if code > 0x10FFFF:
                    self._refuse("there is no such code point", place)
                return code
            if char == "N":
                name, closed, _ = self._text[self._place :].partition("}")
                try:
                    code = ord(unicodedata.lookup(name.removeprefix("{")))
                except KeyError:
                    self._refuse("there is no character of that name", place)
                self._place += len(name) + len(closed)
                return code
        elif char == "c":
            letter = self._next(r"a letter after \c")
            if not (letter.isascii() and letter.isalpha()):
                self._refuse(r"\c needs a letter", place)
            return ord(letter) % 32
        if char.isascii() and char.isalnum():
            self._refuse(rf"\{char} is no escape that is supported", place)
        return ord(char)

    def _unicode(self, place: int) -> int:
        if not self._python and self._take("{"):
            digits, closed, _ = self._text[self._place :].partition("}")
            if not closed or not re.fullmatch("[0-9A-Fa-f]{1,8}", digits) or int(digits, 16) > 0x10FFFF:
                self._refuse(r"\u{...} needs the hexadecimal digits of a code point", place)
            self._place += len(digits) + 1
            return int(digits, 16)
        code = self._hexadecimal(4, place)
        low = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self._text, self._place)
        if 0xD800 <= code < 0xDC00 and low is not None:
            self._place = low.end()
            return 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        return code

    def _class(self) -> Ranges:
        start = self._place - 1
        negative = self._take("^")
        parts: list[Ranges] = []
        first = True
        while True:
            if self._place >= len(self._text):
                self._refuse("a [ without its ]", start, r"Write \[ for the character.")
            if self._peek("]") and not (first and self._python):
                self._place += 1
                break
            first = False
            place = self._place
            left, single = self._class_item()
            if self._peek("-") and self._text[self._place + 1 : self._place + 2] not in ("", "]"):
                self._place += 1
                right, right_single = self._class_item()
                if single and right_single:
                    if right[0][0] < left[0][0]:
                        self._refuse("a range whose end comes before its start", place)
                    left = ((left[0][0], right[0][0]),)
                elif self._python:
                    self._refuse("a range needs a single character at both ends", place)
                else:  # as browsers read it: the three of them
                    left = union(left, right, ranges("-"))
            parts.append(left)
        chars = self._fold(union(*parts))
        return complement(chars) if negative else chars

    def _class_item(self) -> tuple[Ranges, bool]:
        """A set, and whether it is a single character."""
        place = self._place
        char = self._next("an item of the class")
        if char != "\\":
            if char == "[" and re.match(r":\^?[a-z]+:\]", self._text[self._place :]):
                self._refuse("POSIX classes such as [:alpha:] are not supported", place, r"Use \p{...}.")
            return self._single(ord(char), place), True
        if self._take("b"):
            return ranges("\b"), True
        chars = self._escaped_set()
        return chars, len(chars) == 1 and chars[0][0] == chars[0][1]

    def _fold(self, chars: Ranges) -> Ranges:
        return fold_case(chars, ascii_only=self._flags.ascii_only) if self._flags.ignore_case else chars
