"""The processor against llama-cpp-python's interface: callable(input_ids, scores), and a vocabulary read from C."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tokloom.errors import ArgumentError
from tokloom.grammar.integrations.llama_cpp import ConstraintLogitsProcessor, LlamaVocabulary
from tokloom.models.language_model import LanguageModel

OPTIONS = ["one two three", "one three", "four"]
SPEC = 'choices:options=["one two three","one three","four"]'


class Llama:
    """As `llama_cpp.Llama` and the C functions below it, over the tiny model's tokens."""

    def __init__(self, model: LanguageModel) -> None:
        self.pieces = list(model.vocabulary.token_bytes)
        self.pieces[300] = b"x" * 200  # longer than any first buffer
        self._model = SimpleNamespace(vocab=self)
        self.eos = min(model.eos_ids)
        self._names = {id: text for text, id in model.vocabulary.special_tokens.items()}
        self._encode = model.encode

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        assert not add_bos
        return self._encode(text.decode())

    def n_vocab(self) -> int:
        return len(self.pieces)

    def token_eos(self) -> int:
        return self.eos

    def complete(self, prompt: list[int], processor: Any, seed: int, limit: int = 40) -> list[int]:
        """Samples as the real class does: the processor gets all tokens so far and one row of scores."""
        generator, tokens = np.random.default_rng(seed), list(prompt)
        for _ in range(limit):
            scores = generator.standard_normal(self.n_vocab()).astype(np.single)
            scores = processor(np.array(tokens, dtype=np.intc), scores)
            probabilities = np.exp(scores - scores.max())
            tokens.append(int(generator.choice(len(probabilities), p=probabilities / probabilities.sum())))
            if tokens[-1] == self.eos:
                break
        return tokens[len(prompt) :]

    def text(self, output: list[int]) -> str:
        return b"".join(self.pieces[token] for token in output).decode()


def piece(vocab: Llama, token: int, buffer: Any, size: int, lstrip: int, special: bool) -> int:
    """`llama_token_to_piece`: the length, or minus the length that is needed."""
    data = vocab.pieces[token]
    if len(data) > size:
        return -len(data)
    ctypes.memmove(buffer, data, len(data))
    return len(data)


@pytest.fixture
def llama(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Llama:
    module = ModuleType("llama_cpp")
    module.llama_vocab_get_text = lambda vocab, token: vocab._names.get(token, "").encode()  # type: ignore[attr-defined]
    module.llama_token_to_piece, module.llama_vocab_eot = piece, lambda vocab: -1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return Llama(tiny_llama)


def test_the_vocabulary_is_read(llama: Llama, tiny_llama: LanguageModel) -> None:
    vocabulary = LlamaVocabulary(llama)
    assert vocabulary.size == len(vocabulary) == llama.n_vocab()
    assert vocabulary.token_bytes == llama.pieces
    assert vocabulary.eos_ids == {llama.eos}
    assert set(tiny_llama.vocabulary.special_ids) <= vocabulary.special_ids


def test_special_tokens_and_forced_text(llama: Llama, tiny_llama: LanguageModel) -> None:
    vocabulary = LlamaVocabulary(llama)
    assert tiny_llama.vocabulary.special_tokens.items() <= vocabulary.special_tokens.items()
    assert vocabulary.tokenize("one two") == tiny_llama.encode("one two")
    matcher = ConstraintLogitsProcessor('regex:pattern="one two three[a-z]"', vocabulary)._first
    forced = matcher.forced()
    assert forced
    assert "one two three".startswith(llama.text(forced))


def test_every_output_obeys(llama: Llama) -> None:
    processor = ConstraintLogitsProcessor(SPEC, LlamaVocabulary(llama))
    texts = [llama.text(llama.complete([5, 6, seed], processor, seed)) for seed in range(8)]
    assert set(texts) <= set(OPTIONS)
    assert len(set(texts)) > 1


def test_reset_begins_a_new_output(llama: Llama) -> None:
    processor = ConstraintLogitsProcessor(SPEC, LlamaVocabulary(llama))
    first = llama.complete([5, 6], processor, 1)
    processor.reset()
    assert llama.complete([5, 6, *first], processor, 2)[-1] == llama.eos
    processor.reset()
    assert llama.complete([5, 6], processor, 1) == first


def test_a_forbidden_token_is_an_error(llama: Llama, tiny_llama: LanguageModel) -> None:
    processor = ConstraintLogitsProcessor(SPEC, LlamaVocabulary(llama))
    scores = np.zeros(llama.n_vocab(), dtype=np.single)
    processor(np.array([5], dtype=np.intc), scores)
    with pytest.raises(ArgumentError, match="token="):
        processor(np.array([5, tiny_llama.encode("seven")[0]], dtype=np.intc), scores)
