"""Runs groups of the official test suite: what the grammar of each schema says of each instance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_specifications

from tests.grammar import naive
from tokloom.errors import GrammarError
from tokloom.grammar.json_schema import from_json_schema

FOLDER = Path(__file__).parent / "suite"
DRAFTS = {"draft4": 4, "draft6": 6, "draft7": 7, "draft2019-09": 2019, "draft2020-12": 2020}


@dataclass
class Outcome:
    """What became of a keyword's tests. agree: as the suite has it; stricter: a valid instance is not in the grammar;
    looser: an invalid one is; refused: the schema can't be enforced, by the limits of the front end."""

    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


def groups(draft: str) -> Iterator[dict[str, Any]]:
    """The groups of a draft that lie beside this file."""
    with (FOLDER / f"{draft}.jsonl").open() as lines:
        yield from map(json.loads, lines)


def documents() -> dict[str, Any]:
    """What the suite's schemas refer to: its own remote documents, and the specification's meta-schemas."""
    specified = {uri.rstrip("#"): jsonschema_specifications.REGISTRY.contents(uri) for uri in _uris()}
    return {**specified, **json.loads((FOLDER / "remotes.json").read_text())}


def _uris() -> Iterable[str]:
    return list(jsonschema_specifications.REGISTRY)


Judge = Callable[[bytes], bool]
"""Whether a text is valid by one schema."""


class RefusedError(Exception):
    """A schema that is not supported."""


def judge(schema: Any, draft: str, resources: Mapping[str, Any]) -> Judge:
    """tokloom's grammar of a schema, matched by the naive matcher. Raises RefusedError."""
    try:
        grammar = from_json_schema(schema, draft=DRAFTS[draft], resources=resources)
    except GrammarError as error:
        if "no value is valid" in error.problem:
            return lambda text: False
        raise RefusedError(str(error)) from error
    return lambda text: naive.matches(grammar, text)


def run(
    group: Mapping[str, Any], draft: str, resources: Mapping[str, Any], outcome: Outcome,
    judge_of: Callable[[Any, str, Mapping[str, Any]], Judge] = judge,
) -> None:  # fmt: skip
    """Adds what becomes of one group, by tokloom or by another judge."""
    name, tests = group["description"], group["tests"]
    try:
        accepts = judge_of(group["schema"], draft, resources)
    except RefusedError as error:
        outcome.counts["refused"] += len(tests)
        outcome.remarks.append(f"{name}: refused, {error}")
        return
    for test in tests:
        text = json.dumps(test["data"]).encode()
        accepted = accepts(text)
        found = "agree" if accepted == test["valid"] else "looser" if accepted else "stricter"
        outcome.counts[found] += 1
        if found != "agree":
            outcome.remarks.append(f"{name}, {test['description']}: {found}, {text.decode()[:60]}")
