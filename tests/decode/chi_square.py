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
    common = [each for each, probability in expected.items() if probability * draws >= 5]
    probabilities = [expected[each] for each in common]
    observed = [seen[each] for each in common]
    probabilities.append(1 - sum(probabilities))
    observed.append(draws - sum(observed))
    if probabilities[-1] * draws < 1:
        assert observed.pop() <= 5
        probabilities.pop()
    assert len(common) >= 3
    statistic = sum((o - c * draws) ** 2 / (c * draws) for o, c in zip(observed, probabilities, strict=True))
    freedom = len(probabilities) - 1
    # Wilson and Hilferty's approximation
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
