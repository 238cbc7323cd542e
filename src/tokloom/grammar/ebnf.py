"""EBNF as ISO 14977 and as the W3C's specifications write it.

``=`` begins a rule of ISO (``expr = term, { "+", term } ;``), ``::=`` one of the W3C
(``Expr ::= Term ('+' Term)*``). Both kinds may stand in one text. The comma is optional. A backslash stands
for itself, in texts and in classes; a character by number is ``#x41``.
"""

from __future__ import annotations

import re

from tokloom.grammar.char_class import read_class
from tokloom.grammar.characters import Ranges, difference, union
from tokloom.grammar.expression import Chars, Either, Except, Expression, Grammar, Literal, text
from tokloom.grammar.simplify import concat, either, repeat
from tokloom.grammar.source import Source

_NAME = re.compile(r"[^\W\d][\w-]*(?<!-)")
_ANGLED = re.compile(r"<([^<>\n=|;]+)>")
_SPACE = re.compile(r"(?:\s|\(\*.*?\*\)|/\*.*?\*/|//[^\n]*|\[\s*(?:wfc|vc|WFC|VC)\s*:[^\]]*\])+", re.DOTALL)
_BEGIN = re.compile(r"(?:\[\d+[a-z]?\]\s*)?(?:<[^<>\n=|;]+>|[^\W\d][\w-]*)\s*(?:::=|:=|=)")
_NUMBERED = re.compile(r"\[\d+[a-z]?\]")
_CODE = re.compile(r"#x([0-9A-Fa-f]+)")
_COUNT = re.compile(r"(\d+)\s*\*")
_BOUNDS = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")


def parse_ebnf(grammar: str, *, start: str | None = None) -> Grammar:
    """The grammar of an EBNF text; its first rule is the start if `start` names none.

    `A - B` is what is A and not B, and needs both to be regular. A class `[a-z]` of the W3C and an option
    `[ item ]` are told apart by the space or quote after the bracket.

    Raises:
        GrammarError: the text is no EBNF, or a rule is missing; `where` is "line L, column C".
    """
    reading = _Reading(grammar)
    with reading.source.bounded():
        first = reading.rules()
    return reading.source.grammar(start if start is not None else first)


