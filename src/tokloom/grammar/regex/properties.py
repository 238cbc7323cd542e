"""Unicode properties by name: general categories, scripts and some binary ones.

The table is `unicode.txt`, written by tools/unicode_properties.py. Names are read loosely, without regard to
case, spaces, hyphens and underscores.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from tokloom.grammar.characters import ALL, Ranges, complement, union

_CATEGORIES = {
    "Lu": "Uppercase_Letter",
    "Ll": "Lowercase_Letter",
    "Lt": "Titlecase_Letter",
    "Lm": "Modifier_Letter",
    "Lo": "Other_Letter",
    "Mn": "Nonspacing_Mark",
    "Mc": "Spacing_Mark",
    "Me": "Enclosing_Mark",
    "Nd": "Decimal_Number digit",
    "Nl": "Letter_Number",
    "No": "Other_Number",
    "Pc": "Connector_Punctuation",
    "Pd": "Dash_Punctuation",
    "Ps": "Open_Punctuation",
    "Pe": "Close_Punctuation",
    "Pi": "Initial_Punctuation",
    "Pf": "Final_Punctuation",
    "Po": "Other_Punctuation",
    "Sm": "Math_Symbol",
    "Sc": "Currency_Symbol",
    "Sk": "Modifier_Symbol",
    "So": "Other_Symbol",
    "Zs": "Space_Separator",
    "Zl": "Line_Separator",
    "Zp": "Paragraph_Separator",
    "Cc": "Control cntrl",
    "Cf": "Format",
    "Cs": "Surrogate",
    "Co": "Private_Use",
}
_GROUPS = {
    "L": "Letter",
    "LC": "Cased_Letter",
    "M": "Mark Combining_Mark",
    "N": "Number",
    "P": "Punctuation punct",
    "S": "Symbol",
    "Z": "Separator",
    "C": "Other",
}
_BINARY_ALIASES = {
    "alpha": "alphabetic",
    "upper": "uppercase",
    "lower": "lowercase",
    "space": "whitespace",
    "hex": "hexdigit",
    "ahex": "asciihexdigit",
    "ids": "idstart",
    "idc": "idcontinue",
    "xids": "xidstart",
    "xidc": "xidcontinue",
    "ideo": "ideographic",
    "epres": "emojipresentation",
    "emod": "emojimodifier",
    "ebase": "emojimodifierbase",
    "ecomp": "emojicomponent",
    "extpict": "extendedpictographic",
}
_KINDS = {"gc": "gc", "generalcategory": "gc", "sc": "sc", "script": "sc", "scx": "scx", "scriptextensions": "scx"}


def _loose(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


@cache
def _lines() -> dict[str, str]:
    """The table's line for every loose name."""
    lines = {}
    for line in resources.files("tokloom.grammar.regex").joinpath("unicode.txt").read_text().splitlines():
        names, _, body = line.partition(" ")
        kind, equals, aliases = names.rpartition("=")
        for name in aliases.split("|"):
            lines[kind + equals + _loose(name)] = body
    return lines


@cache
def _listed(name: str) -> Ranges:
    found, end = [], 0
    for part in _lines()[name].split():
        gap, length = part.split(",")
        first = end + int(gap, 16)
        end = first + int(length, 16)
        found.append((first, end - 1))
    return tuple(found)


@cache
def _categories() -> dict[str, tuple[str, ...]]:
    """The two-letter categories, in small letters, for every loose name of a category or of a group of them."""
    names: dict[str, tuple[str, ...]] = {}
    for short, aliases in _CATEGORIES.items():
        for name in (short, *aliases.split()):
            names[_loose(name)] = (short.lower(),)
    for short, aliases in _GROUPS.items():
        parts = ("Lu", "Ll", "Lt") if short == "LC" else [c for c in _CATEGORIES if c[0] == short]
        for name in (short, *aliases.split()):
            names[_loose(name)] = tuple(part.lower() for part in parts)
    names["unassigned"] = names["cn"] = ("cn",)
    names["c"] = names["other"] = (*names["c"], "cn")
    return names


@cache
def _category(name: str) -> Ranges | None:
    shorts = _categories().get(name)
    if shorts is None:
        return None
    assigned = [c.lower() for c in _CATEGORIES]
    if "cn" in shorts:
        rest = complement(union(*(_listed(f"gc={c}") for c in assigned)))
        return union(rest, *(_listed(f"gc={c}") for c in shorts if c != "cn"))
    return union(*(_listed(f"gc={c}") for c in shorts))


def characters(name: str) -> Ranges | None:
    r"""The characters of \p{name}; None if there is no such property here."""
    kind, equals, value = name.partition("=")
    if equals:
        short = _KINDS.get(_loose(kind))
        if short == "gc":
            return _category(_loose(value))
        key = f"{short}={_loose(value)}"
        return _listed(key) if short is not None and key in _lines() else None
    loose = _loose(name)
    category = _category(loose)
    if category is not None:
        return category
    if loose in ("any", "all"):
        return ALL
    if loose == "ascii":
        return ((0, 127),)
    if loose == "assigned":
        return complement(_category("cn") or ())
    loose = _BINARY_ALIASES.get(loose, loose)
    return _listed(loose) if loose in _lines() and "=" not in loose else None
