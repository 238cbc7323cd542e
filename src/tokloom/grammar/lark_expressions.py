"""What may stand in the rules and terminals of Lark's notation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokloom.errors import GrammarError
from tokloom.grammar.expression import ANY_TEXT, EMPTY, Both, Chars, Except, Expression, Special
from tokloom.grammar.lark_terminals import regex_terminal, string_terminal
from tokloom.grammar.merge import apart
from tokloom.grammar.simplify import concat, either, repeat
from tokloom.grammar.source import Source

SPACE = re.compile(r"(?:[ \t\f]|(?://|#)[^\n]*|\\\r?\n)+")
LINES = re.compile(r"(?:\s|(?://|#)[^\n]*)+")
_NEXT_ALTERNATIVE = re.compile(r"(?:\s|(?://|#)[^\n]*)*\|")
TERMINAL = re.compile(r"(_?[A-Z][A-Z0-9_]*)(?![a-z])")
NAME = re.compile(r"_?[A-Za-z]\w*(?:-\w+)*")
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_REGEX = re.compile(r"/(?!/)((?:\\/|\\\\|[^/\n])*?)/([imslux]*)")
_TILDE = re.compile(r"~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
_BOUNDS = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
_SPECIAL = re.compile(r"<([^<>\s]+)>")


_LONGEST_INSTANCE = 20_000
"""Characters of a template with its arguments written out; a template that never ends its calls gets there soon."""


@dataclass(frozen=True)
class Template:
    """A rule with parameters: where its body stands, and their names."""

    place: int
    parameters: tuple[str, ...]


class ExpressionReader:
    """Reads expressions from a place in a text; templates and whether anything is ignored are known before."""

    def __init__(self, grammar: str) -> None:
        self.source = Source(grammar)
        self._templates: dict[str, Template] = {}
        self._ignored: list[Expression] = []
        self._arguments: Mapping[str, Expression] = {}
        self._in_terminal = False

    def _gap(self) -> Expression:
        return self.source.use("%ignore", 0) if self._ignored else EMPTY

    def _alternatives(self) -> Expression:
        items = [self._sequence()]
        while self.source.match(_NEXT_ALTERNATIVE):
            items.append(self._sequence())
        return either(*items)

    def _sequence(self) -> Expression:
        source, items = self.source, list[Expression]()
        while True:
            source.match(SPACE if source.depth == 0 else LINES)
            item = self._repeated()
            if item is None:
                break
            while self._in_terminal:
                source.match(SPACE if source.depth == 0 else LINES)
                if not source.take("&"):
                    break
                source.match(LINES)
                other = self._repeated()
                if other is None:
                    source.expected('an item after "&"')
                item = Both((item, other))
            items.append(item)
        if source.take("->"):
            source.match(SPACE)
            if source.match(NAME) is None:
                source.expected('the name of an alias after "->"')
            source.match(SPACE)
        return concat(*items)

    def _repeated(self) -> Expression | None:
        source = self.source
        negated = self._in_terminal and source.take("~")
        item = self._item()
        if item is None:
            if negated:
                source.expected('an item after "~"')
            return None
        if negated:
            item = Except(ANY_TEXT, item)
        while True:
            place = source.place
            source.match(re.compile(r"[ \t]+(?=[~{])"))
            if source.take("*"):
                bounds: tuple[int, int | None] = (0, None)
            elif source.take("+"):
                bounds = (1, None)
            elif source.take("?"):
                bounds = (0, 1)
            elif (tilde := source.match(_TILDE)) is not None:
                bounds = (int(tilde[1]), int(tilde[2] or tilde[1]))
            elif (braces := source.match(_BOUNDS)) is not None:
                minimum = int(braces[1] or 0)
                bounds = (minimum, (int(braces[3]) if braces[3] else None) if braces[2] else minimum)
            else:
                source.place = place
                return item
            if bounds[1] is not None and bounds[1] < bounds[0]:
                source.refuse("the first number of a repeat is the larger one", place)
            item = repeat(item, *bounds)

    def _item(self) -> Expression | None:
        source, place = self.source, self.source.place
        for start, end, optional in (("(", ")", False), ("[", "]", True)):
            if source.take(start):
                source.deeper()
                inner = self._alternatives()
                source.match(LINES)
                if not source.take(end):
                    source.expected(f'"{end}" for the "{start}" of {source.where(place)}')
                source.depth -= 1
                return repeat(inner, 0, 1) if optional else inner
        literal = self._literal()
        if literal is not None:
            return literal if self._in_terminal else concat(literal, self._gap())
        if source.peek("<"):
            return self._special()
        if source.peek("%"):
            return self._nested(place)
        if source.peek("@"):
            source.refuse("references to other grammars (@name) are not supported")
        return self._reference()

    def _literal(self) -> Expression | None:
        """A string, range or regex."""
        source, place = self.source, self.source.place
        string = source.match(STRING)
        if string is not None:
            flag = source.match(re.compile(r"i(?![\w])"))
            item = string_terminal(source, string[0], place, flag[0] if flag else "")
            dots = source.match(re.compile(r"\s*\.\.\s*"))
            return item if dots is None else self._range(string[0], place)
        regex = source.match(_REGEX)
        if regex is not None:
            return regex_terminal(source, regex[1], regex[2], place)
        if source.peek('"') or source.peek("/"):
            source.refuse(f"a {source.text[place]} without its end", place)
        return None

    def _range(self, first: str, place: int) -> Expression:
        source = self.source
        last = source.match(STRING)
        if last is None:
            source.expected('a text after ".."')
        ends = [string_terminal(source, end, place, "") for end in (first, last[0])]
        codes = [end.data.decode() for end in ends if not isinstance(end, Chars) and hasattr(end, "data")]
        if len(codes) != 2 or any(len(code) != 1 for code in codes):
            source.refuse("a range needs a single character at both ends", place)
        if codes[1] < codes[0]:
            source.refuse("a range whose end comes before its start", place)
        return Chars(((ord(codes[0]), ord(codes[1])),))

    def _special(self) -> Expression:
        source, place = self.source, self.source.place
        found = source.match(_SPECIAL)
        if found is None:
            source.expected("a special token like <|end|>")
        if found[1].startswith("["):
            source.refuse("tokens by number are not supported", place, "Write the token's text: <|end|>.")
        if self._in_terminal:
            source.refuse("a special token can't stand in a terminal", place, "Use it in a rule.")
        return concat(Special(found[0]), self._gap())

    def _nested(self, place: int) -> Expression:
        source = self.source
        if source.take("%json"):
            source.match(LINES)
            schema = self._json()
            if self._in_terminal:
                source.refuse("%json can't stand in a terminal", place, "Use it in a rule.")
            from tokloom.grammar.json_schema import from_json_schema

            try:
                inner = apart(from_json_schema(schema), f"json at {place}")
            except GrammarError as error:
                source.refuse(f"the schema is not usable: {error.where}: {error.problem}", place)
            source.rules.update(inner.rules)
            return concat(inner.start, self._gap())
        return source.refuse("of % only %json may stand in a rule", place)

    def _json(self) -> Any:
        source = self.source
        try:
            value, source.place = json.JSONDecoder().raw_decode(source.text, source.place)
        except json.JSONDecodeError as error:
            source.refuse(f"JSON was expected ({error.msg})", error.pos)
        return value

    def _reference(self) -> Expression | None:
        source, place = self.source, self.source.place
        terminal = source.match(TERMINAL)
        if terminal is not None:
            item: Expression = source.use(terminal[1], place)
            return item if self._in_terminal else concat(item, self._gap())
        rule = source.match(re.compile(r"_?[a-z]\w*(?:-\w+)*"))
        if rule is None:
            return None
        name = rule[0]
        if name in self._arguments:
            return self._arguments[name]
        if self._in_terminal:
            source.refuse(f"the rule {name!r} can't stand in a terminal", place, "Terminals have capital letters.")
        if source.peek("{") and name in self._templates:
            return self._instance(name, place)
        return source.use(name, place)

    def _instance(self, name: str, place: int) -> Expression:
        """The rule of a template for the arguments that follow; made once for equal arguments."""
        source, template = self.source, self._templates[name]
        source.take("{")
        arguments = [self._alternatives()]
        while source.take(","):
            arguments.append(self._alternatives())
        if not source.take("}"):
            source.expected('"," or "}"')
        if len(arguments) != len(template.parameters):
            source.refuse(f"{name} takes {len(template.parameters)} arguments, not {len(arguments)}", place)
        rule = f"{name}{{{arguments}}}"
        if rule not in source.rules:
            if len(rule) > _LONGEST_INSTANCE:
                source.refuse(f"the template {name!r} calls itself with ever new arguments", place)
            source.rules[rule] = EMPTY  # so that a template may call itself
            outer, back, depth = self._arguments, source.place, source.depth
            self._arguments = dict(zip(template.parameters, arguments, strict=True))
            source.place, source.depth = template.place, 0
            source.rules[rule] = self._alternatives()
            self._arguments, source.place, source.depth = outer, back, depth
        return source.use(rule, place)
