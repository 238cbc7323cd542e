"""Guided Diffusion and FreeCache on the small models of examples/train_diffusion.py.

    python benchmarks/diffusion.py input.txt --models models

For each way of denoising: tokens a pass of the diffusion model, tokens read for each token of output, the share of
tokens that the guide put in place of a proposal, how likely the output is under the guide (nats a token,
log-likelihood; higher is better), and how many different words there are in 100 (greedy guides repeat themselves).
Prompts come from the text's end, which was held out in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from tokloom import Engine, Sampling, load
from tokloom.models.language_model import LanguageModel


def likelihood(guide: LanguageModel, prompt: list[int], output: list[int]) -> float:
    """Summed log-probability of the output after the prompt."""
    with torch.inference_mode():
        logits = guide.model(torch.tensor([[*prompt, *output]])).logits[0].log_softmax(-1)
    rows = logits[len(prompt) - 1 : -1]
    return float(rows.gather(1, torch.tensor(output)[:, None]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder with diffusion and guide")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--caches", action="store_true", help="each way with free_cache too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    guide_path = options.models / "guide"
    model, guide = load(options.models / "diffusion"), load(guide_path)
    text = options.text.read_text(encoding="utf-8")
    held_out = text[-len(text) // 20 :]
    step = len(held_out) // options.prompts
    prompts = [held_out[i * step :][:160] for i in range(options.prompts)]
    ways = [f"plain_denoising:tokens={n}" for n in (1, 2, 4, 8)]
    for correct in ("true", "false"):
        ways += [
            f'guided_diffusion:guide="{guide_path}",correct={correct},tolerance={t}' for t in (1.0, 0.5, 0.2, 0.05)
        ]
    print(f"{'':60s} tokens/pass  read/token  guide's  log-likelihood  words")
    for way in ways:
        for cache in (None, "free_cache") if options.caches else (None,):
            engine = Engine(model, denoiser=f"{way},block={options.block}", denoising_cache=cache)
            passes = tokens = rows = corrected = 0
            total, said = 0.0, []
            for seed, prompt in enumerate(prompts):
                sampling = Sampling(max_new_tokens=options.tokens, temperature=options.temperature, seed=seed)
                result = engine.generate(prompt, sampling=sampling)
                row = result.ledger.row("decode")
                passes += row.forward_passes
                rows += row.counts["read rows"]
                corrected += row.counts.get("guide corrected", 0)
                said += result.text.split()
                tokens += len(result.tokens)
                total += likelihood(guide, model.encode(prompt), list(result.tokens))
            shown = way.replace(f'guide="{guide_path}",', "") + (f" + {cache}" if cache else "")
            print(
                f"{shown:60s} {tokens / passes:11.2f} {rows / tokens:11.1f} {corrected / tokens:8.2f}"
                f" {total / tokens:15.3f} {100 * len(set(said)) / len(said):6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
