"""The formats of the specification, as regular languages of text.

Where a format is more than a regular language, or its rules are a matter of tables that change, what is here
is a part of it, so that what is produced is always of the format; `LIMITS` says which.
"""

from __future__ import annotations

from functools import cache

from tokloom.grammar.expression import ANY_CHAR, Both, Concat, Either, Except, Expression, Repeat, text
from tokloom.grammar.regex import parse_regex

LIMITS = {
    "time": "Leap seconds only in UTC.",
    "date-time": "Leap seconds only in UTC.",
    "hostname": "No labels with -- as their third and fourth character, so no punycode.",
    "idn-hostname": "Labels of ASCII, or of up to ten lower-case Latin-1, Greek, Cyrillic, Han, Hangul, Kana letters.",
    "idn-email": "The domain as in idn-hostname.",
    "regex": "Without lookaround, named groups, property escapes and backreferences; groups up to two deep.",
}

_MONTHS = (
    r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_OFFSET = r"(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_TIME = (
    rf"(?:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?{_OFFSET}"
    r"|23:59:60(?:\.\d+)?(?:[Zz]|[+-]00:00))"
)
_DAYS = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"
_HOURS = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"

_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H16 = r"[0-9A-Fa-f]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    rf"(?:(?:{_H16}:){{6}}{_LS32}"
    rf"|::(?:{_H16}:){{5}}{_LS32}"
    rf"|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    rf"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}"
    rf"|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    rf"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}"
    rf"|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_WIDE = "à-öø-ÿα-ωа-яѐ-џぁ-ゖァ-ヺ一-龥가-힣"
_WIDE_LABEL = rf"[a-z0-9{_WIDE}]{{1,10}}"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]"
_LOCAL = r'(?:ATOM+(?:\.ATOM+)*|"(?:QUOTED|\\[ -~])*")'
_QUOTED = r"[ !#-\[\]-~]"

_WIDE_CHARS = "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef" + "".join(
    f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14)
)


def _reference(wide: str, private: str) -> tuple[str, str]:
    """URIs and relative references of RFC 3986, or with `wide` characters of RFC 3987."""
    unreserved = rf"A-Za-z0-9\-._~{wide}"
    escaped = r"%[0-9A-Fa-f]{2}"
    char = rf"(?:[{unreserved}!$&'()*+,;=:@]|{escaped})"
    no_colon = rf"(?:[{unreserved}!$&'()*+,;=@]|{escaped})"
    future = r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+"
    name = rf"(?:[{unreserved}!$&'()*+,;=]|{escaped})*"
    user = rf"(?:[{unreserved}!$&'()*+,;=:]|{escaped})*"
    authority = rf"(?:{user}@)?(?:\[(?:{_IPV6}|{future})\]|{name})(?::\d*)?"
    path = rf"(?:/{char}*)*"
    rooted = rf"/(?:{char}+{path})?"
    rest = rf"(?:\?(?:{char}|[/?{private}])*)?(?:#(?:{char}|[/?])*)?"
    absolute = rf"[A-Za-z][A-Za-z0-9+\-.]*:(?://{authority}{path}|{rooted}|{char}+{path}|){rest}"
    relative = rf"(?://{authority}{path}|{rooted}|{no_colon}+{path}|){rest}"
    return absolute, rf"(?:{absolute}|{relative})"


_URI, _URI_REFERENCE = _reference("", "")
_IRI, _IRI_REFERENCE = _reference(_WIDE_CHARS, "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd")

_VARIABLE = r"(?:\w|%[0-9A-Fa-f]{2})(?:\.?(?:\w|%[0-9A-Fa-f]{2}))*(?::[1-9]\d{0,3}|\*)?"
_TEMPLATE_CHAR = rf"[!#$&-;=?-\[\]_a-z~{_WIDE_CHARS}\ue000-\uf8ff]"


def _regex(depth: int) -> str:
    escape = r"\\(?:[dDwWsSbBtnrfv0]|[\^$\\.*+?()\[\]{}|/]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})"
    in_class = r"\\(?:[dDwWsSbtnrfv0]|[\^$\\.*+?()\[\]{}|/\-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})"
    # Without ranges but those whose ends are in order for certain.
    chars = rf"\[\^?(?:[^\\\[\]\-^]|a-z|A-Z|0-9|{in_class})+\]"
    group = rf"|\((?:\?:)?{_regex(depth - 1)}\)" if depth else ""
    atom = rf"(?:[^\^$\\.*+?()\[\]{{}}|]|\.|{escape}|{chars}{group})"
    term = rf"(?:{atom}(?:(?:[*+?]|\{{\d+(?:,)?\}})\??)?|\^|\$)"
    return rf"{term}*(?:\|{term}*)*"


_PATTERNS = {
    "date": _MONTHS,
    "time": _TIME,
    "date-time": rf"{_MONTHS}[Tt]{_TIME}",
    "duration": rf"P(?:\d+W|{_DAYS}(?:{_HOURS})?|{_HOURS})",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "uri-template": rf"(?:{_TEMPLATE_CHAR}|%[0-9A-Fa-f]{{2}}|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*",
    "json-pointer": r"(?:/(?:[^~/]|~[01])*)*",
    "relative-json-pointer": r"(?:0|[1-9]\d*)(?:#|(?:/(?:[^~/]|~[01])*)*)",
    "regex": _regex(2),
}

NAMES = frozenset({*_PATTERNS, "hostname", "idn-hostname", "email", "idn-email"})
"""The formats that are enforced."""


@cache
def expression(name: str) -> Expression:
    """The texts of a format."""
    match name:
        case "hostname":
            return _domain(_parse(_LABEL))
        case "idn-hostname":
            return _domain(_parse(rf"{_LABEL}|{_WIDE_LABEL}"))
        case "email":
            address = rf"\[(?:{_IPV4}|IPv6:{_IPV6})\]"
            short = Both((_parse(_LOCAL.replace("ATOM", _ATOM).replace("QUOTED", _QUOTED)), Repeat(ANY_CHAR, 1, 64)))
            return Concat((short, text("@"), Either((expression("hostname"), _parse(address)))))
        case "idn-email":
            wide = rf"(?:{_ATOM}|[{_WIDE_CHARS}])"
            local = _parse(_LOCAL.replace("ATOM", wide).replace("QUOTED", rf"(?:{_QUOTED}|[{_WIDE_CHARS}])"))
            return Concat((local, text("@"), expression("idn-hostname")))
    return _parse(_PATTERNS[name])


def _domain(label: Expression) -> Expression:
    label = Except(label, _parse(r"..--.*"))
    whole = Concat((label, Repeat(Concat((text("."), label)))))
    return Both((whole, Repeat(ANY_CHAR, 1, 253)))


def _parse(pattern: str) -> Expression:
    return parse_regex(pattern, "ecma")
