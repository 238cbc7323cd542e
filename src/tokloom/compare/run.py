"""Runs methods side by side on one loaded model and keeps every finished example."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokloom import registry
from tokloom.compare.costs import costs_of
from tokloom.compare.placement import (
    PLACES,
    Constrained,
    Contender,
    contenders,
    engine_for,
    fixed_parts,
    with_controls,
)
from tokloom.compare.records import Record, RecordFile
from tokloom.context.selector import Document
from tokloom.engine.components import KINDS
from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError, TokloomError
from tokloom.evaluate.task import GIVES as TASK_GIVES
from tokloom.evaluate.task import Example, Task

if TYPE_CHECKING:
    from tokloom.engine.engine import Engine
    from tokloom.evaluate.peer import PeerEngine
    from tokloom.models.language_model import LanguageModel

Progress = Callable[[int, int, str], None]
"""Called as (cells finished, cells in all, what runs next) before each cell and once at the end."""

ENGINE_PARTS = (*(kind.name for kind in KINDS if kind.fixed), "kv", "offload", "prefill_chunk")
"""Arguments of `Engine` that a comparison may fix for all its rows."""

_WARM_UP = Document("warm-up.txt", "The quick brown fox jumps over the lazy dog. " * 8)


class ComparisonInterrupted(KeyboardInterrupt):
    """The user stopped a comparison; its message says what is kept and how to go on."""

    def __init__(self, results: Path, done: int, total: int) -> None:
        self.results, self.done, self.total = results, done, total
        super().__init__(
            f"Stopped after {done} of {total} answers. They are kept in {results}: "
            "run the same command again to resume with the next one."
        )


@dataclass(frozen=True)
class _Cell:
    """What is to be run: its record without scores, and what it takes to get them."""

    record: Record
    task: Task
    example: Example
    contender: Contender


def compare(
    stage: str,
    methods: Sequence[str],
    tasks: Sequence[str | Task],
    budgets: Sequence[int] | None = None,
    model: str | LanguageModel = "smollm2-135m",
    limit: int | None = None,
    results: str | Path = "results.jsonl",
    progress: Progress | None = None,
    *,
    engine: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    weights: str | None = None,
    controls: bool = True,
) -> list[Record]:
    """Every method, at every budget, on every example of every task; what `results` already holds is not run again.

    Within one example the methods take turns, beginning with another one each time, so that whatever else the
    machine does hits all of them alike. Each method answers a short prompt first, which is not counted.

    Args:
        stage: "context", "attention" or "decode".
        methods: specs of methods of that stage, "all" for every one; the first is the baseline. "plain" is decoding
            without any. Other engines ("transformers_generate", "llama_cpp") are rows of any stage.
        tasks: specs of tasks, e.g. "squad", "needle:length=512".
        budgets: a row each for every method with an option `budget` whose spec does not name one.
        model: a loaded model, or a name for `tokloom.load`.
        limit: most examples of each task; a later run with a higher limit adds to the same results.
        results: file of JSON lines that results are appended to (see `records`).
        progress: told what happens; `progress.bar` shows it.
        engine: arguments of `Engine` for all rows, of `ENGINE_PARTS`.
        dtype, device, weights: for `tokloom.load`, if model is a name.
        controls: also the stage's controls where they aren't among the methods; see `placement.with_controls`.

    Returns:
        One record per cell of this comparison, tasks outermost, then examples, then methods. A method that can't
        run has one record per task with its `error`.

    Raises:
        UsageError: an argument is not valid; nothing was run.
        ComparisonInterrupted: the user pressed Ctrl+C; the results so far are in the file.
    """
    rows = contenders(stage, methods, budgets)
    rows = with_controls(stage, rows) if controls else rows
    evaluations = _tasks(tasks)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ArgumentError("limit", limit, "an integer >= 1, or None for all examples")
    others = _others(engine or {})
    loaded = _load(model, {"dtype": dtype, "device": device, "weights": weights})
    with RecordFile(Path(results)) as file:
        cells = list(_cells(stage, rows, evaluations, loaded, limit, others))
        return _run(cells, loaded, others, file, progress)


def _tasks(tasks: Sequence[str | Task]) -> list[Task]:
    if isinstance(tasks, str) or not tasks:
        raise ArgumentError("tasks", tasks, "one or more specs of tasks", "List them: tokloom methods evaluate.")
    built = [registry.build(task, Task, "tasks") for task in tasks]
    for task in built:
        registry.check_needs(task, TASK_GIVES)
    return list({registry.spec_of(part): part for task in built for part in task.parts()}.values())


def _others(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The fixed parts of the engine, built: a mistake in them is found before a model is loaded."""
    unknown = sorted(set(engine) - set(ENGINE_PARTS))
    if unknown:
        raise ArgumentError("engine", unknown[0], "one of " + ", ".join(ENGINE_PARTS))
    interfaces = {place: interface for interface, place in PLACES.items()}
    return {
        name: registry.build(value, interfaces[name], f"engine[{name!r}]")
        if isinstance(value, str) and name in interfaces
        else value
        for name, value in engine.items()
    }


def _load(model: str | LanguageModel, options: dict[str, str | None]) -> LanguageModel:
    from tokloom.models.load import load, refuse_options

    if not isinstance(model, str):
        refuse_options(**options)
        return model
    return load(model, **options)


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import tokloom

    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {"tokloom": tokloom.__version__, **packages, "python": platform.python_version()}


