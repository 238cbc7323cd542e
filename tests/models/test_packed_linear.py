"""Packed linear layers against torch, for every format, instruction set, number of rows and odd size."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tokloom
from tests import tiny_models
from tokloom._core import kernels
from tokloom.engine.forward import forward, new_store, prefill
from tokloom.errors import ArgumentError
from tokloom.models.packed_linear import GROUP, PackedLinear, check_weights, pack

FORMATS = ("fp32", "bf16", "int8", "int4")


def layer(outputs: int, inputs: int, seed: int = 0, bias: bool = False) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def quantized(weight: torch.Tensor, weights: str) -> torch.Tensor:
    """The formats written out: what each weight becomes, one group of 32 inputs at a time."""
    if weights == "fp32":
        return weight
    if weights == "bf16":
        return weight.bfloat16().float()
    result = torch.empty_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], GROUP):
            group = weight[row, start : start + GROUP]
            if weights == "int8":
                scale, least = group.abs().max() / 127, 0
            else:
                scale, least = (group.max() - group.min()) / 15, group.min()
            result[row, start : start + GROUP] = ((group - least) * (1 / scale)).round() * scale + least
    return result


@settings(max_examples=60, deadline=None)
@given(
    weights=st.sampled_from(FORMATS),
    outputs=st.integers(1, 150),
    groups=st.integers(1, 5),
    rows=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_products_equal_torch(weights: str, outputs: int, groups: int, rows: int, seed: int) -> None:
    source = layer(outputs, groups * GROUP, seed, bias=seed % 2 == 1)
    packed = PackedLinear(source, weights)
    x = torch.randn(rows, groups * GROUP)
    expected = x.double() @ quantized(source.weight.detach(), weights).double().T
    if source.bias is not None:
        expected += source.bias.detach()
    torch.testing.assert_close(packed(x).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("inputs", [1, 7, 33])
def test_odd_sizes_of_unscaled_formats(weights: str, inputs: int) -> None:
    source = layer(37, inputs)
    x = torch.randn(9, inputs)
    expected = x @ quantized(source.weight.detach(), weights).T
    torch.testing.assert_close(PackedLinear(source, weights)(x), expected, atol=1e-5, rtol=1e-5)


def test_a_size_without_whole_groups_stays_bf16() -> None:
    packed = PackedLinear(layer(8, 40), "int4")
    assert packed.weights == "bf16"
    torch.testing.assert_close(packed.unpacked(), quantized(layer(8, 40).weight.detach(), "bf16"))


@pytest.mark.parametrize("weights", FORMATS)
def test_unpacked_and_bytes(weights: str) -> None:
    source = layer(20, 64)
    packed = PackedLinear(source, weights)
    torch.testing.assert_close(packed.unpacked(), quantized(source.weight.detach(), weights), atol=1e-6, rtol=1e-5)
    bits = {"fp32": 32, "bf16": 16, "int8": 8 + 1, "int4": 4 + 2}[weights]  # 32 bits for each factor of 32 weights
    assert packed.nbytes == 32 * 64 * bits // 8  # 20 outputs fill two blocks of 16


def test_zeros_and_extremes_survive() -> None:
    source = layer(16, 64)
    with torch.no_grad():
        source.weight[0] = 0
        source.weight[1] = 1e-30
        source.weight[2, 0], source.weight[2, 1] = 3e4, -3e4
    for weights in FORMATS:
        out = PackedLinear(source, weights)(torch.ones(1, 64))
        assert torch.isfinite(out).all()
        assert out[0, 0] == 0


def test_shapes_and_dtypes_of_x() -> None:
    packed = PackedLinear(layer(24, 32), "fp32")
    x = torch.randn(2, 3, 64)[..., ::2]  # not contiguous
    assert packed(x).shape == (2, 3, 24)
    torch.testing.assert_close(packed(x), x @ layer(24, 32).weight.detach().T, atol=1e-5, rtol=1e-5)
    assert packed(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["avx512", "avx2", "portable"])
def test_every_instruction_set_gives_the_same(name: str) -> None:
    """In a process of its own, as the set is chosen once; a set that this machine lacks falls back to the next."""
    code = """
