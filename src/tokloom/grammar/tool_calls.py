"""Tool calls in a model's output: the grammar that constrains them, and the calls read back out of the text.

Formats:
    hermes          <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>, in free text
    llama3          {"name": "add", "parameters": {"a": 1}}, the whole reply or after <|python_tag|>; `;` between calls
    llama3_function <function=add>{"a": 1}</function>, in free text
    openai          [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}], the whole reply
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tokloom.errors import ArgumentError, GrammarError
from tokloom.grammar.characters import complement, ranges
from tokloom.grammar.expression import ANY_TEXT, EMPTY, Chars, Expression, Grammar, Repeat, Special, text
from tokloom.grammar.json_schema import from_json_schema
from tokloom.grammar.merge import apart
from tokloom.grammar.simplify import concat, either, repeat
from tokloom.grammar.structural_tag import Tag, structural_tag

Format: TypeAlias = Literal["hermes", "llama3", "llama3_function", "openai"]

SPACE = Repeat(Chars(ranges(" \t\n\r")), 0, 8)
"""The white space around a call and between its parts; bounded, so that no model can loop in it."""

PYTHON_TAG = "<|python_tag|>"

SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema", "parameters_json_schema", "parametersJsonSchema")
"""Where the APIs of OpenAI, Anthropic, MCP and Gemini keep the schema of a tool's arguments."""

OTHER_KEYS = frozenset(
    "type name title description strict annotations outputSchema output_schema returns response cache_control".split()
)
"""Keys of a tool that hold no schema of its arguments, though they may hold one of something else."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call: its name and the JSON Schema of its arguments."""

    name: str
    parameters: Mapping[str, Any] | bool


@dataclass(frozen=True)
class ToolCall:
    """One call that a model made."""

    name: str
    arguments: Any


@dataclass(frozen=True)
class Reply:
    """An output, taken apart. complete: False if a call was begun and is cut off."""

    text: str
    calls: tuple[ToolCall, ...]
    complete: bool = True


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools of a list as the OpenAI API takes it; bare functions (`name`, `parameters`), and tools as Anthropic,
    MCP and Gemini have them, are taken too.

    Raises:
        ArgumentError: an entry without a name, a name twice, no entry, or arguments whose schema is none.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not tools:
        raise ArgumentError("tools", tools, "a list with at least one tool")
    found: dict[str, Tool] = {}
    for i, entry in enumerate(tools):
        function = entry.get("function", entry) if isinstance(entry, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise ArgumentError(
                f"tools[{i}]", entry, 'a tool like {"type": "function", "function": {"name": ..., "parameters": ...}}'
            )
        if name in found:
            raise ArgumentError(f"tools[{i}]", name, "a name that no other tool has")
        found[name] = Tool(name, _parameters(function, f"tools[{i}]"))
    return tuple(found.values())


def _parameters(function: Mapping[str, Any], where: str) -> Mapping[str, Any] | bool:
    """The schema of a tool's arguments; an object with anything in it if there is none, or null."""
    given = [key for key in SCHEMA_KEYS if function.get(key) is not None]
    if len(given) > 1:
        raise ArgumentError(where, given, "one schema of the arguments", "Drop all keys but one.")
    if not given:
        others = [key for key, value in function.items() if key not in OTHER_KEYS and _like_a_schema(value)]
        if others:
            raise ArgumentError(
                where, others[0], "the schema of the arguments under one of the keys " + ", ".join(SCHEMA_KEYS),
                f"Rename {others[0]!r} to 'parameters'.",
            )  # fmt: skip
        return {"type": "object"}
    schema = function[given[0]]
    if not isinstance(schema, (Mapping, bool)):
        raise ArgumentError(f"{where}.{given[0]}", schema, "a JSON Schema: an object, true or false, or null for none")
    return schema


def _like_a_schema(value: object) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in ("type", "properties", "$ref", "anyOf", "oneOf"))


