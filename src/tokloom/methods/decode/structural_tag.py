"""Free text in which the model may call tools, their arguments valid by their schemas.

Paper: P1. XGrammar: Flexible and Efficient Structured Generation Engine for Large Language Models. arXiv:2411.15100

Formula:
    output = (free text, call){at_least, at_most}, free text
    Free text holds no trigger (<tool_call>, <function=), exactly; once a trigger is complete, a call of one of the
    tools follows, with arguments in the language of its schema.

Shapes:
    mask  int32 (ceil(vocabulary / 32),), bit i % 32 of word i // 32 for token i

Effect: the paper claims next to no cost beside the model; the test shows that every call names a tool that there is,
    with valid arguments. `Result.parsed` is the reply taken apart.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokloom.decode.constraint import Constraint
from tokloom.errors import ArgumentError, DocumentError, SpecError
from tokloom.grammar.compiled import compile_expression
from tokloom.grammar.constraint import GrammarConstraint, one_of, read_text
from tokloom.grammar.expression import Grammar
from tokloom.grammar.tool_calls import PYTHON_TAG, Reply, read_calls, read_tools, tool_calls
from tokloom.registry import method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokloom.decode.constraint import Matcher
    from tokloom.tokenize.vocabulary import Vocabulary


@method(stage="decode")
class StructuralTag(GrammarConstraint, Constraint):
    """Constrains the calls of tools in the output."""

    example: ClassVar[dict[str, Any]] = {
        "tools": [{"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
    }

    tools: list[dict[str, Any]] | None = None
    """The tools, as the OpenAI API takes them."""
    path: str | None = None
    """A JSON file with the tools, in place of `tools`."""
    format: Literal["hermes", "llama3", "llama3_function", "openai"] = "hermes"
    """How the model writes calls."""
    at_least: int = 0
    """Calls that there must be."""
    at_most: int | None = None
    """Calls that there may be; without bound if not given."""
    free_text: bool = True
    """The output may hold text beside the calls."""
    special_python_tag: bool | None = None
    """In the format llama3: <|python_tag|> is a special token rather than text; if not given, as in the vocabulary."""

    def build(self) -> Grammar:
        return self._with_tag(special=self.special_python_tag is not False)

    def start(self, vocabulary: Vocabulary) -> Matcher:
        special = self.special_python_tag
        if special is None and self.format == "llama3" and PYTHON_TAG not in vocabulary.special_tokens:
            return compile_expression(self._with_tag(special=False), vocabulary).matcher()
        return super().start(vocabulary)

    def _with_tag(self, *, special: bool) -> Grammar:
        tools: Sequence[Any] | None = self.tools
        if one_of("structural_tag", tools=self.tools, path=self.path) == "path":
            try:
                tools = json.loads(read_text(self.path or ""))
            except json.JSONDecodeError as error:
                raise DocumentError(self.path or "", f"is not JSON ({error})") from None
        try:
            return tool_calls(
                read_tools(tools or []),
                self.format,
                at_least=self.at_least,
                at_most=self.at_most,
                free_text=self.free_text,
                special_python_tag=special,
            )
        except ArgumentError as error:
            raise SpecError(f"structural_tag:{error.argument}", error.value, error.valid, error.hint) from None

    def parse(self, text: str) -> Reply:
        """The reply taken apart: its text and its calls."""
        return read_calls(text, self.format)