import torch
from torch import nn
from tokloom._core import kernels
from tokloom.models.packed_linear import PackedLinear
torch.manual_seed(0)
source = nn.Linear(96, 70, bias=False)
x = torch.randn(13, 96)
for weights in ("fp32", "bf16", "int8", "int4"):
    packed = PackedLinear(source, weights)
    assert torch.allclose(packed(x), x @ packed.unpacked().T, atol=1e-5), weights
    print(float(packed(x).double().sum()))
print(kernels())
"""
    outputs = []
    for choice in (name, "portable"):
        env = {**os.environ, "TOKLOOM_KERNELS": choice}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        outputs.append(done.stdout.split())
    assert [float(v) for v in outputs[0][:-1]] == pytest.approx([float(v) for v in outputs[1][:-1]], abs=1e-3)
    if kernels() == "avx512":
        assert outputs[0][-1] == name


@pytest.mark.parametrize("build", [tiny_models.build_llama, tiny_models.build_gemma3, tiny_models.build_qwen3])
def test_a_packed_model_gives_the_logits_of_torch(build) -> None:  # type: ignore[no-untyped-def]
    model, packed = build(), build()
    assert pack(packed.model, None) == "fp32"
    assert not any(type(module) is nn.Linear for module in packed.model.modules())
    tokens = torch.randint(5, 300, (1, 30))
    with torch.inference_mode():
        expected, found = model.model(input_ids=tokens).logits, packed.model(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_bad_weights_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArgumentError, match=r"weights='int3'.*fp32, bf16, int8, int4, torch"):
        tokloom.load(tmp_path, weights="int3")
    with pytest.raises(ArgumentError, match="on cuda"):
        check_weights("int8", torch.device("cuda"))


@pytest.mark.model
def test_loss_of_precision_on_a_real_model(alice: str) -> None:
    """Perplexity of a page, int8 and int4 within 0.5% of fp32: the model's file is Q4_1, whose blocks int4 takes over
    (benchmarks/weights.py has 8k tokens)."""
    loss = {}
    for weights in ("torch", "fp32", "int8", "int4"):
        model = tokloom.load(weights=weights)
        tokens = model.encode(alice[3000:5500])
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([tokens])).logits[0, :-1]
        loss[weights] = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:])).exp().item()
    assert loss["fp32"] == pytest.approx(loss["torch"], rel=1e-4)
    assert loss["int8"] == pytest.approx(loss["torch"], rel=5e-3)
    assert loss["int4"] == pytest.approx(loss["torch"], rel=5e-3)


@pytest.mark.model
def test_greedy_text_is_that_of_torch(alice: str) -> None:
    from tokloom import Engine, Sampling

    sampling = Sampling(max_new_tokens=48)
    texts = {w: Engine(weights=w).generate(alice[5000:7000], sampling=sampling).text for w in ("torch", "fp32")}
    assert texts["fp32"] == texts["torch"]


def test_threads_do_not_change_the_result() -> None:
    packed = PackedLinear(layer(300, 64), "fp32")
    x = torch.randn(5, 64)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(packed(x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_pool_without_openmp_gives_the_same() -> None:
    """The core alone, without torch's runtime in the process: its own threads, also after a fork."""
    code = """
import os, ctypes
import numpy as np
from tokloom._core import PackedMatrix
assert not hasattr(ctypes.CDLL(None), "GOMP_parallel"), "an OpenMP runtime is loaded: this tests nothing"
rng = np.random.default_rng(0)
w, x = rng.standard_normal((500, 64), np.float32), rng.standard_normal((4, 64), np.float32)
matrix = PackedMatrix(w.ctypes.data, 500, 64, "fp32", 2)
def product():
    out = np.empty((4, 500), np.float32)
    matrix.apply(x.ctypes.data, 4, out.ctypes.data, 3)
    return np.abs(out - x @ w.T).max() < 1e-4
assert all(product() for _ in range(2000))
child = os.fork()
if child == 0:
    os._exit(0 if product() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_prefill_and_steps_run_on_a_packed_model() -> None:
    model = tiny_models.build_llama()
    pack(model.model, "int8")
    store = new_store(model, tokloom.Engine(model).attention, 0)
    for _ in prefill(model, store, list(range(5, 40)), 16):
        pass
    from tokloom.attention.kv_store import Step

    assert forward(model, store, [7], Step((35,), model.device), all_logits=True).shape == (1, model.vocabulary.size)
