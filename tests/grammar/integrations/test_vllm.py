"""The processor against vLLM's V1 interface, with a batch that changes as the engine's does."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.grammar.integrations.vllm_interface import Batch, LogitsProcessor, SamplingParams, config, install
from tokloom.models.language_model import LanguageModel

OPTIONS = ["one two three", "one three", "four"]
CHOICES = SamplingParams({"tokloom": {"choices": {"options": OPTIONS}}})
OTHER = SamplingParams({"tokloom": {"choices": {"options": ["nine ten", "seven"]}}})
FREE = SamplingParams()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    install(monkeypatch)
    name = "tokloom.grammar.integrations.vllm"
    monkeypatch.delitem(importlib.sys.modules, name, raising=False)  # type: ignore[attr-defined]
    yield importlib.import_module(name)
    importlib.sys.modules.pop(name, None)  # type: ignore[attr-defined]


@pytest.fixture
def batch(module: ModuleType, tiny_llama: LanguageModel, tmp_path: Path) -> Batch:
    tiny_llama.tokenizer.save_pretrained(tmp_path)
    size, eos = tiny_llama.vocabulary.size, min(tiny_llama.eos_ids)
    processor = module.ConstraintLogitsProcessor(config(str(tmp_path), size, eos), torch.device("cpu"), False)
    return Batch(processor, size, eos)


def text(model: LanguageModel, output: list[int]) -> str:
    return b"".join(model.vocabulary.token_bytes[token] for token in output).decode(errors="replace")


def test_is_a_processor(module: ModuleType) -> None:
    assert issubclass(module.ConstraintLogitsProcessor, LogitsProcessor)


def run(batch: Batch, outputs: list[list[int]], generator: torch.Generator) -> None:
    for _ in range(60):
        if all(output and output[-1] == batch.eos for output in outputs):
            return
        batch.step(generator)
        for output in outputs:  # what is over is removed by the engine
            if output.count(batch.eos) > 1:
                del output[output.index(batch.eos) + 1 :]
    raise AssertionError("some output has no end")


def test_requests_come_go_and_move(batch: Batch, tiny_llama: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(3)
    free = batch.add(FREE)
    first, second = batch.add(CHOICES), batch.add(OTHER)
    batch.step(generator)
    batch.swap(0, 2)
    batch.step(generator)
    batch.remove(free)
    batch.condense()
    third = batch.add(CHOICES)
    run(batch, [first, second, third], generator)
    assert text(tiny_llama, first) in OPTIONS
    assert text(tiny_llama, second) in ("nine ten", "seven")
    assert text(tiny_llama, third) in OPTIONS


def test_a_hole_filled_at_once_and_a_replaced_index(batch: Batch, tiny_llama: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(4)
    outputs = [batch.add(CHOICES) for _ in range(3)]
    batch.step(generator)
    batch.remove(outputs[0])
    again = batch.add(OTHER)  # takes the same index within one update
    run(batch, [again, *outputs[1:]], generator)
    assert text(tiny_llama, again) in ("nine ten", "seven")
    assert all(text(tiny_llama, output) in OPTIONS for output in outputs[1:])


def test_requests_without_constraint_are_left_alone(batch: Batch) -> None:
    generator = torch.Generator().manual_seed(5)
    batch.add(FREE)
    batch.add(CHOICES)
    logits = batch.step(generator)
    assert logits[0].isfinite().all()
    assert logits[1].isinf().any()
    assert not batch.processor.is_argmax_invariant()


def test_a_broken_output_frees_its_request_only(
    batch: Batch, tiny_llama: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    generator = torch.Generator().manual_seed(6)
    broken, fine = batch.add(CHOICES), batch.add(CHOICES)
    batch.step(generator)
    broken.append(tiny_llama.encode("seven")[0])
    with caplog.at_level(logging.ERROR):
        logits = batch.step(generator)
    assert "gives request 0 of the batch up" in caplog.text
    assert logits[0].isfinite().all()
    run(batch, [fine], generator)
    assert text(tiny_llama, fine) in OPTIONS


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("regex", "one constraint with its options"),
        ({"choices": {}, "regex": {}}, "one constraint with its options"),
        ({"choices": ["a"]}, "one constraint with its options"),
        ({"choices": {}}, "choices:options"),
        ({"nonsense": {}}, "no Constraint named 'nonsense'"),
        ({"json_schema": {"path": "/etc/passwd"}}, "not the client's"),
        ({"regex": {"pattern": "("}}, "character 1"),
        ({"h2o": {}}, "a Constraint"),
    ],
)
def test_wrong_requests_are_refused_at_the_door(module: ModuleType, wanted: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        module.ConstraintLogitsProcessor.validate_params(SamplingParams({"tokloom": wanted}))
    assert complaint in str(caught.value)


def test_other_requests_pass_the_door(module: ModuleType) -> None:
    for params in (FREE, CHOICES, SamplingParams({"other": 1})):
        assert module.ConstraintLogitsProcessor.validate_params(params) is None
