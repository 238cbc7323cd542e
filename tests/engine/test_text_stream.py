"""Streaming never splits a character, never shows a stop string, and loses nothing."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tokloom.engine.text_stream import TextStream

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab<|é日😀"), max_size=40)
stops = st.lists(st.text("ab<|é", min_size=1, max_size=4), max_size=3)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(texts, st.lists(st.integers(0, 160), max_size=30), stops)
def test_stream_equals_the_cut_text(text: str, cuts: list[int], stop: list[str]) -> None:
    stream = TextStream(stop)
    shown = ""
    for piece in pieces_of(text.encode(), cuts):
        shown += stream.push(piece)
        assert "\ufffd" not in shown or "\ufffd" in text
        assert not any(s in shown for s in stop)
        if stream.stopped:
            break
    shown += stream.finish()
    found = [at for at in map(text.find, stop) if at >= 0]
    assert shown == stream.text
    assert stream.stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # the stop string that is complete first ends the text
        first_end = min(text.find(s) + len(s) for s in stop if s in text)
        assert shown == text[: len(shown)]
        assert len(shown) < first_end


def test_an_incomplete_character_becomes_a_replacement() -> None:
    stream = TextStream()
    assert stream.push("é".encode()[:1]) == ""
    assert stream.finish() == "\ufffd"


def test_a_possible_stop_is_held_back_and_released() -> None:
    stream = TextStream(["<end>"])
    assert stream.push(b"a<e") == "a"
    assert stream.push(b"x") == "<ex"
    assert stream.push(b"<end>tail") == ""
    assert stream.stopped
    assert stream.text == "a<ex"
