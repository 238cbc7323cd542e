"""Runs groups of the official test suite: what the grammar of each schema says of each instance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_specifications

from tests.grammar import naive
from tokloom.errors import GrammarError
from tokloom.grammar.expression import Grammar
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


def run(group: Mapping[str, Any], draft: str, resources: Mapping[str, Any], outcome: Outcome) -> None:
    """Adds what becomes of one group."""
    name, tests = group["description"], group["tests"]
    try:
        grammar: Grammar | None = from_json_schema(group["schema"], draft=DRAFTS[draft], resources=resources)
    except GrammarError as error:
        if "no value is valid" not in error.problem:
            outcome.counts["refused"] += len(tests)
            outcome.remarks.append(f"{name}: refused, {error}")
            return
        grammar = None
    for test in tests:
        text = json.dumps(test["data"]).encode()
        accepted = grammar is not None and naive.matches(grammar, text)
        found = "agree" if accepted == test["valid"] else "looser" if accepted else "stricter"
        outcome.counts[found] += 1
        if found != "agree":
            outcome.remarks.append(f"{name}, {test['description']}: {found}, {text.decode()[:60]}")
