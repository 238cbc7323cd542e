"""tokloom's own engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines import Compiled, Engine, Refused, Session, Tokens
from tokloom.errors import TokloomError
from tokloom.grammar.compiled import CompiledGrammar, compile_expression
from tokloom.grammar.gbnf import parse_gbnf
from tokloom.grammar.json_schema import from_json_schema
from tokloom.tokenize.vocabulary import Vocabulary


class _Session(Session):
    def __init__(self, grammar: CompiledGrammar, words: int) -> None:
        self._matcher = grammar.matcher()
        self.out = np.zeros(words, dtype=np.int32)

    def mask(self) -> None:
        self._matcher.mask(self.out)

    def accept(self, token: int) -> bool:
        try:
            self._matcher.accept(token)
        except TokloomError:
            return False
        return True


class _Compiled(Compiled):
    def __init__(self, grammar: CompiledGrammar, words: int) -> None:
        self._grammar, self._words = grammar, words

    def session(self) -> Session:
        return _Session(self._grammar, self._words)

    @property
    def nbytes(self) -> int:
        return self._grammar.nbytes


class Adapter(Engine):
    name = "tokloom"

    def __init__(self, tokens: Tokens) -> None:
        self._words = tokens.words
        self._vocabulary = Vocabulary(tokens.tokenizer, tokens.size, [tokens.eos])
        self._last = compile_expression(parse_gbnf('root ::= "a"'), self._vocabulary)

    def schema(self, schema: Any) -> Compiled:
        try:
            self._last = compile_expression(from_json_schema(schema, resources=self.resources), self._vocabulary)
        except TokloomError as error:
            raise Refused(str(error)) from None
        return _Compiled(self._last, self._words)

    def grammar(self, text: str) -> Compiled:
        try:
            self._last = compile_expression(parse_gbnf(text), self._vocabulary)
        except TokloomError as error:
            raise Refused(str(error)) from None
        return _Compiled(self._last, self._words)

    @property
    def shared_nbytes(self) -> int:
        return self._last.shared_nbytes
