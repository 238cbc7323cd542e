"""A page that shows, over the text of one prompt, which tokens each attention policy attends to while decoding."""

from __future__ import annotations

import codecs
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch

from tokloom.atomic import write_atomic
from tokloom.attention.trace import DenseWeights, Trace
from tokloom.engine.engine import Engine
from tokloom.errors import ArgumentError, TokloomError

if TYPE_CHECKING:
    from tokloom.compare.placement import Contender
    from tokloom.models.language_model import LanguageModel

STRONG = 32
"""Times the mean attention of a token from which on its shade is the strongest; the scale is logarithmic."""


@dataclass(frozen=True)
class Shades:
    """One policy over one prompt.

    layers: float32 (layers, tokens of the prompt), 0 to 1.
    logprob: mean over the continuation's tokens. held: slots of a KV head at the end, mean of the layers.
    """

    title: str
    layers: torch.Tensor
    logprob: float
    held: int
    kv_bytes: int


def shades_of(
    model: LanguageModel, policy: Any, title: str, prompt: str, continuation: str, **engine: Any
) -> tuple[Shades, int]:
    """In which share of the steps and KV heads each token is attended to; and the length of the prompt."""
    trace = Trace()
    scored = Engine(model, attention=policy, **engine).score(prompt, continuation, watch=trace)
    row, n = scored.ledger.row("attention"), scored.prompt_tokens
    mean = sum(scored.logprobs) / len(scored.logprobs)
    return Shades(title, trace.share()[:, :n], mean, row.counts["held"], row.kv_bytes or 0), n


def dense_shades(model: LanguageModel, prompt: str, continuation: str, **engine: Any) -> Shades:
    """What dense attention weighs: 0 for the mean of all tokens and less, 1 for `STRONG` times it."""
    weights = DenseWeights()
    scored = Engine(model, attention=weights, **engine).score(prompt, continuation)
    row, n = scored.ledger.row("attention"), scored.prompt_tokens
    layers = []
    for index in sorted(weights.found):
        steps = torch.stack([step[:, :n] / step[:, :n].sum(-1, keepdim=True) for step in weights.found[index]])
        layers.append(steps.mean((0, 1)) * n)
    shades = (torch.stack(layers).clamp_min(1).log2() / torch.tensor(float(STRONG)).log2()).clamp_max(1)
    mean = sum(scored.logprobs) / len(scored.logprobs)
    return Shades("what dense attention weighs", shades, mean, row.counts["held"], row.kv_bytes or 0)


def write_heatmap(
    path: str | Path,
    model: LanguageModel,
    rows: Sequence[Contender],
    prompt: str,
    continuation: str,
    progress: Callable[[int, int, str], None] | None = None,
    **engine: Any,
) -> None:
    """Runs every policy over the prompt and the continuation, which is given to all of them, and writes the page.

    Args:
        rows: the policies, from `placement.contenders`; one that can't run is named on the page with its reason.
        progress: called as (done, total, what runs next).
        engine: further arguments of `Engine`.

    Raises:
        ArgumentError: the continuation has fewer than two tokens, or the file can't be written.
    """
    if len(model.encode(continuation)) < 2:
        raise ArgumentError("continuation", continuation, "a text of at least two tokens")
    found: list[Shades] = [dense_shades(model, prompt, continuation, **engine)]
    errors: list[tuple[str, str]] = []
    for i, row in enumerate(rows):
        if progress is not None:
            progress(i, len(rows), row.spec)
        try:
            if row.error is not None:
                errors.append((row.spec, row.error))
            elif row.place != "attention":
                errors.append((row.spec, "it changes positions, not which tokens are attended to"))
            elif not row.component.plain:  # dense attention is there already
                shades, _ = shades_of(model, row.component, row.spec, prompt, continuation, **engine)
                found.append(shades)
        except TokloomError as error:
            errors.append((row.spec, str(error)))
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, render_heatmap(model, found, errors, prompt, continuation))
    except OSError as error:
        raise ArgumentError(
            "out", str(path), f"a file that can be written ({error.strerror})", "Choose another path."
        ) from None


def render_heatmap(
    model: LanguageModel,
    found: Sequence[Shades],
    errors: Sequence[tuple[str, str]],
    prompt: str,
    continuation: str,
) -> str:
    """The page as text."""
    ids = model.encode_prompt(prompt, chat=False)
    tokens = readable([model.vocabulary.token_bytes[i] for i in ids])
    template = Template(resources.files("tokloom.compare").joinpath("heatmap.html").read_text(encoding="utf-8"))
    data = {
        "titles": [shades.title for shades in found],
        "means": [[round(100 * x) for x in shades.layers.mean(0).tolist()] for shades in found],
        "layers": [_digits(shades.layers) for shades in found],
    }
    return template.substitute(
        title=html.escape(f"What attention policies attend to on {model.name}"),
        subtitle=html.escape(f"{len(tokens):,} tokens of prompt, {found[0].layers.shape[0]} layers"),
        continuation=html.escape(continuation.strip()),
        strong=STRONG,
        sections="\n".join(_section(i, shades, tokens) for i, shades in enumerate(found)),
        errors="".join(f"<p class='error'><b>{html.escape(a)}</b>: {html.escape(b)}</p>" for a, b in errors),
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
    )


def readable(pieces: Sequence[bytes]) -> list[str]:
    """What each token adds to the text; a dot for one that ends inside of a character, which stands where it is
    complete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) or ("·" if piece else "") for piece in pieces]


def _digits(layers: torch.Tensor) -> list[str]:
    """By token: a digit a layer, 0 to 9."""
    columns = (layers * 9).round().int().T.tolist()
    return ["".join(map(str, column)) for column in columns]


def _section(number: int, shades: Shades, tokens: Sequence[str]) -> str:
    means = shades.layers.mean(0).tolist()
    text = "".join(
        f"<i style=--s:{mean:.2f}>{html.escape(token)}</i>" for token, mean in zip(tokens, means, strict=True)
    )
    facts = f"{shades.held:,} slots held, {shades.kv_bytes / 2**20:.1f} MiB"
    if number:
        facts += f"; attends to {100 * sum(means) / len(means):.0f}% of the prompt"
    return (
        f"<section><h2>{html.escape(shades.title)}</h2><p class='soft'>{facts}; mean log-probability of the "
        f"continuation {shades.logprob:.2f}</p><div class='text' data-row='{number}'>{text}</div></section>"
    )
