"""Which tokens can be neighbours: every pair of small vocabularies against the tokenizer's own merging."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, trainers
from tokenizers.models import BPE

from tests import tiny_models
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.merges import Merges


def merges_of(model: BPE) -> tuple[Merges, dict[int, str]]:
    state = json.loads(Tokenizer(model).to_str())["model"]
    vocabulary = state["vocab"]
    characters = [id for text, id in vocabulary.items() if len(text) == 1]
    pairs = [(left, right) for left, right in state["merges"]]
    merges = Merges(vocabulary, pairs, characters, len(vocabulary))
    return merges, {id: text for text, id in vocabulary.items()}


def written(model: BPE, text: str) -> list[int]:
    return [token.id for token in model.tokenize(text)]


def dense_alphabet() -> BPE:
    """Three letters and a hundred merges, among them runs of one letter: every kind of overlap."""
    tokenizer = Tokenizer(BPE())
    draw = random.Random(3)
    texts = ["".join(draw.choices("abc", (5, 3, 1), k=40)) + "a" * draw.randrange(20) for _ in range(60)]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=110, show_progress=False))
    return tokenizer.model


def parts_formed_late() -> BPE:
    """As in SentencePiece's vocabularies: a pair may come before one of its parts in the list of merges."""
    tokens = ["a", "b", "c", "d", "ab", "bc", "abc", "bcd", "abcd", "cd"]
    pairs = [("a", "bc"), ("ab", "c"), ("c", "d"), ("bc", "d"), ("b", "c"), ("a", "b"), ("a", "bcd"), ("ab", "cd")]
    return BPE({token: id for id, token in enumerate(tokens)}, pairs)


@pytest.mark.parametrize(
    "model",
    [dense_alphabet(), parts_formed_late(), tiny_models.byte_fallback().model],
    ids=["dense", "late", "fallback"],
)
def test_neighbours_are_those_that_the_tokenizer_leaves_apart(model: BPE) -> None:
    merges, texts = merges_of(model)
    texts = {id: text for id, text in texts.items() if not text.startswith("<")}
    for id, text in texts.items():
        assert merges.reachable[id] == (written(model, text) == [id])
    reachable = [id for id in texts if merges.reachable[id]]
    apart = 0
    for left in reachable:
        row = merges.followers(left)
        for right in reachable:
            expected = written(model, texts[left] + texts[right]) == [left, right]
            assert row[right] == expected, (texts[left], texts[right])
            apart += expected
    assert 0 < apart < len(reachable) ** 2


def test_neighbours_decide_for_the_whole_sequence() -> None:
    model = dense_alphabet()
    merges, texts = merges_of(model)
    rows = np.stack([merges.followers(id) for id in range(len(texts))])
    draw = random.Random(5)
    own = 0
    for _ in range(3000):
        tokens = draw.choices(range(len(texts)), k=draw.randint(2, 5))
        pairs = all(rows[left, right] for left, right in pairwise(tokens))
        assert pairs == (written(model, "".join(texts[token] for token in tokens)) == tokens)
        own += pairs
    assert 100 < own < 2900


@pytest.mark.model
def test_neighbours_in_a_real_vocabulary(smollm2: LanguageModel) -> None:
    """Pairs that the vocabulary's own longer tokens are cut into: the ones that might merge."""
    model = smollm2.tokenizer.backend_tokenizer.model
    merges, texts = merges_of(model)
    ids = {text: id for id, text in texts.items()}
    draw = random.Random(1)
    checked = 0
    for text in draw.sample(sorted(t for t in ids if len(t) > 5), 300):
        cut = draw.randrange(1, len(text))
        left, right = ids.get(text[:cut]), ids.get(text[cut:] + draw.choice(["", "s", "ed"]))
        if left is None or right is None or not (merges.reachable[left] and merges.reachable[right]):
            continue
        joined = texts[left] + texts[right]
        assert merges.followers(left)[right] == (written(model, joined) == [left, right]), joined
        checked += 1
    assert checked > 40
