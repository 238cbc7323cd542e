"""The union of trees against sets of paths; its record; what its parts are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.drafts import FAKE, paths, propose
from tests.methods.decode.test_token_recycling import always_draft
from tokloom import Engine, Sampling
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import DraftRequest, DraftState, Verified
from tokloom.errors import CompositionError, SpecError
from tokloom.methods.decode.merged import MIDDLES, Merged, MergedState, first_guess, level_of
from tokloom.models.language_model import LanguageModel


class Part(DraftState):
    """Proposes a given tree and keeps what it is told."""

    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree
        self.told: list[tuple[int, bool]] = []

    def propose(self, request: DraftRequest) -> DraftTree:
        return self.tree

    def observe(self, seen: Verified) -> None:
        self.seen = seen

    def judge(self, outcomes):  # type: ignore[no-untyped-def]
        self.told += outcomes


def tree_of(choices: list[tuple[int, int]], first: int) -> DraftTree:
    """A tree with distinct children of each parent, marked from `first` on."""
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    for token, at in choices:
        parent = at % (len(tokens) + 1) - 1
        if (parent, token) in zip(parents, tokens, strict=True):
            continue
        tokens.append(token)
        parents.append(parent)
        probabilities.append((probabilities[parent] if parent >= 0 else 1.0) * (0.3 + 0.1 * token))
    marks = tuple(range(first, first + len(tokens)))
    return DraftTree(tuple(tokens), tuple(parents), tuple(probabilities), marks)


trees = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=10)


def merged(*parts: DraftTree) -> MergedState:
    return MergedState(Merged(), [Part(tree) for tree in parts])


@given(trees, trees, st.lists(st.integers(0, 20), max_size=4))
def test_the_union_has_all_paths_once_and_parts_hear_of_their_own(
    one: list[tuple[int, int]], other: list[tuple[int, int]], taken: list[int]
) -> None:
    parts = (tree_of(one, 100), tree_of(other, 200))
    state = merged(*parts)
    tree = propose(state, [1])
    assert sorted(paths(tree)) == sorted({*paths(parts[0]), *paths(parts[1])})
    path, row = [0], 0
    for choice in taken:
        children = [node + 1 for node, parent in enumerate(tree.parents) if parent + 1 == row]
        if not children:
            break
        row = children[choice % len(children)]
        path.append(row)
    state.judge([(tree.marks[node], hit) for node, hit in tree.outcomes(path)])
    text = paths(tree)[row - 1] if row else ()
    decided = {known for known in paths(tree) if text[: len(known) - 1] == known[:-1] and len(known) <= len(text) + 1}
    for part, own in zip(parts, state.parts, strict=True):
        marked = dict(zip(paths(part), part.marks, strict=True))
        assert (
            sorted(own.told)
            == sorted(  # type: ignore[attr-defined]
                (marked[known], text[: len(known)] == known) for known in decided if known in marked
            )
        )


def test_chances_are_what_such_nodes_turned_out_to_be() -> None:
    """A node of both parts comes, one of the first alone does not: the record tells them apart."""
    both, alone = (7,), (8,)
    one = DraftTree((7, 8), (-1, -1), (0.45, 0.45))
    state = merged(one, DraftTree((7,), (-1,), (0.45,)))
    for _ in range(60):
        tree = propose(state, [1])
        probabilities = dict(zip(paths(tree), tree.probabilities, strict=True))
        state.judge([(mark, path == both) for mark, path in zip(tree.marks, paths(tree), strict=True)])
    assert probabilities[both] > 0.85
    assert probabilities[alone] < 0.15
    again = merged(one, DraftTree((7,), (-1,), (0.45,)))
    again.restore(state.arrays())
    assert propose(again, [1]).probabilities == propose(state, [1]).probabilities


@given(st.floats(0, 1))
def test_levels(probability: float) -> None:
    assert 1 <= level_of(probability) <= 6
    assert level_of(probability) <= level_of(min(1.0, probability + 0.1))


def test_levels_hold_their_middles_and_agreement_raises_the_first_guess() -> None:
    assert [level_of(middle) for middle in MIDDLES[1:]] == [1, 2, 3, 4, 5, 6]
    assert first_guess([0.7]) == 0.7
    assert first_guess([0.7, 0.0]) < 0.7 < first_guess([0.7, 0.3]) < first_guess([0.7, 0.5]) < 1


def test_parts_are_checked() -> None:
    with pytest.raises(SpecError, match="merged:parts"):
        Merged(parts=())
    with pytest.raises(SpecError, match="trigram is a DraftSource"):
        Merged(parts=("trigram",))
    with pytest.raises(SpecError, match="at most four"):
        Merged(parts=("token_recycling",) * 5)


def test_it_needs_what_its_parts_need(tiny_llama: LanguageModel) -> None:
    assert set(Merged().needs) == {"logits", "tokens"}
    with pytest.raises(CompositionError, match=r"merged \(needs .*rewinding\)"):
        Engine(tiny_llama, attention="h2o", drafter=Merged(parts=("prompt_lookup", "self_speculation")))


def test_the_parts_states_are_kept() -> None:
    state = Merged().start(FAKE)
    propose(state, [1, 2, 3, 1, 2])
    fresh = Merged().start(FAKE)
    fresh.restore(state.arrays())
    assert {name.split(".")[0] for name in state.arrays()} == {"rates", "0", "1"}
    assert propose(fresh, [9, 2]) == propose(state, [9, 2])


@pytest.mark.model
def test_effect_the_union_needs_no_more_passes_than_its_better_part(smollm2: LanguageModel) -> None:
    """On a table to copy (the automaton's) and a story (token recycling's), a tenth more passes at most, and one where
    chains fill passes: the automaton's chain of 40 shares 63 nodes with the other part's.

    Measured: 5 for 4, and 56 for 52."""
    table = "Copy the table below exactly.\n" + "".join(
        f"row {i}: name=item{i}; price={i * 3}.00; stock=yes\n" for i in range(10)
    )
    story = "Once upon a time, in a small village by the sea, there lived"
    for prompt, length in ((f"{table}Copy:\nrow 0: name=item0;", 160), (story, 80)):
        passes = {}
        for spec in ("merged", "suffix_automaton", "token_recycling"):
            engine = Engine(smollm2, drafter=spec)
            always_draft(engine)
            result = engine.generate(prompt, sampling=Sampling(max_new_tokens=length))
            passes[spec] = result.ledger.row("decode").forward_passes
        assert passes["merged"] <= 1.1 * min(passes["suffix_automaton"], passes["token_recycling"]) + (length == 160)
