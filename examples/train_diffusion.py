"""Trains a small masked-diffusion language model and an autoregressive one of the same vocabulary, its guide.

    python examples/train_diffusion.py input.txt --out models --minutes 10
    tokloom generate "ROMEO:" --model models/diffusion --denoiser guided_diffusion:guide=models/guide

The same command goes on where it was interrupted. Both are Llama models of transformers with a byte-level vocabulary
learned from the text; the diffusion model's attention looks both ways, and its config names the mask token. It learns
much as LLaDA (arXiv:2502.09992) does: behind a clean beginning of random length a random share of the tokens is
masked, and the model says what they were. It begins with the guide's weights, as Dream (arXiv:2508.15487) did with
those of an autoregressive model; --scratch begins at random.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokloom.atomic import atomic_directory, write_atomic

END, MASK = "<end>", "<mask>"
SAVE_EVERY = 60.0
"""Seconds between two states kept for going on after an interruption."""


def learn_tokenizer(text: str, size: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END, MASK], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, mask_token=MASK)


def new_model(tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace, diffusion: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 32,
        num_key_value_heads=options.width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **({"mask_token_id": tokenizer.mask_token_id} if diffusion else {}),
    )
    return LlamaForCausalLM(config)


def masked(batch: torch.Tensor, mask: int, maximum: float, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with tokens masked behind a clean beginning, at most that share of them, and which ones."""
    rows, length = batch.shape
    start = torch.randint(0, length - 8, (rows, 1), generator=draw)
    share = maximum * torch.rand(rows, 1, generator=draw).clamp_min(0.05)
    hidden = (torch.rand(rows, length, generator=draw) < share) & (torch.arange(length) >= start)
    hidden[:, -1] |= ~hidden.any(1)
    return batch.masked_fill(hidden, mask), hidden


def loss_of(model: Any, batch: torch.Tensor, mask: int | None, maximum: float, draw: torch.Generator) -> torch.Tensor:
    if mask is None:
        logits = model(input_ids=batch[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    rows, hidden = masked(batch, mask, maximum, draw)
    both_ways = torch.ones(1, 1, 1, 1, dtype=torch.bool).expand(len(batch), 1, batch.shape[1], batch.shape[1])
    logits = model(input_ids=rows, attention_mask=both_ways).logits
    return torch.nn.functional.cross_entropy(logits[hidden], batch[hidden])


class Training:
    """A model in training, whose state can be kept and taken up again."""

    def __init__(self, model: Any, options: argparse.Namespace, kept: Path, identity: str) -> None:
        self.model, self.options, self.kept, self.identity = model, options, kept, identity
        self.draw = torch.Generator().manual_seed(options.seed)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
        self.step, self.seconds, self.running = 0, 0.0, 0.0
        if kept.exists():
            self._restore(torch.load(kept, weights_only=True))

    def keep(self) -> None:
        state = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "draw": self.draw.get_state(),
            "counts": (self.step, self.seconds, self.running),
        }
        file = io.BytesIO()
        torch.save(state, file)
        write_atomic(self.kept, file.getvalue())

    def _restore(self, state: dict[str, Any]) -> None:
        if state["identity"] != self.identity:
            raise SystemExit(
                f"{self.kept} was begun with another text or other options: remove it or choose another --out"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.set_state(state["draw"])
        self.step, self.seconds, self.running = state["counts"]

    def run(self, name: str, tokens: torch.Tensor, mask: int | None, minutes: float) -> None:
        options, draw = self.options, self.draw
        held_out, training = tokens[-len(tokens) // 20 :], tokens[: -len(tokens) // 20]
        began, kept = time.monotonic() - self.seconds, time.monotonic()
        self.model.train()
        while True:
            self.seconds = time.monotonic() - began
            done = self.step / options.steps if options.steps else self.seconds / max(60 * minutes, 1e-9)
            if done >= 1:
                break
            rate = options.rate * min(1.0, (self.step + 1) / 50) * (1 - 0.9 * done)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            starts = torch.randint(0, len(training) - options.length, (options.batch,), generator=draw)
            batch = torch.stack([training[start : start + options.length] for start in starts.tolist()])
            # few masks first: with many of them the model sees hardly more than how frequent each token is
            loss = loss_of(self.model, batch, mask, 0.3 + 0.7 * min(1.0, 2 * done), draw)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self.running += (loss.item() - self.running) * max(0.02, 1 / self.step)
            if self.step % 20 == 0:
                shown = f"{name}: step {self.step}, {100 * done:.0f}%, loss {self.running:.3f}"
                print(f"\r{shown} ", end="", file=sys.stderr, flush=True)
            if time.monotonic() - kept > SAVE_EVERY:
                self.keep()
                kept = time.monotonic()
        self.keep()
        self.model.eval()
        with torch.no_grad():
            blocks = held_out[: len(held_out) // options.length * options.length].view(-1, options.length)[:64]
            loss = loss_of(self.model, blocks, mask, 1.0, torch.Generator().manual_seed(0))
        print(f"\n{name}: {self.step} steps, held-out loss {loss.item():.3f} nats a token", file=sys.stderr)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_directory(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a plain text file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two models, diffusion and guide")
    parser.add_argument("--minutes", type=float, default=10.0, help="for both together; two thirds for diffusion")
    parser.add_argument("--steps", type=int, default=0, help="of each model, in place of minutes")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=96, help="tokens of a training row")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--scratch", action="store_true", help="begin the diffusion model at random, not as the guide")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    tokenizer = learn_tokenizer(text, options.vocabulary)
    tokens = torch.tensor(tokenizer(text).input_ids)
    options.out.mkdir(parents=True, exist_ok=True)
    shape = (
        options.vocabulary,
        options.width,
        options.layers,
        options.length,
        options.batch,
        options.rate,
        options.seed,
        options.scratch,
    )
    identity = f"{hashlib.sha256(text.encode()).hexdigest()} {shape}"
    unfinished = []
    guide: dict[str, torch.Tensor] = {}
    for name, share in (("guide", 1 / 3), ("diffusion", 2 / 3)):
        torch.manual_seed(options.seed)
        model = new_model(tokenizer, options, diffusion=name == "diffusion")
        if guide and not options.scratch:
            model.load_state_dict(guide)
        mask = tokenizer.mask_token_id if name == "diffusion" else None
        unfinished.append(options.out / f"{name}.unfinished.pt")
        Training(model, options, unfinished[-1], identity).run(name, tokens, mask, options.minutes * share)
        save(model, tokenizer, options.out / name)
        guide = model.state_dict()
    for path in unfinished:
        path.unlink()


if __name__ == "__main__":
    main()
