"""A drafter is asked as long as what it proposes is worth more than the time that it takes."""

from __future__ import annotations

import pytest

from tokloom.engine.speculation.draft_gate import DraftGate


def used(asking: float, worth: float, passes: int = 60) -> DraftGate:
    """Plain passes of one second each, in which the drafter is asked."""
    pace = DraftGate()
    for _ in range(passes):
        pace.passed(1.0)
        pace.asked(asking, worth)
        pace.taught(asking / 2)
    return pace


def test_a_drafter_is_asked_while_nothing_is_known_and_while_it_pays() -> None:
    assert DraftGate().open(0.0)
    assert used(0.01, 0.3).pays(0.3)
    assert not used(0.01, 0.3).pays(0.01)


def test_a_drafter_that_rests_is_asked_as_often_as_its_share_of_the_time_allows() -> None:
    for asking in (0.002, 0.02, 0.5):
        pace = used(asking, 0.0)
        asked = sum(pace.open(0.0) for _ in range(1000))
        assert 0 < asked * asking <= 1000 * max(pace.SHARE, asking / 2) + asking
    assert sum(used(0.5, 0.0).open(0.0) for _ in range(1000)) < 10


def test_what_proposals_are_worth_is_remembered_over_requests() -> None:
    pace = used(0.01, 0.5, passes=300)
    assert pace.worth == pytest.approx(0.5, rel=0.05)
    for _ in range(300):
        pace.asked(0.01, 0.0)
    assert pace.worth < 0.01


def test_one_slow_pass_counts_little_and_cheap_lessons_go_on() -> None:
    pace = used(0.001, 0.0)
    pace.passed(50.0)
    assert pace.plain == pytest.approx(1.1)
    assert pace.learns
    assert not used(0.1, 0.0).learns
