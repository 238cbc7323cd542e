"""Early exits fitted to a book, and what S2D makes of them on the rest of it.

    .venv/bin/python benchmarks/exits.py [--book FILE] [--model NAME] [--layers 3,12,24] [--rows 16384] [--steps 40]

For each exit how often its likeliest token is the model's; then, by threshold and with the engine deciding when to
draft, accepted tokens and the speed beside plain decoding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import tokloom
from tokloom.methods.decode._exit_heads import fit
from tokloom.methods.decode.s2d import S2D


def speed(engine: tokloom.Engine, prompts: list[str], tokens: int) -> tuple[float, dict[str, int]]:
    """Tokens a second of decoding, and the counts of all prompts."""
    seconds, made, counts = 0.0, 0, {"drafted": 0, "accepted": 0, "passes": 0}
    for prompt in prompts:
        row = engine.generate(prompt, sampling=tokloom.Sampling(max_new_tokens=tokens)).ledger.row("decode")
        seconds += row.seconds
        made += row.tokens_out or 0
        counts["passes"] += row.forward_passes
        for name in ("drafted", "accepted"):
            counts[name] += row.counts[name]
    return made / seconds, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--book", type=Path, default=Path("examples/alice_in_wonderland.txt"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", default="3,12,24")
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    model = tokloom.load(args.model)
    text = args.book.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    layers = [int(part) for part in args.layers.split(",")]
    rest = text[cut:]
    prompts = [rest[i * len(rest) // args.prompts :][:1200] for i in range(args.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "exits")
        start = time.perf_counter()
        agreement = fit(path, model, [text[:cut]], layers, steps=args.steps, rows=args.rows)
        print(f"fitted in {time.perf_counter() - start:.0f} s to at most {args.rows} tokens, {args.steps} steps each")
        for n, share in agreement.items():
            print(f"exit after {n:2} layers: says what the model says for {share:.1%} of held-out tokens", flush=True)
        plain, _ = speed(tokloom.Engine(model), prompts, args.tokens)
        for threshold in (0.3, 0.5, 0.7):
            engine = tokloom.Engine(model, drafter=S2D(exits=path, threshold=threshold))
            fast, counts = speed(engine, prompts, args.tokens)
            again, _ = speed(tokloom.Engine(model), prompts, args.tokens)
            print(f"threshold {threshold}: drafted {counts['drafted']}, accepted {counts['accepted']}, passes "
                  f"{counts['passes']}; speed over plain {2 * fast / (plain + again):.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
