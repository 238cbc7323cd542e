from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.context import fakes
from tokloom.context.selector import Document, Span, render
from tokloom.methods.context.truncate import Truncate


@given(st.lists(st.sampled_from(["a", "bb", "c.", "\n\n", "dddd"]), min_size=30, max_size=60), st.integers(5, 40))
@settings(max_examples=50, deadline=None)
def test_it_is_the_longest_beginning_that_fits(words: list[str], budget: int) -> None:
    text = " ".join(words)
    document = Document("a", text)
    for count in (fakes.count_words, fakes.count_triples):
        selection = Truncate().select(fakes.request("?", [document], budget, count))
        begin = len(text) - len(text.lstrip())
        ends = [i for i in range(begin + 1, len(text) + 1) if i == len(text) or text[i].isspace()]
        fitting = [e for e in ends if count(render([Span(document, begin, e)])) <= budget]
        if not fitting:
            assert selection.spans == ()
            continue
        (span,) = selection.spans
        assert span.start == begin
        assert span.text.rstrip() == text[begin : max(fitting)].rstrip()


def test_it_goes_on_in_the_next_document_and_says_what_is_left() -> None:
    documents = [Document("a", "one two"), Document("b", "three four five six"), Document("c", "seven")]
    selection = Truncate().select(fakes.request("?", documents, 10))
    assert selection.render() == "[1] one two\n\n[2] three four"
    assert [(d.taken, d.span.text) for d in selection.trace] == [
        (True, "one two"), (True, "three four"), (False, " five six"),
    ]  # fmt: skip
    assert selection.spans[1].citation == "b[0:10]"


def test_it_is_cut_behind_a_sentence_near_the_end_of_what_fits() -> None:
    text = "港の船は七時に出ます。" * 100
    (span,) = Truncate().select(fakes.request("?", [Document("a", text)], 120, len)).spans
    assert span.text == "港の船は七時に出ます。" * 10
    (span,) = Truncate().select(fakes.request("?", [Document("a", "港" * 500)], 120, len)).spans
    assert span.text == "港" * 116


def test_a_first_word_that_does_not_fit_is_cut_but_no_later_one() -> None:
    (span,) = Truncate().select(fakes.request("?", [Document("a", "internationalization " * 9)], 10, len)).spans
    assert span.text == "intern"
    (span,) = Truncate().select(fakes.request("?", [Document("a", "one internationalization " * 9)], 12, len)).spans
    assert span.text == "one"


def test_an_accent_stays_with_its_letter() -> None:
    (span,) = Truncate().select(fakes.request("?", [Document("a", "e\u0301" * 200)], 45, len)).spans
    assert span.text == "e\u0301" * 20
