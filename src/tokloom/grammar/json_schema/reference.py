"""docs/json-schema.md: by keyword, what of JSON Schema is enforced, and what the official test suite says of it.

Keywords, formats and their limits come from the front end's own tables; the counts from the results that the tests
hold against the official suite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tokloom.grammar.json_schema import formats
from tokloom.grammar.json_schema.keywords import KEYWORDS, Keyword

Table = Callable[[tuple[str, ...], Sequence[tuple[str, ...]]], str]

RESULTS = Path("tests") / "grammar" / "json_schema" / "suite" / "results.json"

INTRODUCTION = """# JSON Schema

`tokloom.grammar.json_schema.from_json_schema(schema)` makes the grammar of the JSON texts that are valid by a schema:
drafts 4, 6, 7, 2019-09 and 2020-12, by `$schema`, 2020-12 if there is none. What the grammar produces is valid. A
keyword that can't be enforced is an error that names it and its JSON pointer; with `lenient=True` it is listed instead.

- Properties may come in any order, each once; `property_order="schema"` keeps them in the schema's. A name that the
  schema doesn't give may come twice, which no grammar can prevent: JSON readers keep the last.
- Whitespace is "free" by default: compact, spaced and indented texts are all accepted, but no long runs of blanks.
  "compact" and a number (an indentation) allow one layout only.
- Strings are text: lone surrogates are not produced, printable ASCII is not escaped, other characters may be.
- Bounds and multiples of numbers are exact, in decimals. An integer may end in `.0` (not in draft 4). Numbers with
  multiples and integers have no exponent; bounded numbers have one only in the form that JSON writers use for very
  large and very small numbers.
- `format` is enforced, other than the specification's default; `formats=False` turns that off.

"suite" is how many of the official suite's required tests for drafts 4 and 2020-12 come out as they should, then how
many are in schemas that are refused, and how many valid instances a stricter grammar does not have (formats, which
the suite takes for remarks there, and vocabularies, which are not read). No invalid instance is accepted in any.
"""

GROUPS = ("any value", "numbers", "strings", "arrays", "objects", "combinations", "references")
DRAFTS = {4: "4", 6: "6", 7: "7", 2019: "2019-09", 2020: "2020-12"}


def page(root: Path, table: Table) -> str:
    """The page, without the mark on top. root: the repository; table: from `generate.py`."""
    counts = _counts(json.loads((root / RESULTS).read_text(encoding="utf-8")))
    parts = [INTRODUCTION]
    for group in GROUPS:
        rows = [
            (f"`{each.name}`", _drafts(each), each.limits or "in full", _suite(counts.pop(each.name, {})))
            for each in KEYWORDS
            if each.group == group
        ]
        parts.append(f"\n## {group.capitalize()}\n\n" + table(("keyword", "drafts", "enforced", "suite"), rows))
    ignored = ", ".join(f"`{each.name}`" for each in KEYWORDS if each.group == "annotations")
    parts.append(f"\n## Annotations\n\nThey say nothing about instances, and are passed over: {ignored}.\n")
    limits = [(f"`{name}`", formats.LIMITS.get(name, "in full")) for name in sorted(formats.NAMES)]
    parts.append("\n## Formats\n\n" + table(("format", "enforced"), limits))
    rest = [(name, _suite(each)) for name, each in sorted(counts.items())]
    parts.append("\n## Other parts of the suite\n\n" + table(("tests", "suite"), rest))
    return "".join(parts)


def _counts(results: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The drafts' counts by keyword, together."""
    total: dict[str, dict[str, int]] = {}
    for by_keyword in results.values():
        for keyword, counts in by_keyword.items():
            mine = total.setdefault("$ref" if keyword == "ref" else keyword, {})
            for outcome, number in counts.items():
                mine[outcome] = mine.get(outcome, 0) + number
    return {{"dynamicRef": "$dynamicRef", "anchor": "$anchor"}.get(name, name): each for name, each in total.items()}


def _suite(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    extra = [f"{counts[each]} {each}" for each in ("refused", "stricter") if counts.get(each)]
    return ", ".join([f"{counts.get('agree', 0)} of {sum(counts.values())}", *extra])


def _drafts(keyword: Keyword) -> str:
    if keyword.since == 4 and keyword.until == 2020:
        return "all"
    if keyword.since == keyword.until:
        return DRAFTS[keyword.since]
    if keyword.until == 2020:
        return f"since {DRAFTS[keyword.since]}"
    return f"up to {DRAFTS[keyword.until]}"
