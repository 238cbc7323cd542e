"""The formats of the specification, as regular languages of text.

Where a format is more than a regular language, or its rules are a matter of tables that change, what is here
is a part of it, so that what is produced is always of the format; `LIMITS` says which.

They are put together from parts rather than written as regular expressions, since reading those takes longer than
all the rest of compiling a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokloom.grammar import characters
from tokloom.grammar.expression import (
    ANY_CHAR,
    EMPTY,
    Both,
    Chars,
    Concat,
    Either,
    Except,
    Expression,
    Repeat,
    text,
)

LIMITS = {
    "time": "Leap seconds only in UTC.",
    "date-time": "Leap seconds only in UTC.",
    "hostname": "No labels with -- as their third and fourth character, so no punycode.",
    "idn-hostname": "Labels of ASCII, or of up to ten lower-case Latin-1, Greek, Cyrillic, Han, Hangul, Kana letters.",
    "idn-email": "The domain as in idn-hostname.",
    "regex": "Without lookaround, named groups, property escapes and backreferences; groups up to two deep.",
}


@cache
def expression(name: str) -> Expression:
    """The texts of a format."""
    return _MAKERS[name]()


def _set(ranges: str, others: str = "") -> Chars:
    """One character out of ranges, each written as its first and last, or out of others."""
    pairs = zip(ranges[::2], ranges[1::2], strict=True)
    return Chars(characters.ranges(others, *((ord(first), ord(last)) for first, last in pairs)))


def _all(*items: Expression | str) -> Expression:
    """One after the other."""
    return Concat(tuple(text(item) if isinstance(item, str) else item for item in items))


def _any(*items: Expression | str) -> Expression:
    """One of them."""
    return Either(tuple(text(item) if isinstance(item, str) else item for item in items))


def _maybe(*items: Expression | str) -> Expression:
    return Repeat(_all(*items), 0, 1)


def _times(item: Expression, minimum: int, maximum: int | None = -1) -> Expression:
    return Repeat(item, minimum, minimum if maximum == -1 else maximum)


_DIGIT = _set("09")
_NUMBER = _times(_DIGIT, 1, None)
_HEX = _set("09AFaf")
_LETTER_OR_DIGIT = _set("09AZaz")
_TWO = _times(_DIGIT, 2)

# Dates and times


def _date() -> Expression:
    year = _times(_DIGIT, 4)
    by_four = _any(
        _all("0", _set("", "48")), _all(_set("", "2468"), _set("", "048")), _all(_set("", "13579"), _set("", "26"))
    )
    hundreds = _any(_all(_set("", "02468"), _set("", "048")), _all(_set("", "13579"), _set("", "26")))
    leap = _any(_all(_TWO, by_four), _all(hundreds, "00"))
    to_28 = _any(_all("0", _set("19")), _all("1", _DIGIT), _all("2", _set("08")))
    to_30 = _any(to_28, "29", "30")
    long_month = _any(_all("0", _set("", "13578")), _all("1", _set("", "02")))
    short_month = _any(_all("0", _set("", "469")), "11")
    days = _any(_all(long_month, "-", _any(to_30, "31")), _all(short_month, "-", to_30), _all("02-", to_28))
    return _any(_all(year, "-", days), _all(leap, "-02-29"))


def _time() -> Expression:
    hour = _any(_all(_set("01"), _DIGIT), _all("2", _set("03")))
    sixty = _all(_set("05"), _DIGIT)
    fraction = _maybe(".", _NUMBER)
    offset = _any(_set("", "Zz"), _all(_set("", "+-"), hour, ":", sixty))
    utc = _any(_set("", "Zz"), _all(_set("", "+-"), "00:00"))
    return _any(_all(hour, ":", sixty, ":", sixty, fraction, offset), _all("23:59:60", fraction, utc))


def _duration() -> Expression:
    def units(first: str, second: str, third: str) -> Expression:
        last = _all(_NUMBER, third)
        middle = _all(_NUMBER, second, _maybe(last))
        return _any(_all(_NUMBER, first, _maybe(middle)), middle, last)

    time = _all("T", units("H", "M", "S"))
    return _all("P", _any(_all(_NUMBER, "W"), _all(units("Y", "M", "D"), _maybe(time)), time))


# Hosts and mail


def _ipv4() -> Expression:
    byte = _any(
        _all("25", _set("05")), _all("2", _set("04"), _DIGIT), _all("1", _TWO), _all(Repeat(_set("19"), 0, 1), _DIGIT)
    )
    return _all(byte, _times(_all(".", byte), 3))


def _ipv6() -> Expression:
    group = _times(_HEX, 1, 4)
    before = _all(group, ":")
    last = _any(_all(group, ":", group), expression("ipv4"))
    ways = [_all(_times(before, 6), last), _all("::", _times(before, 5), last)]
    for number in range(7):
        rest = _all(_times(before, 4 - number), last) if number < 5 else group if number == 5 else EMPTY
        ways.append(_all(_maybe(_times(before, 0, number), group), "::", rest))
    return Either(tuple(ways))


_LABEL = _all(_LETTER_OR_DIGIT, Repeat(_all(_times(_set("09AZaz", "-"), 0, 61), _LETTER_OR_DIGIT), 0, 1))
_WIDE_LETTERS = "àöøÿαωаяѐџぁゖァヺ一龥가힣"


def _domain(label: Expression) -> Expression:
    marked = Except(label, _all(_times(ANY_CHAR, 2), "--", Repeat(ANY_CHAR)))
    return Both((_all(marked, Repeat(_all(".", marked))), Repeat(ANY_CHAR, 1, 253)))


def _local_part(wide: Chars | None) -> Expression:
    more = wide.ranges if wide else ()
    atom = Chars(characters.union(_set("09AZaz", "!#$%&'*+/=?^_`{|}~-").ranges, more))
    quoted = Chars(characters.union(_set(" !#[]~").ranges, more))
    atoms = _all(_times(atom, 1, None), Repeat(_all(".", _times(atom, 1, None))))
    return _any(atoms, _all('"', Repeat(_any(quoted, _all("\\", _set(" ~")))), '"'))


def _email() -> Expression:
    address = _all("[", _any(expression("ipv4"), _all("IPv6:", expression("ipv6"))), "]")
    short = Both((_local_part(None), Repeat(ANY_CHAR, 1, 64)))
    return _all(short, "@", _any(expression("hostname"), address))


# References

_WIDE = Chars(
    characters.ranges(
        (0xA0, 0xD7FF), (0xF900, 0xFDCF), (0xFDF0, 0xFFEF),
        *(((plane << 16), (plane << 16) + 0xFFFD) for plane in range(1, 14)),
    )
)  # fmt: skip
_PRIVATE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_ESCAPED = _all("%", _times(_HEX, 2))


def _reference(wide: bool) -> tuple[Expression, Expression]:
    """Absolute and relative references of RFC 3986, or with `wide` characters of RFC 3987."""

    def chars(others: str, private: bool = False) -> Expression:
        plain = _set("09AZaz", "-._~!$&'()*+,;=" + others).ranges
        more = (_WIDE.ranges, _PRIVATE) if wide and private else (_WIDE.ranges,) if wide else ()
        return _any(Chars(characters.union(plain, *more)), _ESCAPED)

    char = chars(":@")
    future = _all(_set("", "vV"), _times(_HEX, 1, None), ".", _times(_set("09AZaz", "-._~!$&'()*+,;=:"), 1, None))
    host = _any(_all("[", _any(expression("ipv6"), future), "]"), Repeat(chars("")))
    authority = _all(_maybe(Repeat(chars(":")), "@"), host, _maybe(":", Repeat(_DIGIT)))
    path = Repeat(_all("/", Repeat(char)))
    rooted = _all("/", _maybe(_times(char, 1, None), path))
    query = _maybe("?", Repeat(chars(":@/?", private=True)))
    rest = _all(query, _maybe("#", Repeat(chars(":@/?"))))
    scheme = _all(_set("AZaz"), Repeat(_set("09AZaz", "+-.")), ":")
    network = _all("//", authority, path)
    absolute = _all(scheme, _any(network, rooted, _all(_times(char, 1, None), path), EMPTY), rest)
    relative = _all(_any(network, rooted, _all(_times(chars("@"), 1, None), path), EMPTY), rest)
    return absolute, relative


def _uri_template() -> Expression:
    literal = characters.union(_set("#$&;=[]_az~~", "!").ranges, _set("?Z").ranges, _WIDE.ranges, _PRIVATE)
    letter = _any(_set("09AZaz", "_"), _ESCAPED)
    name = _all(letter, Repeat(_all(Repeat(text("."), 0, 1), letter)))
    length = _all(":", _set("19"), _times(_DIGIT, 0, 3))
    variable = _all(name, Repeat(_any(length, "*"), 0, 1))
    inside = _all("{", Repeat(_set("", "+#./;?&=,!@|"), 0, 1), variable, Repeat(_all(",", variable)), "}")
    return Repeat(_any(Chars(literal), _ESCAPED, inside))


# Others


def _uuid() -> Expression:
    return _all(_times(_HEX, 8), _times(_all("-", _times(_HEX, 4)), 3), "-", _times(_HEX, 12))


def _json_pointer() -> Expression:
    return Repeat(_all("/", Repeat(_any(Chars(characters.complement(characters.ranges("~/"))), "~0", "~1"))))


def _relative_json_pointer() -> Expression:
    return _all(_any("0", _all(_set("19"), Repeat(_DIGIT))), _any("#", expression("json-pointer")))


def _regex(depth: int) -> Expression:
    meta = "^$\\.*+?()[]{}|"
    code = _any(_all("x", _times(_HEX, 2)), _all("u", _times(_HEX, 4)))
    escape = _all("\\", _any(_set("", "dDwWsSbBtnrfv0/" + meta), code))
    in_class = _all("\\", _any(_set("", "dDwWsSbtnrfv0/-" + meta), code))
    plain = Chars(characters.complement(characters.ranges("\\[]-^")))
    # No ranges but those whose ends are in order for certain.
    inside = _any(plain, "a-z", "A-Z", "0-9", in_class)
    klass = _all("[", Repeat(text("^"), 0, 1), _times(inside, 1, None), "]")
    atoms: list[Expression] = [Chars(characters.complement(characters.ranges(meta))), text("."), escape, klass]
    if depth:
        atoms.append(_all("(", _maybe("?:"), _regex(depth - 1), ")"))
    bounds = _all("{", _NUMBER, _maybe(","), "}")
    counted = _all(Either(tuple(atoms)), _maybe(_any(_set("", "*+?"), bounds), _maybe("?")))
    terms = Repeat(_any(counted, "^", "$"))
    return _all(terms, Repeat(_all("|", terms)))


_MAKERS: dict[str, Callable[[], Expression]] = {
    "date": _date,
    "time": _time,
    "date-time": lambda: _all(expression("date"), _set("", "Tt"), expression("time")),
    "duration": _duration,
    "email": _email,
    "idn-email": lambda: _all(_local_part(_WIDE), "@", expression("idn-hostname")),
    "hostname": lambda: _domain(_LABEL),
    "idn-hostname": lambda: _domain(_any(_LABEL, _times(_set("09az" + _WIDE_LETTERS), 1, 10))),
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "uri": lambda: _reference(wide=False)[0],
    "uri-reference": lambda: Either(_reference(wide=False)),
    "iri": lambda: _reference(wide=True)[0],
    "iri-reference": lambda: Either(_reference(wide=True)),
    "uri-template": _uri_template,
    "uuid": _uuid,
    "json-pointer": _json_pointer,
    "relative-json-pointer": _relative_json_pointer,
    "regex": lambda: _regex(2),
}

NAMES = frozenset(_MAKERS)
"""The formats that are enforced."""