def tool_calls(
    tools: Sequence[Tool | Mapping[str, Any]],
    format: Format = "hermes",
    *,
    at_least: int = 0,
    at_most: int | None = None,
    free_text: bool = True,
    special_python_tag: bool = True,
) -> Grammar:
    """The grammar of replies with calls of these tools, their arguments valid by their schemas.

    Args:
        tools: `Tool`s, or entries as `read_tools` takes them.
        format: how calls are written; see the module.
        at_least, at_most: how many calls; 1 and 1 is "one call and no parallel ones".
        free_text: the reply may hold other text (hermes, llama3_function), or be other text (llama3, openai).
        special_python_tag: llama3's <|python_tag|> is a special token of the tokenizer rather than text.

    Raises:
        ArgumentError: an unknown format, bad bounds, or an entry of `tools` that is none.
        GrammarError: a schema can't be enforced; `where` begins with the tool's name.
    """
    if format not in get_args(Format):
        raise ArgumentError("format", format, "one of " + ", ".join(get_args(Format)))
    if at_least < 0 or (at_most is not None and at_most < max(at_least, 1)):
        raise ArgumentError("at_least and at_most", (at_least, at_most), "0 <= at_least <= at_most, and at_most >= 1")
    listed = [tool if isinstance(tool, Tool) else read_tools([tool])[0] for tool in tools]
    if not listed:
        raise ArgumentError("tools", tools, "at least one tool")
    if len({tool.name for tool in listed}) < len(listed):
        raise ArgumentError("tools", [tool.name for tool in listed], "each name once")
    if format == "hermes":
        wrapped = [_object(tool, "arguments") for tool in listed]
        tags = [Tag("<tool_call>", Grammar(concat(SPACE, g.start, SPACE), g.rules), "</tool_call>") for g in wrapped]
    elif format == "llama3_function":
        tags = [Tag(f"<function={tool.name}>", _arguments(tool), "</function>") for tool in listed]
    else:
        return _whole_reply(listed, format, at_least, at_most, free_text, special_python_tag)
    trigger = "<tool_call>" if format == "hermes" else "<function="
    return structural_tag(
        tags,
        triggers=[trigger],
        at_least=at_least,
        at_most=at_most,
        before=free_text,
        after=free_text,
        separator=SPACE,
    )


def _whole_reply(
    tools: list[Tool], format: Format, at_least: int, at_most: int | None, free_text: bool, special: bool
) -> Grammar:
    """Replies that are calls from beginning to end, or free text that does not begin like one."""
    rules: dict[str, Expression] = {}
    ways = []
    for i, tool in enumerate(tools):
        wrapped = apart(_object(tool, "parameters" if format == "llama3" else "arguments"), f"tool {i}")
        rules.update(wrapped.rules)
        ways.append(wrapped.start)
    call: Expression = either(*ways)
    first = "{"
    tag: Expression = EMPTY
    if format == "llama3":
        tag = repeat(Special(PYTHON_TAG) if special else text(PYTHON_TAG), 0, 1)
        separator = concat(SPACE, text(";"), SPACE)
    else:
        first = "["
        call = concat(
            _members(("type", text('"function"'))), text(","), SPACE, _key("function"), call, SPACE, text("}")
        )
        separator = concat(SPACE, text(","), SPACE)
    more = repeat(concat(separator, call), max(at_least - 1, 0), None if at_most is None else at_most - 1)
    calls = concat(call, more)
    if format == "openai":
        if at_least == 0 and not free_text:
            calls = repeat(calls, 0, 1)
        calls = concat(text("["), SPACE, calls, SPACE, text("]"))
    whole = concat(tag, calls)
    if at_least == 0 and free_text:
        # neither white space alone in front of a call, nor the tag as text, may pass for free text
        blank, opening = ranges(" \t\n\r"), ranges(first + ("<" if format == "llama3" and not special else ""))
        begins = Chars(complement(tuple(sorted(blank + opening))))
        whole = either(whole, concat(Repeat(Chars(blank)), repeat(concat(begins, ANY_TEXT), 0, 1)))
    elif at_least == 0 and format == "llama3":
        whole = repeat(whole, 0, 1)
    return Grammar(whole, rules)


