"""Early exits: what turns the hidden states of a middle layer into the model's own prediction.

An exit after layer n is a linear map of the normalised hidden states, then the model's own norm and head, so that its
sub-model of n layers (`models/submodel.py`) has next to no weights of its own. The map is fitted to the user's text in
half a minute by ridge regression onto the last layer's states and, if wanted, some steps down the divergence from the
model's distribution. Kept in one file (`artifacts.py`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from tokloom.artifacts import Arrays, Artifact
from tokloom.atomic import check_writable
from tokloom.engine.capture import Capture
from tokloom.errors import ArgumentError, DocumentError
from tokloom.models.submodel import submodel

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

Progress = Callable[[str, int, int], None]

HEADS = Artifact(
    "exit heads", version=2, argument="exits", remedy="Fit them to your text: tokloom prepare s2d:exits={path} FILE ..."
)
WINDOW = 512
BATCH = 128
RATE = 1e-3
RIDGE = 1e-4
HELD_OUT = 10
"""One row in so many is kept to measure agreement."""


@dataclass(frozen=True, eq=False)
class ExitMap:
    """The map of one exit. weight: (hidden, hidden), bias: (hidden), float32."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(normalised(hidden), self.weight, self.bias).to(hidden.dtype)


def normalised(hidden: torch.Tensor) -> torch.Tensor:
    """Rows of mean square 1, float32."""
    hidden = hidden.float()
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)


def exits(path: str | os.PathLike[str], model: LanguageModel) -> dict[int, LanguageModel]:
    """The sub-models of a file of exit heads, by how many layers they have, fewest first.

    Raises ArtifactError if the file is none, or if it was fitted to another model.
    """
    arrays = {name: torch.from_numpy(array) for name, array in HEADS.load(path, _owner(model)).items()}
    layers = sorted({int(name.partition(".")[0]) for name in arrays})
    maps = {n: ExitMap(arrays[f"{n}.weight"], arrays[f"{n}.bias"]) for n in layers}
    return {n: submodel(model, range(n), maps[n]) for n in layers}


def fit(
    path: str | os.PathLike[str],
    model: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    steps: int = 0,
    rows: int = 16384,
    progress: Progress | None = None,
) -> dict[int, float]:
    """Fits exits after these layers to `texts` and writes the file.

    steps: of gradient descent after the regression; rows: the most tokens to fit to.

    Returns how often each exit's likeliest token is the model's own, on tokens that it was not fitted to.

    Raises:
        ArgumentError: a layer that the model does not have before its last.
        DocumentError: too little text.
    """
    count = model.model.config.get_text_config().num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] < count:
        raise ArgumentError("layers", list(layers), f"rising numbers of layers, 1 to {count - 1}")
    check_writable("exits", path)
    states = _collect(model, texts, layers, rows, progress)
    norm, head = _norm_and_head(model)
    agreement: dict[int, float] = {}
    arrays: Arrays = {}
    with torch.inference_mode(False), torch.enable_grad():
        for n in layers:
            fitted = _fit_one(states[n], states[count], norm, head, steps, n, progress)
            arrays[f"{n}.weight"] = fitted.weight.cpu().contiguous().numpy()
            arrays[f"{n}.bias"] = fitted.bias.cpu().contiguous().numpy()
            agreement[n] = _agreement(fitted, states[n], states[count], norm, head)
    HEADS.save(path, arrays, _owner(model))
    return agreement


def _owner(model: LanguageModel) -> dict[str, object]:
    return {"model": model.name, "vocabulary": model.vocabulary.size}


class _Several(Capture):
    """Hidden states of several layers."""

    def __init__(self, wanted: Sequence[int], layers: int) -> None:
        super().__init__(wanted[0], layers)
        self.wanted = wanted
        self.taken: dict[int, torch.Tensor] = {}

    def take(self, layer: int, hidden: torch.Tensor) -> None:
        if layer in self.wanted:
            self.taken[layer] = hidden.float().clone()


