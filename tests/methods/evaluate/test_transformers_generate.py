"""transformers' generate as a row: the same greedy text, its passes counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokloom import Engine, Sampling
from tokloom.compare.run import compare
from tokloom.errors import CompositionError
from tokloom.evaluate.peer import PeerEngine
from tokloom.methods.evaluate.transformers_generate import TransformersGenerate
from tokloom.models.language_model import LanguageModel

TEXT = "one two three one two three one two"


@pytest.mark.parametrize("options", [{}, {"prompt_lookup": 4}])
def test_greedy_text_is_ours(options: dict[str, int], tiny_llama: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=16)
    theirs = PeerEngine(tiny_llama, TransformersGenerate(**options)).generate(TEXT, sampling=sampling)
    ours = Engine(tiny_llama).generate(TEXT, sampling=sampling)
    assert (theirs.text, theirs.tokens, theirs.prompt_tokens) == (ours.text, ours.tokens, ours.prompt_tokens)
    passes = theirs.ledger.row("decode").forward_passes
    assert passes == len(theirs.tokens) - 1 if not options else passes <= len(theirs.tokens) - 1


def test_two_drafters_are_refused(tiny_llama: LanguageModel) -> None:
    peer = TransformersGenerate(prompt_lookup=4, assistant="bfloat16")
    with pytest.raises(CompositionError, match="one of them drafts"):
        peer.start(tiny_llama)


def test_a_row_of_a_comparison(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "category": "qa", "turns": ["one two three"]}\n')
    task = f"spec_bench:max_new_tokens=8,path={path}"
    records = compare("decode", ["transformers_generate"], [task], model=tiny_llama, results=tmp_path / "r.jsonl")
    assert [(r.method, r.scores["same"], r.error) for r in records] == [
        ("plain", 1.0, None),
        ("transformers_generate", 1.0, None),
    ]
    assert records[1].costs["seconds_decode"] > 0


def test_a_task_that_scores_texts_is_refused_row_by_row(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    task = "needle:length=240,repeats=1,depths=[0.5],generate=false"
    records = compare("attention", ["transformers_generate"], [task], model=tiny_llama, results=tmp_path / "r.jsonl")
    (error,) = [r.error for r in records if r.method == "transformers_generate"]
    assert "asked for outputs only" in str(error)
