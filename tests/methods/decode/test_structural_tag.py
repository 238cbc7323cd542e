"""Tool calls as a constraint of the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.grammar.languages import takes
from tokloom import Engine, Sampling
from tokloom.errors import DocumentError, GrammarError, SpecError
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.tool_calls import Reply
from tokloom.methods.decode.structural_tag import StructuralTag
from tokloom.models.language_model import LanguageModel

LIGHT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "light",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("format", ["hermes", "llama3", "llama3_function", "openai"])
@pytest.mark.parametrize("seed", [1, 2])
def test_calls_are_valid_and_read_back(format: str, seed: int, tiny_llama: LanguageModel) -> None:
    constraint = StructuralTag(tools=[LIGHT], format=format, at_least=1, at_most=2, free_text=False)  # type: ignore[arg-type]
    sampling = Sampling(max_new_tokens=300, temperature=1.0, seed=seed)
    result = Engine(tiny_llama).generate("one two", constraint=constraint, sampling=sampling)
    assert result.stop_reason == "end"
    assert isinstance(result.parsed, Reply)
    assert result.parsed.complete
    assert 1 <= len(result.parsed.calls) <= 2
    for call in result.parsed.calls:
        assert call.name == "light"
        assert call.arguments in ({"on": True}, {"on": False})


def test_free_text_until_a_trigger(tiny_llama: LanguageModel) -> None:
    compiled = compile_expression(StructuralTag(tools=[LIGHT]).grammar, tiny_llama.vocabulary)
    assert takes(compiled, 'Sure.<tool_call>{"name": "light", "arguments": {"on": true}}</tool_call> Done')
    assert not takes(compiled, "Sure.<tool_call>no")


def test_the_python_tag_is_what_the_vocabulary_has(tiny_llama: LanguageModel) -> None:
    matcher = StructuralTag(tools=[LIGHT], format="llama3", free_text=False).start(tiny_llama.vocabulary)
    matcher.accept_bytes(b'<|python_tag|>{"name"')  # type: ignore[attr-defined]  # no special token here: as text
    with pytest.raises(GrammarError, match="python_tag"):
        StructuralTag(tools=[LIGHT], format="llama3", special_python_tag=True).start(tiny_llama.vocabulary)


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([LIGHT]))
    assert StructuralTag(path=str(path)).grammar == StructuralTag(tools=[LIGHT]).grammar
    path.write_text("[")
    with pytest.raises(DocumentError, match="is not JSON"):
        StructuralTag(path=str(path))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "exactly one of tools or path"),
        ({"tools": []}, "structural_tag:tools"),
        ({"tools": [LIGHT], "format": "xml"}, "structural_tag:format"),
        ({"tools": [LIGHT], "at_least": 2, "at_most": 1}, "structural_tag:at_least and at_most"),
    ],
)
def test_refusals(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        StructuralTag(**options)
    assert complaint in str(caught.value)
