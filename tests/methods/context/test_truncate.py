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
