"""The attention kernel against torch in float64, over random shapes, masks, storages and instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.kernel_call import Case, expected, run
from tokloom import _core
from tokloom.kv.precision import PRECISIONS

STORAGES = ("fp32", "bf16", "int8", "int4")
# The reference has what is stored, so that no storage needs more than what float32 sums lose.
CLOSE = {"atol": 3e-5, "rtol": 3e-5}


@pytest.fixture(autouse=True)
def reference_on_one_thread() -> Iterator[None]:
    """On a machine that is busy otherwise, threads that wait for each other in every small product take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tree(rows: int) -> torch.Tensor:
    """bool (rows, rows): who sees whom in a random tree."""
    seen = torch.eye(rows, dtype=torch.bool)
    for row in range(1, rows):
        seen[row] |= seen[int(torch.randint(0, row, ()))]
    return seen


def build(
    seed: int,
    rows: int = 1,
    past: int = 100,
    kv_heads: int = 2,
    group: int = 3,
    width: int = 64,
    storage: str = "fp32",
    spare: int = 5,
    **kwargs: object,
) -> Case:
    """Random numbers; NaN in the spare slots."""
    torch.manual_seed(seed)
    capacity = past + rows + spare
    keys, values = torch.randn(2, kv_heads, capacity, width)
    keys[:, past + rows :] = values[:, past + rows :] = torch.nan
    positions = torch.stack([torch.randperm(past + 20)[:past].sort().values for _ in range(kv_heads)])
    row_positions = torch.arange(past + 20, past + 20 + rows)
    positions = torch.cat([positions, row_positions.expand(kv_heads, rows), torch.full((kv_heads, spare), 10**6)], 1)
    return Case(
        queries=torch.randn(rows, kv_heads * group, width).transpose(0, 1) * 2, keys=keys, values=values,
        count=past + rows, positions=positions.int(), row_positions=row_positions.int(), storage=storage,
        **kwargs,  # type: ignore[arg-type]
    )  # fmt: skip


def check(case: Case, threads: int = 1) -> None:
    out, _, _ = run(case, threads)
    want, probabilities, totals = expected(case)
    torch.testing.assert_close(out.double(), want, **CLOSE)
    if case.index is not None:
        return
    for weights, sums in ((True, True), (True, False), (False, True)):
        again, got_weights, got_sums = run(case, threads, weights, sums)
        # Sums alone of many rows and slots are made in several passes, whose rows are laid out in other segments.
        passes = not weights and case.queries.shape[0] * case.queries.shape[1] * case.count > 2**18
        torch.testing.assert_close(again, out, rtol=2**-20 if passes else 0, atol=2**-20 if passes else 0)
        if got_weights is not None:
            torch.testing.assert_close(got_weights.double(), probabilities, **CLOSE)
        if got_sums is not None:
            torch.testing.assert_close(got_sums.double(), totals, **CLOSE)


SHAPES = {
    "seed": st.integers(0, 1000),
    "rows": st.sampled_from([1, 1, 2, 3, 5, 16, 33]),
    "past": st.sampled_from([0, 1, 15, 16, 63, 200, 257, 700]),
    "kv_heads": st.integers(1, 3),
    "group": st.sampled_from([1, 2, 3, 4, 5, 7, 8]),
    "width": st.sampled_from([8, 16, 24, 40, 64, 72, 80, 96, 128, 256, 7, 33]),
    "storage": st.sampled_from(STORAGES),
    "threads": st.sampled_from([1, 1, 2]),
}


