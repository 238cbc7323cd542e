"""RTPurbo against its formula: the indexer is the closest of its rank, heads are ranked, local heads see near."""

from __future__ import annotations

import pytest
import torch

from tests.attention.selecting import calibration, check, grouped, in_int8, votes
from tests.methods.attention.test_select import LEFT, POLICY
from tests.methods.attention.test_top_p import fewest
from tokloom.attention.calibration import distance, passage
from tokloom.methods.attention.rtpurbo import LowRankIndexer, RTPurbo, closest, long_range_mass, train
from tokloom.models.language_model import LanguageModel


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) @ torch.diag(torch.linspace(0.2, 2, 8))


def error(queries: torch.Tensor, keys: torch.Tensor, to_query: torch.Tensor, to_key: torch.Tensor) -> float:
    """Mean square of q k / sqrt(d) - q' k' for one KV head, after taking away each query's mean over the keys."""
    low = (keys @ to_key).repeat_interleave(queries.shape[0], 0)
    difference = queries @ keys.repeat_interleave(queries.shape[0], 0).transpose(1, 2) * 8**-0.5
    difference = difference - (queries @ to_query) @ low.transpose(1, 2)
    return float((difference - difference.mean(-1, keepdim=True)).square().mean())


def test_the_closest_of_full_rank_is_exact_and_rank_costs() -> None:
    queries, keys = some(2, 60, 8), some(1, 80, 8, seed=1)
    errors = [error(queries, keys, *closest(queries, keys, dims)) for dims in (2, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_no_nearby_pair_of_matrices_is_closer() -> None:
    """A step in any direction makes the error of the closest pair larger."""
    queries, keys = some(2, 60, 8), some(1, 80, 8, seed=1)
    best = closest(queries, keys, 3)
    minimum = error(queries, keys, *best)
    for seed in range(20):
        moved = [m + 0.02 * some(*m.shape[:2], 8, seed=seed)[..., :3] for m in best]
        assert error(queries, keys, *moved) > minimum


def test_training_comes_nearer_to_the_attention() -> None:
    queries, keys = 3 * some(2, 30, 8), some(1, 80, 8, seed=1)
    before = closest(queries, keys, 2)
    after = train(*before, queries, keys, 30)
    target = (queries @ keys.expand(2, -1, -1).transpose(1, 2) * 8**-0.5).softmax(-1)

    def divergence(to_query: torch.Tensor, to_key: torch.Tensor) -> float:
        low = (queries @ to_query) @ (keys @ to_key).expand(2, -1, -1).transpose(1, 2)
        return float((target * (target.log() - low.log_softmax(-1))).sum(-1).mean())

    assert divergence(*after) < 0.9 * divergence(*before)
    assert all(torch.equal(a, b) for a, b in zip(train(*before, queries, keys, 0), before, strict=True))


def test_long_range_mass_equals_the_formula() -> None:
    queries, keys, rows = some(4, 3, 8), some(2, 50, 8, seed=1), torch.tensor([30, 41, 49])
    found = long_range_mass(queries, keys, rows, 10)
    for kv_head in range(2):
        masses = []
        for h in (2 * kv_head, 2 * kv_head + 1):
            shares = []
            for i, row in enumerate(rows.tolist()):
                weights = (keys[kv_head, : row + 1] @ queries[h, i] * 8**-0.5).softmax(0)
                shares.append(float(weights[4 : row - 10 + 1].sum()))
            masses.append(sum(shares) / 3)
        assert abs(float(found[kv_head]) - max(masses)) < 1e-5


def test_the_calibration_text_reads_a_passage_twice() -> None:
    tokens = passage(list(range(100)))
    assert tokens == [*range(75), *range(12, 37)]
    assert [tokens[i - distance(100)] for i in range(75, 100)] == tokens[75:]


def test_heads_are_ranked_over_all_layers() -> None:
    """Half of six: the layer between slides over a window, and its two heads are local ones."""
    found = [{"far": torch.tensor(far), "to_query": torch.zeros(4, 8, 2)} for far in ([0.1, 0.9], [0.3, 0.2])]
    scorer = LowRankIndexer(2, 0.5, 10, 0)
    finished = scorer.finish_calibration([found[0], {}, found[1]])
    assert [part["retrieves"].tolist() for part in finished if part] == [
        [False, False, True, True], [True, True, True, True],
    ]  # fmt: skip


def test_all_full_layers_retrieve_where_most_layers_slide() -> None:
    found = [{}, {}, {"far": torch.tensor([0.1]), "to_query": torch.zeros(2, 8, 2)}, {}]
    assert LowRankIndexer(2, 0.5, 10, 0).finish_calibration(found)[2]["retrieves"].tolist() == [True, True]


@pytest.mark.parametrize(("dims", "made"), [(None, 4), (6, 6)])
def test_an_indexer_has_a_quarter_of_the_dimensions(tiny_llama: LanguageModel, dims: int | None, made: int) -> None:
    parts = calibration(tiny_llama, RTPurbo(**POLICY, dims=dims, steps=0))
    assert all(part["to_key"].shape == (2, 16, made) for part in parts)


def test_steps_and_trees_equal_the_formula(tiny_llama: LanguageModel) -> None:
    policy = RTPurbo(**POLICY, dims=4, steps=2, mass=0.7)
    found = calibration(tiny_llama, policy)
    assert sum(int(part["retrieves"].sum()) for part in found) == 3 * 2  # half of six KV heads, two query heads each

    def chosen(layer, queries, keys, candidates):  # type: ignore[no-untyped-def]
        part = found[layer]
        sets = []
        for h, (q, k) in enumerate(grouped(queries, keys)):
            if not part["retrieves"][2 * h]:
                sets.append(set())
                continue
            low = torch.stack([q[i] @ part["to_query"][2 * h + i] for i in range(2)])
            copy = in_int8(k @ part["to_key"][h] - part["centre"][h])
            sets.append(fewest(votes(low, copy, candidates, 1.0), 0.7, LEFT))
        return sets

    check(tiny_llama, policy, chosen)
