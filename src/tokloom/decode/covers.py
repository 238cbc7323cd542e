"""The covers of a byte string: the tokenizer's encodings that begin with it, as one tree that grows byte by byte.

A cover of x is a sequence of tokens that the tokenizer can write, whose text begins with x and whose last token
reaches the end of x or beyond. All covers but their last tokens are encodings of beginnings of x: they are the nodes of
the tree, and each node holds its possible last tokens as a range of the vocabulary in order of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tokloom.models.byte_vocabulary import END
from tokloom.models.encodings import Encodings, Written

UNKNOWN = np.empty(0)
SMALLEST = 1e-300
"""In place of a chance of zero."""


class Cover:
    """A node: the tokens from the root to here, which spell the first `start` bytes.

    low, allowed: the tokens that may follow and agree with the bytes behind `start` are [low, low + len(allowed)) in
        the vocabulary's order, where `allowed` says so.
    logprob: of this node's tokens, natural; None until the nodes above it are known.
    chances: (len(allowed),) of the tokens that may follow, empty until the model said so. Given by `know`.
    """

    def __init__(self, parent: Cover | None, token: int, written: Written, start: int) -> None:
        self.parent, self.token, self.written, self.start = parent, token, written, start
        self.children: list[Cover] = []
        self.logprob: float | None = 0.0 if parent is None else None
        self.low = 0
        self.allowed = np.empty(0, dtype=bool)
        self.chances = UNKNOWN
        self.ending = 0.0
        """The chance that the text ends here."""

    @property
    def is_known(self) -> bool:
        return self.chances is not UNKNOWN

    @property
    def mass(self) -> float:
        """The chance of all texts that agree with the bytes and have these tokens, over the node's own."""
        return float(self.chances.sum() + self.ending) if self.is_known else 1.0

    def path(self, below: Cover | None = None) -> list[Cover]:
        """The nodes from the child of `below` (without it, of the first root) down to this one."""
        nodes: list[Cover] = []
        node: Cover = self
        while node is not below and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class Covers:
    """The tree, as far as it can still matter.

    Args:
        encodings: of the tokenizer.
        eos_ids: tokens that end a text.
        written: what was written before the first byte.

    Attributes:
        root: the last token that all covers have in common, as far as the model has read it.
        open: the nodes with tokens that reach beyond the bytes, and the one that ends with them.
        length: bytes so far.
    """

    def __init__(self, encodings: Encodings, eos_ids: Iterable[int], written: Written) -> None:
        self.encodings, self._eos = encodings, np.array(sorted(eos_ids), dtype=np.int64)
        self.length = 0
        self.root = self._fresh(None, -1, written)
        self.open = [self.root]

    def _fresh(self, parent: Cover | None, token: int, written: Written) -> Cover:
        node = Cover(parent, token, written, self.length)
        node.allowed = self.encodings.followers(written)[self.encodings.order]
        if parent is not None:
            parent.children.append(node)
        return node

    def push(self, byte: int) -> None:
        """One byte further. `open` is empty afterwards if no encoding goes on so."""
        order, texts, kept = self.encodings.order, self.encodings.sorted_bytes, []
        ended: list[tuple[Cover, int, float | None]] = []
        for node in self.open:
            depth = self.length - node.start
            node.ending = 0.0
            if depth < len(self.encodings.columns):
                column = self.encodings.columns[depth, node.low : node.low + len(node.allowed)]
                self._narrow(node, *np.searchsorted(column, [byte, byte + 1]))
            else:
                self._narrow(node, 0, 0)
            while len(node.allowed) and len(texts[node.low]) == depth + 1:
                if node.allowed[0]:
                    chance = float(node.chances[0]) if node.is_known else None
                    ended.append((node, int(order[node.low]), chance))
                self._narrow(node, 1, len(node.allowed))
            if node.allowed.any():
                kept.append(node)
        self.length += 1
        for node, token, chance in ended:
            if chance == 0:
                continue
            child = self._fresh(node, token, self.encodings.push(node.written, token))
            if chance is not None and node.logprob is not None:
                child.logprob = node.logprob + float(np.log(chance))
            kept.append(child)
        self.open = kept

    @staticmethod
    def _narrow(node: Cover, first: int, end: int) -> None:
        node.low += int(first)
        node.allowed = node.allowed[first:end].copy()
        if node.is_known:
            node.chances = node.chances[first:end].copy()

    def unknown(self) -> list[Cover]:
        """The nodes below the root that the model has to read to know all open ones, parents first."""
        wanted: dict[Cover, None] = {}
        for node in self.open:
            if not node.is_known and node is not self.root:
                wanted.update(dict.fromkeys(node.path(self.root)))
        return sorted(wanted, key=lambda node: node.start)

    def know(self, node: Cover, logits: np.ndarray) -> None:
        """Takes in what the model predicts after a node: the chances of tokens that the tokenizer can write there.

        logits: (vocabulary,) float32."""
        allowed = self.encodings.followers(node.written)[self.encodings.order]
        scores = np.where(allowed, logits[self.encodings.order].astype(np.float64), -np.inf)
        ends = logits[self._eos].astype(np.float64) if self.encodings.is_complete(node.written) else np.empty(0)
        top = max(scores.max(initial=-np.inf), ends.max(initial=-np.inf), -1e300)  # finite where nothing can follow
        chances, ending = np.exp(scores - top), float(np.exp(ends - top).sum())
        total = max(chances.sum() + ending, SMALLEST)
        for child in node.children:
            if child.logprob is None and node.logprob is not None:
                chance = chances[self.encodings.places[child.token]] / total
                child.logprob = node.logprob + float(np.log(max(chance, SMALLEST)))
        node.chances = chances[node.low : node.low + len(node.allowed)] / total
        node.ending = ending / total if node.start == self.length else 0.0

    def prune(self, minimum: float, beam: int) -> None:
        """Keeps the open nodes that hold at least `minimum` of the whole, and no more than `beam`; the best always."""
        if len(self.open) < 2 or (minimum <= 0 and len(self.open) <= beam):
            return
        held = np.array([node.logprob for node in self.open]) + np.log([max(node.mass, SMALLEST) for node in self.open])
        shares = np.exp(held - held.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:beam]
        self.open = [self.open[i] for i in sorted(best) if shares[i] >= minimum or i == best[0]]

    def settle(self, read: Sequence[Cover] | None = None) -> list[Cover]:
        """Moves the root down to where the open nodes part, over those that were `read` (None: whatever was); returns
        the nodes that it moved over, in order."""
        paths = [node.path(self.root) for node in self.open]
        common: list[Cover] = []
        for nodes in zip(*paths, strict=False):
            if any(node is not nodes[0] for node in nodes) or (read is not None and nodes[0] not in read):
                break
            common.append(nodes[0])
        if common:
            self.root = common[-1]
        return common

    def masses(self) -> np.ndarray:
        """(257,) float64: how much each next byte, and the end, has of the whole; all open nodes are known."""
        out = np.zeros(END + 1)
        if not self.open:
            return out
        logprobs = np.array([node.logprob for node in self.open])
        for node, weight in zip(self.open, np.exp(logprobs - logprobs.max()), strict=True):
            column = self.encodings.columns[self.length - node.start, node.low : node.low + len(node.chances)]
            out += weight * np.bincount(column, weights=node.chances, minlength=END + 1)
            out[END] += weight * node.ending
        out /= out.sum()
        return out

    def ending(self) -> Cover | None:
        """The node whose tokens spell exactly the bytes so far, as the tokenizer writes them."""
        ends = (node for node in self.open if node.start == self.length and self.encodings.is_complete(node.written))
        return next(ends, None)
