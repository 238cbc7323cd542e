"""Whether draws follow a distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def check(expected: Mapping[T, float], seen: Counter[T]) -> None:
    """Pearson's test at the 99.9th percentile; what is expected fewer than five times counts as one class.

    expected: chances; may leave out the rarest."""
    draws = sum(seen.values())
    common = [each for each, chance in expected.items() if chance * draws >= 5]
    chances = [expected[each] for each in common]
    observed = [seen[each] for each in common]
    chances.append(1 - sum(chances))
    observed.append(draws - sum(observed))
    if chances[-1] * draws < 1:
        assert observed.pop() <= 5
        chances.pop()
    assert len(common) >= 3
    statistic = sum((o - c * draws) ** 2 / (c * draws) for o, c in zip(observed, chances, strict=True))
    freedom = len(chances) - 1
    # Wilson and Hilferty's approximation
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
