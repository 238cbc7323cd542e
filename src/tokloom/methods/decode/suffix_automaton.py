"""Copies what followed the longest ending of the text that has occurred before, in it or in earlier texts.

Paper: SAM Decoding: Speculative Decoding via Suffix Automaton. arXiv:2411.10666

Formula:
    A suffix automaton of the text and of earlier ones, extended token by token, gives the longest suffix that occurs
    earlier, in any of them. The draft is what followed the latest such place, over and over where it reaches the end
    of the text itself; shorter suffixes that were followed by something else branch off.
    chance of a copied token = parent's chance * how often copies were right after a match of that length, by how many
    different tokens followed it, and whether more than once

Shapes: a tree of up to `branches` chains of `length` tokens.

Effect: the paper reports some 18% over other retrieval-based drafts on Spec-Bench, and a gain for Token Recycling and
    EAGLE-2 with it beside them (`merged`). On Spec-Bench, exact weights, two cores: 1.2 tokens a pass in answers of 96
    tokens, at plain decoding's speed (benchmarks/decoding.py); over recorded answers of 256 tokens 2.0 tokens a pass,
    and 2.6 if 24 rows are free. The test: on text that repeats it gives more tokens a pass than prompt lookup, whose
    n-grams are short, and it drafts in a later request what an earlier one said.

Differs: the paper's automaton of earlier texts is built once, of a corpus; here it is of the engine's last `texts`
    requests (and of a saved state's). Match lengths decide by calibrated chances instead of a threshold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from tokloom.decode.draft_tree import DraftTree
from tokloom.decode.drafter import Drafter, DraftRequest, DraftState, Verified
from tokloom.decode.hit_rates import HitRates
from tokloom.decode.token_tree import TokenTree
from tokloom.registry import method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokloom.models.language_model import LanguageModel

LENGTHS = (1, 2, 3, 4, 6, 9, 14, 24)
"""Where kinds of matches begin, by length."""
CERTAINTY = 4
"""Kinds of what followed: one token, seen once; one, seen again; two different ones; more."""
NEWEST = 24
"""Suffix links along which the latest place is noted; a state further up may know an older one."""
MATCHES = 6
"""Suffixes of the text that are looked at."""
ENDING = 32
"""Last tokens by which it is first judged whether a text is known; then all of them are compared."""


@method(stage="decode")
class SuffixAutomaton(Drafter):
    """Earlier requests' texts stay as long as the engine does."""

    length: int = Field(default=40, ge=1, le=63)
    """Most tokens copied from one place."""
    branches: int = Field(default=3, ge=1, le=8)
    """Most places copied from."""
    texts: int = Field(default=16, ge=0, le=256)
    """Earlier texts that are kept; up to as many more may wait to be forgotten together."""

    def start(self, model: LanguageModel) -> DraftState:
        return AutomatonState(self)


