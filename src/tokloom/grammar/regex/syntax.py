"""Reads the text of a regular expression into nodes."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, TypeAlias

from tokloom.errors import GrammarError
from tokloom.grammar.characters import Ranges, complement, fold_case, ranges, union
from tokloom.grammar.regex.classes import (
    ASCII_SPACE,
    DIGITS,
    ECMA_LINE,
    ECMA_SPACE,
    PYTHON_SPACE,
    WORD,
    known_property,
)
from tokloom.grammar.regex.nodes import (
    END,
    START,
    Choice,
    Cut,
    Edge,
    Look,
    Loop,
    Node,
    Sequence,
    Set,
    look,
    one_character,
    sequence,
)
from tokloom.grammar.regex.properties import characters

Dialect: TypeAlias = Literal["ecma", "python"]

_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_QUANTIFIER = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_PYTHON_QUANTIFIER = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
_DEEPEST = 100


@dataclass(frozen=True)
class _Flags:
    ignore_case: bool = False
    multiline: bool = False
    dot_all: bool = False
    verbose: bool = False
    ascii_only: bool = False


class Parser:
    """One reading of one pattern; `parse` is called once."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self._text = pattern
        self._python = dialect == "python"
        self._place = 0
        self._flags = _Flags()
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._place < len(self._text):
            self._refuse("a ) without a (", hint=r"Write \) for the character.")
        return node

    # --- reading

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

    # --- structure

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(f"groups are nested more than {_DEEPEST} deep")
        flags = self._flags
        items = [self._sequence()]
        while self._take("|"):
            items.append(self._sequence())
        if self._depth > 1:
            self._flags = flags
        self._depth -= 1
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._skip_verbose()
            if self._place >= len(self._text) or self._text[self._place] in "|)":
                return sequence(*items)
            place = self._place
            item = self._atom()
            if item is not None:
                items.append(self._quantified(item, place))

    def _quantified(self, item: Node, place: int) -> Node:
        self._skip_verbose()
        start = self._place
        bounds = self._bounds()
        if bounds is None:
            return item
        least, most = bounds
        if most is not None and most < least:
            self._refuse(f"a repeat from {least} to {most}: the first number is the larger one", start)
        loop: Node = Loop(item, least, most, start)
        if self._take("?"):
            pass  # lazy: the same strings
        elif self._python and self._take("+"):
            if not isinstance(item, Set):
                self._refuse(
                    "a possessive quantifier after more than a single character is not supported",
                    self._place - 1,
                    "Use the plain quantifier if the rest can't begin like the repeated part.",
                )
            loop = Cut(Loop(item, least, most, start))
        again = self._place
        self._skip_verbose()
        if self._bounds() is not None:
            self._refuse("a quantifier after a quantifier", again, "Put the first one in a group: (?:a*)*.")
        return loop

    def _bounds(self) -> tuple[int, int | None] | None:
        for char, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(char):
                return bounds
        match = (_PYTHON_QUANTIFIER if self._python else _QUANTIFIER).match(self._text, self._place)
        if match is None or match[0] == "{}":
            return None
        self._place = match.end()
        least = int(match[1] or 0)
        if match[2] is None:
            return least, least
        return least, int(match[3]) if match[3] else None

    def _atom(self) -> Node | None:
        char = self._next("an item")
        flags = self._flags
        if char == "(":
            return self._group()
        if char == "[":
            return Set(self._class())
        if char == ".":
            if flags.dot_all:
                return Set(complement(()))
            return Set(complement(ranges("\n") if self._python else ECMA_LINE))
        if char == "^":
            return self._line_edge(before=True) if flags.multiline else START
        if char == "$":
            if flags.multiline:
                return self._line_edge(before=False)
            return self._python_end() if self._python else END
        if char == "\\":
            return self._escape()
        if char in "*+?":
            self._refuse(f"nothing to repeat before {char}", self._place - 1, rf"Write \{char} for the character.")
        if char == "{":
            self._place -= 1
            if self._bounds() is not None:
                self._refuse("nothing to repeat before {", hint=r"Write \{ for the character.")
            self._place += 1
        return Set(self._fold(self._single(ord(char), self._place - 1)))

    def _line_edge(self, *, before: bool) -> Edge:
        return Edge(before, ranges("\n") if self._python else ECMA_LINE, end=True)

    def _python_end(self) -> Node:
        r"""Python's `$` also holds before a line break that ends the string."""
        return Choice((END, Look(Sequence((Set(ranges("\n")), END)), negative=False, place=self._place - 1)))

    def _group(self) -> Node | None:
        start = self._place - 1
        if not self._take("?"):
            return self._closed(start)
        for opening, negative in (("=", False), ("!", True)):
            if self._take(opening):
                return look(self._closed(start), negative, start)
        for opening, negative in (("<=", False), ("<!", True)):
            if self._take(opening):
                return self._behind(self._closed(start), negative, start)
        if self._take(":"):
            return self._closed(start)
        if self._python and self._take("#"):
            end = self._text.find(")", self._place)
            if end < 0:
                self._refuse("a comment without its )", start)
            self._place = end + 1
            return None
        if self._take("P=") or self._take("("):
            self._refuse("backreferences and conditions are not regular, so not supported", start)
        if self._take("P<" if self._python else "<") or (not self._python and self._take("P<")):
            name, closed, _ = self._text[self._place :].partition(">")
            if not closed or not name.isidentifier():
                self._refuse("a group name like (?<name>...) was expected")
            self._place += len(name) + 1
            return self._closed(start)
        if self._take(">"):
            self._refuse("atomic groups are not supported", start, "Use (?:...) if no backtracking depends on it.")
        return self._flag_group(start)

    def _closed(self, start: int) -> Node:
        node = self._choice()
        if not self._take(")"):
            self._refuse("a ( without its )", start, r"Write \( for the character.")
        return node

    def _flag_group(self, start: int) -> Node | None:
        names = {"i": "ignore_case", "m": "multiline", "s": "dot_all"}
        if self._python:
            names |= {"x": "verbose", "a": "ascii_only", "u": ""}
        changes: dict[str, bool] = {}
        on = True
        while True:
            char = self._next("a flag, : or )")
            if char == "-" and on:
                on = False
            elif char in names:
                if names[char]:
                    changes[names[char]] = on
            elif char in ":)":
                break
            else:
                self._refuse(f"(?{char} opens no group that is supported", start)
        if char == ")":
            if start != 0:
                self._refuse("flags for the whole pattern stand at its start", start, "Use (?i:...) for a part.")
            self._flags = replace(self._flags, **changes)
            return None
        flags = self._flags
        self._flags = replace(flags, **changes)
        node = self._closed(start)
        self._flags = flags
        return node

    def _behind(self, item: Node, negative: bool, start: int) -> Node:
        edge = one_character(item, before=True)
        if edge is None:
            self._refuse("a lookbehind of more than one character is not supported", start)
        return Edge(True, complement(edge.chars), not edge.end) if negative else edge

    # --- escapes and classes

    def _escape(self) -> Node:
        place = self._place - 1
        char = self._next(r"a character after \ ")
        if char in "bB":
            return self._word_edge(inside=char == "B")
        if self._python and char in "AZ":
            return START if char == "A" else END
        octal = re.compile("[0-3][0-7][0-7]").match(self._text, self._place - 1) if self._python else None
        if octal is not None:
            self._place = octal.end()
            return Set(self._fold(self._single(int(octal[0], 8), place)))
        if char in "123456789" or char == "k":
            self._refuse("backreferences are not regular, so not supported", place)
        self._place -= 1
        return Set(self._fold(self._escaped_set()))

    def _word_edge(self, *, inside: bool) -> Node:
        word = self._word()
        other = complement(word)
        left, right = Edge(True, word, end=False), Edge(True, other, end=True)
        after, after_other = Edge(False, word, end=False), Edge(False, other, end=True)
        pairs = ((left, after), (right, after_other)) if inside else ((left, after_other), (right, after))
        return Choice(tuple(Sequence(pair) for pair in pairs))

    def _word(self) -> Ranges:
        if not self._python or self._flags.ascii_only:
            return WORD
        return union(known_property("L"), known_property("N"), ranges("_"))

    def _escaped_set(self) -> Ranges:
        """The set that an escape stands for; the place is behind the backslash."""
        place = self._place - 1
        char = self._next(r"a character after \ ")
        lower = char.lower()
        if lower in "dws":
            plain = not self._python or self._flags.ascii_only
            if lower == "d":
                chars = DIGITS if plain else known_property("Nd")
            elif lower == "w":
                chars = self._word()
            else:
                chars = (ASCII_SPACE if self._python else ECMA_SPACE) if plain else PYTHON_SPACE
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
