"""The covers of a byte string: the tokenizer's encodings that begin with it, as one tree that grows byte by byte.

A cover of x is a sequence of tokens that the tokenizer can write, whose text begins with x and whose last token
reaches the end of x or beyond. All covers but their last tokens are encodings of beginnings of x: they are the nodes of
the tree (`Cover`), and an open node (`Open`) holds its possible last tokens as a range of the vocabulary in order of
bytes. `Covers` are those of one byte string; they never change, so that several continuations can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokloom.tokenize.byte_vocabulary import END
from tokloom.tokenize.encodings import Encodings, Tail

SMALLEST = 1e-300
"""In place of a chance of zero."""


class Cover:
    """A node: the tokens from the top to here, which spell the first `start` bytes.

    logprob: of these tokens, natural; None until the nodes above it are known.
    """

    def __init__(self, parent: Cover | None, token: int, written: Tail, start: int) -> None:
        self.parent, self.token, self.written, self.start = parent, token, written, start
        self.children: dict[int, Cover] = {}
        self.logprob: float | None = 0.0 if parent is None else None

    def path(self, below: Cover | None = None) -> list[Cover]:
        """The nodes from the child of `below` (without it, of the top) down to this one."""
        nodes: list[Cover] = []
        node: Cover = self
        while node is not below and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(frozen=True)
class Known:
    """What the model says after a node, among what the tokenizer can write there.

    probabilities: float64 (tokens in the vocabulary's order,). ending: that the text ends there."""

    probabilities: np.ndarray
    ending: float


@dataclass(frozen=True)
class Open:
    """A node with tokens that reach beyond the bytes so far, or that ends with them.

    low, allowed: the tokens that may follow and agree with the bytes behind its start are [low, low + len(allowed)) in
        the vocabulary's order, where `allowed` says so.
    probabilities: (len(allowed),), None until the model has read the node. ending: the chance that the text ends here.
    """

    node: Cover
    low: int
    allowed: np.ndarray
    probabilities: np.ndarray | None = None
    ending: float = 0.0

    @property
    def mass(self) -> float:
        """The chance of all texts that agree with the bytes and have these tokens, over the node's own."""
        return float(self.probabilities.sum() + self.ending) if self.probabilities is not None else 1.0

    def part(self, first: int, end: int) -> Open:
        """Some of its tokens, after a further byte."""
        probabilities = None if self.probabilities is None else self.probabilities[first:end].copy()
        return Open(self.node, self.low + first, self.allowed[first:end].copy(), probabilities)


class Covers:
    """Those of one byte string, as far as they can still matter.

    Args:
        encodings: of the tokenizer.
        eos_ids: tokens that end a text.
        length: bytes so far.
        open: the nodes with tokens that reach beyond the bytes, and the one that ends with them; empty if no encoding
            goes on so.
    """

    def __init__(self, encodings: Encodings, eos_ids: Iterable[int], length: int, open: Sequence[Open]) -> None:
        self.encodings, self.eos_ids = encodings, sorted(eos_ids)
        self.length, self.open = length, tuple(open)

    @classmethod
    def at(cls, node: Cover, encodings: Encodings, eos_ids: Iterable[int]) -> Covers:
        """Those of the bytes that end with a node, if it is the only one."""
        return cls(encodings, eos_ids, node.start, [_opened(node, encodings)])

    def _with(self, open: Sequence[Open], length: int | None = None) -> Covers:
        return Covers(self.encodings, self.eos_ids, self.length if length is None else length, open)

    def after(self, byte: int) -> Covers:
        """One byte further."""
        order, texts, columns = self.encodings.order, self.encodings.sorted_bytes, self.encodings.columns
        kept: list[Open] = []
        ended: list[tuple[Cover, int, float | None]] = []
        for each in self.open:
            depth = self.length - each.node.start
            first = end = 0
            if depth < len(columns):
                column = columns[depth, each.low : each.low + len(each.allowed)]
                first, end = np.searchsorted(column, [byte, byte + 1]).tolist()
            while first < end and len(texts[each.low + first]) == depth + 1:
                if each.allowed[first]:
                    probability = None if each.probabilities is None else float(each.probabilities[first])
                    ended.append((each.node, int(order[each.low + first]), probability))
                first += 1
            if each.allowed[first:end].any():
                kept.append(each.part(first, end))
        for node, token, probability in ended:
            if probability == 0:
                continue
            child = node.children.get(token)
            if child is None:
                child = Cover(node, token, self.encodings.push(node.written, token), self.length + 1)
                node.children[token] = child
            if probability is not None and node.logprob is not None:
                child.logprob = node.logprob + float(np.log(probability))
            kept.append(_opened(child, self.encodings))
        return self._with(kept, self.length + 1)

    def unknown(self, root: Cover) -> list[Cover]:
        """The nodes below the root that the model has to read to know all open ones, parents first."""
        wanted: dict[Cover, None] = {}
        for each in self.open:
            if each.probabilities is None and each.node is not root:
                wanted.update(dict.fromkeys(each.node.path(root)))
        return sorted(wanted, key=lambda node: node.start)

    def read(self, node: Cover, logits: np.ndarray) -> Known:
        """What logits (vocabulary,) float32 after a node mean."""
        allowed = self.encodings.followers(node.written)[self.encodings.order]
        scores = np.where(allowed, logits[self.encodings.order].astype(np.float64), -np.inf)
        ends = logits[self.eos_ids].astype(np.float64) if self.encodings.is_complete(node.written) else np.empty(0)
        top = max(scores.max(initial=-np.inf), ends.max(initial=-np.inf), -1e300)  # finite where nothing can follow
        probabilities, ending = np.exp(scores - top), float(np.exp(ends - top).sum())
        total = max(probabilities.sum() + ending, SMALLEST)
        return Known(probabilities / total, ending / total)

    def known(self, read: Mapping[Cover, Known]) -> Covers:
        """With what is known of the nodes that have been read."""
        return self._with([self._filled(each, read.get(each.node)) for each in self.open])

    def _filled(self, each: Open, known: Known | None) -> Open:
        if each.probabilities is not None or known is None:
            return each
        probabilities = known.probabilities[each.low : each.low + len(each.allowed)].copy()
        return replace(
            each, probabilities=probabilities, ending=known.ending if each.node.start == self.length else 0.0
        )

    def pruned(self, minimum: float, beam: int) -> Covers:
        """The open nodes that hold at least `minimum` of the whole, and no more than `beam`; the best always."""
        if len(self.open) < 2 or (minimum <= 0 and len(self.open) <= beam):
            return self
        held = np.array([each.node.logprob for each in self.open], dtype=np.float64)
        held += np.log([max(each.mass, SMALLEST) for each in self.open])
        shares = np.exp(held - held.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:beam]
        return self._with([self.open[i] for i in sorted(best) if shares[i] >= minimum or i == best[0]])

    def common(self, root: Cover, among: Iterable[Cover] | None = None) -> list[Cover]:
        """The nodes below the root that all open ones have in common, from the root down, as far as they are `among`
        these (None: all are)."""
        found: list[Cover] = []
        held = None if among is None else set(among)
        for nodes in zip(*(each.node.path(root) for each in self.open), strict=False):
            if any(node is not nodes[0] for node in nodes) or (held is not None and nodes[0] not in held):
                break
            found.append(nodes[0])
        return found

    def masses(self) -> np.ndarray:
        """(257,) float64: how much each next byte, and the end, has of the whole; all open nodes are known."""
        out = np.zeros(END + 1)
        if not self.open:
            return out
        logprobs = np.array([each.node.logprob for each in self.open], dtype=np.float64)
        for each, weight in zip(self.open, np.exp(logprobs - logprobs.max()), strict=True):
            column = self.encodings.columns[self.length - each.node.start, each.low : each.low + len(each.allowed)]
            out += weight * np.bincount(column, weights=each.probabilities, minlength=END + 1)
            out[END] += weight * each.ending
        out /= out.sum()
        return out

    def ending(self) -> Cover | None:
        """The node whose tokens spell exactly the bytes so far, as the tokenizer writes them."""
        nodes = (each.node for each in self.open if each.node.start == self.length)
        return next((node for node in nodes if self.encodings.is_complete(node.written)), None)


def _opened(node: Cover, encodings: Encodings) -> Open:
    """A node with all tokens that the tokenizer can write after it."""
    return Open(node, 0, encodings.followers(node.written)[encodings.order])
