"""The text that names a component and its options: ``"name:key=value,key=value"``."""

from __future__ import annotations

import json
from typing import Any

from tokloom.errors import SpecError


def _split(text: str, separator: str) -> list[str] | None:
    """Splits at separators that lie outside brackets and double quotes; None if those don't close."""
    parts, depth, quoted, escaped, start = [], 0, False, False, 0
    for i, char in enumerate(text):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
            if depth < 0:
                return None
        elif char == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth or quoted:
        return None
    parts.append(text[start:])
    return parts


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``"name:key=value,key=value"`` as (name, options). A value in [, { or " is read as JSON, null as None."""
    name, _, rest = spec.partition(":")
    name = name.strip()
    if not name:
        raise SpecError("spec", spec, 'a text like "name" or "name:key=value,key=value"')
    options: dict[str, Any] = {}
    parts = _split(rest, ",") if rest.strip() else []
    if parts is None:
        raise SpecError("spec", spec, "brackets and quotes that close", "Put a text with brackets in double quotes.")
    for part in parts:
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier():
            raise SpecError("spec", spec, f'options like "key=value" after the colon, not {part!r}')
        if key in options:
            raise SpecError("spec", spec, f"each option once; {key!r} is given twice")
        if value[:1] in ("[", "{", '"'):
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise SpecError(f"{name}:{key}", value, f"JSON ({error})") from None
        else:
            options[key] = None if value == "null" else value
    return name, options


def split_specs(text: str) -> list[str]:
    """``"a,b:x=1,y=2,c"`` as the specs a, b:x=1,y=2 and c. Raises SpecError if one of them is empty."""
    parts = _split(text, ",")
    if parts is None:
        raise SpecError("specs", text, "brackets and quotes that close", "Put a text with brackets in double quotes.")
    specs: list[str] = []
    for part in parts:
        key, equals, _ = part.partition("=")
        if specs and equals and ":" not in key:  # a further option of the spec before
            specs[-1] += f",{part}"
        else:
            specs.append(part.strip())
    if not all(specs):
        raise SpecError("specs", text, 'specs like "name" or "name:key=value", separated by commas')
    return specs


def format_spec(name: str, options: dict[str, Any]) -> str:
    """The spec that `parse_spec` reads as these options (numbers come back as texts)."""
    values = []
    for key, value in options.items():
        plain = isinstance(value, str) and value == value.strip() and value != "null"
        if not plain or set(value) & set(',=:"[](){}'):
            value = json.dumps(value, ensure_ascii=False, default=str)
        values.append(f"{key}={value}")
    return name + (":" + ",".join(values) if values else "")
