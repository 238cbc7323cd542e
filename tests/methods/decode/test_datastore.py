"""The datastore: search against brute force, what is in it, and that a stopped building goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tokloom.errors import ArgumentError, ArtifactError, DocumentError
from tokloom.methods.decode import _datastore as datastore
from tokloom.methods.decode._datastore import LAST_MLP, Datastore, build
from tokloom.models.language_model import LanguageModel

WINDOW = 32


@pytest.fixture(scope="module")
def book(alice: str) -> str:
    return alice[2000:8000]


@pytest.fixture(scope="module")
def built(book: str, tiny_llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datastore") / "alice"
    build(path, tiny_llama, [book[:4000], book[4000:]], window=WINDOW)
    return path


def by_hand(model: LanguageModel, texts: list[str], layer: int) -> tuple[np.ndarray, list[int]]:
    """Keys and values of windows that overlap by a fourth, by transformers alone."""
    keys, values, inside = [], [], []
    handle = model.model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0][0]))
    for text in texts:
        tokens = model.encode(text)
        for start in range(0, len(tokens), WINDOW * 3 // 4):
            piece = tokens[start : start + WINDOW]
            with torch.inference_mode():
                states = model.model(torch.tensor([piece]), output_hidden_states=True).hidden_states
            hidden = inside.pop() if layer == LAST_MLP else states[layer][0]
            for i in range(WINDOW // 4 if start else 0, len(piece)):
                if start + i + 1 < len(tokens):
                    keys.append(hidden[i].numpy())
                    values.append(tokens[start + i + 1])
    handle.remove()
    return np.array(keys), values


def test_search_through_all_lists_is_brute_force(book: str, built: Path, tiny_llama: LanguageModel) -> None:
    keys, values = by_hand(tiny_llama, [book[:4000], book[4000:]], LAST_MLP)
    store = Datastore(built)
    assert store.values.tolist() == values
    assert store.index.nlist > 1
    queries = keys[::97] + np.random.default_rng(0).normal(0, 0.05, keys[::97].shape).astype(np.float32)
    distances, tokens = store.search(queries, 50)
    for query, found, following in zip(queries, distances, tokens, strict=True):
        true = ((keys - query) ** 2).sum(-1)
        nearest = np.argsort(true, kind="stable")[:50]
        np.testing.assert_allclose(found, true[nearest], rtol=0.02, atol=0.02)
        assert (np.array(values)[nearest] == following).mean() > 0.9  # half precision moves ties


def test_few_probes_find_some_of_them(built: Path) -> None:
    store = Datastore(built)
    queries = np.random.default_rng(1).normal(size=(8, store.about.width)).astype(np.float32)
    exact, _ = store.search(queries, 20)
    some, _ = store.search(queries, 20, probes=1)
    assert (some >= exact - 1e-5).all()
    assert np.isinf(store.search(queries, 10_000, probes=1)[0][:, -1]).all()


def test_keys_of_a_layers_output(book: str, tiny_gemma3: LanguageModel, tmp_path: Path) -> None:
    about = build(tmp_path / "store", tiny_gemma3, [book[:2000]], layer=2, window=WINDOW)
    assert (about.layer, about.width, about.model) == (2, 48, "tiny-gemma3")


def test_a_stopped_building_goes_on(book: str, built: Path, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path, steps = tmp_path / "store", []

    def stop_at_five(what: str, done: int, total: int) -> None:
        steps.append(done)
        if done == 5:
            raise KeyboardInterrupt

    texts = [book[:4000], book[4000:]]
    with pytest.raises(KeyboardInterrupt):
        build(path, tiny_llama, texts, window=WINDOW, progress=stop_at_five)
    assert not path.exists()
    with open(tmp_path / "store.building" / "keys.f16", "ab") as file:
        file.write(b"half a window that was never counted")
    build(path, tiny_llama, texts, window=WINDOW, progress=lambda what, done, total: steps.append(done))
    assert steps[:6] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "store.building").exists()
    one, other = Datastore(built), Datastore(path)
    assert one.about == other.about
    queries = np.random.default_rng(2).normal(size=(4, one.about.width)).astype(np.float32)
    for mine, theirs in zip(one.search(queries, 30), other.search(queries, 30), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_same_text_is_not_built_twice(book: str, built: Path, tiny_llama: LanguageModel) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("built again")

    texts = [book[:4000], book[4000:]]
    assert build(built, tiny_llama, texts, window=WINDOW, progress=fail) == Datastore(built).about
    with pytest.raises(ArgumentError, match="another datastore is there"):
        build(built, tiny_llama, [book], window=WINDOW)


def test_tuning_finds_the_least_perplexity() -> None:
    rng = np.random.default_rng(3)
    distances = np.sort(rng.gamma(2.0, 1.0, (60, 12)), axis=-1).astype(np.float32)
    hits, logprobs = rng.random((60, 12)) < 0.3, -rng.gamma(2.0, 1.0, 60).astype(np.float32)
    temperature, weight, perplexity = datastore._tune(distances, hits, logprobs)
    scale = np.median(distances[:, 0])
    for share in datastore.TEMPERATURES:
        shares = np.exp(-(distances - distances[:, :1]).astype(np.float64) / (share * scale))
        near = (shares * hits).sum(-1) / shares.sum(-1)
        for other in datastore.WEIGHTS:
            mixed = np.exp(-np.log((1 - other) * np.exp(logprobs) + other * near).mean())
            assert perplexity <= mixed + 1e-4
            if (share * scale, other) == (temperature, weight):
                assert perplexity == pytest.approx(mixed, rel=1e-4)


def test_what_is_no_datastore_is_refused(tmp_path: Path, tiny_llama: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="tokloom prepare knn_lm:datastore="):
        Datastore(tmp_path / "none")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "about.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(ArgumentError, match=r"version 2.*old version"):
        Datastore(tmp_path / "old")
    with pytest.raises(DocumentError, match="too few tokens"):
        build(tmp_path / "short", tiny_llama, ["one two"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="where nothing is"):
        build(tmp_path / "file", tiny_llama, ["one two three " * 300], window=WINDOW)
    with pytest.raises(ArgumentError, match="layer=9"):
        build(tmp_path / "layer", tiny_llama, ["one two three " * 300], layer=9)


@pytest.mark.parametrize("file", ["about.json", "index.faiss", "values.i32"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_a_damaged_datastore_is_named(file: str, damage: str, built: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(built, store)
    path, whole = store / file, (store / file).read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2 // 4 * 4], "other": b"[1, 2]  "}[damage])
    with pytest.raises(ArtifactError, match=r"^datastore=.*Remove what is there"):
        Datastore(store)


def test_a_place_that_can_not_be_written_is_refused_before_the_text_is_read(
    tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    (tmp_path / "file").write_text("in the way")
    told: list[int] = []
    with pytest.raises(ArgumentError, match=r"^datastore=.*can be written"):
        build(
            tmp_path / "file" / "store", tiny_llama, ["one two three " * 300], window=WINDOW,
            progress=lambda what, done, total: told.append(done),
        )  # fmt: skip
    assert not told
