"""A drafter's tree with what a constraint expects in it, against following each path token by token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.drafts import check, paths
from tokloom import registry
from tokloom.decode.constraint import Constraint, Matcher
from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.token_tree import TokenTree
from tokloom.engine.speculation.grafting import graft
from tokloom.errors import ArgumentError
from tokloom.models.language_model import LanguageModel

RULES = (
    'regex:pattern="(name: (one|two|three); ){3}end"',
    'choices:options=[" one two three"," one two"," two two three"]',
    'regex:pattern="[a-z ]{0,9}!"',
)


def followed(matcher: Matcher, path: tuple[int, ...]) -> Matcher | None:
    """The matcher after a path, None if it is forbidden."""
    place = matcher.fork()
    for token in path:
        try:
            place.accept(token)
        except ArgumentError:
            return None
    return place


@pytest.mark.parametrize("rule", RULES)
@given(drawn=st.data())
@settings(deadline=None, max_examples=40)
def test_grafted_trees_hold_what_is_allowed_and_what_is_certain(
    rule: str, drawn: st.DataObject, tiny_llama: LanguageModel
) -> None:
    model = tiny_llama
    root = registry.build(rule, Constraint, "constraint").start(model.vocabulary)
    texts = ("name: one; two three", " one two three two", "end!")
    pool = sorted({token for text in texts for token in model.encode(text)} | model.eos_ids)
    grown = TokenTree(63)
    for mark, token in enumerate(drawn.draw(st.lists(st.sampled_from(pool), max_size=12))):
        parent = drawn.draw(st.integers(-1, len(grown) - 1))
        share = drawn.draw(st.sampled_from([0.3, 0.6, 0.95]))
        grown.add(token, parent, share * (grown.probabilities[parent] if parent >= 0 else 1.0), mark)
    tree = grown.build()
    grafted = graft(tree, root, ends=model.eos_ids)
    check(grafted.tree, 10_000)
    found = {path: node for node, path in enumerate(paths(grafted.tree))}
    for path in found:
        assert followed(root, path) is not None
        assert not model.eos_ids & set(path)
    for path, mark, probability in zip(paths(tree), tree.marks, tree.probabilities, strict=True):
        places = [followed(root, path[:end]) for end in range(len(path) + 1)]
        forced = [place.forced()[:1] if place is not None else [] for place in places[:-1]]
        possible = all(only in ([], [token]) for only, token in zip(forced, path, strict=True))
        if places[-1] is None or not possible or model.eos_ids & set(path):
            assert path not in found or grafted.tree.marks[found[path]] is None
        else:
            assert grafted.tree.marks[found[path]] == mark
            assert grafted.tree.probabilities[found[path]] >= probability - 1e-12
    for path, node in [((), -1), *((path, node) for path, node in found.items() if not grafted.expected[node])]:
        place = followed(root, path)
        assert place is not None
        for token in place.forced():
            if token in model.eos_ids:
                break
            path = (*path, token)
            assert grafted.expected[found[path]]
            above = grafted.tree.probabilities[node] if node >= 0 else 1.0
            assert grafted.tree.probabilities[found[path]] == pytest.approx(above)


def test_what_is_below_the_least_chance_is_not_looked_behind(tiny_llama: LanguageModel) -> None:
    model = tiny_llama
    root = registry.build('regex:pattern=" (one|two) two three!"', Constraint, "constraint").start(model.vocabulary)
    one, two = model.encode(" one")[0], model.encode(" two")[0]
    grafted = graft(DraftTree((one, two), (-1, -1), (0.6, 0.3)), root, 0.5).tree
    assert any(path[0] == one and len(path) > 1 for path in paths(grafted))
    assert [path for path in paths(grafted) if path[0] == two] == [(two,)]