class _Reading:
    def __init__(self, grammar: str) -> None:
        self.source = Source(grammar)
        self._w3c = False

    def rules(self) -> str:
        """Reads all rules; the name of the first."""
        source, first = self.source, ""
        source.match(_SPACE)
        while not source.at_end:
            source.match(_NUMBERED)
            source.match(_SPACE)
            place = source.place
            name = self._name()
            if name is None:
                source.expected("the name of a rule")
            source.match(_SPACE)
            if source.take("::=") or source.take(":="):
                self._w3c = True
            elif source.take("="):
                self._w3c = False
            else:
                source.expected(f'"=" or "::=" after the name {name!r}')
            source.define(name, self._alternatives(), place)
            first = first or name
            if not source.take(";"):
                source.take(".")
            source.match(_SPACE)
            if not source.at_end and source.see(_BEGIN) is None:
                source.expected("an item or the next rule")
        if not first:
            source.expected("a rule")
        return first

    def _name(self) -> str | None:
        angled = self.source.match(_ANGLED)
        if angled is not None:
            return angled[1].strip()
        name = self.source.match(_NAME)
        return name[0] if name is not None else None

    def _alternatives(self) -> Expression:
        items = [self._sequence()]
        while self.source.take("|"):
            items.append(self._sequence())
        return either(*items)

    def _sequence(self) -> Expression:
        source, items = self.source, list[Expression]()
        while True:
            source.match(_SPACE)
            if source.see(_BEGIN) is not None:
                return concat(*items)
            item = self._repeated()
            if item is None:
                if source.peek(","):
                    source.expected("an item")
                return concat(*items)
            source.match(_SPACE)
            while source.peek("-"):
                source.take("-")
                source.match(_SPACE)
                removed = self._repeated()
                if removed is None:
                    source.expected('an item after "-"')
                item = _without(item, removed)
                source.match(_SPACE)
            items.append(item)
            if source.take(","):
                source.match(_SPACE)
                if source.at_end or source.peek(";") or source.peek("|"):
                    source.expected("an item")

    def _repeated(self) -> Expression | None:
        source = self.source
        count = source.match(_COUNT)
        if count is not None:
            source.match(_SPACE)
        place = source.place
        item = self._item()
        if item is None:
            if count is not None:
                source.expected(f'an item after "{count[0]}"')
            return None
        if count is not None:
            return repeat(item, int(count[1]), int(count[1]))
        while True:
            if source.take("*"):
                item = repeat(item, 0, None)
            elif source.take("+"):
                item = repeat(item, 1, None)
            elif source.take("?"):
                item = repeat(item, 0, 1)
            elif (found := source.match(_BOUNDS)) is not None:
                minimum = int(found[1])
                maximum = (int(found[3]) if found[3] else None) if found[2] else minimum
                if maximum is not None and maximum < minimum:
                    source.refuse("the first number of a repeat is the larger one", place)
                item = repeat(item, minimum, maximum)
            else:
                return item

    def _item(self) -> Expression | None:
        source, place = self.source, self.source.place
        for quote in ("'", '"'):
            if source.take(quote):
                end = source.text.find(quote, source.place)
                if end < 0:
                    source.refuse(f"a {quote} without its end", place)
                quoted = source.text[source.place : end]
                source.place = end + 1
                return text(quoted)
        if source.take("?"):
            source.refuse("special sequences (? ... ?) are not supported", place)
        if source.take("("):
            return self._group(")", place)
        if source.take("{"):
            return repeat(self._group("}", place), 0, None)
        if source.peek("["):
            if self._is_class():
                return self._class()
            source.take("[")
            return repeat(self._group("]", place), 0, 1)
        code = source.match(_CODE)
        if code is not None:
            return text(chr(self._code(code, place)))
        name = self._name()
        return source.use(name, place) if name is not None else None

    def _group(self, end: str, place: int) -> Expression:
        source = self.source
        source.deeper()
        inner = self._alternatives()
        if not source.take(end):
            source.expected(f'"{end}" for the bracket of {source.where(place)}')
        source.depth -= 1
        return inner

    def _code(self, found: re.Match[str], place: int) -> int:
        code = int(found[1], 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.source.refuse(f"{found[0]} is no Unicode character", place)
        return code

    # --- classes

    def _is_class(self) -> bool:
        """Whether the bracket here opens a class and not an option."""
        source = self.source
        if not self._w3c:
            return False
        inside = source.text[source.place + 1 :]
        first = inside[:1]
        if not first or first.isspace() or first in "[(<{":
            return False
        if first in "'\"":
            return first not in inside[1:].partition("]")[0]
        body = inside.partition("]")[0]
        if (
            re.fullmatch(r"[^\W\d][\w-]*", body)
            and "-" not in body
            and re.search(rf"(?m)\b{body}\s*:?:?=", source.text)
        ):
            source.refuse(
                f"[{body}] may be a class of characters or the optional rule {body!r}",
                hint=f"Write {body}? or [ {body} ].",
            )
        return True

    def _class(self) -> Expression:
        source, start = self.source, self.source.place
        source.take("[")
        negative = source.take("^")

        def one() -> int:
            place = source.place
            code = source.match(_CODE)
            if code is not None:
                return self._code(code, place)
            if source.at_end:
                source.refuse("a [ without its ]", start)
            return ord(source.next("a character of the class"))

        return read_class(source, one, negative=negative)


def _without(item: Expression, removed: Expression) -> Expression:
    """Characters are subtracted at once, so that the common case stays plain."""
    chars, fewer = _characters(item), _characters(removed)
    if chars is None or fewer is None:
        return Except(item, removed)
    left = difference(chars, fewer)
    return Chars(left) if left else either()


def _characters(expression: Expression) -> Ranges | None:
    """The set, if it is one character out of a set."""
    match expression:
        case Chars(ranges):
            return ranges
        case Literal(data) if len(string := data.decode()) == 1:
            return ((ord(string), ord(string)),)
        case Either(items):
            sets = [chars for item in items if (chars := _characters(item)) is not None]
            return union(*sets) if len(sets) == len(items) else None
    return None
