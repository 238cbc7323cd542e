"""llguidance, with its default slices."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np

from engines import Compiled, Engine, Refused, Session, Tokens


class _Session(Session):
    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self.out = np.zeros(words, dtype=np.int32)
        self._batch = self.out.reshape(1, words)

    def mask(self) -> None:
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._batch, 0)

    def accept(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token))


class _Compiled(Compiled):
    """Its compiled form is a matcher, copied for each output."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher, self._words = matcher, words

    def session(self) -> Session:
        return _Session(self._matcher.deep_copy(), self._words)


class Adapter(Engine):
    name = "llguidance"
    notation = "lark"

    def __init__(self, tokens: Tokens) -> None:
        self._words = tokens.words
        self._tokenizer = llguidance.hf.from_tokenizer(tokens.tokenizer, n_vocab=tokens.size, eos_token=tokens.eos)

    def _compiled(self, grammar: str) -> Compiled:
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise Refused(matcher.get_error())
        return _Compiled(matcher, self._words)

    def schema(self, schema: Any) -> Compiled:
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        except Exception as error:
            raise Refused(str(error)) from None
        return self._compiled(grammar)

    def grammar(self, text: str) -> Compiled:
        try:
            grammar = llguidance.LLMatcher.grammar_from_lark(text)
        except Exception as error:
            raise Refused(str(error)) from None
        return self._compiled(grammar)