def _settings(model: LanguageModel, contender: Contender, others: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    fixed = fixed_parts(contender, others)
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": model.weights,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        **{name: registry.spec_of(part) if hasattr(part, "stage") else part for name, part in fixed.items()},
    }


class _Digests:
    """Hashes of examples. The documents of a task are often the same tuple for all, so theirs are kept."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str]] = {}

    def of(self, example: Example) -> str:
        documents = example.documents
        if id(documents) not in self._known:
            texts = [[document.name, document.text] for document in documents]
            self._known[id(documents)] = (documents, _hash(texts))  # kept alive, so that the id stays its own
        parts = [example.question, example.answers, example.prompt, example.max_new_tokens]
        return _hash([*parts, self._known[id(documents)][1]])


def _hash(data: object) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _cells(
    stage: str,
    rows: Sequence[Contender],
    tasks: Sequence[Task],
    model: LanguageModel,
    limit: int | None,
    others: Mapping[str, Any],
) -> Iterator[_Cell]:
    known = versions()
    settings = {row: _settings(model, row, others) for row in rows}
    for task in tasks:
        digests = _Digests()
        spec = registry.spec_of(task)
        for example in itertools.islice(task.examples(model), limit):
            digest = digests.of(example)
            for row in rows:
                record = Record(
                    model=model.name, stage=stage, method=row.spec, label=row.label, budget=row.budget, place=row.place,
                    task=spec, metric=task.metric, example=example.key, digest=digest, settings=settings[row],
                    versions=known,
                )  # fmt: skip
                yield _Cell(record, task, example, row)


def _run(
    cells: Sequence[_Cell], model: LanguageModel, others: Mapping[str, Any], file: RecordFile, progress: Progress | None
) -> list[Record]:
    engines = _Engines(model, others)
    broken: dict[tuple[str, Contender], Record] = {}  # rows that can't run, by task
    done = sum(_finished(file, cell) for cell in cells)
    try:
        for cell in _in_turn(cells):
            row = (cell.record.task, cell.contender)
            if _finished(file, cell):
                continue
            if progress is not None:
                progress(done, len(cells), f"{cell.record.task}  {cell.record.method}")
            if row not in broken:
                record, whole_row = _answer(cell, engines)
                if record.error is None or not _told(file, record):
                    file.append(record)
                if whole_row:
                    broken[row] = record
            done += 1
    except KeyboardInterrupt:
        kept = sum(_finished(file, cell) for cell in cells)
        raise ComparisonInterrupted(file.path, kept, len(cells)) from None
    if progress is not None:
        progress(done, len(cells), "done")
    found: dict[str, Record] = {}
    for cell in cells:
        failed = None if _finished(file, cell) else broken.get((cell.record.task, cell.contender))
        record = failed or file.records[cell.record.cell]
        found.setdefault(record.cell, record)
    return list(found.values())


def _finished(file: RecordFile, cell: _Cell) -> bool:
    """Errors are tried again: what caused them may be gone, and finding out is cheap."""
    known = file.records.get(cell.record.cell)
    return known is not None and known.error is None


def _told(file: RecordFile, record: Record) -> bool:
    """The file has this very error already: trying again and again must not make it grow."""
    known = file.records.get(record.cell)
    return known is not None and known.error == record.error


def _in_turn(cells: Sequence[_Cell]) -> Iterator[_Cell]:
    """Example by example, each begun by the next method."""
    groups = itertools.groupby(cells, key=lambda cell: (cell.record.task, cell.record.example))
    for turn, (_, group) in enumerate(groups):
        rows = list(group)
        first = turn % len(rows)
        yield from rows[first:] + rows[:first]


class _Engines:
    """One engine per row, made when its turn comes."""

    def __init__(self, model: LanguageModel, others: Mapping[str, Any]) -> None:
        self._model, self._others = model, others
        self._made: dict[Contender, Engine | Constrained | PeerEngine] = {}
        self._warm: set[tuple[Contender, bool]] = set()

    def get(self, contender: Contender, documents: bool) -> Engine | Constrained | PeerEngine:
        """The row's engine, having answered once: what is loaded or compiled on first use must not count as the
        first example's time. Raises TokloomError if the row can't run."""
        if contender not in self._made:
            self._made[contender] = engine_for(self._model, contender, self._others)
        engine = self._made[contender]
        if (contender, documents) not in self._warm:
            text = [_WARM_UP] if documents else None
            engine.generate("What jumps?", documents=text, sampling=Sampling(max_new_tokens=2))
            self._warm.add((contender, documents))
        return engine


def _answer(cell: _Cell, engines: _Engines) -> tuple[Record, bool]:
    """The finished record, and whether its error holds for all examples of the task."""
    contender, example = cell.contender, cell.example
    whole_row = True
    try:
        problem = contender.error
        if problem is None and contender.place == "context" and not example.documents:
            problem = f"{cell.task.name} gives no documents to select from, so that context methods can't differ on it."
        if problem is None:
            engine = engines.get(contender, bool(example.documents))
            whole_row = False
            outcome = cell.task.run(engine, example)  # type: ignore[arg-type]
            costs = costs_of(outcome.result)
            if (published := getattr(contender.component, "published", None)) is not None:
                costs["published"] = published
            return _stamped(cell.record, scores=outcome.scores, costs=costs), False
    except TokloomError as error:
        problem = str(error)
    if whole_row:
        return _stamped(cell.record, example="", digest="", error=problem), True
    return _stamped(cell.record, error=problem), False


def _stamped(record: Record, **results: Any) -> Record:
    return replace(record, **results, time=datetime.now(UTC).isoformat(timespec="seconds"))
