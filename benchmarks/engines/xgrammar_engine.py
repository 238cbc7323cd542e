"""xgrammar, with one thread and without its cache of compiled grammars."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xgrammar

from engines import Compiled, Engine, Refused, Session, Tokens


class _Session(Session):
    def __init__(self, grammar: Any, words: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(grammar)
        self.out = np.zeros(words, dtype=np.int32)
        self._batch = self.out.reshape(1, words)
        self._all = np.full(words, -1, dtype=np.int32)

    def mask(self) -> None:
        if not self._matcher.fill_next_token_bitmask(self._batch, 0):  # every token is allowed, and it may not say so
            self.out[:] = self._all

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))


class _Compiled(Compiled):
    def __init__(self, grammar: Any, words: int) -> None:
        self._grammar, self._words = grammar, words

    def session(self) -> Session:
        return _Session(self._grammar, self._words)

    @property
    def nbytes(self) -> int:
        return int(self._grammar.memory_size_bytes)


class Adapter(Engine):
    name = "xgrammar"

    def __init__(self, tokens: Tokens) -> None:
        self._words = tokens.words
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokens.tokenizer, vocab_size=tokens.size, stop_token_ids=[tokens.eos]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def schema(self, schema: Any) -> Compiled:
        try:  # strict_mode would forbid properties that the schema does not name, which JSON Schema allows
            grammar = self._compiler.compile_json_schema(json.dumps(schema), strict_mode=False)
        except Exception as error:  # it raises RuntimeError and more
            raise Refused(str(error)) from None
        return _Compiled(grammar, self._words)

    def grammar(self, text: str) -> Compiled:
        try:
            grammar = self._compiler.compile_grammar(text)
        except Exception as error:
            raise Refused(str(error)) from None
        return _Compiled(grammar, self._words)