class Text:
    """A text in an automaton, and the state of all of it."""

    __slots__ = ("last", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.last = 0


class Match(NamedTuple):
    """A suffix of a text that stands earlier, there or in another: its length, the place after it, its state."""

    size: int
    text: Text
    place: int
    state: int


class Automaton:
    """The suffix automaton of several texts, which may grow in turn. State 0 is the empty suffix."""

    def __init__(self) -> None:
        self.follow: list[dict[int, int]] = [{}]
        self.link = [-1]
        self.longest = [0]
        self.latest: list[tuple[Text, int]] = [(Text(), 0)]
        """For each state the latest place after its suffixes, but for the end of a text."""
        self.seen = [0]
        """How many such places were noted."""

    def extend(self, text: Text, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._note(text)
            self._add(text, token)

    def _note(self, text: Text) -> None:
        """What ends where the text ends now will have been an earlier place."""
        state, here = text.last, (text, len(text.tokens))
        latest, link, seen = self.latest, self.link, self.seen
        for _ in range(NEWEST):
            if state <= 0:
                break
            latest[state] = here
            seen[state] += 1
            state = link[state]

    def _add(self, text: Text, token: int) -> None:
        follow, link, longest = self.follow, self.link, self.longest
        text.tokens.append(token)
        state = text.last
        known = follow[state].get(token)
        if known is not None:  # another text has gone this way
            text.last = known if longest[state] + 1 == longest[known] else self._split(state, token, known)
            return
        fresh = self._state({}, longest[state] + 1, (text, len(text.tokens)), 0)
        while state >= 0 and token not in follow[state]:
            follow[state][token] = fresh
            state = link[state]
        if state < 0:
            link[fresh] = 0
        else:
            known = follow[state][token]
            link[fresh] = known if longest[state] + 1 == longest[known] else self._split(state, token, known)
        text.last = fresh

    def _split(self, state: int, token: int, known: int) -> int:
        """A state of its own for those suffixes of `known` that `state` leads to."""
        copy = self._state(dict(self.follow[known]), self.longest[state] + 1, self.latest[known], self.seen[known])
        self.link[copy] = self.link[known]
        while state >= 0 and self.follow[state].get(token) == known:
            self.follow[state][token] = copy
            state = self.link[state]
        self.link[known] = copy
        return copy

    def _state(self, follow: dict[int, int], longest: int, latest: tuple[Text, int], seen: int) -> int:
        self.follow.append(follow)
        self.link.append(0)
        self.longest.append(longest)
        self.latest.append(latest)
        self.seen.append(seen)
        return len(self.link) - 1

    def after(self, state: int, token: int) -> int:
        """The state of the longest suffix that stands somewhere, once the token has followed."""
        follow, link = self.follow, self.link
        while state > 0 and token not in follow[state]:
            state = link[state]
        return follow[state].get(token, 0)

    def matches(self, text: Text) -> list[Match]:
        """Suffixes of a text that stand earlier and are followed by something, the longest first."""
        found: list[Match] = []
        state, size = text.last, len(text.tokens)
        while state > 0 and len(found) < MATCHES:
            source, place = self.latest[state]
            size = min(size, self.longest[state])
            if place < len(source.tokens):
                found.append(Match(size, source, place, state))
            state = self.link[state]
        return found


class AutomatonState(DraftState):
    """The automaton of the last texts, and how often copies were right by what they rest on."""

    def __init__(self, options: SuffixAutomaton) -> None:
        self.options = options
        self.automaton = Automaton()
        self.texts: list[Text] = []
        """The one that grew last at the end."""
        self.rates = HitRates(FIRST)

    def text(self, tokens: Sequence[int]) -> Text:
        """The text in the automaton, brought up to date."""
        for i in range(len(self.texts) - 1, -1, -1):
            known = self.texts[i].tokens
            size = len(known)
            ends_alike = size <= len(tokens) and known[-ENDING:] == list(tokens[max(0, size - ENDING) : size])
            if ends_alike and known == list(tokens[:size]):
                found = self.texts.pop(i)
                break
        else:
            found = self._room()
        self.automaton.extend(found, tokens[len(found.tokens) :])
        self.texts.append(found)
        return found

    def _room(self) -> Text:
        """A new text. Where there are too many, the automaton is made anew of the latest."""
        if len(self.texts) > 2 * self.options.texts:
            kept = self.texts[len(self.texts) - self.options.texts :] if self.options.texts else []
            self.automaton, self.texts = Automaton(), []
            for text in kept:
                tokens, text.tokens, text.last = text.tokens, [], 0
                self.automaton.extend(text, tokens)
                self.texts.append(text)
        return Text()

    def read(self, tokens: Sequence[int], known: int = 0) -> None:
        self.text(tokens)

    def propose(self, request: DraftRequest) -> DraftTree:
        text = self.text(request.tokens)
        automaton, rate, maximum = self.automaton, self.rates.rate, self.options.length
        found = automaton.matches(text)
        tree = TokenTree(request.limit)
        starts: set[int] = set()
        for size, source, place, state in found:
            copied = source.tokens[place : place + maximum]
            if source is text and len(copied) < maximum:  # the text has come to what it repeats, and may go on to do so
                copied = list(islice(cycle(copied), maximum))
            if copied[0] in starts:  # a shorter match that says the same
                continue
            probability, node = 1.0, -1
            for further, token in enumerate(copied):
                kind = kind_of(size + further, len(automaton.follow[state]), automaton.seen[state], len(starts))
                probability *= rate(kind)
                if probability < request.minimum:
                    break
                node = tree.add(token, node, probability, kind)
                state = automaton.after(state, token)
            starts.add(copied[0])
            if len(starts) == self.options.branches:
                break
        return tree.build()

    def observe(self, seen: Verified) -> None:
        """The logits say nothing that it could use."""

    def judge(self, outcomes: Sequence[tuple[int, bool]]) -> None:
        self.rates.record(outcomes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        texts = [text.tokens for text in self.texts[max(0, len(self.texts) - self.options.texts - 1) :]]
        return {
            "tokens": np.array([token for text in texts for token in text], dtype=np.int32),
            "lengths": np.array([len(text) for text in texts], dtype=np.int64),
            "rates": self.rates.counts,
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.automaton, self.texts = Automaton(), []
        self.rates.counts = arrays["rates"]
        for tokens in np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1]):
            if len(tokens):
                text = Text()
                self.automaton.extend(text, tokens.tolist())
                self.texts.append(text)


def kind_of(length: int, followers: int, seen: int, before: int) -> int:
    """The kind of a copied token: after a match of so many tokens, whose suffixes had so many followers at so many
    places; before: longer matches that say something else."""
    certainty = (0 if seen < 2 else 1) if followers < 2 else 2 if followers == 2 else 3
    return (min(before, 1) * len(LENGTHS) + bisect_right(LENGTHS, length) - 1) * CERTAINTY + certainty


FIRST = [
    *(0.36, 0.57, 0.27, 0.18), *(0.42, 0.71, 0.33, 0.25), *(0.63, 0.79, 0.40, 0.29), *(0.72, 0.79, 0.44, 0.33),
    *(0.81, 0.86, 0.40, 0.30), *(0.84, 0.92, 0.47, 0.35), *(0.93, 0.96, 0.50, 0.40), *(0.98, 0.98, 0.60, 0.50),
    *(0.10, 0.15, 0.15, 0.10), *(0.45, 0.50, 0.22, 0.20), *(0.50, 0.50, 0.20, 0.25), *(0.45, 0.45, 0.25, 0.25),
    *(0.30, 0.40, 0.25, 0.20), *(0.30, 0.40, 0.25, 0.20), *(0.30, 0.40, 0.25, 0.20), *(0.30, 0.40, 0.25, 0.20),
]  # fmt: skip
"""First guesses for each kind: what SmolLM2-135M's answers to 48 questions of Spec-Bench gave, smoothed."""
