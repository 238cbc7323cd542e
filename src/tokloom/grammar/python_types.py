"""Python types as JSON Schema, and JSON texts back as values of them.

Pydantic models, dataclasses, TypedDicts, enums, literals and every other annotation that pydantic knows; a
function stands for its arguments.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from tokloom.errors import ArgumentError, GrammarError

_DATA = ("const", "default", "enum", "examples", "example")
"""Keywords that hold values, not schemas."""


class _Generator(GenerateJsonSchema):
    """pydantic's schema, without what is more than pydantic itself asks for when it reads."""

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        return _not_unique(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        return _not_unique(super().frozenset_schema(schema))


@dataclass(frozen=True)
class PythonType:
    """A Python type, as the schema of its values' JSON and the way back.

    schema: JSON Schema, 2020-12. Objects have no other properties than the type's fields, unless it asks for them.
    """

    schema: dict[str, Any]
    _read: Callable[[str], Any]

    def parse(self, text: str) -> Any:
        """The value that a JSON text stands for; for a function the arguments by name.

        Raises GrammarError if the text is not such a value, as when the token limit cut it.
        """
        try:
            return self._read(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = "/".join(["#", *map(str, first["loc"])])
            raise GrammarError(where, first["msg"]) from error


def python_type(kind: Any) -> PythonType:
    """The schema of a type's JSON, and how to read it.

    kind: a pydantic model, dataclass, TypedDict, Enum, Literal or any annotation that pydantic knows, a pydantic
        TypeAdapter, or a function, which stands for an object of its arguments.

    Raises ArgumentError if pydantic has no schema for it.
    """
    try:
        if isinstance(kind, (FunctionType, MethodType)):
            return _arguments(kind)
        adapter: TypeAdapter[Any] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
        schema = adapter.json_schema(schema_generator=_Generator)
    except (PydanticUserError, PydanticSchemaGenerationError, NameError, TypeError) as error:
        raise ArgumentError(
            "kind", kind, "a type that pydantic has a JSON schema for", str(error).splitlines()[0]
        ) from error
    return PythonType(_closed(schema), adapter.validate_json)


def _arguments(function: FunctionType | MethodType) -> PythonType:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    extra = False
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = True
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            valid = "a function whose arguments can all be given by name"
            raise ArgumentError("kind", function, valid, f"{name!r} can't.")
        else:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            # The alias lets names through that pydantic keeps for itself, such as `schema` and `_x`.
            fields[f"argument_{len(fields)}"] = (annotation, Field(default, alias=name))
    model = create_model(
        function.__name__,
        __config__=ConfigDict(extra="allow" if extra else "forbid", protected_namespaces=()),
        **fields,
    )
    names = {field: str(info.alias) for field, info in model.model_fields.items()}

    def read(text: str) -> dict[str, Any]:
        value = model.model_validate_json(text)
        given = {names[field]: getattr(value, field) for field in names if field in value.model_fields_set}
        return {**given, **(value.model_extra or {})}

    schema = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    if function.__doc__:
        schema["description"] = inspect.cleandoc(function.__doc__)
    return PythonType(_closed(schema), read)


def _not_unique(schema: JsonSchemaValue) -> JsonSchemaValue:
    schema.pop("uniqueItems", None)  # equal items are read as one
    return schema


def _closed(schema: Any) -> Any:
    """With additionalProperties false where fields are listed and nothing is said: a model that may add others will."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: value if key in _DATA else _closed(value) for key, value in schema.items()}
    tag = closed.get("discriminator")
    if isinstance(tag, Mapping) and isinstance(tag.get("propertyName"), str):
        # pydantic reads no alternative without its tag, though a tag with a default is not required by the schema
        name = tag["propertyName"]
        for keyword in ("oneOf", "anyOf"):
            if isinstance(closed.get(keyword), list):
                closed[keyword] = [_requiring(name, way) for way in closed[keyword]]
    if closed.get("type") == "object" and isinstance(closed.get("properties"), Mapping):
        closed.setdefault("additionalProperties", False)
    return closed


def _requiring(name: str, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    return {**schema, "required": list(dict.fromkeys([*schema.get("required", ()), name]))}
