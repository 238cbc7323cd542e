"""Drafts of bytes for byte_level and byte_ensemble: bytes a pass, and a second.

    python benchmarks/byte_drafts.py examples/alice_in_wonderland.txt
    python benchmarks/byte_drafts.py examples/alice_in_wonderland.txt --model gemma3-270m --draft smollm2-135m

Prompts are pieces of the text, continued greedily; each output must be that without drafts. Drafting rests while it
turns out slower by the clock, so that a busy machine shows fewer bytes a pass. A draft model's passes are in the times.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tokloom import Engine, Sampling, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draft", help="a draft model of another vocabulary; the model itself if not given")
    parser.add_argument("--predictor", default="byte_level")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=200)
    parser.add_argument("--drafters", nargs="*", help="specs, in place of those measured by default")
    options = parser.parse_args()
    model = load(options.model)
    text = options.text.read_text(encoding="utf-8")
    places = range(20_000, len(text) - 2000, (len(text) - 22_000) // options.prompts)
    prompts = [text[at : at + 900] for at in places][: options.prompts]
    named = f"draft_model:model={options.draft}" if options.draft else "draft_model"
    drafters = options.drafters or ["prompt_lookup:longest=12,length=24", "suffix_automaton", named]
    plain: list[tuple[int, ...]] = []
    print(f"{'':45s} bytes/pass  rows/pass  bytes/s  bytes/CPU-s")
    for drafter in [None, *drafters]:
        engine = Engine(model, predictor=options.predictor, drafter=drafter)
        engine.generate(prompts[0][:100], sampling=Sampling(max_new_tokens=8))
        written = passes = rows = 0
        began, used = time.perf_counter(), time.process_time()
        for i, prompt in enumerate(prompts):
            result = engine.generate(prompt, sampling=Sampling(max_new_tokens=options.bytes))
            row = result.ledger.row("decode")
            written, passes = written + len(result.tokens), passes + row.forward_passes
            rows += row.counts["read rows"]
            if drafter is None:
                plain.append(result.tokens)
            elif result.tokens != plain[i]:
                print(f"prompt {i}: another text")
        seconds, used = time.perf_counter() - began, time.process_time() - used
        print(
            f"{drafter or 'no drafts':45s} {written / passes:10.2f} {rows / passes:10.2f} {written / seconds:8.1f}"
            f" {written / used:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
