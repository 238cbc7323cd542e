"""Grammars put together in Python.

    from tokloom.grammar.combine import choice, literal, regex, schema

    answer = literal("Answer: ") + (regex("[0-9]{1,3}") | choice("none", "unknown")) + literal(".")
    report = schema({"type": "object"}) + (literal("\\n") + answer).repeat(0, 3)

Every part has rules of its own: equal names in two parts don't meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tokloom.errors import ArgumentError
from tokloom.grammar.ebnf import parse_ebnf
from tokloom.grammar.expression import ANY_TEXT, Expression, Grammar, Special, text
from tokloom.grammar.gbnf import parse_gbnf
from tokloom.grammar.lark import parse_lark
from tokloom.grammar.merge import joined
from tokloom.grammar.regex import Dialect, parse_regex
from tokloom.grammar.simplify import concat, either
from tokloom.grammar.simplify import repeat as repeated
from tokloom.grammar.structural_tag import outside

Syntax: TypeAlias = Literal["gbnf", "lark", "ebnf"]
SYNTAXES: tuple[Syntax, ...] = get_args(Syntax)


@dataclass(frozen=True)
class Spec:
    """A grammar that can be joined to others: `a + b`, `a | b`, `a.repeat(2, 5)`, `a.optional()`.

    A string in place of a Spec is its literal text.
    """

    grammar: Grammar

    def __add__(self, other: Spec | str) -> Spec:
        return _joined(concat, self, other)

    def __radd__(self, other: str) -> Spec:
        return _joined(concat, other, self)

    def __or__(self, other: Spec | str) -> Spec:
        return _joined(either, self, other)

    def __ror__(self, other: str) -> Spec:
        return _joined(either, other, self)

    def repeat(self, minimum: int = 0, maximum: int | None = None) -> Spec:
        """`minimum` to `maximum` times; None is without bound.

        Raises:
            ArgumentError: bounds that are no integers, negative, or the wrong way round.
        """
        for name, value in (("minimum", minimum), ("maximum", maximum)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ArgumentError(name, value, "an integer >= 0")
        if maximum is not None and maximum < minimum:
            raise ArgumentError("maximum", maximum, f"at least {minimum}, which is minimum")
        return Spec(Grammar(repeated(self.grammar.start, minimum, maximum), self.grammar.rules))

    def optional(self) -> Spec:
        """Once or not at all."""
        return self.repeat(0, 1)


def _joined(join: Any, *parts: Spec | str) -> Spec:
    grammars = []
    for part in parts:
        if not isinstance(part, (Spec, str)):
            return NotImplemented
        grammars.append((literal(part) if isinstance(part, str) else part).grammar)
    starts, rules = joined(grammars)
    start: Expression = join(*starts)
    return Spec(Grammar(start, rules))


def literal(string: str) -> Spec:
    """This very text."""
    if not isinstance(string, str):
        raise ArgumentError("string", string, "a text")
    return Spec(Grammar(text(string), {}))


def special(token: str) -> Spec:
    """A special token of the tokenizer, such as ``<|im_end|>``."""
    return Spec(Grammar(Special(token), {}))


def choice(*options: Spec | str) -> Spec:
    """Any one of the options.

    Raises:
        ArgumentError: there are none.
    """
    if not options:
        raise ArgumentError("options", options, "at least one")
    return _joined(either, *options)


def regex(pattern: str, dialect: Dialect = "python") -> Spec:
    """All of the text that a regular expression matches as a whole. Raises GrammarError."""
    return Spec(Grammar(parse_regex(pattern, dialect), {}))


def schema(schema: Any, **options: Any) -> Spec:
    """JSON that is valid by a schema; options as for `from_json_schema`. Raises GrammarError."""
    from tokloom.grammar.json_schema import from_json_schema

    return Spec(from_json_schema(schema, **options))


def grammar(source: str, syntax: Syntax = "gbnf", *, start: str | None = None) -> Spec:
    """A grammar in one of the notations; `start` is its first rule if not the notation's own. Raises GrammarError."""
    return Spec(parse_grammar(source, syntax, start=start))


def parse_grammar(source: str, syntax: Syntax, *, start: str | None = None) -> Grammar:
    """The grammar of a text in one of the notations.

    Raises:
        ArgumentError: there is no such notation.
        GrammarError: the text is wrong; `where` is "line L, column C".
    """
    match syntax:
        case "gbnf":
            return parse_gbnf(source, root=start or "root")
        case "lark":
            return parse_lark(source, start=start or "start")
        case "ebnf":
            return parse_ebnf(source, start=start)
    raise ArgumentError("syntax", syntax, "one of " + ", ".join(SYNTAXES))


def free_text(*without: str) -> Spec:
    """Any text in which none of the given strings stands."""
    return Spec(Grammar(outside(without) if without else ANY_TEXT, {}))
