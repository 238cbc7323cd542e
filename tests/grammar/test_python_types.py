"""Python types: their schemas, and that what pydantic writes is in the grammar and read back equal."""

import dataclasses
import datetime
import decimal
import enum
import json
import typing
import uuid
from typing import Annotated, Literal, NotRequired

import jsonschema
import pydantic
import pytest
from typing_extensions import TypedDict

from tests.grammar import naive
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.json_schema import from_json_schema
from tokloom.grammar.python_types import python_type


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Tree(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1, pattern="^[a-z]+$")
    children: list["Tree"] = []


class Everything(pydantic.BaseModel):
    when: datetime.datetime
    day: datetime.date
    span: datetime.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    share: float = pydantic.Field(gt=0, lt=1)
    pair: tuple[int, str]
    names: set[str]
    table: dict[str, int]
    colour: Colour
    choice: typing.Literal[1, "x", True]
    tree: Tree | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Record(TypedDict):
    a: int
    b: NotRequired[str]


class Cat(pydantic.BaseModel):
    kind: typing.Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: typing.Literal["dog"]
    weight: float


Pet = typing.Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]

VALUES = [
    (Tree, Tree(name="a", children=[Tree(name="b")])),
    (
        Everything,
        Everything(
            when=datetime.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=datetime.UTC),
            day=datetime.date(2024, 2, 29), span=datetime.timedelta(days=2, seconds=5), key=uuid.UUID(int=5),
            price=decimal.Decimal("12.50"), share=0.25, pair=(1, "x"), names={"a", "b"}, table={"x": 1},
            colour=Colour.GREEN, choice="x", tree=Tree(name="z"),
        ),
    ),
    (Point, Point(1, 2)),
    (Record, {"a": 1}),
    (Colour, Colour.RED),
    (typing.Literal["a", 1], 1),
    (Pet, Dog(kind="dog", weight=1.5)),
    (list[int] | None, [1, 2]),
    (dict[str, Point], {"p": Point(1)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_what_pydantic_writes_is_in_the_grammar_and_read_back(kind, value):
    known = python_type(kind)
    text = pydantic.TypeAdapter(kind).dump_json(value)
    assert naive.matches(from_json_schema(known.schema), text)
    assert known.parse(text.decode()) == value


def test_objects_have_no_other_properties():
    grammar = from_json_schema(python_type(Point).schema)
    assert naive.matches(grammar, b'{"x": 1}')
    assert not naive.matches(grammar, b'{"x": 1, "z": 1}')
    assert not naive.matches(grammar, b'{"y": 1}')


def test_an_open_model_stays_open():
    class Open(pydantic.BaseModel, extra="allow"):
        x: int = pydantic.Field(default=1, json_schema_extra={"examples": [{"type": "object", "properties": {}}]})

    schema = python_type(Open).schema
    assert naive.matches(from_json_schema(schema), b'{"x": 1, "more": [2]}')
    assert schema["properties"]["x"]["examples"] == [{"type": "object", "properties": {}}]


def search(query: str, limit: int = 10, *, schema: Colour | None = None) -> list[str]:
    """Searches.

    Somewhere."""
    return [query] * limit


def test_a_function_is_an_object_of_its_arguments():
    known = python_type(search)
    assert known.schema["required"] == ["query"]
    assert known.schema["description"] == "Searches.\n\nSomewhere."
    grammar = from_json_schema(known.schema)
    text = '{"query": "x", "schema": "red"}'
    assert naive.matches(grammar, text.encode())
    assert not naive.matches(grammar, b'{"limit": 1}')
    assert known.parse(text) == {"query": "x", "schema": Colour.RED}
    assert search(**known.parse('{"query": "x", "limit": 2}')) == ["x", "x"]


def test_a_function_with_further_arguments_takes_them():
    def anything(a: int, **more: int) -> None: ...

    assert python_type(anything).parse(json.dumps({"a": 1, "b": 2})) == {"a": 1, "b": 2}


def test_arguments_without_names_are_refused():
    def positional(a: int, /) -> None: ...

    with pytest.raises(ArgumentError, match="'a' can't"):
        python_type(positional)


def test_types_without_a_schema_are_refused():
    with pytest.raises(ArgumentError, match="a type that pydantic"):
        python_type(object())
    with pytest.raises(ArgumentError, match="a type that pydantic"):
        python_type(typing.Callable[[int], int])


def test_texts_that_are_no_values_say_where():
    with pytest.raises(GrammarError, match="EOF"):
        python_type(Point).parse('{"x": 1')
    with pytest.raises(GrammarError) as caught:
        python_type(dict[str, Point]).parse('{"p": {"x": "one"}}')
    assert caught.value.where == "#/p/x"


def test_alternatives_with_a_tag_must_have_it_though_it_has_a_default() -> None:
    class Boat(pydantic.BaseModel):
        kind: Literal["boat"] = "boat"
        masts: int

    class Cart(pydantic.BaseModel):
        kind: Literal["cart"] = "cart"

    class Load(pydantic.BaseModel):
        carrier: Annotated[Boat | Cart, pydantic.Field(discriminator="kind")]
        spare: Boat | None = None

    made = python_type(Load)
    validator = jsonschema.Draft202012Validator(made.schema)
    for text, read in [
        ('{"carrier":{"kind":"boat","masts":2}}', True),
        ('{"carrier":{"kind":"cart"}}', True),
        ('{"carrier":{"masts":2}}', False),
        ('{"carrier":{}}', False),
        ('{"carrier":{"kind":"cart"},"spare":{"masts":1}}', True),
    ]:
        assert validator.is_valid(json.loads(text)) == read
        if read:
            made.parse(text)
        else:
            with pytest.raises(GrammarError):
                made.parse(text)
