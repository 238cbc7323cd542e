"""SQuAD: short answers to questions about paragraphs of Wikipedia, scored by exact match and F1.

Paper: SQuAD: 100,000+ Questions for Machine Comprehension of Text. arXiv:1606.05250
Formula: both texts are lowercased, stripped of punctuation and of the words a, an, the, and split at white space.
    exact_match = 1 if the texts are then equal; f1 = 2pr / (p + r) over the words in common, counted with
    multiplicity; answer_in_output = 1 if the answer's words stand in the output one after the other. Each is the
    highest over the accepted answers. A question without answers (SQuAD 2.0) is answered rightly by an empty
    output, "unanswerable" or "no answer".
Shapes: one example per question; scores are 0 to 1.
Effect: the quality axis for context selection. With documents=all the paragraph that holds the answer must first be
    found among those of all articles; answer_in_context says whether it was. SmolLM2-135M reaches an f1 of 0.17 and
    has the answer in one output of two, and half as much without `instruction`, which costs retrieval nothing.
Differs: the shipped questions have one accepted answer each, where the official development set has three or more,
    so that scores are lower than published ones. Give the official file by `path` to compare with those.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tokloom.context.selector import Document
from tokloom.engine.request import Sampling
from tokloom.errors import DocumentError
from tokloom.evaluate.task import DATA, Example, Outcome, Task
from tokloom.registry import method

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.models.language_model import LanguageModel

SHIPPED = DATA / "squad.jsonl"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ABSTENTIONS = frozenset({"", "unanswerable", "no answer"})


def normalise(text: str) -> str:
    """The official normal form: lowercase, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(output: str, answer: str) -> float:
    """1 if both texts have the same normal form."""
    return float(normalise(output) == normalise(answer))


def f1(output: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of the normal forms.

    As in the official script, a text without words agrees only with another one.
    """
    ours, theirs = normalise(output).split(), normalise(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))  # = 2pr / (p + r) with p = common/ours, r = common/theirs


def contains(output: str, answer: str) -> float:
    """1 if the answer's normal form stands in the output's, from word boundary to word boundary."""
    return float(f" {normalise(answer)} " in f" {normalise(output)} ")


def score(output: str, answers: Iterable[str]) -> dict[str, float]:
    """All metrics of one output, each the best over the accepted answers; no answers means unanswerable."""
    known = [answer for answer in answers if normalise(answer)]
    if not known:
        right = float(normalise(output) in _ABSTENTIONS)
        return {"f1": right, "exact_match": right, "answer_in_output": right}
    metrics: dict[str, Callable[[str, str], float]] = {
        "f1": f1,
        "exact_match": exact_match,
        "answer_in_output": contains,
    }
    return {name: max(metric(output, answer) for answer in known) for name, metric in metrics.items()}


@dataclass(frozen=True)
class Question:
    """One question of the data set, and the paragraph that it was asked about."""

    key: str
    title: str
    paragraph: str
    text: str
    answers: tuple[str, ...]


def read(path: Path) -> list[Question]:
    """Questions from JSON lines (id, title, context, question, answers) or from the official JSON of v1.1 or 2.0.

    Raises:
        DocumentError: the file can't be read, or it has neither form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(str(path), f"can't be read ({error})", "Check evaluate's option squad:path.") from None
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None  # more than one line of JSON
    where = "the file"
    questions: list[Question] = []
    try:
        if isinstance(whole, dict) and "data" in whole:
            questions.extend(_official(whole["data"]))
        else:
            for number, line in enumerate(text.splitlines(), 1):
                where = f"line {number}"
                if line.strip():
                    row = json.loads(line)
                    questions.append(_question(row, row["title"], row["context"], row["answers"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DocumentError(
            str(path), f"{where} is not a SQuAD question ({type(error).__name__}: {error})",
            "Valid are the official JSON files and JSON lines with id, title, context, question, answers.",
        ) from None  # fmt: skip
    if not questions:
        raise DocumentError(str(path), "holds no question", "Give a file with at least one.")
    return questions


def _official(articles: Any) -> Iterator[Question]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for row in paragraph["qas"]:
                answers = [] if row.get("is_impossible") else [answer["text"] for answer in row["answers"]]
                yield _question(row, article["title"], paragraph["context"], answers)


def _question(row: Any, title: Any, paragraph: Any, answers: Any) -> Question:
    texts = [row["id"], title, paragraph, row["question"], *answers]
    if isinstance(answers, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("id, title, context, question and each of answers must be texts")
    return Question(row["id"], title, paragraph, row["question"], tuple(dict.fromkeys(answers)))


def paragraphs(questions: Iterable[Question]) -> dict[str, Document]:
    """Each paragraph once, as a document named ``<title>/<number in the article>.txt``, by its text."""
    found: dict[str, Document] = {}
    numbers: Counter[str] = Counter()
    for question in questions:
        if question.paragraph not in found:
            numbers[question.title] += 1
            name = f"{question.title}/{numbers[question.title]}.txt"
            found[question.paragraph] = Document(name, question.paragraph)
    return found


@method(stage="evaluate")
class Squad(Task):
    """Scores: f1, exact_match, answer_in_output; answer_in_context where a context selector chose the text."""

    needs: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "f1"

    path: str | None = None
    """JSON lines or the official JSON of SQuAD 1.1 or 2.0; the shipped 87 questions if not given."""
    limit: int | None = Field(default=None, ge=1)
    """Most questions, drawn at random from the file; all if not given."""
    seed: int = 0
    """Order of the questions, and which ones `limit` leaves."""
    documents: Literal["paragraph", "all"] = "paragraph"
    """paragraph: the question comes with its own paragraph; all: with those of all articles that are asked about."""
    instruction: str = "Answer with a few words of the text, not a sentence."
    """Follows the question; empty for the bare question. Without it small models answer in long sentences."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Most tokens of an answer."""

    def examples(self, model: LanguageModel) -> Iterator[Example]:
        questions = read(Path(self.path) if self.path is not None else SHIPPED)
        asked = list(questions)
        random.Random(self.seed).shuffle(asked)
        asked = asked[: self.limit]
        titles = {question.title for question in asked}
        known = paragraphs(question for question in questions if question.title in titles)
        everything = tuple(known.values())
        for question in asked:
            yield Example(
                key=question.key,
                question=question.text,
                answers=question.answers,
                documents=everything if self.documents == "all" else (known[question.paragraph],),
                max_new_tokens=self.max_new_tokens,
                meta={"title": question.title},
            )

    def run(self, engine: Engine, example: Example) -> Outcome:
        sampling = Sampling(max_new_tokens=example.max_new_tokens)
        question = f"{example.question} {self.instruction}".rstrip()
        result = engine.generate(question, documents=list(example.documents), sampling=sampling)
        scores = score(result.text, example.answers)
        if result.selection is not None and example.answers:
            context = result.selection.render()
            scores["answer_in_context"] = max(contains(context, answer) for answer in example.answers)
        return Outcome(example, scores, result)
