"""Sentences hidden in a text: how many fit, and where the needles lie."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare.fakes import FakeModel
from tokloom.evaluate.haystack import SHIPPED, hide, insertion, sentences

SENTENCE = st.lists(st.sampled_from(["ab", "c", "def", "g,", "7"]), min_size=1, max_size=6).map(" ".join)
HAY = st.lists(SENTENCE.map(lambda s: f"A {s}."), min_size=1, max_size=12)
NEEDLE = "The number is: 4711."


def test_sentences() -> None:
    assert sentences('He came. "Who?" she said.\nMr x went (so!) Away. 7 left.') == [
        "He came.", '"Who?" she said.', "Mr x went (so!)", "Away. 7 left.",
    ]  # fmt: skip
    text = SHIPPED.read_text(encoding="utf-8")
    assert " ".join(sentences(text)) == " ".join(text.split())


@given(st.lists(st.integers(1, 50), max_size=20), st.floats(0, 1))
def test_insertion_is_the_nearest_border(lengths: list[int], depth: float) -> None:
    at = insertion(lengths, depth)
    errors = [abs(sum(lengths[:i]) - depth * sum(lengths)) for i in range(len(lengths) + 1)]
    assert errors[at] == min(errors)


@given(HAY, st.integers(0, 11), st.floats(0, 1), st.integers(1, 120))
def test_hidden_text(hay: list[str], start: int, depth: float, length: int) -> None:
    """The needle once; sentences whole, in order, as many as fit; the depth within half a sentence of the wish."""
    count = FakeModel().count
    hidden = hide([NEEDLE], hay, start, [depth], length, count)
    if hidden is None:
        assert count(NEEDLE) > length
        return
    text, (reached,) = hidden
    assert count(text) <= length
    assert text.count(NEEDLE) == 1
    before, _, after = text.partition(NEEDLE)
    rest = " ".join((before + after).split())
    endless = (hay[(start + i) % len(hay)] for i in itertools.count())
    taken: list[str] = []
    while " ".join(taken) != rest:
        taken.append(next(endless))
        assert len(" ".join(taken)) <= len(rest)
    longest = max(count(" " + sentence) for sentence in hay)
    assert count(text) + longest >= length
    whole = sum(count(" " + sentence) for sentence in taken)
    assert abs(reached - depth) * whole <= longest / 2 + 1e-6
    assert reached * whole == pytest.approx(sum(count(" " + s) for s in sentences_of(before, taken)))


def sentences_of(before: str, taken: list[str]) -> list[str]:
    found: list[str] = []
    for sentence in taken:
        if len(" ".join([*found, sentence])) <= len(before.strip()):
            found.append(sentence)
    return found


@given(HAY, st.integers(0, 11), st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(1, 160))
def test_several_needles(hay: list[str], start: int, depths: list[float], length: int) -> None:
    """Each once, at the border nearest to its depth, those of one border in the order given."""
    count = FakeModel().count
    needles = [f"The number is: 4711{i}." for i in range(len(depths))]
    hidden = hide(needles, hay, start, depths, length, count)
    if hidden is None:
        assert count(" ".join(needles)) > length
        return
    text, reached = hidden
    assert count(text) <= length
    order = sorted(range(len(depths)), key=lambda i: (reached[i], i))
    places = [text.index(needles[i]) for i in order]
    assert places == sorted(places)
    for needle in needles:
        assert text.count(needle) == 1
        text = text.replace(needle, "")
    alone = hide(["x"], hay, start, [depths[0]], 1, count)
    assert alone is None or alone[0] == "x"
    taken = sum(text.count(sentence) > 0 for sentence in hay)
    if taken == 0:
        assert set(reached) == {0.0}