def _collect(
    model: LanguageModel, texts: Sequence[str], layers: Sequence[int], rows: int, progress: Progress | None
) -> dict[int, torch.Tensor]:
    """Hidden states (rows, hidden) after these layers, and after the last one under the norm before the head."""
    from tokloom.attention.policy import AttentionPolicy
    from tokloom.engine.forward import forward, new_store
    from tokloom.kv.store import Step

    count = model.model.config.get_text_config().num_hidden_layers
    pieces = list(_pieces([model.encode_prompt(text, chat=False) for text in texts if text], min(WINDOW, model.window)))
    every = max(1, sum(map(len, pieces)) // rows)  # windows from all over the text
    chosen = pieces[::every]
    if sum(map(len, chosen)) < 4 * HELD_OUT:
        raise DocumentError("the texts", f"have too few tokens to fit exit heads to: give at least {4 * HELD_OUT}")
    taken: dict[int, list[torch.Tensor]] = {n: [] for n in (*layers, count)}
    for done, piece in enumerate(chosen):
        capture = _Several([*layers, count], count)
        step = Step(tuple(range(len(piece))), model.device, prompt=True)
        forward(model, new_store(model, AttentionPolicy(), len(piece)), piece, step, all_logits=False, capture=capture)
        for n, states in taken.items():
            states.append(capture.taken[n])
        if progress is not None:
            progress("hidden states", done + 1, len(chosen))
    with torch.inference_mode(False):
        return {n: torch.cat(states).clone() for n, states in taken.items()}


def _pieces(documents: Sequence[Sequence[int]], size: int) -> Iterator[Sequence[int]]:
    for tokens in documents:
        for start in range(0, len(tokens), size):
            yield tokens[start : start + size]


def _norm_and_head(model: LanguageModel) -> tuple[Any, torch.Tensor]:
    """The norm before the head, and the head's matrix (hidden, vocabulary), as it multiplies."""
    whole: Any = model.model
    inner, head = whole.get_decoder(), whole.get_output_embeddings()
    with torch.inference_mode():
        hidden = inner.norm.weight.shape[0]
        eye = torch.eye(hidden, dtype=model.dtype, device=model.device)
        matrix = head(eye).float() - head(torch.zeros_like(eye[:1])).float()
    with torch.inference_mode(False):
        return copy.deepcopy(inner.norm).float().requires_grad_(False), matrix.clone()


def _fit_one(
    states: torch.Tensor, last: torch.Tensor, norm: Any, head: torch.Tensor, steps: int, layer: int,
    progress: Progress | None,
) -> ExitMap:  # fmt: skip
    kept = torch.arange(len(states)) % HELD_OUT != 0
    inputs, targets = normalised(states[kept]), last[kept]
    scale = norm(torch.ones_like(last[:1]))  # its weights, whatever the family makes of them
    ones = torch.ones(len(inputs), 1, device=inputs.device)
    extended = torch.cat([inputs, ones], dim=1)
    gram = extended.T @ extended
    gram.diagonal().add_(RIDGE * len(inputs))
    solved = torch.linalg.solve(gram, extended.T @ (targets / scale))
    weight, bias = (part.clone().requires_grad_() for part in (solved[:-1].T, solved[-1]))
    optimiser = torch.optim.Adam([weight, bias], lr=RATE)
    generator = torch.Generator().manual_seed(layer)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        batch = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=generator).to(inputs.device)
        wanted = (targets[batch] @ head).softmax(-1)
        scores = norm(F.linear(inputs[batch], weight, bias)) @ head
        loss = -(wanted * scores.log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if progress is not None:
            progress(f"exit after layer {layer}", step + 1, steps)
    return ExitMap(weight.detach(), bias.detach())


def _agreement(fitted: ExitMap, states: torch.Tensor, last: torch.Tensor, norm: Any, head: torch.Tensor) -> float:
    same = 0
    rows = range(0, len(states), HELD_OUT)
    with torch.no_grad():
        for row in rows[:1024]:
            exit_says = norm(fitted(states[row][None])) @ head
            same += int(exit_says.argmax()) == int((last[row] @ head).argmax())
    return same / len(rows[:1024])
