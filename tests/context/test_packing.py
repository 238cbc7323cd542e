from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.context import fakes
from tokloom.context.packing import Packer, Piece, everything, join
from tokloom.context.selector import Document, Section, render

TEXT = "One two three.\n\nFour five six. Seven eight.\n\n  Nine ten."
SECTIONS = (Section("a", 1, 0, 44), Section("b", 1, 44, len(TEXT)))


def test_pieces_of_one_section_without_text_between_are_joined() -> None:
    document = Document("d", TEXT, SECTIONS)
    pieces = [Piece(0, 31, 43), Piece(0, 0, 14), Piece(0, 16, 30), Piece(0, 47, 56), Piece(1, 0, 14)]
    assert join([document, document], pieces) == [Piece(0, 0, 43), Piece(0, 47, 56), Piece(1, 0, 14)]
    assert join([document], [Piece(0, 0, 3), Piece(0, 8, 13)]) == [Piece(0, 0, 3), Piece(0, 8, 13)]


def test_the_order_is_that_of_the_documents_or_of_the_taking() -> None:
    request = fakes.request("?", [Document("d", TEXT)], 100)
    for in_order, expected in ((True, ["One", "Seven"]), (False, ["Seven", "One"])):
        packer = Packer(request, in_order=in_order)
        assert packer.add(Piece(0, 31, 43))
        assert packer.add(Piece(0, 0, 14))
        assert packer.close() == []
        assert [span.text.split()[0] for span in packer.spans()] == expected


@pytest.mark.parametrize("count", [fakes.count_words, fakes.count_triples, fakes.count_crowded, len])
@given(
    budget=st.integers(0, 120),
    cuts=st.lists(st.integers(0, len(TEXT)), min_size=2, max_size=12, unique=True).map(sorted),
    order=st.randoms(use_true_random=False),
    in_order=st.booleans(),
)
def test_the_budget_holds_whatever_the_counting(
    count: Callable[[str], int], budget: int, cuts: list[int], order: object, in_order: bool
) -> None:
    request = fakes.request("?", [Document("d", TEXT, SECTIONS)], budget, count)
    pieces = [Piece(0, a, b) for a, b in itertools.pairwise(cuts)]
    order.shuffle(pieces)  # type: ignore[attr-defined]
    packer = Packer(request, in_order=in_order)
    taken = [piece for piece in pieces if packer.add(piece)]
    dropped = packer.close()
    assert dropped == taken[::-1][: len(dropped)]
    assert count(render(packer.spans())) <= budget or not packer.spans()


def test_what_fits_is_taken_up_to_the_last_token() -> None:
    request = fakes.request("?", [Document("d", TEXT)], 7)
    packer = Packer(request, in_order=True)
    assert packer.add(Piece(0, 0, 14))  # "[1] One two three." has seven tokens
    assert packer.left == 0
    assert not packer.add(Piece(0, 47, 56))


def test_everything_is_taken_if_it_fits() -> None:
    documents = [Document("a", "  One two.  "), Document("b", TEXT)]
    selection = everything(fakes.request("?", documents, 60))
    assert selection is not None
    assert [span.text for span in selection.spans] == ["One two.", TEXT]
    assert all(decision.taken for decision in selection.trace)
    assert everything(fakes.request("?", documents, 20)) is None
    assert everything(fakes.request("?", documents, 0)) is None
