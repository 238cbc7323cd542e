"""Compiled grammars: an expression made ready for one vocabulary, to be matched by any number of outputs at once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from tokloom._core import GrammarForm, GrammarProgram, MaskCachePool
from tokloom.artifacts import Artifact
from tokloom.grammar.matcher import GrammarMatcher

if TYPE_CHECKING:
    import os

    from tokloom.grammar.expression import Grammar
    from tokloom.tokenize.vocabulary import Vocabulary

MASK_CACHE_LIMIT = 256 << 20
"""Bytes of automata and masks that the grammars of a vocabulary share, before they are begun anew."""
PARSER_LIMIT = 64 << 20
"""Bytes of parser states of one grammar, before they are begun anew; a grammar that needs four times as much in
one step is refused."""
CACHED = 128
"""Compiled grammars that a vocabulary remembers."""

FILE = Artifact("compiled grammar", version=2, remedy="Compile the grammar for this vocabulary and save it again.")
_lock = threading.Lock()


class CompiledGrammar:
    """A grammar for a vocabulary. Immutable to its users; threads may share it.

    States and masks are made when an output first needs them, and kept for all later outputs. Made by
    `compile_expression`, or by `load`.
    """

    def __init__(self, form: GrammarForm, vocabulary: Vocabulary) -> None:
        self._form = form
        self._context = _context(vocabulary)
        specials = vocabulary.special_tokens if form.has_special else {}
        self._program = GrammarProgram(
            self._context.pool, form, specials, sorted(vocabulary.eos_ids), limit=PARSER_LIMIT
        )
        self.vocabulary = vocabulary

    def matcher(self) -> GrammarMatcher:
        """A matcher at the start of an output."""
        return GrammarMatcher(self._program, self.vocabulary)

    @property
    def key(self) -> bytes:
        """The grammar in canonical form: equal for equal grammars."""
        return self._form.encode()

    @property
    def nbytes(self) -> int:
        """Bytes of this grammar's own states so far, without what all grammars of the vocabulary share."""
        return self._program.nbytes

    @property
    def shared_nbytes(self) -> int:
        """Bytes of automata and masks that all grammars of the vocabulary share, so far."""
        return self._context.pool.nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the grammar to a file, whole or not at all. States aren't saved: they are quickly made again.

        Raises ArtifactError if the file can't be written."""
        form = np.frombuffer(self.key, dtype=np.uint8)
        FILE.save(path, {"form": form}, {"vocabulary": self._context.fingerprint(self.vocabulary)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], vocabulary: Vocabulary) -> CompiledGrammar:
        """A grammar that `save` wrote. Raises ArtifactError if the file is none or damaged, from another version of the
        format, or was made for another vocabulary."""
        arrays = FILE.load(path, {"vocabulary": _context(vocabulary).fingerprint(vocabulary)})
        return _compiled(GrammarForm.decode(arrays["form"].tobytes()), vocabulary)


def compile_expression(grammar: Grammar, vocabulary: Vocabulary) -> CompiledGrammar:
    """Compiles a grammar for a vocabulary, or finds it among the last `CACHED` of the vocabulary.

    Raises GrammarError if the grammar is not well-formed, or if tokens of this vocabulary can't write any string of it.
    """
    return _compiled(GrammarForm.read(grammar), vocabulary)


def _compiled(form: GrammarForm, vocabulary: Vocabulary) -> CompiledGrammar:
    context = _context(vocabulary)
    key = form.encode()
    with context.lock:
        if key in context.cache:
            context.cache.move_to_end(key)
            return context.cache[key]
    compiled = CompiledGrammar(form, vocabulary)
    with context.lock:
        context.cache[key] = compiled
        while len(context.cache) > CACHED:
            context.cache.popitem(last=False)
    return compiled


class _Context:
    """What the grammars of one vocabulary share."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pool = MaskCachePool(vocabulary.trie, MASK_CACHE_LIMIT)
        self.lock = threading.Lock()
        self.cache: OrderedDict[bytes, CompiledGrammar] = OrderedDict()
        self._fingerprint: str | None = None

    def fingerprint(self, vocabulary: Vocabulary) -> str:
        """Of every token's bytes and the ids that end a text."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(sorted(vocabulary.eos_ids)).encode())
            for token in vocabulary.token_bytes:
                digest.update(len(token).to_bytes(4, "little") + token)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _context(vocabulary: Vocabulary) -> _Context:
    with _lock:
        context = vocabulary.__dict__.get("_grammars")
        if context is None:
            context = vocabulary.__dict__["_grammars"] = _Context(vocabulary)
    assert isinstance(context, _Context)
    return context
