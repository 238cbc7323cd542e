"""The official test suite, drafts 4 and 2020-12, against the results that the documentation prints."""

import json

import pytest

from tests.grammar.json_schema import suite_run

RESULTS = json.loads((suite_run.FOLDER / "results.json").read_text())


def by_keyword(draft):
    found = {}
    for group in suite_run.groups(draft):
        found.setdefault(group["keyword"], []).append(group)
    return found


CASES = [(draft, keyword) for draft in ("draft4", "draft2020-12") for keyword in by_keyword(draft)]


@pytest.fixture(scope="module")
def documents():
    return suite_run.documents()


@pytest.mark.parametrize(("draft", "keyword"), CASES)
def test_official_suite(draft, keyword, documents):
    outcome = suite_run.Outcome()
    for group in by_keyword(draft)[keyword]:
        suite_run.run(group, draft, documents, outcome)
    assert outcome.counts["looser"] == 0, outcome.remarks
    assert dict(outcome.counts) == RESULTS[draft][keyword], outcome.remarks


def test_little_is_stricter_or_refused():
    """Formats are enforced, where the suite takes them for remarks; vocabularies are not read. Refusals are few."""
    stricter = {(draft, word) for draft in RESULTS for word, each in RESULTS[draft].items() if "stricter" in each}
    assert stricter == {("draft2020-12", "format"), ("draft2020-12", "vocabulary")}
    refused = {word for draft in RESULTS for word, each in RESULTS[draft].items() if "refused" in each}
    assert refused <= {
        "uniqueItems", "multipleOf", "ref", "defs", "definitions", "dependencies", "dependentSchemas", "not",
    }  # fmt: skip
