"""What holds for every selector: the budget, exact spans, a complete trace, the same result each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.context import fakes
from tokloom.context.headings import text_sections
from tokloom.context.selector import ContextSelector, Document
from tokloom.methods.context.context_bubble import ContextBubble
from tokloom.methods.context.top_k import TopK
from tokloom.methods.context.truncate import Truncate

SELECTORS = [
    ContextBubble(passage_tokens=8),
    ContextBubble(passage_tokens=20, dense_candidates=2, radius=2, section_share=0.3, min_gain=-1),
    TopK(passage_tokens=8),
    Truncate(),
]

sentence = st.lists(st.sampled_from("key Key table glass Alice found the a Mr. cat 12 王 queen's".split()), max_size=9)
paragraph = st.lists(sentence.map(" ".join), max_size=4).map(lambda parts: ". ".join(parts) + ".\n")
text = st.lists(st.one_of(paragraph, st.sampled_from(["\n", "CHAPTER I\n\n", "CHAPTER II\n\n", "x" * 50])), max_size=10)


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: s.name)
@given(
    texts=st.lists(text.map("\n".join), min_size=1, max_size=3),
    question=st.sampled_from(["What did Alice find?", "Who is the queen of cats?", "?", "王 12"]),
    budget=st.integers(1, 90),
    count=st.sampled_from([fakes.count_words, fakes.count_triples, fakes.count_crowded]),
)
@settings(max_examples=40, deadline=None)
def test_selections_are_within_budget_exact_and_repeatable(
    selector: ContextSelector, texts: list[str], question: str, budget: int, count: Callable[[str], int]
) -> None:
    documents = [Document(f"{i}.txt", text, text_sections(text)) for i, text in enumerate(texts)]
    request = fakes.request(question, documents, budget, count)
    selection = selector.select(request)
    assert fakes.tokens(request, selection) <= budget
    places = {id(document): i for i, document in enumerate(documents)}
    found = [(places[id(s.document)], s.start, s.end) for s in selection.spans]
    for at, start, end in found:
        assert 0 <= start < end <= len(texts[at])
        assert texts[at][start:end] == texts[at][start:end].strip()
    ordered = sorted(found)
    assert all(a[0] < b[0] or a[2] <= b[1] for a, b in itertools.pairwise(ordered))
    if not isinstance(selector, TopK):
        assert found == ordered
    # The trace accounts for the spans to the character: taken pieces, and white space where they were joined.
    taken = sum(len("".join(d.span.text.split())) for d in selection.trace if d.taken)
    assert taken == sum(len("".join(s.text.split())) for s in selection.spans)
    assert all(decision.reason for decision in selection.trace)
    assert selector.select(request) == selection


@pytest.mark.parametrize("selector", [ContextBubble(), TopK(), Truncate()], ids=lambda s: s.name)
@pytest.mark.parametrize("budget", [60, 300, 1000])
def test_a_book_far_beyond_the_budget(selector: ContextSelector, budget: int, alice: str) -> None:
    request = fakes.request("What did Alice find on the glass table?", [Document("a", alice)], budget)
    selection = selector.select(request)
    assert 0.6 * budget <= fakes.tokens(request, selection) <= budget


@pytest.mark.parametrize("selector", [ContextBubble(), TopK(), Truncate()], ids=lambda s: s.name)
def test_documents_that_fit_are_taken_whole_without_embedding(selector: ContextSelector) -> None:
    def refuse(texts: object) -> object:
        raise AssertionError("nothing had to be embedded")

    documents = [Document("a", "One.\n\nTwo.\n"), Document("b", "Three.")]
    selection = selector.select(fakes.request("?", documents, 50, embed=refuse))  # type: ignore[arg-type]
    assert selection.render() == "[1] One.\n\nTwo.\n\n[2] Three."


@pytest.mark.parametrize("selector", [ContextBubble(), TopK(), Truncate()], ids=lambda s: s.name)
def test_no_document_and_no_room_give_no_span(selector: ContextSelector) -> None:
    assert selector.select(fakes.request("What?", [], 10)).spans == ()
    assert selector.select(fakes.request("word", [Document("a", "word " * 50)], 1)).spans == ()
