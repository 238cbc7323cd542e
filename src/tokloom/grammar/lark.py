"""Lark's notation: ``start: "a" INT ("," INT)*`` with terminals in capitals.

The language is the one that Lark's Earley parser with its dynamic lexer accepts: a terminal may end wherever its
expression allows, so that `NAME NAME` also splits "ab". Priorities, aliases and the marks ? and ! shape trees and
change no language. A lookaround in a terminal sees the terminal's own text only.

Of what others have added: ``<|special|>`` tokens, ``%json {schema}``, ``A & B`` and ``~A`` in terminals,
``x{2,5}``, and the attributes ``[lazy]``, ``[suffix="..."]`` and ``[capture]`` of rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokloom.errors import GrammarError
from tokloom.grammar.expression import (
    ANY_CHAR,
    ANY_TEXT,
    EMPTY,
    Both,
    Chars,
    Except,
    Expression,
    Grammar,
    Repeat,
    Special,
)
from tokloom.grammar.lark_terminals import COMMON, common, regex_terminal, string_terminal
from tokloom.grammar.merge import apart
from tokloom.grammar.simplify import concat, either, repeat
from tokloom.grammar.source import Source

_SPACE = re.compile(r"(?:[ \t\f]|(?://|#)[^\n]*|\\\r?\n)+")
_LINES = re.compile(r"(?:\s|(?://|#)[^\n]*)+")
_NEXT_ALTERNATIVE = re.compile(r"(?:\s|(?://|#)[^\n]*)*\|")
_RULE = re.compile(r"[?!]{0,2}(_?[a-z]\w*(?:-\w+)*)")
_TERMINAL = re.compile(r"(_?[A-Z][A-Z0-9_]*)(?![a-z])")
_NAME = re.compile(r"_?[A-Za-z]\w*(?:-\w+)*")
_PRIORITY = re.compile(r"\.-?\d+")
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_REGEX = re.compile(r"/(?!/)((?:\\/|\\\\|[^/\n])*?)/([imslux]*)")
_TILDE = re.compile(r"~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
_BOUNDS = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
_SPECIAL = re.compile(r"<([^<>\s]+)>")


_LONGEST_INSTANCE = 20_000
"""Characters of a template with its arguments written out; a template that never ends its calls gets there soon."""


@dataclass(frozen=True)
class _Template:
    """A rule with parameters: where its body stands, and their names."""

    place: int
    parameters: tuple[str, ...]


def parse_lark(grammar: str, *, start: str = "start") -> Grammar:
    """The grammar of a Lark text.

    Raises:
        GrammarError: the text is no Lark grammar, a rule is missing, or a directive, import or attribute is not
            supported (named); `where` is "line L, column C".
    """
    reading = _Reading(grammar)
    with reading.source.bounded():
        reading.statements()
    return reading.grammar(start)


class _Reading:
    """Reads a text in two passes: templates and ignored terminals first, as rules above them need both."""

    def __init__(self, grammar: str) -> None:
        self.source = Source(grammar)
        self._templates: dict[str, _Template] = {}
        self._ignored: list[Expression] = []
        self._arguments: Mapping[str, Expression] = {}
        self._in_terminal = False
        self._imports: dict[str, str] = {}

    def statements(self) -> None:
        """Reads all of the text."""
        source = self.source
        self._find_templates_and_ignored()
        source.place = 0
        source.match(_LINES)
        while not source.at_end:
            self._statement()
            if not source.at_end and source.match(re.compile(r"\r?\n")) is None:
                source.expected('"|", an item or the end of the line')
            source.match(_LINES)
        for name, alias in self._imports.items():
            self._common(name, alias)

    def grammar(self, start: str) -> Grammar:
        """What has been read, from the rule `start` on."""
        found = self.source.grammar(start)
        if not self._ignored:
            return found
        return Grammar(concat(self._gap(), found.start), found.rules)

    def _find_templates_and_ignored(self) -> None:
        text_ = self.source.text
        for found in re.finditer(r"(?m)^[?!]{0,2}(_?[a-z]\w*(?:-\w+)*)\{([^}\n]*)\}(?:\.-?\d+)?[ \t]*:", text_):
            parameters = tuple(part.strip() for part in found[2].split(","))
            self._templates[found[1]] = _Template(found.end(), parameters)
        if re.search(r"(?m)^[ \t]*%ignore\b", text_):
            self._ignored.append(EMPTY)  # there will be some: gaps are references until all are known

    def _gap(self) -> Expression:
        return self.source.use("%ignore", 0) if self._ignored else EMPTY

    # --- statements

    def _statement(self) -> None:
        source, place = self.source, self.source.place
        if source.peek("%"):
            self._directive()
            return
        terminal = source.match(_TERMINAL)
        if terminal is not None:
            source.match(_PRIORITY)
            self._colon(terminal[1])
            source.define(terminal[1], self._terminal_body(), place)
            return
        rule = source.match(_RULE)
        if rule is None:
            source.expected("a rule, a terminal or a directive")
        name = rule[1]
        if source.peek("{"):
            self._skip_template()
            return
        attributes = self._attributes()
        source.match(_PRIORITY)
        self._colon(name)
        source.define(name, self._with_attributes(attributes), place)

    def _colon(self, name: str) -> None:
        self.source.match(_SPACE)
        if not self.source.take(":"):
            self.source.expected(f'":" after the name {name!r}')

    def _skip_template(self) -> None:
        """Moves over the template's body, reading it with its parameters as they are."""
        source = self.source
        place = source.place
        found = source.match(re.compile(r"\{([^}\n]*)\}(?:\.-?\d+)?[ \t]*:"))
        if found is None:
            source.expected('parameters like "{item, separator}" and ":"', place)
        self._arguments = {part.strip(): EMPTY for part in found[1].split(",")}
        self._alternatives()
        self._arguments = {}

    def _terminal_body(self) -> Expression:
        self._in_terminal = True
        body = self._alternatives()
        self._in_terminal = False
        return body

    def _attributes(self) -> dict[str, str | None]:
        source, found = self.source, dict[str, str | None]()
        if not source.take("["):
            return found
        while not source.take("]"):
            source.match(_SPACE)
            place = source.place
            name = source.match(_NAME)
            if name is None:
                source.expected("an attribute")
            value = None
            if source.match(re.compile(r"\s*=\s*")):
                string = source.match(_STRING) or source.match(re.compile(r"[\w.]+"))
                if string is None:
                    source.expected("the attribute's value")
                value = string[0]
            if name[0] not in ("lazy", "suffix", "capture"):
                source.refuse(f"the attribute {name[0]!r} is not supported", place)
            if name[0] == "suffix" and (value is None or value[0] != '"'):
                source.refuse('the attribute suffix needs a text: suffix="..."', place)
            found[name[0]] = value
            source.match(_SPACE)
            source.take(",")
        return found

    def _with_attributes(self, attributes: dict[str, str | None]) -> Expression:
        if not {"lazy", "suffix"} & set(attributes):
            return self._alternatives()
        body = self._terminal_body()
        suffix = attributes.get("suffix")
        if suffix is not None:
            body = concat(body, string_terminal(self.source, suffix, self.source.place, ""))
        # lazy: as soon as it may end it does, so that no shorter beginning is a match
        return concat(Except(body, concat(body, Repeat(ANY_CHAR, 1))), self._gap())

    # --- directives

    def _directive(self) -> None:
        source, place = self.source, self.source.place
        name = source.match(re.compile(r"%\w+"))
        source.match(_SPACE)
        match name[0] if name else "":
            case "%ignore":
                body = self._terminal_body()
                known = source.rules.get("%ignore")
                inner = known.item if isinstance(known, Repeat) else either()
                source.rules["%ignore"] = repeat(either(inner, body), 0, None)
            case "%import":
                self._import(place)
            case "%llguidance":
                options = self._json()
                if options:
                    source.refuse(f"the option {next(iter(options))!r} is not supported", place)
            case "%declare":
                source.refuse("%declare is not supported: a declared terminal has no text", place)
            case other:
                source.refuse(f"the directive {other or '%'} is not supported", place)

    def _import(self, place: int) -> None:
        source = self.source
        path = source.match(re.compile(r"[\w.]+"))
        if path is None:
            source.expected("what to import")
        module, _, name = path[0].partition(".")
        names = [name] if name else []
        source.match(_SPACE)
        alias = source.match(re.compile(r"->[ \t]*(\w+)"))
        if not names:
            listed = source.match(re.compile(r"\(([^)]*)\)"))
            names = [part.strip() for part in listed[1].split(",")] if listed is not None else []
        if module != "common":
            source.refuse(f"only %import common.NAME is supported, not {path[0]!r}", place)
        for imported in names:
            if imported not in COMMON:
                source.refuse(f"common has no {imported!r}", place, f"It has {', '.join(COMMON)}.")
            self._imports[alias[1] if alias is not None else imported] = imported

    def _common(self, name: str, imported: str) -> None:
        self.source.rules.setdefault(name, common(imported))

    # --- expressions

    def _alternatives(self) -> Expression:
        items = [self._sequence()]
        while self.source.match(_NEXT_ALTERNATIVE):
            items.append(self._sequence())
        return either(*items)

    def _sequence(self) -> Expression:
        source, items = self.source, list[Expression]()
        while True:
            source.match(_SPACE if source.depth == 0 else _LINES)
            item = self._repeated()
            if item is None:
                break
            while self._in_terminal:
                source.match(_SPACE if source.depth == 0 else _LINES)
                if not source.take("&"):
                    break
                source.match(_LINES)
                other = self._repeated()
                if other is None:
                    source.expected('an item after "&"')
                item = Both((item, other))
            items.append(item)
        if source.take("->"):
            source.match(_SPACE)
            if source.match(_NAME) is None:
                source.expected('the name of an alias after "->"')
            source.match(_SPACE)
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
                least = int(braces[1] or 0)
                bounds = (least, (int(braces[3]) if braces[3] else None) if braces[2] else least)
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
                source.match(_LINES)
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
        string = source.match(_STRING)
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
        last = source.match(_STRING)
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
            source.match(_LINES)
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
        terminal = source.match(_TERMINAL)
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
