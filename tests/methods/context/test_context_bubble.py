from __future__ import annotations

import pytest

from tests.context import fakes
from tokloom.context.reader import parse
from tokloom.context.selector import ContextSelector, Document, Section, Selection
from tokloom.errors import SpecError
from tokloom.methods.context.context_bubble import ContextBubble
from tokloom.methods.context.top_k import TopK
from tokloom.models.embedder import Embedder
from tokloom.models.language_model import LanguageModel

PAPER = ContextBubble(passage_tokens=32)
NO_PRIOR = ContextBubble(passage_tokens=32, prior=0)
NO_DIVERSITY = ContextBubble(passage_tokens=32, coverage=0, redundancy=0, max_overlap=1, section_share=1)
TOP_K = TopK(passage_tokens=32)
SEEDS = range(12)
BUDGET = 130


def measured(selector: ContextSelector) -> tuple[float, float]:
    """Mean coverage of the planted facts and mean redundancy, over the handbooks."""
    coverage = redundancy = 0.0
    for seed in SEEDS:
        question, document, facts = fakes.handbook(seed)
        selection = selector.select(fakes.request(question, [document], BUDGET))
        coverage += fakes.covered(selection, facts) / len(SEEDS)
        redundancy += fakes.redundancy(selection.spans) / len(SEEDS)
    return coverage, redundancy


@pytest.fixture(scope="module")
def full() -> tuple[float, float]:
    return measured(PAPER)


def test_it_covers_more_with_less_redundancy_than_top_k(full: tuple[float, float]) -> None:
    coverage, redundancy = measured(TOP_K)
    assert full[0] >= coverage + 0.3
    assert full[1] <= redundancy - 0.3


def test_without_the_structural_prior_coverage_falls(full: tuple[float, float]) -> None:
    assert measured(NO_PRIOR)[0] <= full[0] - 0.15


def test_without_diversity_coverage_falls_and_redundancy_rises(full: tuple[float, float]) -> None:
    coverage, redundancy = measured(NO_DIVERSITY)
    assert coverage <= full[0] - 0.15
    assert redundancy >= full[1] + 0.3


def test_two_copies_of_a_book_are_not_quoted_twice(alice: str) -> None:
    documents = [parse(name, alice.encode()) for name in ("alice.txt", "copy/alice.txt")]
    question = "What did Alice find on the little glass table?"
    ours, theirs = (s.select(fakes.request(question, documents, 400)) for s in (ContextBubble(), TopK()))
    assert fakes.redundancy(theirs.spans) > 0.9
    assert fakes.redundancy(ours.spans) < 0.5
    assert any("redundancy gate" in decision.reason for decision in ours.trace)


# --- the gates and the rest, one by one


def select(text: str, budget: int, question: str = "Where is the key?", **options: object) -> Selection:
    document = Document("a.txt", text, ())
    return ContextBubble(passage_tokens=12, **options).select(fakes.request(question, [document], budget))  # type: ignore[arg-type]


NOISE = "\n\n".join(f"Nothing {w} was ever seen in the long {w} street." for w in "red old big new raw low shy".split())


def test_the_redundancy_gate_refuses_what_is_already_said() -> None:
    text = f"The golden key lies on the glass table.\n\n{NOISE}\n\nThe golden key lies on that glass table."
    kept = select(text, 60, radius=0)
    assert kept.render().count("golden key") == 1
    (refused,) = [d for d in kept.trace if "redundancy gate" in d.reason]
    assert not refused.taken
    assert refused.scores["redundancy"] == 1.0
    both = select(text, 60, radius=0, max_overlap=1, redundancy=0)
    assert both.render().count("golden key") == 2


def test_the_section_gate_leaves_room_for_others() -> None:
    parts = [
        "".join(f"The {w} key is in the {w} {place}.\n\n" for w in "red old big new raw".split())
        for place in ("hall", "barn")
    ]
    text = parts[0] + parts[1]
    sections = (Section("x", 1, 0, len(parts[0])), Section("y", 1, len(parts[0]), len(text)))
    request = fakes.request("Which key is in the hall?", [Document("a", text, sections)], 60)
    selection = ContextBubble(passage_tokens=12, section_share=0.5, max_overlap=1, redundancy=0).select(request)
    by_section = {"x": 0, "y": 0}
    for decision in selection.trace:
        if decision.taken:
            by_section[decision.span.section] += fakes.count_words(decision.span.text) + 3
    assert 0 < by_section["x"] <= 30
    assert by_section["y"] > 0
    assert any("section gate" in d.reason for d in selection.trace)
    alone = ContextBubble(passage_tokens=12, section_share=1, max_overlap=1, redundancy=0).select(request)
    assert sum("hall" in span.text for span in alone.spans) >= 1
    assert not any("section gate" in d.reason for d in alone.trace)


def test_one_section_alone_may_fill_the_budget() -> None:
    selection = select(
        "\n\n".join(f"The {w} key is {w} and {w}ish." for w in "red old big new raw".split()), 36, section_share=0.2
    )
    assert not any("section gate" in d.reason for d in selection.trace)


