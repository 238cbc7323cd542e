"""llama.cpp as a row: what is said to the other process and read from it, on a stand-in for llama-cpp-python."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tokloom import Sampling
from tokloom.errors import CompositionError
from tokloom.evaluate.peer import PeerEngine
from tokloom.methods.evaluate.llama_cpp import LlamaCpp
from tokloom.models.language_model import LanguageModel

MODULE = """
class Llama:
    def __init__(self, path, n_ctx, n_threads, n_threads_batch, verbose, draft_model, logits_all):
        assert open(path).read() == "blocks" and n_ctx == 64 and bool(draft_model) == logits_all
        self.drafted = draft_model.num_pred_tokens if draft_model else 0
    def reset(self):
        self.held = 0
    def eval(self, tokens):
        self.held += len(tokens)
    def generate(self, tokens, temp, repeat_penalty, top_k):
        self.eval(tokens)
        while True:
            for token in tokens[: 1 + self.drafted]:
                yield token
            self.eval(tokens[: 1 + self.drafted])
"""
DRAFTS = """
class LlamaPromptLookupDecoding:
    def __init__(self, num_pred_tokens):
        self.num_pred_tokens = num_pred_tokens
"""


@pytest.fixture
def model(tiny_llama: LanguageModel, tmp_path: Path) -> LanguageModel:
    (tmp_path / "tiny.gguf").write_text("blocks")
    return replace(tiny_llama, name=str(tmp_path / "tiny.gguf"))


@pytest.fixture
def _llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE)
    (package / "llama_speculative.py").write_text(DRAFTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("_llama")
def test_tokens_in_tokens_and_passes_out(model: LanguageModel) -> None:
    tokens = tuple(model.encode_prompt("one two three", chat=False))
    for drafted, passes in ((0, 5), (2, 1)):
        engine = PeerEngine(model, LlamaCpp(window=64, prompt_lookup=drafted))
        for _ in range(2):  # the child goes on to the next question
            result = engine.generate("one two three", sampling=Sampling(max_new_tokens=6))
            assert result.tokens == (tokens[: 1 + drafted] * 6)[:6]
            assert result.ledger.row("decode").forward_passes == passes
            assert 0 < result.ledger.row("attention").seconds < 10


@pytest.mark.usefixtures("_llama")
def test_more_than_the_window(model: LanguageModel) -> None:
    with pytest.raises(CompositionError, match="window of 64"):
        PeerEngine(model, LlamaCpp(window=64)).generate("one", sampling=Sampling(max_new_tokens=64))


def test_without_llama_cpp_python(model: LanguageModel, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(CompositionError, match="llama-cpp-python is not installed"):
        LlamaCpp(python=str(bare)).start(model)
    with pytest.raises(CompositionError, match="No such file"):
        LlamaCpp(python=str(tmp_path / "absent")).start(model)


def test_only_gguf_files(tiny_llama: LanguageModel) -> None:
    with pytest.raises(CompositionError, match="GGUF files only"):
        LlamaCpp().start(tiny_llama)