@given(
    **SHAPES,
    window=st.sampled_from([0, 0, 1, 10, 150, 10**6]),
    softcap=st.sampled_from([0.0, 0.0, 2.0, 50.0]),
    branching=st.booleans(),
    ragged=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_equals_torch(
    seed: int, rows: int, past: int, kv_heads: int, group: int, width: int, storage: str, threads: int, window: int,
    softcap: float, branching: bool, ragged: bool,
) -> None:  # fmt: skip
    own = tree(rows) if branching else None
    case = build(seed, rows, past, kv_heads, group, width, storage, window=window, softcap=softcap, own=own)
    case.holes = torch.randint(0, past + 1, (kv_heads,)) if ragged else None
    case.centres = torch.randn(kv_heads, width) if ragged else None
    check(case, threads)


@given(**SHAPES, shared_heads=st.booleans(), shared_rows=st.booleans(), chosen=st.sampled_from([0, 1, 20, 300]))
@settings(max_examples=200, deadline=None)
def test_chosen_slots_equal_a_mask(
    seed: int, rows: int, past: int, kv_heads: int, group: int, width: int, storage: str, threads: int,
    shared_heads: bool, shared_rows: bool, chosen: int,
) -> None:  # fmt: skip
    case = build(seed, rows, past, kv_heads, group, width, storage, window=0 if seed % 3 else 50)
    shape = (1 if shared_heads else kv_heads, 1 if shared_rows else rows)
    index = torch.stack([torch.randperm(past + 3)[:chosen] for _ in range(shape[0] * shape[1])])
    index[index >= past] = -1
    case.index = index.view(*shape, -1)
    case.holes = torch.randint(0, past + 1, (kv_heads,)) if seed % 2 else None
    check(case, threads)
    unused = torch.ones(kv_heads, past + rows, dtype=torch.bool)
    unused &= ~case.visible().any(1)
    case.keys[:, : past + rows][unused] = torch.nan
    case.values[:, : past + rows][unused] = torch.inf
    torch.testing.assert_close(run(case, threads)[0].double(), expected(case)[0], **CLOSE)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [1, 16])
def test_long_contexts(storage: str, rows: int) -> None:
    case = build(1, rows, past=20_000, kv_heads=1, storage=storage)
    check(case, threads=2)
    case.index = torch.randperm(20_000)[:2000].sort().values[None, None]
    check(case, threads=2)


@pytest.mark.parametrize("storage", STORAGES)
def test_many_rows(storage: str) -> None:
    check(build(2, rows=64, past=300, kv_heads=1, group=9, storage=storage, own=tree(64)), threads=2)


def test_sums_of_more_scores_than_the_scratch_holds() -> None:
    case = build(2, rows=40, past=30_000, kv_heads=1, group=4, width=8)
    (out, weights, sums), (again, _, alone) = run(case, 2, True, True), run(case, 2, False, True)
    torch.testing.assert_close(again, out, **CLOSE)
    torch.testing.assert_close(alone, sums, **CLOSE)
    assert weights is not None
    torch.testing.assert_close(alone, weights.view(1, -1, 30_040).sum(1), **CLOSE)


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", ["key", "value", "query"])
@pytest.mark.parametrize("storage", STORAGES)
def test_not_finite_is_as_in_torch(rows: int, bad: float, part: str, storage: str) -> None:
    case = build(3, rows, past=400, storage=storage)
    torch.manual_seed(4)
    if part == "query":
        case.queries[1, 0, 5] = bad
    else:
        tensor = case.keys if part == "key" else case.values
        tensor[0, 37, 3] = tensor[1, 399, 0] = bad
    for index in (None, torch.tensor([[[37, 399, 3]]])):
        case.index = index
        out, want = run(case)[0].double(), expected(case)[0]
        torch.testing.assert_close(out, want, equal_nan=True, **CLOSE)
    assert not want.isfinite().all() or (part == "key" and bad < 0) or bad == torch.inf


def test_a_hidden_slot_of_no_row_is_not_read() -> None:
    case = build(5, rows=3, past=100, window=30)
    case.own = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0]]).bool()
    hidden = ~case.visible().any(1)
    assert hidden[:, -1].all()
    case.keys[:, :103][hidden] = torch.nan
    case.values[:, :103][hidden] = torch.nan
    out = run(case)[0]
    assert out.isfinite().all()
    torch.testing.assert_close(out.double(), expected(case)[0], **CLOSE)


def test_a_row_that_sees_nothing_gives_zeros_and_one_of_infinite_distance_nan() -> None:
    case = build(6, rows=2, past=3, own=torch.tensor([[False, False], [False, True]]))
    case.index = torch.full((1, 1, 3), -1)
    out = run(case)[0]
    assert (out[:, 0] == 0).all()
    assert out[:, 1].isfinite().all()
    case = build(6, rows=1, past=0)
    case.queries[:] = 1
    case.keys[:, 0] = -torch.inf
    assert run(case)[0].isnan().all()
    assert expected(case)[0].isnan().all()


def test_large_scores_and_tiny_weights() -> None:
    case = build(7, rows=2, past=500, scale=40.0)
    check(case)
    case.scale = 1e-6
    check(case)


@pytest.mark.parametrize("storage", STORAGES)
def test_threads_do_not_change_the_result(storage: str) -> None:
    case = build(8, rows=5, past=3000, storage=storage)
    results = [run(case, threads, True, True) for threads in (1, 2, 5)]
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))  # type: ignore[arg-type]


