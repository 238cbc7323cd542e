"""Spec-Bench's file form, its categories, and what the scores say of lossless and other methods."""

from __future__ import annotations

import json
import os.path
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokloom import Engine
from tokloom.compare.run import compare
from tokloom.errors import DocumentError
from tokloom.methods.evaluate.spec_bench import OTHERS, SHIPPED, SpecBench, compared, read
from tokloom.models.language_model import LanguageModel


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        {"question_id": 1, "category": "writing", "turns": ["one two three one two", "again"]},
        {"question_id": 2, "category": "rag", "turns": ["four five six"]},
        {"question_id": 3, "category": "math", "turns": ["seven " * 50]},
        {"question_id": 4, "category": "rag", "turns": ["three two one three"]},
    ]
    file = tmp_path / "question.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_categories_limits_and_lengths(path: Path, tiny_llama: LanguageModel) -> None:
    def keys(**options: object) -> list[str]:
        task = SpecBench(path=str(path), max_new_tokens=4, **options)  # type: ignore[arg-type]
        return [example.key for example in task.examples(tiny_llama)]

    assert keys() == ["mt_bench/1", "rag/2", "mt_bench/3", "rag/4"]
    assert keys(category="rag") == ["rag/2", "rag/4"]
    assert keys(limit=1) == ["mt_bench/1", "rag/2"]
    assert keys(longest=20) == ["mt_bench/1", "rag/2", "rag/4"]


def test_a_drafter_scores_one_and_another_attention_may_not(path: Path, tiny_chat_llama: LanguageModel) -> None:
    task = SpecBench(path=str(path), max_new_tokens=24)
    examples = list(task.examples(tiny_chat_llama))
    for example in examples:
        outcome = task.run(Engine(tiny_chat_llama, drafter="merged"), example)
        assert outcome.scores == {"same": 1.0, "agreement": 1.0}
    other = Engine(tiny_chat_llama, attention="h2o:budget=12,interval=4")
    assert any(task.run(other, example).scores["same"] == 0 for example in examples)


def test_it_compares(path: Path, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    task = SpecBench(path=str(path), max_new_tokens=8, limit=1)
    records = compare("decode", ["prompt_lookup"], [task], model=tiny_llama, results=tmp_path / "r.jsonl")
    tables = [(record.method, record.task.partition("category=")[2].partition(",")[0]) for record in records]
    assert sorted(tables) == sorted(product(["plain", "prompt_lookup"], ["mt_bench", "rag"]))
    assert [record.scores["same"] for record in records] == [1.0] * 4
    assert all(record.costs["generated_tokens"] > 0 for record in records)


@given(st.text(max_size=20), st.text(max_size=20))
def test_scores(text: str, expected: str) -> None:
    scores = compared(text, expected)
    assert (scores["same"] == 1) == (text == expected)
    assert 0 <= scores["agreement"] <= 1
    alike = len(os.path.commonprefix([text, expected]))  # noqa: RUF071 - of characters
    if expected:
        assert scores["agreement"] == alike / len(expected)


@pytest.mark.parametrize(
    "content", ["", "no json\n", '{"question_id": 1}\n', '{"question_id": 1, "category": "rag", "turns": []}\n']
)
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(DocumentError):
        read(file)
    with pytest.raises(DocumentError, match="can't be read"):
        read(tmp_path / "absent")


def test_four_questions_of_each_kind_are_shipped() -> None:
    kinds = [task.category for task in SpecBench().parts() if isinstance(task, SpecBench)]
    assert sorted(map(str, kinds)) == sorted(["mt_bench", *OTHERS])
    assert Counter(category for _, category, _ in read(SHIPPED)) == dict.fromkeys(["mt_bench", *OTHERS], 4)
