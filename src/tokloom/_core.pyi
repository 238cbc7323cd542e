"""The C++ core (cpp/): the vocabulary's byte trie and what is matched against it.

Everything here is immutable once built, so that one object may serve many requests and threads.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tokloom.grammar.expression import Grammar

def kernels() -> str:
    """The instruction set that the matrix kernels use: "avx512", "avx2" or "portable". The best that the
    processor has, or what the environment variable TOKLOOM_KERNELS asks for."""

class PackedMatrix:
    """A matrix (outputs, inputs) packed for products with few or many rows; see models/packed_linear.py.

    Pointers are addresses of contiguous float32 on the CPU; the caller answers for their sizes.

    Args:
        weights: address of (outputs, inputs), row-major; copied.
        format: "fp32", "bf16", or "int8" or "int4" with factors for every 32 inputs, of which inputs must be a
            multiple (ValueError).
        threads: to pack on.
    """

    def __init__(self, weights: int, outputs: int, inputs: int, format: str, threads: int) -> None: ...
    def apply(self, x: int, rows: int, out: int, threads: int) -> None:
        """out (rows, outputs) = x (rows, inputs) times the transposed matrix, on `threads` threads."""

    def unpack(self, weights: int) -> None:
        """Writes the matrix (outputs, inputs) as the kernels see it."""

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights and scales."""

class TokenTrie:
    """The tokens of a vocabulary as a trie of bytes, a flat preorder array with subtree sizes.

    Args:
        tokens: the bytes of each token id. A token without bytes (special, unused) is not in the
            trie; several ids may have equal bytes. Raises TypeError for what is not bytes.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None: ...
    @property
    def size(self) -> int:
        """Length of `tokens`: the ids are [0, size)."""

    @property
    def nodes(self) -> int:
        """Nodes of the trie, the root included."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token was given with. Raises IndexError outside [0, size)."""

    def tokens_with_prefix(self, prefix: bytes) -> list[int]:
        """Ids whose bytes start with `prefix`, sorted by their bytes, then by id."""

    def prefixes_of(self, text: bytes) -> list[int]:
        """Ids whose bytes are a prefix of `text`, shortest first, then by id."""

class ChoiceSet:
    """Strings of which an output must be one, in any tokenization that spells it.

    A state is a node of the choices' own byte trie, an int in [0, states): the bytes so far. All
    methods that take one raise IndexError outside this range. A token may come next only if the
    vocabulary can spell the rest of some choice after it, so that no state is a dead end.

    Args:
        trie: the vocabulary; the set keeps it alive.
        choices: at least one; raises ValueError for none or an empty one, TypeError for what is
            not bytes.
    """

    start: ClassVar[int]
    """The state of the empty output."""

    def __init__(self, trie: TokenTrie, choices: Sequence[bytes]) -> None: ...
    @property
    def states(self) -> int:
        """Number of states."""

    @property
    def unspellable(self) -> list[int]:
        """Indices of the choices that no sequence of tokens spells."""

    def mask(self, state: int, out: NDArray[np.int32]) -> None:
        """Writes the bitmask of the tokens that may come next.

        Args:
            state: where the output is.
            out: int32, contiguous and writable, (ceil(trie.size / 32),); bit i % 32 of word i // 32
                is token i. Raises TypeError for another dtype or layout, ValueError for another length.
        """

    def step(self, state: int, token: int) -> int:
        """The state after `token`; -1 if it may not come next."""

    def complete(self, state: int) -> bool:
        """The bytes so far are one of the choices."""

    def final(self, state: int) -> bool:
        """The bytes so far are one of the choices, and no token may come next."""

    def forced(self, state: int) -> list[int]:
        """Tokens of which each is the only one that may come next, up to a complete output."""

class GrammarForm:
    """A grammar, flat and canonical: what tokloom/grammar/expression.py describes, one node an expression."""

    @property
    def has_special(self) -> bool:
        """Some part of it is a special token."""

    @staticmethod
    def read(grammar: Grammar) -> GrammarForm:
        """Raises GrammarError if the grammar is not well-formed."""

    @staticmethod
    def decode(data: bytes) -> GrammarForm:
        """What `encode` gave. Raises GrammarError if the data is damaged."""

    def encode(self) -> bytes:
        """Equal for equal grammars."""

class LexerPool:
    """Automata and masks that the grammars of one vocabulary share.

    Args:
        trie: the vocabulary; the pool keeps it alive.
        limit: bytes after which they are begun anew. Matchers that still use the old ones keep them alive.
    """

    def __init__(self, trie: TokenTrie, limit: int) -> None: ...
    @property
    def writes_all(self) -> bool:
        """Every byte that occurs in tokens is a token."""

    @property
    def nbytes(self) -> int:
        """Bytes in use."""

class GrammarProgram:
    """A compiled grammar. Threads may share it.

    Args:
        pool: of the vocabulary; the program keeps it alive.
        specials: ids of special tokens, by their text.
        ends: tokens that may come where the output is complete. Raises ValueError for ids outside the vocabulary.
        limit: bytes of states after which places are `stale`; four times as many raise GrammarError.

    Raises GrammarError if no string of the grammar can be written.
    """

    def __init__(
        self, pool: LexerPool, form: GrammarForm, specials: Mapping[str, int], ends: Sequence[int], limit: int
    ) -> None: ...
    def start(self) -> GrammarPlace:
        """The place of an empty output. The program must outlive its places."""

    @property
    def nbytes(self) -> int:
        """Bytes of states so far."""

class GrammarPlace:
    """Where an output is in a grammar; a value. Methods may raise GrammarError where a limit is reached."""

    def mask(self, out: NDArray[np.int32]) -> None:
        """Writes the bitmask of the tokens that may come next, as ChoiceSet.mask does."""

    def step(self, token: int) -> GrammarPlace | None:
        """The place after a token; None if it may not come next."""

    def step_bytes(self, data: bytes) -> GrammarPlace | None:
        """The place after bytes; None if they may not come next."""

    def tree_masks(self, tokens: Sequence[int], parents: Sequence[int], out: NDArray[np.int32]) -> None:
        """The masks after each node of a tree, int32 (nodes, words); zero for nodes that may not come.
        Raises ValueError for parents that don't come before their children."""

    def forced(self, most: int) -> bytes:
        """The bytes that must come next, at most so many."""

    @property
    def ended(self) -> bool:
        """An end-of-sequence token came."""

    @property
    def complete(self) -> bool:
        """The output may end here, or has."""

    @property
    def stuck(self) -> bool:
        """No token may come next, and the output is not complete."""

    @property
    def stale(self) -> bool:
        """The states that this place is one of take more memory than they should: begin again from `start`."""

def grammar_masks(places: Sequence[GrammarPlace], out: NDArray[np.int32], threads: int) -> None:
    """Each place's mask, int32 (places, words), on several threads, without Python's lock."""

def forbid(logits: int, type: str, tokens: int, stride: int, masks: NDArray[np.int32]) -> None:
    """Sets logits to minus infinity where the mask of their row has not the token's bit.

    Args:
        logits: address of (masks.shape[0], tokens) on the CPU; the caller answers for its size.
        type: "fp32", "bf16" or "fp16"; ValueError for another.
        stride: values from one row to the next.
        masks: int32 (rows, words); ValueError for fewer bits than tokens.
    """