def test_storage_round_trips() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 50, 24) * torch.logspace(-30, 30, 50)[:, None]
    x[0, 0] = 0
    x[0, 1, 0], x[0, 2, 0], x[0, 3, 0] = torch.nan, torch.inf, -torch.inf
    case = Case(x[:, :1], x, x, 50, storage="bf16")
    assert torch.equal(case.stored()[0][0].nan_to_num(7.0), x.bfloat16().nan_to_num(7.0))
    case.storage = "int8"
    (levels, _), (scales, _) = case.stored()
    got = levels.float() * scales[..., None]
    assert got[0, 1:4].isnan().all()
    got[0, 1:4] = x[0, 1:4] = 0
    assert ((got - x).abs() <= x.abs().amax(-1, keepdim=True) / 127 * 0.5001).all()
    assert levels.abs().amax() == 127
    assert (got[0, 0] == 0).all()


def test_int4_groups_are_near_and_no_worse_than_the_plain_grid() -> None:
    """Every element within half a step of a grid that is at most the group's range wide, and the squared error not
    above that of the grid from the least to the largest; NaN stays in its group."""
    torch.manual_seed(1)
    x = torch.randn(2, 40, 72) * torch.logspace(-5, 5, 40)[:, None]
    x[0, 0] = 0
    x[0, 1] = 3.0
    x[0, 2, 40], x[0, 3, 5] = torch.nan, -torch.inf
    (rows, _), _ = Case(x[:, :1], x, x, 40, storage="int4").stored()
    assert rows.shape == (2, 40, 60)
    got = PRECISIONS["int4"].decode([rows], 72, torch.float32)
    assert got[0, 2, 32:64].isnan().all()
    assert got[0, 3, :32].isnan().all()
    assert got[0, 2, :32].isfinite().all()
    assert (got[0, 0] == 0).all()
    assert (got[0, 1] == 3.0).all()
    for first in (0, 32, 64):
        group, near = x[:, 4:, first : first + 32], got[:, 4:, first : first + 32]
        minimum, maximum = group.amin(-1, keepdim=True), group.amax(-1, keepdim=True)
        step = ((maximum - minimum) / 15).bfloat16().float()
        zero = minimum.bfloat16().float()
        plain = ((group - zero) / step).round().clamp(0, 15) * step + zero
        error, of_plain = ((near - group) ** 2).sum(-1), ((plain - group) ** 2).sum(-1)
        assert (error <= of_plain * 1.0001).all()
        assert error.sum() < 0.95 * of_plain.sum() or first == 64


@cache
def of_instruction_set(name: str) -> tuple[str, torch.Tensor]:
    """Results in a process of its own, as the set is chosen once; a missing one falls back to the next."""
    code = """
import sys
import torch
from tests.attention.kernel_call import run
from tests.attention.test_kernel import build, check, tree
from tokloom import _core
from tokloom.kv.precision import PRECISIONS
outs = []
for storage in ("fp32", "bf16", "int8", "int4"):
    for rows, group, width in ((1, 1, 64), (1, 3, 72), (3, 1, 20), (16, 3, 64), (5, 8, 128)):
        case = build(rows, rows, 300, 2, group, width, storage, softcap=20.0, window=200, own=tree(rows))
        check(case, 2)
        outs += [t.flatten() for t in run(case, 2, True, True)]
torch.save((_core.kernels(), torch.cat(outs)), sys.stdout.buffer)
"""
    env = {**os.environ, "TOKLOOM_KERNELS": name}
    done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True)
    chosen, results = torch.load(BytesIO(done.stdout))
    return chosen, results


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_every_instruction_set_gives_the_same(name: str) -> None:
    chosen, results = of_instruction_set(name)
    assert torch.allclose(results, of_instruction_set("portable")[1], atol=1e-5, rtol=1e-5)
    if _core.kernels() in ("amx", "avx512"):
        assert chosen == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": "fp16"}, "fp16"),
        ({"kv_heads": 4}, "multiple"),
        ({"count": 90}, "capacity"),
        ({"window": 5}, "positions"),
        ({"storage": "int8"}, "scales"),
        ({"chosen": 8, "index_rows": 2}, "index"),
    ],
)
def test_bad_calls_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "queries": 0, "query_strides": (64, 64), "keys": 0, "values": 0, "out": 0, "out_strides": (64, 64),
        "heads": 6, "kv_heads": 2, "rows": 1, "head_dim": 64, "capacity": 80, "count": 50, "scale": 1.0,
        "storage": "fp32", "threads": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        _core.attend(**{**arguments, **change})  # type: ignore[arg-type]
