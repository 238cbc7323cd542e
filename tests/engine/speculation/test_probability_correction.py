"""Proposed nodes are judged by the text that came, each once, against a slow reference; chances follow what came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.drafts import paths
from tokloom.decode.draft_tree import DraftTree
from tokloom.engine.speculation.probability_correction import HIGHEST, ProbabilityCorrection, RequestTracker


def tree_of(choices: list[tuple[int, int]]) -> DraftTree:
    """A tree with distinct children of each parent."""
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    for token, at in choices:
        parent = at % (len(tokens) + 1) - 1
        if (parent, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(parent)
            probabilities.append((probabilities[parent] if parent >= 0 else 1.0) * (0.2 + 0.2 * token))
    return DraftTree(tuple(tokens), tuple(parents), tuple(probabilities))


trees = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=12).map(tree_of)


@given(st.lists(trees, min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_every_node_is_judged_once_when_the_text_has_decided_on_it(
    proposed: list[DraftTree], text: list[int], data: st.DataObject
) -> None:
    """A node is decided on when its parents all came and a token followed them, however the text arrives."""
    acceptance, following = ProbabilityCorrection(), RequestTracker()
    starts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=len(proposed), max_size=len(proposed))))
    proposals = [acceptance.propose(tree) for tree in proposed]
    found: list[tuple[int, int, bool]] = []
    for end in range(len(text) + 1):
        for which, start in enumerate(starts):
            if start == end:
                following.add(proposals[which], start)
        if end == len(text) or data.draw(st.booleans()):
            found += [(proposals.index(p), node, hit) for p, node, hit in following.outcomes(text[:end])]
    expected = []
    for which, (tree, start) in enumerate(zip(proposed, starts, strict=True)):
        came = tuple(text[start:])
        for node, path in enumerate(paths(tree)):
            if came[: len(path) - 1] == path[:-1] and len(came) >= len(path):
                expected.append((which, node, came[: len(path)] == path))
    assert sorted(found) == sorted(expected)


@given(trees, st.floats(0.2, 3))
def test_corrected_chances_never_exceed_the_parents(tree: DraftTree, factor: float) -> None:
    proposal = ProbabilityCorrection().propose(tree, factor)
    assert proposal.depths == tree.depths()
    for probability, parent in zip(proposal.probabilities, tree.parents, strict=True):
        assert 0 < probability <= HIGHEST * (proposal.probabilities[parent] if parent >= 0 else 1.0)
    if factor == 1:
        assert proposal.probabilities == pytest.approx(tree.probabilities)


def test_a_new_record_believes_the_drafter_and_an_old_one_what_came() -> None:
    """Kinds by chance and depth are told apart: first nodes of this chance come, second ones don't."""
    acceptance, tree = ProbabilityCorrection(), DraftTree((7, 8), (-1, 0), (0.5, 0.25))
    assert acceptance.propose(tree).probabilities == pytest.approx([0.5, 0.25])
    for _ in range(400):
        proposal = acceptance.propose(tree)
        acceptance.record(proposal, 0, True)
        acceptance.record(proposal, 1, False)
    first, second = acceptance.propose(tree).probabilities
    assert first > 0.95
    assert second < 0.05


def test_a_request_in_which_drafts_come_more_often_is_told_from_others() -> None:
    acceptance, good, bad = ProbabilityCorrection(), RequestTracker(), RequestTracker()
    tree = DraftTree((7,), (-1,), (0.4,))
    for _ in range(30):
        for following, hit in ((good, True), (bad, False)):
            following.record(acceptance.propose(tree, following.factor), 0, hit)
    assert good.factor > 1.5
    assert bad.factor < 0.6
    assert (
        acceptance.propose(tree, good.factor).probabilities[0]
        > 2 * acceptance.propose(tree, bad.factor).probabilities[0]
    )


def test_guesses_are_counted_along_each_path_without_what_a_constraint_expects() -> None:
    tree = DraftTree((5, 6, 7, 8, 9), (-1, 0, 1, 1, -1), (0.9, 0.9, 0.5, 0.4, 0.1))
    assert ProbabilityCorrection().propose(tree).guesses == tree.depths()
    assert ProbabilityCorrection().propose(tree, 1.0, (True, False, True, False, False)).guesses == [0, 1, 1, 2, 1]


def test_the_reach_grows_with_what_is_accepted_and_falls_by_half() -> None:
    following = RequestTracker()
    reaches = [following.reach]
    for guesses, path in [
        ([1, 2, 3, 4], [0, 1, 2, 3, 4]),  # all four came
        ([1] * 3, [0]),  # none of three
        ([], [0]),  # nothing was verified, which says nothing
        ([0, 1], [0, 1]),  # what the constraint expects is no guess
        ([0, 1], [0, 1, 2]),
    ]:
        following.guesses = guesses
        following.verified(path)
        reaches.append(following.reach)
    assert reaches == [4, 12, 6, 6, 4, 6]
