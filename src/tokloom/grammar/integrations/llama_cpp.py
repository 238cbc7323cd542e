"""A logits processor for llama-cpp-python.

llama = Llama("model.gguf")
processor = ConstraintLogitsProcessor('regex:pattern="[0-9]+"', LlamaVocabulary(llama))
llama(prompt, logits_processor=LogitsProcessorList([processor]))
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tokloom import registry
from tokloom.decode.constraint import Constraint
from tokloom.grammar.integrations.row import Row
from tokloom.tokenize.vocabulary import Vocabulary


class LlamaVocabulary(Vocabulary):
    """The vocabulary of a loaded `llama_cpp.Llama`, read from llama.cpp itself.

    Control tokens (end of text, roles of a chat) have no bytes.
    """

    def __init__(self, llama: Any) -> None:
        import llama_cpp

        vocab = llama._model.vocab  # no public name leads there
        self.size = int(llama.n_vocab())
        ends = {int(llama.token_eos()), int(llama_cpp.llama_vocab_eot(vocab))}
        self.eos_ids = frozenset(token for token in ends if token >= 0)
        table = [_piece(llama_cpp, vocab, token) for token in range(self.size)]
        for token in self.eos_ids:
            table[token] = b""
        self.special_ids = frozenset(token for token, piece in enumerate(table) if not piece)
        self.token_bytes = table
        texts = {llama_cpp.llama_vocab_get_text(vocab, token).decode(): token for token in sorted(self.special_ids)}
        self.special_tokens = texts
        self._llama = llama

    def tokenize(self, text: str) -> list[int]:
        """The tokens that llama.cpp writes `text` with, none added."""
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=False))


def _piece(llama_cpp: Any, vocab: Any, token: int) -> bytes:
    """The bytes of a token; none for a control token."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = int(llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, False))
        if count >= 0:
            return buffer.raw[:count]
        size = -count


class ConstraintLogitsProcessor:
    """Holds one completion after another to a constraint.

    Args:
        constraint: a `Constraint` or a spec such as ``regex:pattern="[0-9]+"``.
        vocabulary: of the model: a `LlamaVocabulary`, or a `Vocabulary` of the same tokenizer.

    Raises:
        SpecError, GrammarError: the constraint is wrong.
        ArgumentError: the vocabulary can't spell any valid output.
    """

    def __init__(self, constraint: str | Constraint, vocabulary: Vocabulary) -> None:
        self.constraint: Constraint = registry.build(constraint, Constraint, "constraint")
        self.vocabulary = vocabulary
        self._first = self.constraint.start(vocabulary)
        self._prompt: list[int] | None = None
        self._row = Row(self._first, vocabulary)

    def reset(self) -> None:
        """Begins a new output: the next call's tokens are its prompt."""
        self._prompt = None

    def __call__(self, input_ids: npt.NDArray[np.intc], scores: npt.NDArray[np.single]) -> npt.NDArray[np.single]:
        """The scores (vocabulary,) with those of forbidden tokens at minus infinity.

        input_ids: the prompt and the output so far. A call whose tokens don't go on from the last call's begins a
            new output.

        Raises:
            ArgumentError: a token of the output is forbidden (another processor forced it), or no token is left
                (another processor or a bias forbids all that the constraint allows).
        """
        tokens: list[int] = input_ids.tolist()
        if self._prompt is None or tokens[: len(self._prompt)] != self._prompt:
            self._prompt = tokens
            self._row = Row(self._first.fork(), self.vocabulary)
        self._row.follow(tokens[len(self._prompt) :])
        allowed = self._row.allowed(len(scores))
        if not (scores[allowed] > -np.inf).any():
            raise self._row.nothing_left()
        return np.where(allowed, scores, np.single("-inf"))
