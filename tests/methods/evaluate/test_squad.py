"""The SQuAD task: the metric against known cases and a slow twin, and where its questions come from."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare.fakes import FakeEngine, FakeModel
from tokloom import Engine
from tokloom.errors import DocumentError, SpecError
from tokloom.evaluate.task import Example
from tokloom.methods.evaluate.squad import SHIPPED, Squad, contains, exact_match, f1, normalise, read, score
from tokloom.models.language_model import LanguageModel

WORDS = st.lists(
    st.sampled_from(["the", "a", "An", "cat", "Cat's", "cats", "308", "3,000", "u.s.", "New", "York", "-", "“x”", "è"])
).map(" ".join)


def slow_normalise(text: str) -> list[str]:
    """Character by character and word by word, after the description in the paper's script."""
    kept = ""
    for character in text.lower():
        if character not in string.punctuation:
            kept += character
    # An article is a run of word characters, as in \\b(a|an|the)\\b.
    words, word = [], ""
    for character in kept + " ":
        if character.isalnum() or character == "_":
            word += character
        else:
            words.append(" " if word in ("a", "an", "the") else word)
            words.append(character)
            word = ""
    return "".join(words).split()


def slow_f1(output: str, answer: str) -> float:
    ours, theirs = slow_normalise(output), slow_normalise(answer)
    if not ours or not theirs:
        return 1.0 if ours == theirs else 0.0
    left, common = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("output", "answer", "exact", "overlap"),
    [
        ("308", "308", 1, 1),
        ("The 308.", "308", 1, 1),
        ("gave up 308 points", "308", 0, 0.4),
        ("Denver Broncos", "the Denver Broncos", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),
        ("u.s.", "US", 1, 1),
        ("nothing alike", "Denver", 0, 0),
        ("new new york", "New York", 0, 0.8),  # a word counts as often as it stands in both
        ("the", "a", 1, 1),  # nothing is left of either
        ("", "Denver", 0, 0),
    ],
)
def test_known_cases(output: str, answer: str, exact: float, overlap: float) -> None:
    assert exact_match(output, answer) == exact
    assert f1(output, answer) == pytest.approx(overlap)


@given(st.one_of(WORDS, st.text()), st.one_of(WORDS, st.text()))
def test_metric_equals_slow_twin(output: str, answer: str) -> None:
    assert normalise(output).split() == slow_normalise(output)
    assert f1(output, answer) == pytest.approx(slow_f1(output, answer))
    assert exact_match(output, answer) == float(slow_normalise(output) == slow_normalise(answer))


@given(WORDS, WORDS)
def test_metrics_are_ordered(output: str, answer: str) -> None:
    """An exact match is the best f1, f1 is symmetric, and an exact output holds the answer."""
    assert exact_match(output, answer) <= f1(output, answer) == f1(answer, output) <= 1
    assert exact_match(output, answer) <= contains(output, answer)


def test_answer_in_output_stops_at_words() -> None:
    assert contains("It gave up 308 points.", "308") == 1
    assert contains("It gave up 1308 points.", "308") == 0
    assert contains("Points: 30", "308") == 0


def test_best_of_the_accepted_answers() -> None:
    assert score("Santa Clara", ["Levi's Stadium", "Santa Clara, California"])["f1"] == pytest.approx(0.8)
    assert score("Santa Clara", ["Levi's Stadium", "Santa Clara"]) == {
        "f1": 1, "exact_match": 1, "answer_in_output": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("output", "right"), [("", 1), ("Unanswerable.", 1), ("No answer", 1), ("Denver", 0)])
def test_unanswerable(output: str, right: float) -> None:
    assert set(score(output, ()).values()) == {right}
    assert set(score(output, ("...",)).values()) == {right}  # as the official script: an answer of no words is none


def test_shipped_questions() -> None:
    questions = read(SHIPPED)
    assert len(questions) == len({question.key for question in questions}) == 87
    assert len({question.paragraph for question in questions}) == 18
    assert all(answer in question.paragraph for question in questions for answer in question.answers)
    assert "CC BY-SA 4.0" in SHIPPED.with_name("SOURCES.md").read_text()


