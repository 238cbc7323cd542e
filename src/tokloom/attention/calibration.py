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
from safetensors import SafetensorError
from safetensors.torch import load, save

from tokloom import registry
from tokloom.artifacts import cache_dir, keep
from tokloom.attention.policy import AttentionPolicy, Calibration
from tokloom.errors import CompositionError
from tokloom.kv.layer import KVLayer
from tokloom.kv.step import Step
from tokloom.kv.store import KVStore

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

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
    path = cache_dir() / "calibrations" / f"{_fingerprint(model, policy, tokens, layers, run)}.safetensors"
    found = _read(path.read_bytes(), layers) if path.is_file() else None
    if found is None:
        observed = _Observed(policy, layers)
        run(KVStore(layers, observed), tokens, Step(tuple(range(len(tokens))), model.device, prompt=True), False)
        if not any(observed.found):
            raise CompositionError(
                policy.name, model.name, "it calibrates on layers with full attention, and this model has none"
            )
        found = policy.finish_calibration(observed.found)
        flat = {f"{i}.{name}": t.contiguous() for i, part in enumerate(found) for name, t in part.items()}
        keep(path, save(flat, {"key": key}))
    found = [{name: t.to(model.device).contiguous() for name, t in part.items()} for part in found]
    model.calibrations[key] = found
    return found


def _fingerprint(model: LanguageModel, policy: AttentionPolicy, tokens: list[int], layers: int, run: Pass) -> str:
    """Tells models apart, fine-tuned ones too, by what they make of the first tokens; and versions of the code."""
    some = tokens[:64]
    logits = run(
        KVStore(layers, AttentionPolicy()), some, Step(tuple(range(len(some))), model.device, prompt=True), True
    )
    rope = None if model.rope is None else registry.spec_of(model.rope)
    code = code_of(tuple(each.__module__ for each in type(policy).__mro__))
    made_by = [policy.calibration_key, code]
    identity = [type(model.model).__name__, rope, layers, made_by, logits.argmax(-1).tolist(), tokens]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


@cache
def code_of(modules: tuple[str, ...], folder: Path = Path(__file__).parent) -> str:
    """Tells versions of the code apart that makes the calibration: all of this folder, for parts call each other, and
    these modules, of which a policy from elsewhere is."""
    paths = (getattr(sys.modules.get(module), "__file__", None) for module in modules)
    elsewhere = {Path(file) for file in paths if file is not None}
    digest = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *elsewhere}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(data: bytes, layers: int) -> Calibration | None:
    """None if the file is damaged: it is made anew then."""
    try:
        flat = load(data)
        found: Calibration = [{} for _ in range(layers)]
        for key, tensor in flat.items():
            index, _, name = key.partition(".")
            found[int(index)][name] = tensor
    except (SafetensorError, ValueError, IndexError):
        return None
    return found
