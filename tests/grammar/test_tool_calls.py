"""Tool calls: the grammars of all formats, and the calls read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.grammar.languages import check
from tests.grammar.naive import matches, special
from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.tool_calls import Reply, Tool, ToolCall, read_calls, read_tools, tool_calls

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Rome", "Oslo"]}},
        },
    },
}
TIME = {"name": "time", "parameters": {"type": "object", "additionalProperties": False}}
TOOLS = [WEATHER, TIME]

ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
NOW = '{"name": "time", "arguments": {}}'
LLAMA_ROME, LLAMA_NOW = ROME.replace("arguments", "parameters"), NOW.replace("arguments", "parameters")


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def openai(*calls: str) -> str:
    return json.dumps([{"type": "function", "function": json.loads(call)} for call in calls])


TO_ROME, FOR_NOW = ToolCall("weather", {"city": "Rome"}), ToolCall("time", {})

BAD_CALLS = [
    ROME.replace("Rome", "Paris"),
    ROME.replace("weather", "time"),
    ROME.replace("weather", "sun"),
    ROME[:-1],
    '{"name": "weather"}',
    '{"arguments": {}, "name": "time"}',
]


def test_hermes() -> None:
    grammar = tool_calls(TOOLS)
    good = ["", "Hello.", hermes(ROME), hermes(ROME, NOW), f"Let me see.\n{hermes(NOW)} Done.", "a <tool_cal"]
    check(grammar, good, ["<tool_call>", hermes(ROME)[:-1], *map(hermes, BAD_CALLS)])


def test_hermes_counts_calls() -> None:
    one = tool_calls(TOOLS, at_least=1, at_most=1)
    check(one, [hermes(ROME), f"x{hermes(NOW)}y"], ["", "text", hermes(ROME, NOW)])
    bare = tool_calls(TOOLS, at_least=1, free_text=False)
    check(bare, [hermes(ROME), hermes(ROME, NOW, ROME)], ["", f"x{hermes(NOW)}", f"{hermes(NOW)}x"])


def test_functions() -> None:
    grammar = tool_calls(TOOLS, "llama3_function")
    call = '<function=weather>{"city": "Oslo"}</function>'
    check(
        grammar, ["hi", call, f"x {call} y", "<function=time>{}</function>"], ["<function=sun>{}</function>", call[:-1]]
    )
    check(grammar, ["<function"], ["<function=", call.replace("Oslo", "Bonn")])


def test_llama3() -> None:
    grammar = tool_calls(TOOLS, "llama3", special_python_tag=False)
    good = [LLAMA_ROME, f"<|python_tag|>{LLAMA_NOW}", f"{LLAMA_NOW}; {LLAMA_ROME}", "Just text {1}.", ""]
    check(grammar, good, ["{", f"{LLAMA_NOW};", f" {LLAMA_NOW}x", f"<|python_tag|>{ROME}", *BAD_CALLS])
    check(tool_calls(TOOLS, "llama3", at_least=1, special_python_tag=False), [LLAMA_ROME], ["", "text"])
    check(tool_calls(TOOLS, "llama3", free_text=False, special_python_tag=False), [LLAMA_ROME, ""], ["text"])
    check(
        tool_calls(TOOLS, "llama3", at_most=1, special_python_tag=False), [LLAMA_ROME], [f"{LLAMA_NOW}; {LLAMA_ROME}"]
    )


def test_llama3_with_the_special_token() -> None:
    grammar = tool_calls(TOOLS, "llama3")
    assert matches(grammar, special("<|python_tag|>") + LLAMA_NOW.encode())
    assert not matches(grammar, special("<|python_tag|>") + b"text")


def test_openai() -> None:
    grammar = tool_calls(TOOLS, "openai")
    check(grammar, [openai(ROME), openai(ROME, NOW), "text", ""], ["[", "[]", f"[{ROME}]", *map(openai, BAD_CALLS[:3])])
    check(tool_calls(TOOLS, "openai", free_text=False), ["[]", openai(NOW)], ["", "text"])
    check(tool_calls(TOOLS, "openai", at_least=2, at_most=2), [openai(NOW, ROME)], [openai(NOW)])


@pytest.mark.parametrize(
    ("format", "reply", "expected"),
    [
        ("hermes", "just text", Reply("just text", ())),
        ("hermes", f"Hm. {hermes(ROME, NOW)} Done", Reply("Hm. \n Done", (TO_ROME, FOR_NOW))),
        ("hermes", f"{hermes(NOW)}<tool_call>{{\"na", Reply("", (ToolCall("time", {}),), complete=False)),
        ("hermes", "<tool_call>7</tool_call>", Reply("", (), complete=False)),
        ("llama3_function", '<function=f>{"a": [1]}</function>!', Reply("!", (ToolCall("f", {"a": [1]}),))),
        ("llama3_function", '<function=f>{"a": [1', Reply("", (), complete=False)),
        ("llama3", f"<|python_tag|>{LLAMA_ROME} ; {LLAMA_NOW}", Reply("", (TO_ROME, FOR_NOW))),
        ("llama3", "Some text", Reply("Some text", ())),
        ("llama3", LLAMA_ROME[:-3], Reply("", (), complete=False)),
        ("openai", openai(ROME), Reply("", (ToolCall("weather", {"city": "Rome"}),))),
        ("openai", openai(ROME)[:-1], Reply("", (), complete=False)),
        ("openai", "text", Reply("text", ())),
    ],
)  # fmt: skip
def test_calls_are_read_back(format: str, reply: str, expected: Reply) -> None:
    assert read_calls(reply, format) == expected  # type: ignore[arg-type]


def test_tools_are_read() -> None:
    assert read_tools([{"type": "function", "function": {"name": "f"}}]) == (Tool("f", {"type": "object"}),)
    assert [tool.name for tool in read_tools(TOOLS)] == ["weather", "time"]


@pytest.mark.parametrize("tools", [[], "f", [3], [{"name": ""}], [{"function": {}}], [TIME, TIME]])
def test_bad_tools(tools: object) -> None:
    with pytest.raises(ArgumentError, match="tools"):
        read_tools(tools)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="format="):
        tool_calls(TOOLS, "xml")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="format="):
        read_calls("", "xml")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="at_least and at_most"):
        tool_calls(TOOLS, at_least=2, at_most=1)
    with pytest.raises(GrammarError, match="tool f, #"):
        tool_calls([Tool("f", {"type": "nonsense"})])


SCHEMA = {"type": "object", "properties": {"level": {"type": "integer"}}, "required": ["level"]}


@pytest.mark.parametrize("key", ["parameters", "input_schema", "inputSchema", "parametersJsonSchema"])
def test_the_schema_is_found_where_other_apis_have_it(key: str) -> None:
    (tool,) = read_tools([{"name": "dim", "description": "Dims.", key: SCHEMA}])
    assert tool.parameters == SCHEMA


@pytest.mark.parametrize(
    "entry", [{"name": "go"}, {"name": "go", "parameters": None}, {"name": "go", "input_schema": None}]
)
def test_a_tool_without_arguments_takes_any_object(entry: dict[str, Any]) -> None:
    (tool,) = read_tools([entry])
    assert tool.parameters == {"type": "object"}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"name": "dim", "args": SCHEMA}, "args"),
        ({"name": "dim", "parameters": SCHEMA, "input_schema": SCHEMA}, "input_schema"),
        ({"name": "dim", "parameters": "{}"}, "parameters"),
        ({"name": "dim", "parameters": [SCHEMA]}, "parameters"),
        ({"type": "function", "function": None}, "function"),
    ],
)
def test_a_schema_that_is_none_or_lies_elsewhere_is_refused_by_its_key(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        read_tools([entry])


def test_what_is_no_schema_of_the_arguments_is_left_alone() -> None:
    (tool,) = read_tools([{"name": "go", "annotations": {"type": "hint"}, "outputSchema": SCHEMA}])
    assert tool.parameters == {"type": "object"}
