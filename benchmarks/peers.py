"""transformers and llama.cpp as the rows of benchmarks/decoding.py ask them: prompt tokens in, output and times out."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from tokloom.models.language_model import LanguageModel


@dataclass(frozen=True)
class Answer:
    """tokens: of the output. later: how many of them came after the first pass; seconds: what these took;
    passes: that these took, 0 if unknown."""

    tokens: list[int]
    later: int
    seconds: float
    passes: int = 0


class Stopwatch(BaseStreamer):
    """Notes when transformers hands over tokens: the prompt, then what each pass gave."""

    def __init__(self) -> None:
        self.puts: list[tuple[float, int]] = []

    def put(self, value: torch.Tensor) -> None:
        self.puts.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        """The last tokens came with the last `put`."""


class Transformers:
    """`generate` of a model, greedy; options go to it."""

    def __init__(self, model: LanguageModel, **options: Any) -> None:
        model.model.set_attn_implementation("sdpa")
        self.model, self.options = model, options

    def answer(self, tokens: list[int], count: int) -> Answer:
        ids, watch = torch.tensor([tokens]), Stopwatch()
        output = self.model.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
            eos_token_id=sorted(self.model.eos_ids), pad_token_id=min(self.model.eos_ids), streamer=watch,
            **self.options,
        )  # fmt: skip
        found = output[0, len(tokens) :].tolist()
        times = watch.puts[1:]
        return Answer(found, len(found) - times[0][1], times[-1][0] - times[0][0], len(times) - 1)


LLAMA = """
import json, sys, time
import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
path, threads, drafted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draft = LlamaPromptLookupDecoding(num_pred_tokens=drafted) if drafted else None
llm = llama_cpp.Llama(path, n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False, draft_model=draft,
                      logits_all=draft is not None)
for line in sys.stdin:
    asked = json.loads(line)
    llm.reset()
    out, start = [], 0.0
    for token in llm.generate(asked["tokens"], temp=0, repeat_penalty=1.0, top_k=1):
        if not out:
            start = time.perf_counter()
        out.append(token)
        if token in asked["eos"] or len(out) == asked["count"]:
            break
    print(json.dumps([out, time.perf_counter() - start]), flush=True)
"""


class Llama:
    """llama-cpp-python in another Python, started when it is first asked. drafted: tokens of its prompt lookup."""

    def __init__(self, python: str, file: Path, eos: frozenset[int], drafted: int = 0) -> None:
        self.command = [python, "-c", LLAMA, str(file), str(torch.get_num_threads()), str(drafted)]
        self.eos = sorted(eos)
        self.child: subprocess.Popen[str] | None = None

    def answer(self, tokens: list[int], count: int) -> Answer:
        if self.child is None:
            self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps({"tokens": tokens, "count": count, "eos": self.eos}) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.command[0]} ended; is llama-cpp-python installed there?")
        found, seconds = json.loads(line)
        return Answer(found, len(found) - 1, seconds)
