"""Lark's notation: ``start: "a" INT ("," INT)*`` with terminals in capitals.

The language is the one that Lark's Earley parser with its dynamic lexer accepts: a terminal may end wherever its
expression allows, so that `NAME NAME` also splits "ab". Priorities, aliases and the marks ? and ! shape trees and
change no language. A lookaround in a terminal sees the terminal's own text only.

Of what others have added: ``<|special|>`` tokens, ``%json {schema}``, ``A & B`` and ``~A`` in terminals,
``x{2,5}``, and the attributes ``[lazy]``, ``[suffix="..."]`` and ``[capture]`` of rules.
"""

from __future__ import annotations

import re

from tokloom.grammar.expression import ANY_CHAR, EMPTY, Except, Expression, Grammar, Repeat
from tokloom.grammar.lark_expressions import LINES, NAME, SPACE, STRING, TERMINAL, ExpressionReader, Template
from tokloom.grammar.lark_terminals import COMMON, common, string_terminal
from tokloom.grammar.simplify import concat, either, repeat

_RULE = re.compile(r"[?!]{0,2}(_?[a-z]\w*(?:-\w+)*)")
_PRIORITY = re.compile(r"\.-?\d+")


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


class _Reading(ExpressionReader):
    """Reads a text in two passes: templates and ignored terminals first, as rules above them need both."""

    def __init__(self, grammar: str) -> None:
        super().__init__(grammar)
        self._imports: dict[str, str] = {}

    def statements(self) -> None:
        """Reads all of the text."""
        source = self.source
        self._find_templates_and_ignored()
        source.place = 0
        source.match(LINES)
        while not source.at_end:
            self._statement()
            if not source.at_end and source.match(re.compile(r"\r?\n")) is None:
                source.expected('"|", an item or the end of the line')
            source.match(LINES)
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
            self._templates[found[1]] = Template(found.end(), parameters)
        if re.search(r"(?m)^[ \t]*%ignore\b", text_):
            self._ignored.append(EMPTY)  # there will be some: gaps are references until all are known

    # --- statements

    def _statement(self) -> None:
        source, place = self.source, self.source.place
        if source.peek("%"):
            self._directive()
            return
        terminal = source.match(TERMINAL)
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
        self.source.match(SPACE)
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
            source.match(SPACE)
            place = source.place
            name = source.match(NAME)
            if name is None:
                source.expected("an attribute")
            value = None
            if source.match(re.compile(r"\s*=\s*")):
                string = source.match(STRING) or source.match(re.compile(r"[\w.]+"))
                if string is None:
                    source.expected("the attribute's value")
                value = string[0]
            if name[0] not in ("lazy", "suffix", "capture"):
                source.refuse(f"the attribute {name[0]!r} is not supported", place)
            if name[0] == "suffix" and (value is None or value[0] != '"'):
                source.refuse('the attribute suffix needs a text: suffix="..."', place)
            found[name[0]] = value
            source.match(SPACE)
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
        source.match(SPACE)
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
        source.match(SPACE)
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
