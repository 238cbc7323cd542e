"""llama.cpp on the same GGUF file, through llama-cpp-python, plain or with its prompt lookup.

Paper: none (baseline)

Formula: greedy; prompt_lookup: the draft is what followed the last tokens where they occurred before.

Shapes: prompt tokens in, tokens out; batch 1, on the CPU, keys and values in 16 bits as is its default.

Effect: what a user would pick on a CPU. It computes in other precisions, so that its texts are not always those of the
    other rows.

Differs: it runs in a process of its own, in whichever Python has it: building it takes a compiler and minutes, and
    nothing else here needs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from tokloom.errors import CompositionError
from tokloom.evaluate.peer import Answer, Peer
from tokloom.models.convert import Gguf, gguf_of, joined
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

CHILD = """
import json, sys, time
try:
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
except ImportError as error:
    sys.exit(f"llama-cpp-python is not installed for it ({error})")
path, window, threads, drafted = sys.argv[1], *map(int, sys.argv[2:])
draft = LlamaPromptLookupDecoding(num_pred_tokens=drafted) if drafted else None
llm = llama_cpp.Llama(path, n_ctx=window, n_threads=threads, n_threads_batch=threads, verbose=False, draft_model=draft,
                      logits_all=draft is not None)
once, passes = llm.eval, 0
def counted(tokens):
    global passes
    passes += 1
    return once(tokens)
llm.eval = counted
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    llm.reset()
    out, passes, start = [], 0, time.perf_counter()
    for token in llm.generate(asked["tokens"], temp=0, repeat_penalty=1.0, top_k=1):
        if not out:
            first, before = time.perf_counter(), passes
        out.append(token)
        if token in asked["eos"] or len(out) == asked["count"]:
            break
    print(json.dumps([out, first - start, time.perf_counter() - first, passes - before]), flush=True)
"""
"""What runs in the other Python: a line of JSON in for each question, one out."""


@method(stage="evaluate")
class LlamaCpp(Peer):
    python: str = ""
    """The Python that has llama-cpp-python; this one if not given."""
    prompt_lookup: int = Field(default=0, ge=0)
    """Most tokens drafted by looking up the prompt; 0 is off."""
    window: int = Field(default=4096, ge=1)
    """Most tokens of prompt and output together."""

    def start(self, model: LanguageModel) -> _Session:
        file = gguf_of(model.name)
        if file is None:
            raise CompositionError(self.name, model.name, "it reads GGUF files only")
        return _Session(self, file, sorted(model.eos_ids))


class _Session:
    def __init__(self, peer: LlamaCpp, file: Gguf, ends: list[int]) -> None:
        self._peer, self._ends, self._window = peer, ends, peer.window
        self._directory = tempfile.TemporaryDirectory()  # as long as the child may read it
        numbers = (peer.window, torch.get_num_threads(), peer.prompt_lookup)
        python = peer.python or sys.executable
        command = [python, "-c", CHILD, str(joined(file, Path(self._directory.name))), *map(str, numbers)]
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise CompositionError(peer.name, f"python={python!r}", str(error)) from None
        self._read()

    def answer(self, tokens: Sequence[int], count: int) -> Answer:
        if len(tokens) + count > self._window:
            problem = f"{len(tokens)} tokens and {count} to come are more than its window of {self._window}"
            raise CompositionError(self._peer.name, "the prompt", problem)
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"tokens": list(tokens), "count": count, "eos": self._ends}) + "\n")
        self._child.stdin.flush()
        found, first, seconds, passes = self._read()
        return Answer(tuple(found), first, seconds, passes)

    def _read(self) -> Any:
        """The child's next line. It ends by itself when this process does, as its input then ends."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if line:
            return json.loads(line)
        said = self._child.communicate()[1].strip().splitlines() or ["it ended"]
        python = self._peer.python or sys.executable
        raise CompositionError(self._peer.name, f"python={python!r}", said[-1])
