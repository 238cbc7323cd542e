"""Languages of text that strings and property names are held to: patterns, formats, and given strings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from tokloom.grammar.expression import Both, Either, Except, Expression, Repeat
from tokloom.grammar.json_schema import formats, regular
from tokloom.grammar.json_schema.spelling import CHARACTER, spell, spell_text
from tokloom.grammar.regex import parse_regex


@lru_cache(maxsize=2000)
def _pattern(source: str) -> Expression:
    return parse_regex(source, "ecma", search=True)


@lru_cache(maxsize=2000)
def _spelled_pattern(source: str) -> Expression:
    return spell(_pattern(source))


@lru_cache(maxsize=100)
def _spelled_format(name: str) -> Expression:
    return spell(formats.expression(name))


@dataclass(frozen=True, slots=True)
class Pattern:
    """The strings in which a regular expression has a match."""

    source: str

    def contains(self, text: str) -> bool:
        return regular.matches(_pattern(self.source), text)

    def spelled(self) -> Expression:
        return _spelled_pattern(self.source)

    def check(self) -> None:
        """Raises GrammarError if the regular expression is wrong or not supported."""
        _pattern(self.source)


@dataclass(frozen=True, slots=True)
class Format:
    """The strings of a format of the specification."""

    name: str

    def contains(self, text: str) -> bool:
        return regular.matches(formats.expression(self.name), text)

    def spelled(self) -> Expression:
        return _spelled_format(self.name)


@dataclass(frozen=True, slots=True)
class Strings:
    """These strings."""

    values: frozenset[str]

    def contains(self, text: str) -> bool:
        return text in self.values

    def spelled(self) -> Expression:
        return Either(tuple(spell_text(value) for value in sorted(self.values)))


@dataclass(frozen=True, slots=True)
class Within:
    """The strings of `minimum` to `maximum` characters that are in all languages `inside` and in none `outside`."""

    minimum: int = 0
    maximum: int | None = None
    inside: tuple[Language, ...] = ()
    outside: tuple[Language, ...] = ()

    def contains(self, text: str) -> bool:
        return (
            self.minimum <= len(text) <= (len(text) if self.maximum is None else self.maximum)
            and all(language.contains(text) for language in self.inside)
            and not any(language.contains(text) for language in self.outside)
        )

    def spelled(self) -> Expression:
        parts = [language.spelled() for language in self.inside]
        if not parts or self.minimum or self.maximum is not None:
            parts.append(Repeat(CHARACTER, self.minimum, self.maximum))
        found = parts[0] if len(parts) == 1 else Both(tuple(parts))
        if self.outside:
            removed = [language.spelled() for language in self.outside]
            found = Except(found, removed[0] if len(removed) == 1 else Either(tuple(removed)))
        return found


Language: TypeAlias = Pattern | Format | Strings | Within
