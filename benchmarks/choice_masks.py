"""Time of a mask of the `choices` constraint on the bundled model's vocabulary.

    python benchmarks/choice_masks.py

Options are phrases of four words drawn from the vocabulary. Times are medians and 99th percentiles
of single calls from Python, on one thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np

import tokloom
from tokloom.methods.decode.choices import Choices

CALLS = 1000


def microseconds(call: Callable[[], object]) -> str:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    median, late = np.percentile(times, [50, 99]) * 1e6
    return f"{median:7.1f} /{late:7.1f}"


def main() -> None:
    vocabulary = tokloom.load().vocabulary
    texts = [token.decode(errors="ignore") for token in vocabulary.token_bytes]
    words = [text.strip() for text in texts if text.startswith(" ") and text[1:].isalpha()]
    start = time.perf_counter()
    trie = vocabulary.trie
    seconds = time.perf_counter() - start
    print(f"vocabulary: {vocabulary.size} tokens, {trie.nodes} trie nodes, built in {seconds * 1e3:.1f} ms")
    print("options  start ms  first mask us (p50/p99)  mask inside us (p50/p99)")
    draw = random.Random(0)
    out = np.zeros((vocabulary.size + 31) // 32, np.int32)
    for count in (2, 10, 100, 1000, 10_000):
        options = tuple({" ".join(draw.sample(words, 4)) for _ in range(count)})
        constraint = Choices(options)
        start = time.perf_counter()
        matcher = constraint.start(vocabulary)
        compile_ms = (time.perf_counter() - start) * 1e3
        first = microseconds(lambda matcher=matcher: matcher.mask(out))
        matcher.accept(trie.prefixes_of(options[0].encode())[-1])
        inside = microseconds(lambda matcher=matcher: matcher.mask(out))
        print(f"{len(options):7d}  {compile_ms:8.2f}        {first}         {inside}")


if __name__ == "__main__":
    main()
