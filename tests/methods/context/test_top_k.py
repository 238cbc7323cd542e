from __future__ import annotations

import pytest

from tests.context import fakes
from tokloom.context import retrieval
from tokloom.context.selector import Document
from tokloom.context.spans import passage_characters, passages
from tokloom.errors import SpecError
from tokloom.methods.context.top_k import TopK


def test_it_takes_the_passages_in_the_order_of_the_fused_ranks(alice: str) -> None:
    documents = (Document("alice.txt", alice),)
    request = fakes.request("What did Alice find on the little glass table?", documents, 400)
    selection = TopK(passage_tokens=50).select(request)
    found = passages(documents, passage_characters(request, 50))
    index = retrieval.index(request, found)
    ranking = retrieval.search(request, index, 32).ranking
    expected = [(found[i].start, found[i].end) for i in ranking[: len(selection.spans)]]
    assert [(s.start, s.end) for s in selection.spans] == expected
    assert len(expected) > 4
    assert [d.taken for d in selection.trace] == [True] * len(expected) + [False]
    assert selection.trace[-1].reason.startswith("token budget")


def test_it_takes_the_same_text_twice() -> None:
    text = "The key lies on the table.\n\n" + "Nothing else is in the room at all today.\n\n" * 9
    documents = [Document("one", text), Document("copy", text)]
    selection = TopK(passage_tokens=8).select(fakes.request("Where is the key?", documents, 22))
    assert [s.text for s in selection.spans] == ["The key lies on the table."] * 2


@pytest.mark.parametrize("options", [{"budget": 0}, {"passage_tokens": 1}, {"dense_candidates": -1}, {"k": 3}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=f"top_k:{next(iter(options))}"):
        TopK(**options)