def test_a_passage_that_does_not_fit_is_cut_to_its_best_sentence() -> None:
    text = f"The golden key hung in the golden hall.\n\n{NOISE}\n\nIt was very hot. A silver key fell. Nobody came."
    selection = select(text, 22, question="golden key, golden hall, silver", radius=0)
    assert selection.render() == "[1] The golden key hung in the golden hall.\n\n[2] A silver key fell."
    assert selection.trace[1].reason == "anchor, cut to the sentences that fit"


def test_neighbours_of_an_anchor_come_along_and_join_it() -> None:
    parts = [
        "He sat on the glass table by the door.",
        "Under it hung the golden key of the house.",
        "Much later it rained on the roof.",
    ]
    text = "\n\n".join([NOISE, *parts, NOISE])
    alone = select(text, 30, question="golden key house", anchors=1, radius=0, facets=0)
    around = select(text, 30, question="golden key house", anchors=1, radius=1, facets=0)
    assert alone.render() == "[1] Under it hung the golden key of the house."
    assert "glass table by the door.\n\nUnder it hung" in around.render()
    assert any(d.taken and d.reason.startswith("neighbour of the anchor at") for d in around.trace)


def test_the_title_of_a_section_speaks_for_its_text() -> None:
    text = f"{NOISE}\n\nIt is made of brass and weighs a pound.\n\n"
    sections = (Section("About doors", 1, 0, len(NOISE)), Section("The golden key", 1, len(NOISE) + 2, len(text)))
    request = fakes.request("What is the golden key?", [Document("a", text, sections)], 25)
    assert "brass" in ContextBubble(passage_tokens=12).select(request).render()
    assert "brass" not in ContextBubble(passage_tokens=12, prior=0).select(request).render()


def test_a_prior_moves_all_sections_of_that_name() -> None:
    listing, body = "The key: page 1. The key again: page 2.\n\n", "Here is the key itself, on the table.\n\n"
    text = listing + body + NOISE
    sections = (Section("Contents", 1, 0, len(listing)), Section("One", 1, len(listing), len(text)))
    request = fakes.request("Where is the key?", [Document("a", text, sections)], 20)
    assert ContextBubble(passage_tokens=12).select(request).spans[0].section == "One"
    raised = ContextBubble(passage_tokens=12, priors={"contents": 1.0}).select(request)
    assert raised.spans[0].section == "Contents"


def test_spans_that_gain_nothing_are_left_even_if_there_is_room() -> None:
    text = f"The golden key lies on the glass table.\n\n{NOISE}"
    few, many = (select(text, 70, radius=0, max_overlap=1, min_gain=gain) for gain in (0.25, -1))
    assert few.render() == "[1] The golden key lies on the glass table."
    assert len(few.render()) < len(many.render())
    assert any("gains no more than 0.25" in d.reason for d in few.trace)


def test_the_trace_names_every_candidate_once_with_the_parts_of_its_score(alice: str) -> None:
    selection = ContextBubble().select(
        fakes.request("What did Alice find on the glass table?", [parse("alice.txt", alice.encode())], 300)
    )
    places = [(d.span.start, d.span.end) for d in selection.trace]
    assert len(places) == len(set(places)) <= 64 + 4 * 2
    for decision in selection.trace:
        assert {"gain", "relevance", "prior", "coverage", "redundancy", "bm25"} <= decision.scores.keys()
        assert decision.taken or decision.reason.startswith(
            ("redundancy gate", "section gate", "token budget", "gains")
        )
    assert selection.trace[0].reason == "anchor"
    assert selection.trace[0].taken


def test_a_large_budget_is_filled_beyond_the_pool(alice: str) -> None:
    request = fakes.request("What did Alice say to the Queen?", [parse("alice.txt", alice.encode())], 3000)
    selection = ContextBubble(pool=4, min_gain=-1, dense_candidates=8).select(request)
    assert 2500 < fakes.tokens(request, selection) <= 3000


@pytest.mark.parametrize(
    ("option", "value"),
    [("budget", 0), ("decay", 2.0), ("max_overlap", 0), ("section_share", 1.5), ("priors", "much"), ("ancors", 3)],
)
def test_options_are_checked(option: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"context_bubble:{option}"):
        ContextBubble(**{option: value})  # type: ignore[arg-type]


# --- with the real models


@pytest.mark.model
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What did Alice find on the little glass table?", "golden key"),
        ("What does the Caterpillar smoke?", "hookah"),
        ("What is the name of Alice's cat?", "Dinah"),
        ("What did the baby turn into?", "pig"),
    ],
)
def test_the_answer_to_a_question_about_a_book_is_in_the_context(
    smollm2: LanguageModel, alice: str, question: str, answer: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    request = fakes.request(question, [parse("alice.txt", alice.encode())], 600, smollm2.count, Embedder())
    selection = ContextBubble().select(request)
    context = selection.render()
    assert answer in " ".join(context.split())
    assert smollm2.count(context) <= 600
    assert ContextBubble().select(request) == selection  # from the cached vectors
