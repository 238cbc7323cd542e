"""GGUF files, dequantized once into the cache directory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests import tiny_models
from tests.models.tiny_gguf import write_gguf
from tokloom.errors import ArgumentError, ModelNotFoundError, NotCausalLMError, UnsupportedModelError
from tokloom.models import convert
from tokloom.models.convert import ALIGNMENT, Gguf, converted, write_safetensors
from tokloom.models.load import load

TEXT = "one two <|im_end|> naïve 🙂\n\n 東京"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_models.build_llama(template=tiny_models.CHAT_TEMPLATE)
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny llama.gguf")


def content(cache: Path) -> set[str]:
    """Names in the cache of models, except the locks."""
    return {name for name in os.listdir(cache / "models") if not name.endswith(".lock")}


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The targets that are really converted."""
    targets: list[Path] = []
    original = convert._convert

    def note(gguf: Gguf, target: Path) -> None:
        targets.append(target)
        original(gguf, target)

    monkeypatch.setattr(convert, "_convert", note)
    return targets


def test_a_gguf_file_loads_as_the_model_that_it_was_made_of(
    tiny_gguf: Path, tiny_chat_llama: Any, cache: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load(tiny_gguf)
    assert capfd.readouterr() == ("", "")  # neither bars nor warnings
    tokens = torch.tensor([tiny_chat_llama.encode(TEXT)])
    assert model.encode(TEXT) == tokens[0].tolist()
    assert torch.equal(model.model(tokens).logits, tiny_chat_llama.model(tokens).logits)
    assert model.eos_ids == tiny_chat_llama.eos_ids
    assert model.window == tiny_chat_llama.window
    assert model.chat([{"role": "user", "content": "hi"}]) == tiny_chat_llama.chat([{"role": "user", "content": "hi"}])
    assert not hasattr(model.model.config, "quantization_config")
    assert len(content(cache)) == 2
    assert content(cache) > {"sources"}


def test_the_second_load_neither_converts_nor_reads_the_file(
    tiny_gguf: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(tiny_gguf)
    monkeypatch.setattr(convert, "_content_hash", lambda gguf: pytest.fail("read the whole file"))
    second = load(tiny_gguf)
    assert len(conversions) == 1
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


def test_mapped_tensors_are_aligned(tiny_gguf: Path) -> None:
    model = load(tiny_gguf)
    assert {parameter.data_ptr() % ALIGNMENT for parameter in model.model.parameters()} == {0}


def test_the_same_content_elsewhere_is_not_converted_again(
    tiny_gguf: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    first = converted(Gguf("tiny", (tiny_gguf,)))
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    assert converted(Gguf("tiny", (copy,))) == first
    assert len(conversions) == 1


def test_new_content_under_the_same_path_is_converted(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(tiny_gguf.read_bytes())
    first = converted(Gguf("tiny", (file,)))
    other = tiny_models.build_llama()
    with torch.no_grad():
        other.model.lm_head.weight.mul_(2)
    write_gguf(other, file)
    second = converted(Gguf("tiny", (file,)))
    assert first != second
    assert torch.equal(load(file, weights="torch").model.lm_head.weight, other.model.lm_head.weight)


def test_parts_are_joined(tiny_gguf: Path, tmp_path: Path, cache: Path) -> None:
    data = tiny_gguf.read_bytes()
    third = len(data) // 3
    parts = []
    for i, piece in enumerate((data[:third], data[third : 2 * third], data[2 * third :])):
        parts.append(tmp_path / f"part{i}")
        parts[-1].write_bytes(piece)
    assert converted(Gguf("tiny llama", tuple(parts))) == converted(Gguf("tiny llama", (tiny_gguf,)))
    assert len(content(cache)) == 2


@pytest.mark.parametrize("step", ["config", "weights"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_conversion_leaves_nothing(
    step: str, error: type[BaseException], tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise error("stop")

    with monkeypatch.context() as patch:
        if step == "config":
            patch.setattr("transformers.PreTrainedConfig.save_pretrained", stop)
        else:
            patch.setattr(convert, "write_safetensors", stop)
        with pytest.raises(error, match="stop"):
            load(tiny_gguf)
        assert content(cache) == set()
    assert load(tiny_gguf).encode("one")


def test_a_damaged_cache_is_made_again(tiny_gguf: Path) -> None:
    directory = converted(Gguf("tiny", (tiny_gguf,)))
    (directory / "model.safetensors").unlink()
    assert converted(Gguf("tiny", (tiny_gguf,))) == directory
    assert (directory / "model.safetensors").is_file()


def test_threads_that_load_at_once_convert_once(tiny_gguf: Path, conversions: list[Path], cache: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(converted(Gguf("tiny", (tiny_gguf,))))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == len(conversions) == 1
    assert content(cache) == {"sources", found[0].name}


@pytest.mark.model
def test_processes_that_load_at_once_both_succeed(tiny_gguf: Path, cache: Path) -> None:
    code = f"import tokloom; print(tokloom.load({str(tiny_gguf)!r}).encode('one two'))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == ""
    assert len(content(cache)) == 2


def damaged(data: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "text": b"hello" * 100,
        "header": data[:100],
        "half": data[: len(data) // 2],
        "architecture": data.replace(b"llama", b"lllll"),
    }[how]


@pytest.mark.parametrize("how", ["empty", "text", "header", "half"])
def test_a_corrupt_file_is_named(how: str, tiny_gguf: Path, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(damaged(tiny_gguf.read_bytes(), how))
    with pytest.raises(ModelNotFoundError, match=rf"model='{file}' .*no whole GGUF file.*Download it again"):
        load(file)
    assert content(cache) == set()


def test_an_unknown_architecture_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(damaged(tiny_gguf.read_bytes(), "architecture"))
    with pytest.raises(UnsupportedModelError, match=r"architecture.*lllll.*original checkpoint"):
        load(file)


def test_what_is_no_causal_model_is_refused(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, T5Config

    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: T5Config())
    with pytest.raises(NotCausalLMError, match="t5"):
        load(tiny_gguf)


def test_a_cache_that_can_not_be_written_names_the_variable(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TOKLOOM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArgumentError, match=r"TOKLOOM_CACHE=.*writable directory.*another directory"):
        load(tiny_gguf)


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = tiny_models.build_qwen3()
    convert._save(model.model, model.tokenizer, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    loaded = load(tmp_path, weights="torch").model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_written_tensors_begin_at_multiples(tmp_path: Path) -> None:
    """All but those whose own size is no multiple: they come last. The library reads the file back."""
    tensors = {"b": torch.randn(16, 5), "odd": torch.randn(3), "a": torch.randn(32), "scalar": torch.tensor(2.5)}
    tensors["transposed"] = torch.randn(16, 4).T
    path = tmp_path / "t.safetensors"
    write_safetensors(path, tensors)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    starts = {name: 8 + length + header[name]["data_offsets"][0] for name in tensors}
    assert all(starts[name] % ALIGNMENT == 0 for name in ("a", "b", "transposed"))
