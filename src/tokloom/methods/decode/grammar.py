"""The output is in the language of a context-free grammar, in GBNF, Lark or EBNF notation.

Paper: P1. XGrammar: Flexible and Efficient Structured Generation Engine for Large Language Models. arXiv:2411.15100

Formula:
    A token t may come next after the output bytes p iff some text of the grammar starts with p + bytes(t);
    end-of-sequence tokens iff p is a text of the grammar. Rules may be recursive in any way and ambiguous.

Shapes:
    mask  int32 (ceil(vocabulary / 32),), bit i % 32 of word i // 32 for token i

Effect: the paper claims up to 100 times the speed of earlier engines, next to nothing beside the model; the test shows
    that every output that ends is in the language.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, ClassVar, Literal

from tokloom.decode.constraint import Constraint
from tokloom.errors import SpecError
from tokloom.grammar.combine import SYNTAXES, parse_grammar
from tokloom.grammar.constraint import GrammarConstraint, one_of, read_text
from tokloom.grammar.expression import Grammar
from tokloom.registry import method


@method(stage="decode")
class ContextFree(GrammarConstraint, Constraint):
    """Constrains the output to a grammar's language."""

    example: ClassVar[dict[str, Any]] = {"text": 'root ::= "a" root | "b"'}

    text: str | None = None
    """The grammar itself."""
    path: str | None = None
    """A file with the grammar, in place of `text`."""
    syntax: Literal["gbnf", "lark", "ebnf"] | None = None
    """The notation; if not given, that of the file's ending, else gbnf."""
    start_rule: str | None = None
    """The rule to start with; the notation's own (root, start, the first) if not given."""

    def build(self) -> Grammar:
        if one_of("grammar", text=self.text, path=self.path) == "text":
            return parse_grammar(self.text or "", self.syntax or "gbnf", start=self.start_rule)
        ending = PurePath(self.path or "").suffix.removeprefix(".").lower()
        syntax = self.syntax or next((known for known in SYNTAXES if known == ending), None)
        if syntax is None:
            raise SpecError(
                "grammar:syntax", None, f"gbnf, lark or ebnf, as the file's ending .{ending} says none",
                f"For example: grammar:path={self.path},syntax=gbnf.",
            )  # fmt: skip
        return parse_grammar(read_text(self.path or ""), syntax, start=self.start_rule)