def _arguments(tool: Tool) -> Grammar:
    schema = tool.parameters if isinstance(tool.parameters, bool) else dict(tool.parameters)
    try:
        return from_json_schema(schema)
    except GrammarError as error:
        raise GrammarError(f"tool {tool.name}, {error.where}", error.problem) from None


def _key(name: str) -> Expression:
    return concat(text(json.dumps(name)), SPACE, text(":"), SPACE)


def _members(*members: tuple[str, Expression]) -> Expression:
    """A JSON object up to its last member, without the brace that closes it."""
    parts: list[Expression] = [text("{"), SPACE]
    for i, (name, value) in enumerate(members):
        parts += [text(","), SPACE] if i else []
        parts += [_key(name), value, SPACE]
    return concat(*parts)


def _object(tool: Tool, key: str) -> Grammar:
    """``{"name": "add", "arguments": {...}}``"""
    arguments = _arguments(tool)
    name = text(json.dumps(tool.name, ensure_ascii=False))
    return Grammar(concat(_members(("name", name), (key, arguments.start)), text("}")), arguments.rules)


# --- reading calls back


def read_calls(reply: str, format: Format = "hermes") -> Reply:
    """The calls in a reply that the grammar of `tool_calls` constrained, and the text around them.

    Raises:
        ArgumentError: an unknown format.
    """
    match format:
        case "hermes":
            return _tagged(reply, re.compile(r"<tool_call>\s*()"), "</tool_call>")
        case "llama3_function":
            return _tagged(reply, re.compile(r"<function=([^>]*)>\s*"), "</function>")
        case "llama3" | "openai":
            return _whole(reply, format)
    raise ArgumentError("format", format, "one of " + ", ".join(get_args(Format)))


def _tagged(reply: str, opening: re.Pattern[str], end: str) -> Reply:
    texts: list[str] = []
    calls: list[ToolCall] = []
    place = 0
    while (found := opening.search(reply, place)) is not None:
        texts.append(reply[place : found.start()])
        value, after = _value(reply, found.end())
        closed = re.compile(rf"\s*{re.escape(end)}").match(reply, after)
        call = ToolCall(found[1], value) if found[1] else _call(value, "arguments")
        if closed is None or call is None:
            return Reply("".join(texts), tuple(calls), complete=False)
        calls.append(call)
        place = closed.end()
    return Reply("".join([*texts, reply[place:]]), tuple(calls))


def _whole(reply: str, format: Format) -> Reply:
    body = reply.removeprefix(PYTHON_TAG).strip() if format == "llama3" else reply.strip()
    if not body.startswith("{" if format == "llama3" else "["):
        return Reply(reply, ())
    if format == "openai":
        value, after = _value(body, 0)
        entries = value if isinstance(value, list) else []
        found = [_call(entry.get("function"), "arguments") for entry in entries if isinstance(entry, dict)]
        complete = after == len(body) and isinstance(value, list) and None not in found
        return Reply("", tuple(call for call in found if call is not None), complete)
    calls: list[ToolCall] = []
    for value, after in _values(body):
        call = _call(value, "parameters")
        if call is None:
            return Reply("", tuple(calls), complete=False)
        calls.append(call)
        if after == len(body):
            return Reply("", tuple(calls))
    return Reply("", tuple(calls), complete=False)


def _values(body: str) -> Iterator[tuple[Any, int]]:
    """JSON values with semicolons between them, each with the place behind it."""
    place = 0
    while True:
        value, place = _value(body, place)
        yield value, place
        semicolon = re.compile(r"\s*;\s*").match(body, place)
        if semicolon is None:
            return
        place = semicolon.end()


def _value(reply: str, place: int) -> tuple[Any, int]:
    """The JSON value at a place and the place behind it; None if it is cut off."""
    try:
        value, end = json.JSONDecoder().raw_decode(reply, place)
    except json.JSONDecodeError:
        return None, place
    return value, end


def _call(value: Any, key: str) -> ToolCall | None:
    if isinstance(value, dict) and isinstance(value.get("name"), str) and key in value:
        return ToolCall(value["name"], value[key])
    return None
