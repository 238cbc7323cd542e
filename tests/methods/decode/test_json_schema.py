"""JSON by a schema as a constraint of the engine."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from tokloom import Engine, Sampling
from tokloom.errors import DocumentError, GrammarError, SpecError
from tokloom.methods.decode.json_schema import JsonSchema
from tokloom.models.language_model import LanguageModel

EXAMPLES = Path(__file__).parents[3] / "examples"
POINT: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": -9, "maximum": 9}, "flag": {"type": "boolean"}},
    "required": ["x", "flag"],
    "additionalProperties": False,
}


class Point(BaseModel):
    x: int
    flag: bool = True


@dataclass
class Pair:
    left: bool
    right: bool


def ask(model: LanguageModel, constraint: JsonSchema | str, tokens: int = 200, seed: int = 1) -> Any:
    sampling = Sampling(max_new_tokens=tokens, temperature=1.0, seed=seed)
    return Engine(model).generate("one two three", constraint=constraint, sampling=sampling)


@pytest.mark.parametrize("seed", range(4))
def test_the_output_is_valid_and_parsed(seed: int, tiny_llama: LanguageModel) -> None:
    result = ask(tiny_llama, JsonSchema(schema=POINT, whitespace="compact"), seed=seed)
    assert result.stop_reason == "end"
    assert result.parsed == json.loads(result.text)
    assert set(result.parsed) == {"x", "flag"}
    assert -9 <= result.parsed["x"] <= 9
    assert result.as_json()["parsed"] == result.parsed


def test_what_is_cut_is_not_parsed(tiny_llama: LanguageModel) -> None:
    result = ask(tiny_llama, JsonSchema(schema=POINT), tokens=3)
    assert result.stop_reason == "length"
    assert result.parsed is None
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.text)


def test_what_is_complete_at_the_limit_is_parsed(tiny_llama: LanguageModel) -> None:
    result = ask(tiny_llama, JsonSchema(schema={"const": 7}), tokens=1)
    assert result.text == "7"
    assert result.parsed == 7


def test_a_stop_string_cuts_too(tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=50, stop=("}",))
    result = Engine(tiny_llama).generate("one", constraint=JsonSchema(schema=POINT), sampling=sampling)
    assert result.stop_reason == "stop"
    assert result.parsed is None


def test_types_stand_for_schemas(tiny_llama: LanguageModel) -> None:
    point = JsonSchema(schema=Point, whitespace="compact")
    assert point.parse('{"x": 3, "flag": false}') == Point(x=3, flag=False)
    pair = ask(tiny_llama, JsonSchema(schema=Pair, whitespace="compact"))
    assert isinstance(pair.parsed, Pair)
    assert pair.as_json()["parsed"] == {"left": pair.parsed.left, "right": pair.parsed.right}


def test_from_a_file_and_a_spec(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"enum": ["a", "b"]}))
    assert ask(tiny_llama, f"json_schema:path={path}").parsed in ("a", "b")
    assert ask(tiny_llama, 'json_schema:schema={"enum":[1]},whitespace=compact').parsed == 1


def test_the_example_compiles(tiny_llama: LanguageModel) -> None:
    matcher = JsonSchema(path=str(EXAMPLES / "invoice.schema.json")).start(tiny_llama.vocabulary)
    matcher.accept_bytes(b'{"number": "INV-20417", "date": "2024-02-29", ')  # type: ignore[attr-defined]
    assert not matcher.is_complete


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({}, SpecError, "exactly one of schema or path"),
        ({"schema": True, "path": "x"}, SpecError, "exactly one of schema or path"),
        ({"path": "/no/such/file"}, DocumentError, "/no/such/file"),
        ({"schema": {"type": "strin"}}, GrammarError, "#/type"),
        ({"schema": {"type": "string", "pattern": "("}}, GrammarError, "#/pattern"),
        ({"schema": {"enum": []}}, GrammarError, "#"),
        ({"schema": 3.5}, SpecError, "json_schema:schema"),
        ({"schema": True, "whitespace": "much"}, SpecError, "json_schema:whitespace"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], complaint: str) -> None:
    with pytest.raises(error) as caught:
        JsonSchema(**options)
    assert complaint in str(caught.value)


def some_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of the kinds that people ask models for."""
    kinds = ["string", "integer", "number", "boolean", "enum", "date", "pattern"]
    kind = draw.choice(kinds if depth > 1 else [*kinds[:4], "object", "object", "array", "any_of"])
    if depth == 0:
        kind = "object"
    match kind:
        case "object":
            names = draw.sample(["name", "age", "city", "tags", "price", "kind", "note", "when"], draw.randint(1, 4))
            return {
                "type": "object",
                "properties": {name: some_schema(draw, depth + 1) for name in names},
                "required": names[: draw.randint(1, len(names))],
                "additionalProperties": False,
            }
        case "array":
            return {
                "type": "array",
                "items": some_schema(draw, depth + 1),
                "minItems": 1,
                "maxItems": draw.randint(1, 3),
            }
        case "any_of":
            return {"anyOf": [some_schema(draw, depth + 1), {"type": "null"}]}
        case "enum":
            return {"enum": draw.sample(["red", "green", 7, None, "x y"], 3)}
        case "date":
            return {"type": "string", "format": "date"}
        case "pattern":
            return {
                "type": "string",
                "pattern": draw.choice(["^[A-Z]{2}-[0-9]{3}$", "^[a-z ]{1,12}$", "^(?!no)[a-z]{3,9}$"]),
            }
        case "string":
            return {"type": "string", "maxLength": draw.randint(3, 20)}
        case "integer":
            return {"type": "integer", "minimum": draw.randint(-5, 5), "maximum": draw.randint(20, 2000)}
        case "number":
            return {"type": "number", "exclusiveMinimum": 0, "maximum": draw.choice([1, 99.5])}
    return {"type": kind}


@pytest.mark.paper
@pytest.mark.timeout(3600)
def test_effect_valid_or_cut_over_100_schemas(smollm2: LanguageModel) -> None:
    engine, ended = Engine(smollm2), 0
    for seed in range(100):
        schema = some_schema(random.Random(seed))
        question = f"Make up an example of this JSON Schema: {json.dumps(schema)}"
        result = engine.generate(
            messages=[{"role": "user", "content": question}],
            constraint=JsonSchema(schema=schema),
            sampling=Sampling(max_new_tokens=100),
        )
        if result.stop_reason == "end":
            ended += 1
            assert result.parsed == json.loads(result.text)
            jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(result.parsed)
        else:
            assert result.stop_reason == "length"
            assert result.parsed is None
    assert ended > 50
