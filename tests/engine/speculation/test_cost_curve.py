"""Costs of passes: measured once, and corrected by what passes in use take."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokloom.engine.speculation.cost_curve import CURVE, WIDTHS, CostCurve, LiveCurve, load_or_measure
from tokloom.models.language_model import LanguageModel


def test_curve_interpolates() -> None:
    curve = CostCurve({1: 2.0, 4: 4.0, 8: 6.0})
    assert curve.relative(1) == 1
    assert curve.relative(4) == 2
    assert curve.relative(6) == 2.5
    assert curve.relative(16) == 6


def test_curve_is_measured_once(tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    first = load_or_measure(tiny_llama).curve
    assert set(first.seconds) == set(WIDTHS)
    assert all(0 < s < 60 for s in first.seconds.values())
    assert load_or_measure(tiny_llama).curve == first
    (stored,) = (tmp_path / "cost_curves").iterdir()
    stored.write_text("damaged")
    assert set(load_or_measure(tiny_llama).curve.seconds) == set(WIDTHS)


def test_without_a_cache_it_is_measured_each_time(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path / "file"))
    assert set(load_or_measure(tiny_llama).curve.seconds) == set(WIDTHS)
    assert "can't be kept" in caplog.text


@given(st.dictionaries(st.sampled_from((2, 4, 8, 16)), st.floats(0.1, 20), max_size=4))
def test_the_table_never_falls_and_the_cheapest_row_is_its_least_step(seconds: dict[int, float]) -> None:
    live = LiveCurve(CostCurve({1: 1.0, **seconds}))
    assert live.table[0] == 0
    assert len(live.table) == max({1: 1.0, **seconds}) + 1
    steps = [after - before for before, after in zip(live.table[1:], live.table[2:], strict=False)]
    assert all(step >= 0 for step in steps)
    assert live.cheapest == pytest.approx(min(steps, default=float("inf")))


STALE = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}
TRUE = {1: 3.0, 2: 3.6, 4: 4.8, 8: 7.2, 16: 12.0}
"""A machine a third as fast, on which a row more costs a fifth of a pass."""


def used(live: LiveCurve, widths: tuple[int, ...], passes: int = 40) -> None:
    for i in range(passes):
        for rows in (1, *widths):
            busy = 5.0 if i % 3 == 0 else 1.0  # a third of all passes are held up
            live.note(rows, busy * CostCurve(TRUE).seconds[1] * CostCurve(TRUE).relative(rows))


def test_passes_in_use_heal_a_curve_that_was_measured_on_a_busy_machine() -> None:
    live = LiveCurve(CostCurve(STALE))
    used(live, (2, 4, 8))
    for rows in (2, 3, 4, 6, 8, 16):
        assert live.table[rows] == pytest.approx(CostCurve(TRUE).relative(rows), rel=0.15)


def test_widths_that_were_not_seen_move_with_their_neighbour() -> None:
    live = LiveCurve(CostCurve(STALE))
    used(live, (2,))
    assert live.table[2] == pytest.approx(1.2, rel=0.05)
    assert live.table[16] == pytest.approx(4.0, rel=0.1)


def test_without_passes_of_one_row_nothing_is_concluded() -> None:
    live = LiveCurve(CostCurve(STALE))
    for _ in range(50):
        live.note(4, 0.001)
    assert live.curve.seconds == STALE


def test_a_healed_curve_is_kept_and_a_fork_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path))
    key = {"machine": "here"}
    live = LiveCurve(CostCurve(STALE), key)
    live.save()
    assert CURVE.find(key) is None
    fork = live.fork()
    used(fork, (2, 4))
    fork.save()
    assert fork.table != live.table
    assert CURVE.find(key) is None
    used(live, (2, 4))
    live.save()
    kept = CURVE.find(key)
    assert kept is not None
    assert dict(zip(kept["widths"].tolist(), kept["seconds"].tolist(), strict=True)) == live.curve.seconds


def test_a_width_that_was_held_up_does_not_make_wider_ones_dear() -> None:
    live = LiveCurve(CostCurve({1: 1.0, 4: 5.0, 8: 2.0, 16: 3.0}))
    assert live.table[3:5] == (2.0, 2.0)
    assert (live.table[1], live.table[8], live.table[12], live.table[16]) == (1.0, 2.0, 2.5, 3.0)
