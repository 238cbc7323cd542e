"""GBNF, the notation of llama.cpp: ``root ::= "yes" | [0-9]+``."""

from __future__ import annotations

import re

from tokloom.grammar.char_class import read_class
from tokloom.grammar.characters import ALL
from tokloom.grammar.expression import Chars, Expression, Grammar, Special, text
from tokloom.grammar.simplify import concat, either, repeat
from tokloom.grammar.source import Source, escaped

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)+")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)+")
_BOUNDS = re.compile(r"\{[ \t\r\n]*(\d+)[ \t\r\n]*(,?)[ \t\r\n]*(\d*)[ \t\r\n]*\}")
_SPECIAL = re.compile(r"<([^<>\[\]\s]+)>")


def parse_gbnf(grammar: str, *, root: str = "root") -> Grammar:
    """The grammar of a GBNF text.

    All of the notation, left recursion included, except for tokens by number (``<[1000]>``) and negated tokens
    (``!<think>``), which are refused. ``<think>`` is the special token of that text.

    Raises:
        GrammarError: the text is no GBNF, or a rule is missing; `where` is "line L, column C".
    """
    source = Source(grammar)
    with source.bounded():
        _rules(source)
    return source.grammar(root)


def _rules(source: Source) -> None:
    source.match(_LINES)
    while not source.at_end:
        place = source.place
        name = source.match(_NAME)
        if name is None:
            source.expected("the name of a rule")
        source.match(_SPACE)
        if not source.take("::="):
            source.expected(f'"::=" after the name {name[0]!r}')
        source.match(_LINES)
        source.define(name[0], _alternatives(source, nested=False), place)
        if not source.at_end and not source.match(re.compile(r"[\r\n]")):
            source.expected("the end of the line")
        source.match(_LINES)


def _alternatives(source: Source, *, nested: bool) -> Expression:
    items = [_sequence(source, nested=nested)]
    while source.take("|"):
        source.match(_LINES)
        items.append(_sequence(source, nested=nested))
    return either(*items)


def _sequence(source: Source, *, nested: bool) -> Expression:
    """Items up to |, ) or, outside groups, the end of the line."""
    items: list[Expression] = []
    gap = _LINES if nested else _SPACE
    while True:
        source.match(gap)
        item = _item(source)
        if item is None:
            return concat(*items)
        source.match(gap)
        while True:
            bounds = _bounds(source)
            if bounds is None:
                break
            item = repeat(item, *bounds)
            source.match(gap)
        items.append(item)


def _bounds(source: Source) -> tuple[int, int | None] | None:
    for char, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
        if source.take(char):
            return bounds
    place = source.place
    if not source.peek("{"):
        return None
    found = source.match(_BOUNDS)
    if found is None:
        source.expected('a repeat like "{2}", "{2,}" or "{2,5}"')
    minimum = int(found[1])
    maximum = int(found[3]) if found[3] else None if found[2] else minimum
    if (maximum is not None and maximum < minimum) or (found[3] and not found[2]):
        source.refuse(f"{found[0]} is no repeat: the first number is the larger one", place)
    return minimum, maximum


def _item(source: Source) -> Expression | None:
    place = source.place
    if source.take('"'):
        return text(_quoted(source, place))
    if source.take("["):
        return _class(source, place)
    if source.take("("):
        source.deeper()
        source.match(_LINES)
        inner = _alternatives(source, nested=True)
        if not source.take(")"):
            source.expected(f'")" for the "(" of {source.where(place)}')
        source.depth -= 1
        return inner
    if source.take("."):
        return Chars(ALL)
    if source.peek("<") or source.peek("!"):
        return _token(source)
    name = source.see(_NAME)
    if name is None:
        return None
    after = re.compile(r"[A-Za-z0-9_-]+[ \t]*::=").match(source.text, source.place)
    if after is not None:
        source.refuse(f"the rule {name[0]!r} begins inside another one", place, "Start it on a line of its own.")
    source.match(_NAME)
    return source.use(name[0], place)


def _quoted(source: Source, start: int) -> str:
    chars: list[str] = []
    while True:
        if source.at_end or source.peek("\n"):
            source.refuse('a " without its end', start)
        char = source.next('the end of the "text"')
        if char == '"':
            return "".join(chars)
        chars.append(escaped(source, '"\\[]', "nrt") if char == "\\" else char)


def _class(source: Source, start: int) -> Expression:
    negative = source.take("^")

    def one() -> int:
        if source.at_end:
            source.refuse("a [ without its ]", start)
        char = source.next("a character of the class")
        return ord(escaped(source, '"\\[]-^', "nrt") if char == "\\" else char)

    return read_class(source, one, negative=negative)


def _token(source: Source) -> Expression:
    if source.peek("!"):
        source.refuse("negated tokens (!<...>) are not supported", hint="Use a class such as [^<]* for the text.")
    if source.peek("<["):
        source.refuse("tokens by number are not supported", hint="Write the token's text: <think>.")
    place = source.place
    found = source.match(_SPECIAL)
    if found is None:
        source.expected("a token like <think>")
    if source.text[place + 1] in "!^":
        source.refuse("negated tokens are not supported", place)
    return Special(found[0])
