"""Models that all tests share. Built or loaded once a session; tests leave them as they found them."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings


def use_core(path: str) -> None:
    """Puts another build of the core in the place of the installed one: `make sanitize` tests its own."""
    spec = importlib.util.spec_from_file_location("tokloom._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tokloom._core"] = module
    spec.loader.exec_module(module)


if "TOKLOOM_CORE" in os.environ:
    use_core(os.environ["TOKLOOM_CORE"])

import tokloom  # noqa: E402 - after the core is chosen
from tests import tiny_models  # noqa: E402
from tokloom.models.language_model import LanguageModel  # noqa: E402

ROOT = Path(__file__).parent.parent

settings.register_profile("tokloom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tokloom")  # how long a test takes says nothing on a busy machine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the paper tier out unless `-m` names it: in addopts, `-m "not paper"` would be lost to any other `-m`."""
    if "paper" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("paper")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The default model, for tests marked `model`."""
    return tokloom.load("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2_torch() -> LanguageModel:
    """The default model with torch's own linear layers."""
    return tokloom.load("smollm2-135m", weights="torch")


@pytest.fixture(scope="session")
def tiny_llama() -> LanguageModel:
    """Random, three layers, byte-level tokenizer, no chat template."""
    return tiny_models.build_llama()


@pytest.fixture(scope="session")
def tiny_chat_llama() -> LanguageModel:
    """As tiny_llama, with a chat template."""
    return tiny_models.build_llama(template=tiny_models.CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_gemma3() -> LanguageModel:
    """Random, four layers of which three slide over 8 tokens, SentencePiece-like tokenizer with BOS."""
    return tiny_models.build_gemma3()


@pytest.fixture(scope="session")
def tiny_qwen3() -> LanguageModel:
    """Random, two layers with normalised queries and keys, tied embeddings, no chat template."""
    return tiny_models.build_qwen3()


@pytest.fixture(scope="session")
def tiny_diffusion() -> LanguageModel:
    """Random masked-diffusion model with the vocabulary of tiny_llama."""
    return tiny_models.build_diffusion()


@pytest.fixture(scope="session")
def alice_path() -> Path:
    """Alice's Adventures in Wonderland as a plain text file."""
    return ROOT / "examples" / "alice_in_wonderland.txt"


@pytest.fixture(scope="session")
def alice(alice_path: Path) -> str:
    return alice_path.read_text(encoding="utf-8")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails the test, also if the code under test catches the error."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        pytest.fail(f"tried to reach the network: {args[:2]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
