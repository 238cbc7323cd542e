"""JSON Schema as a grammar of the JSON texts that are valid by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokloom.grammar.expression import NOTHING, Grammar
from tokloom.grammar.json_schema.compiler import Compiler, Order
from tokloom.grammar.json_schema.document import LATEST, Document
from tokloom.grammar.json_schema.layout import Layout, Whitespace
from tokloom.grammar.json_schema.normal import Forms, Unenforced
from tokloom.grammar.json_schema.productive import is_productive

__all__ = ["Order", "Translation", "Unenforced", "Whitespace", "from_json_schema", "translate"]


@dataclass(frozen=True)
class Translation:
    """A schema's grammar, and what of the schema it doesn't enforce: with `lenient`, what can't be enforced;
    without, formats that are not in the specification, which by its word say nothing."""

    grammar: Grammar
    unenforced: tuple[Unenforced, ...]


def from_json_schema(
    schema: dict[str, Any] | bool | str,
    *,
    whitespace: Whitespace = "free",
    property_order: Order = "any",
    lenient: bool = False,
    formats: bool = True,
    draft: int = LATEST,
    resources: Mapping[str, Any] | None = None,
) -> Grammar:
    """The grammar of the JSON texts that are valid by a schema.

    Everything that the grammar produces is valid, but for the schemas named below; what it doesn't produce though
    it is valid is a matter of spelling (`spelling`, `layout` and `numerals` say which are produced) and of the
    limits in `keywords` and `formats`.

    Args:
        schema: Python data, or JSON text, in which numbers keep all their digits.
        whitespace: "free" takes compact, spaced and indented texts; "compact" has none; a number is an indentation.
        property_order: "any", or "schema" for the order of `properties`, with others after them.
        lenient: ignore what can't be enforced; `translate` lists it.
        formats: enforce `format`.
        draft: 4, 6, 7, 2019 or 2020, for a schema without `$schema`.
        resources: other documents that references may lead to, by URI. Nothing is fetched.

    Raises:
        GrammarError: the schema is not valid, or no value is valid by it, or (unless lenient) a keyword can't be
            enforced; `where` is the JSON pointer.
        ArgumentError: an option's value is not valid.
    """
    return translate(
        schema, whitespace=whitespace, property_order=property_order, lenient=lenient, formats=formats, draft=draft,
        resources=resources,
    ).grammar  # fmt: skip


def translate(
    schema: dict[str, Any] | bool | str,
    *,
    whitespace: Whitespace = "free",
    property_order: Order = "any",
    lenient: bool = False,
    formats: bool = True,
    draft: int = LATEST,
    resources: Mapping[str, Any] | None = None,
) -> Translation:
    """As `from_json_schema`, with the list of what is not enforced."""
    document = Document(schema, resources, draft)
    forms = Forms(document, lenient=lenient, formats=formats)
    compiler = Compiler(forms, Layout(whitespace), property_order)
    try:
        grammar = Grammar(compiler.value(forms.node(document.root), 0), compiler.rules)
    except RecursionError:
        raise document.root.error("the schema is nested too deeply when written out") from None
    if grammar.start == NOTHING or (compiler.recursive and not is_productive(grammar)):
        raise document.root.error("no value is valid by this schema", hint="Its keywords contradict each other.")
    return Translation(grammar, tuple(forms.unenforced))
