"""Reads the text of a regular expression into nodes."""

from __future__ import annotations

import re
from dataclasses import replace

from tokloom.grammar.characters import complement, ranges
from tokloom.grammar.regex.classes import ECMA_LINE
from tokloom.grammar.regex.escapes import CharacterReader, Dialect
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

_QUANTIFIER = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_PYTHON_QUANTIFIER = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
_DEEPEST = 100


class Parser(CharacterReader):
    """One reading of one pattern; `parse` is called once."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        super().__init__(pattern, dialect)
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._place < len(self._text):
            self._refuse("a ) without a (", hint=r"Write \) for the character.")
        return node

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
        minimum, maximum = bounds
        if maximum is not None and maximum < minimum:
            self._refuse(f"a repeat from {minimum} to {maximum}: the first number is the larger one", start)
        loop: Node = Loop(item, minimum, maximum, start)
        if self._take("?"):
            pass  # lazy: the same strings
        elif self._python and self._take("+"):
            if not isinstance(item, Set):
                self._refuse(
                    "a possessive quantifier after more than a single character is not supported",
                    self._place - 1,
                    "Use the plain quantifier if the rest can't begin like the repeated part.",
                )
            loop = Cut(Loop(item, minimum, maximum, start))
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
        minimum = int(match[1] or 0)
        if match[2] is None:
            return minimum, minimum
        return minimum, int(match[3]) if match[3] else None

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
