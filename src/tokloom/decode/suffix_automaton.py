"""Copies what followed the longest ending of the text that has occurred before, in it or in earlier texts.

Paper: SAM Decoding: Speculative Decoding via Suffix Automaton. arXiv:2411.10666

Formula:
    A suffix automaton of the text, extended token by token, gives the longest suffix that occurs earlier: the suffix
    link of its last state. The draft is what followed the latest such place. Earlier texts have automata of their
    own; the longest match of all is the trunk, the next ones branch off where they differ.
    chance of a copied token = parent's chance * how often a copy after a match of that length was right

Shapes: a tree of up to `branches` chains of `length` tokens.

Effect: the paper reports some 18% over other retrieval-based drafts on Spec-Bench, and a gain for Token Recycling and
    EAGLE-2 with it beside them (`merged`). On Spec-Bench, exact weights, two cores: 1.09 tokens a pass, 1.07 times
    the speed of plain decoding, the most of all drafters in that run (benchmarks/decoding.py). The test: on text that
    repeats it gives more tokens a pass than prompt lookup, whose n-grams are short, and it drafts in a later request
    what an earlier one said.

Differs: the paper's automaton of earlier texts is built once, of a corpus; here it is of the engine's last `texts`
    requests (and of a saved state's). Match lengths decide by calibrated chances instead of a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tokloom.decode.calibration import Calibration
from tokloom.decode.stage import Drafter, DraftRequest, DraftState, DraftTree, Verified
from tokloom.decode.token_tree import TokenTree
from tokloom.registry import method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.models.language_model import LanguageModel

LENGTHS = (1, 2, 3, 4, 6, 9, 14, 24)
"""Where kinds of matches begin, by length: a rate each."""
NEWEST = 24
"""Suffix links along which the latest place is noted; a state further up may know an older one."""


@method(stage="decode")
class SuffixAutomaton(Drafter):
    """Earlier requests' texts stay as long as the engine does."""

    length: int = Field(default=24, ge=1, le=63)
    """Most tokens copied from one place."""
    branches: int = Field(default=3, ge=1, le=8)
    """Most places copied from."""
    texts: int = Field(default=8, ge=0, le=64)
    """Earlier texts that are kept."""

    def start(self, model: LanguageModel) -> DraftState:
        return AutomatonState(self)


class Automaton:
    """The suffix automaton of one text. State 0 is the empty suffix."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.follow: list[dict[int, int]] = [{}]
        self.link = [-1]
        self.longest = [0]
        self.end = [-1]
        """For each state the latest place where its suffixes end, but for the text's own end."""
        self.last = 0

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._note()
            self._add(token)

    def _note(self) -> None:
        """What ends where the text ends now will have been an earlier place."""
        state, here = self.last, len(self.tokens) - 1
        for _ in range(NEWEST):
            if state <= 0:
                break
            self.end[state] = here
            state = self.link[state]

    def _add(self, token: int) -> None:
        follow, link, longest = self.follow, self.link, self.longest
        fresh = self._state({}, longest[self.last] + 1, len(self.tokens))
        self.tokens.append(token)
        state = self.last
        while state >= 0 and token not in follow[state]:
            follow[state][token] = fresh
            state = link[state]
        if state < 0:
            link[fresh] = 0
        else:
            known = follow[state][token]
            if longest[state] + 1 == longest[known]:
                link[fresh] = known
            else:
                copy = self._state(dict(follow[known]), longest[state] + 1, self.end[known])
                link[copy] = link[known]
                while state >= 0 and follow[state].get(token) == known:
                    follow[state][token] = copy
                    state = link[state]
                link[known] = link[fresh] = copy
        self.last = fresh

    def _state(self, follow: dict[int, int], longest: int, end: int) -> int:
        self.follow.append(follow)
        self.link.append(0)
        self.longest.append(longest)
        self.end.append(end)
        return len(self.link) - 1

    def own_matches(self) -> list[tuple[int, int]]:
        """Suffixes of the text that end earlier too, the longest first: its length and the place after it."""
        return self._matches(self.link[self.last], None)

    def matches(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """As `own_matches`, for suffixes of another text, `tokens` being its end."""
        state, length = 0, 0
        for token in tokens:
            while state > 0 and token not in self.follow[state]:
                state = self.link[state]
                length = self.longest[state]
            if token in self.follow[state]:
                state, length = self.follow[state][token], length + 1
        return self._matches(state, length)

    def _matches(self, state: int, length: int | None) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while state > 0 and len(found) < 8:
            size = self.longest[state] if length is None else min(length, self.longest[state])
            found.append((size, self.end[state] + 1))
            state = self.link[state]
        return found


class AutomatonState(DraftState):
    """Automata of the last texts, the newest last, and how often copies were right by length of the match."""

    ENDING = 48
    """Tokens of the text that are looked up in earlier ones."""

    def __init__(self, options: SuffixAutomaton) -> None:
        self.options = options
        self.automata: list[Automaton] = []
        self.rates = Calibration([0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9])

    def automaton(self, tokens: Sequence[int]) -> Automaton:
        """The text's own automaton, brought up to date."""
        text = list(tokens)
        for i in range(len(self.automata) - 1, -1, -1):
            known = self.automata[i].tokens
            if known and len(known) <= len(text) and text[len(known) - 1] == known[-1] and text[: len(known)] == known:
                found = self.automata.pop(i)
                break
        else:
            found = Automaton()
        found.extend(text[len(found.tokens) :])
        self.automata.append(found)
        del self.automata[: -self.options.texts - 1]
        return found

    def propose(self, request: DraftRequest) -> DraftTree:
        own = self.automaton(request.tokens)
        found = [(size, place, own) for size, place in own.own_matches()]
        ending = request.tokens[-self.ENDING :]
        for other in self.automata[:-1]:
            found += [(size, place, other) for size, place in other.matches(ending)]
        found.sort(key=lambda match: -match[0])  # stable: of equal length the text's own first
        tree = TokenTree(request.limit)
        starts: set[int] = set()
        for size, place, source in found:
            copied = source.tokens[place : place + self.options.length]
            if not copied or copied[0] in starts:  # a shorter match that says the same
                continue
            starts.add(copied[0])
            chance, node = 1.0, -1
            for further, token in enumerate(copied):
                kind = kind_of(size + further)
                chance *= self.rates.rate(kind)
                if chance < request.least:
                    break
                node = tree.add(token, node, chance, kind)
            if len(starts) == self.options.branches:
                break
        return tree.build()

    def observe(self, seen: Verified) -> None:
        """The logits say nothing that it could use."""

    def judge(self, tree: DraftTree, path: Sequence[int]) -> None:
        self.rates.record(tree, path)

    def arrays(self) -> dict[str, NDArray[Any]]:
        texts = [automaton.tokens for automaton in self.automata]
        return {
            "tokens": np.array([token for text in texts for token in text], dtype=np.int32),
            "lengths": np.array([len(text) for text in texts], dtype=np.int64),
            "rates": self.rates.counts,
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.automata = []
        self.rates.counts = arrays["rates"]
        for text in np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1]):
            if len(text):
                self.automaton(text.tolist())


def kind_of(length: int) -> int:
    """The kind of a match of so many tokens, an index into `LENGTHS`."""
    return sum(length >= least for least in LENGTHS[1:])