def test_limit_and_seed() -> None:
    model: Any = FakeModel()
    everything = [example.key for example in Squad().examples(model)]
    assert [example.key for example in Squad().examples(model)] == everything
    assert [example.key for example in Squad(limit=5).examples(model)] == everything[:5]
    other = [example.key for example in Squad(seed=1).examples(model)]
    assert other != everything
    assert sorted(other) == sorted(everything)


def test_documents() -> None:
    model: Any = FakeModel()
    for example in Squad().examples(model):
        (document,) = example.documents
        assert example.answers[0] in document.text
    few = list(Squad(documents="all", limit=4).examples(model))
    titles = {example.meta["title"] for example in few}
    assert {document.name.split("/")[0] for document in few[0].documents} == titles
    assert len(few[0].documents) == 2 * len(titles)  # the shipped file has two paragraphs of each article
    assert len({document.name for document in few[0].documents}) == len(few[0].documents)
    for example in few:
        assert any(example.answers[0] in document.text for document in example.documents)


def official(*, impossible: bool = False) -> str:
    answers = [] if impossible else [{"text": "Paris", "answer_start": 0}, {"text": "Paris", "answer_start": 0}]
    row = {"id": "q1", "question": "Where?", "answers": answers, "is_impossible": impossible}
    paragraph = {"context": "Paris it is.", "qas": [row]}
    return json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": [paragraph]}]}, indent=1)


def test_official_files(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(official())
    (question,) = read(path)
    assert (question.key, question.title, question.paragraph, question.answers) == (
        "q1",
        "T",
        "Paris it is.",
        ("Paris",),
    )
    path.write_text(official(impossible=True))
    assert read(path)[0].answers == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"id": "1", "title": "T", "context": "c", "question": "q"}', "line 1 is not a SQuAD question.*answers"),
        (SHIPPED.read_text().splitlines()[0] + "\nnot json\n", "line 2 is not"),
        ('{"id": "1", "title": "T", "context": "c", "question": "q", "answers": "x"}', "must be texts"),
        ('{"data": [{"title": "T"}]}', "not a SQuAD question.*paragraphs"),
        ("", "holds no question"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "other.txt"
    path.write_text(content)
    with pytest.raises(DocumentError, match=says):
        read(path)


def test_missing_file() -> None:
    with pytest.raises(DocumentError, match=r"nowhere\.json.*squad:path"):
        first(Squad(path="nowhere.json"))


@pytest.mark.parametrize("options", [{"limit": 0}, {"documents": "some"}, {"max_new_tokens": 0}, {"seed": "x"}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=f"squad:{next(iter(options))}"):
        Squad(**options)  # type: ignore[arg-type]


def first(squad: Squad) -> Example:
    model: Any = FakeModel()
    return next(squad.examples(model))


@pytest.mark.parametrize(("instruction", "asked"), [("Be short.", " Be short."), ("", "")])
def test_run(instruction: str, asked: str) -> None:
    squad = Squad(max_new_tokens=9, instruction=instruction)
    example = first(squad)
    engine: Any = FakeEngine(FakeModel(), answer=lambda question: f"It is {example.answers[0]}.")
    outcome = squad.run(engine, example)
    ((prompt, given),) = engine.calls
    assert prompt == example.question + asked
    assert given["documents"] == list(example.documents)
    assert given["sampling"].max_new_tokens == 9
    assert outcome.scores["exact_match"] == 0
    assert 0 < outcome.scores["f1"] < 1
    assert outcome.scores["answer_in_output"] == outcome.scores["answer_in_context"] == 1


@pytest.mark.model
def test_on_a_real_model(smollm2: LanguageModel) -> None:
    """The context that is retrieved holds the answer, and the model finds some of the answers in it."""
    squad = Squad(limit=4, max_new_tokens=16)
    engine = Engine(smollm2, context="top_k:budget=400")
    outcomes = [squad.run(engine, example) for example in squad.examples(smollm2)]
    assert all(outcome.scores["answer_in_context"] == 1 for outcome in outcomes)
    assert all(outcome.result.prompt_tokens <= 400 for outcome in outcomes)
    assert sum(outcome.scores["answer_in_output"] for outcome in outcomes) >= 1
