from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.context import fakes
from tokloom.context.embedding_cache import embed_cached


class Named:
    """An embedder that says what it is, and notes what it was asked for."""

    def __init__(self, name: str = "fake-64") -> None:
        self.name = name
        self.seen: list[str] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.seen.extend(texts)
        return fakes.embed(texts)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    return tmp_path / "embeddings"


TEXTS, OWNERS = ["the oak", "the elm", "the oak"], ["book one", "book two", "book one"]


def test_vectors_are_those_of_the_model_in_order() -> None:
    question, rows = embed_cached(Named(), "where?", TEXTS, OWNERS)
    np.testing.assert_array_equal(question, fakes.embed(["where?"])[0])
    np.testing.assert_array_equal(rows, fakes.embed(TEXTS))


def test_a_second_question_embeds_only_what_is_new(cache: Path) -> None:
    embed = Named()
    embed_cached(embed, "where?", TEXTS, OWNERS)
    assert embed.seen == ["where?", "the oak", "the elm"]
    embed.seen.clear()
    _, rows = embed_cached(embed, "who?", [*TEXTS, "the ash"], [*OWNERS, "book one"])
    assert embed.seen == ["who?", "the ash"]
    np.testing.assert_array_equal(rows, fakes.embed([*TEXTS, "the ash"]))
    embed.seen.clear()
    embed_cached(embed, "who?", [*TEXTS, "the ash"], [*OWNERS, "book one"])
    assert embed.seen == ["who?"]
    assert len(list(cache.iterdir())) == 2


def test_another_model_does_not_get_these_vectors() -> None:
    embed_cached(Named(), "where?", TEXTS, OWNERS)
    other = Named("other")
    embed_cached(other, "where?", TEXTS, OWNERS)
    assert "the oak" in other.seen


def test_a_function_without_a_name_is_not_kept(cache: Path) -> None:
    embed_cached(fakes.embed, "where?", TEXTS, OWNERS)
    assert not cache.exists()


@pytest.mark.parametrize("damage", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_made_anew(cache: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    embed_cached(Named(), "where?", TEXTS, OWNERS)
    for path in cache.iterdir():
        path.write_bytes(damage)
    embed = Named()
    with caplog.at_level(logging.WARNING):
        _, rows = embed_cached(embed, "where?", TEXTS, OWNERS)
    assert "the oak" in embed.seen
    assert "made again" in caplog.text
    np.testing.assert_array_equal(rows, fakes.embed(TEXTS))
    assert all(path.read_bytes() != damage for path in cache.iterdir())


def test_a_folder_that_can_not_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        _, rows = embed_cached(Named(), "where?", TEXTS, OWNERS)
    np.testing.assert_array_equal(rows, fakes.embed(TEXTS))
    assert "can't be kept" in caplog.text
