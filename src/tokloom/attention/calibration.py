"""What a policy must know about a model, found once from a text and kept in the cache directory."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokloom import registry
from tokloom.artifacts import Arrays, Artifact
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.errors import CompositionError
from tokloom.kv.layer import KVLayer
from tokloom.kv.step import Step
from tokloom.kv.store import KVStore

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

CALIBRATION = Artifact("calibration", version=1, folder="calibrations")
HERE = Path(__file__).parent
FOLDERS = (HERE, HERE / "selection", HERE.parent / "kv")
"""Where the code lies that all calibrations share."""
TOKENS = 1024
"""Most tokens of the calibration text that are read."""

REPEATED = 4
"""The last one in so many tokens belongs to a passage that is read a second time: in prose alone the heads that look
things up far back are hardly at work, and what is measured of them would say nothing."""

Pass = Callable[[KVStore, list[int], Step, bool], torch.Tensor]
"""Runs tokens through the model over a store: logits of all rows (rows, vocabulary), or of the last one."""


def text() -> str:
    """The bundled calibration text: prose of the public domain with a page of a made-up ledger in it, for an index that
    has seen no figures tells them apart badly. Some of both is in the passage that is read twice."""
    return (files("tokloom.attention") / "calibration.txt").read_text(encoding="utf-8")


def passage(tokens: list[int]) -> list[int]:
    """As many tokens, the last quarter a passage from the first half once more."""
    again = len(tokens) // REPEATED
    return tokens[: len(tokens) - again] + tokens[again // 2 : again // 2 + again]


def distance(tokens: int) -> int:
    """How far before the second reading of a token of that passage the first one is, in a text of so many tokens."""
    again = tokens // REPEATED
    return tokens - again - again // 2


class _Observed(AttentionPolicy):
    """Dense attention that hands every layer to another policy's `calibrate`."""

    name = "calibration"
    needs = ("queries", "keys")

    def __init__(self, policy: AttentionPolicy, layers: int) -> None:
        self.policy = policy
        self.found: Calibration = [{} for _ in range(layers)]

    def observe(self, layer: KVLayer, queries: torch.Tensor, weights: torch.Tensor | None) -> None:
        self.found[layer.index] = self.policy.calibrate(layer, queries)


def calibration_of(model: LanguageModel, policy: AttentionPolicy, run: Pass) -> Calibration:
    """The policy's calibration for this model: from the cache directory if it was made before."""
    key = policy.calibration_key
    held: Calibration | None = model.calibrations.get(key)
    if held is not None:
        return held
    layers = model.model.config.get_text_config().num_hidden_layers
    tokens = passage(model.encode(text())[: min(TOKENS, model.window)])

    def make() -> Arrays:
        observed = _Observed(policy, layers)
        run(KVStore(layers, observed), tokens, Step(tuple(range(len(tokens))), model.device, prompt=True), False)
        if not any(observed.found):
            raise CompositionError(
                policy.name, model.name, "it calibrates on layers with full attention, and this model has none"
            )
        return _arrays(policy.finish_calibration(observed.found))

    found = _calibration(CALIBRATION.cached(_identity(model, policy, tokens, layers, run), make), layers)
    found = [{name: t.to(model.device).contiguous() for name, t in part.items()} for part in found]
    model.calibrations[key] = found
    return found


def _identity(
    model: LanguageModel, policy: AttentionPolicy, tokens: list[int], layers: int, run: Pass
) -> dict[str, object]:
    """Tells models apart, fine-tuned ones too, by what they make of the first tokens; and versions of the code."""
    some = tokens[:64]
    logits = run(
        KVStore(layers, AttentionPolicy()), some, Step(tuple(range(len(some))), model.device, prompt=True), True
    )
    return {
        "method": policy.calibration_key, "code": code_of(modules_of(policy)), "model": type(model.model).__name__,
        "rope": None if model.rope is None else registry.spec_of(model.rope), "layers": layers,
        "first tokens": logits.argmax(-1).tolist(), "text": hashlib.sha256(json.dumps(tokens).encode()).hexdigest(),
    }  # fmt: skip


def modules_of(policy: AttentionPolicy) -> tuple[str, ...]:
    """The modules that a policy's calibration is written in: of its class, of its parts, which may be another method's,
    and of the methods that these import from."""
    modules: set[str] = set()
    waiting: list[object] = [policy]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        modules.update(base.__module__ for base in type(each).__mro__)
        held = vars(each).values() if hasattr(each, "__dict__") else ()
        flat = (part for value in held for part in (value if isinstance(value, tuple | list) else (value,)))
        waiting.extend(part for part in flat if hasattr(part, "calibrate"))
    added = set(modules)
    while added:
        values = [value for name in added if name in sys.modules for value in vars(sys.modules[name]).values()]
        imported = {str(getattr(value, "__module__", "")) for value in values}
        added = {name for name in imported if name.startswith("tokloom.methods.")} - modules
        modules |= added
    return tuple(sorted(modules))


@cache
def code_of(modules: tuple[str, ...], folders: tuple[Path, ...] = FOLDERS) -> str:
    """Tells versions of the code apart that makes the calibration: these modules, and all of the folders, for their
    parts call each other."""
    paths = (getattr(sys.modules.get(module), "__file__", None) for module in modules)
    files = {Path(file) for file in paths if file is not None}
    digest = hashlib.sha256()
    for path in sorted(files.union(*(folder.glob("*.py") for folder in folders))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _arrays(found: Calibration) -> Arrays:
    """Named by layer and tensor. numpy has no bfloat16: these are kept by their bits."""
    arrays: Arrays = {}
    for index, part in enumerate(found):
        for name, tensor in part.items():
            held = tensor.detach().cpu().contiguous()
            if held.dtype == torch.bfloat16:
                arrays[f"{index}.bf16.{name}"] = held.view(torch.int16).numpy()
            else:
                arrays[f"{index}.as_is.{name}"] = held.numpy()
    return arrays


def _calibration(arrays: Arrays, layers: int) -> Calibration:
    found: Calibration = [{} for _ in range(layers)]
    for key, array in arrays.items():
        index, form, name = key.split(".", 2)
        tensor = torch.from_numpy(array)
        found[int(index)][name] = tensor.view(torch.bfloat16) if form == "bf16" else tensor
    return found
