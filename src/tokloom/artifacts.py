"""Files of arrays that tokloom keeps, at a user's path or in the cache directory.

Every file says what it is: its kind, the version of its format, and whose it is (`about`). It is written whole or not
at all. A file that is damaged, or of another kind, version or owner, is refused at a user's path and made again in the
cache. The format is numpy's npz with one more entry, the header as JSON. Its checksums find damage.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokloom.atomic import write_atomic
from tokloom.errors import ArtifactError

Arrays = dict[str, NDArray[Any]]
About = Mapping[str, Any]

_log = logging.getLogger(__name__)

_HEADER = "__tokloom__"
"""Name of the header among the arrays."""
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise on a damaged file. NotImplementedError is a RuntimeError."""


@dataclass(frozen=True)
class Artifact:
    """A kind of file that tokloom keeps.

    kind: names it in messages. version: of what its arrays mean; another one is not read.
    argument: under which a user gives its path. remedy: the next step when it can't be used, `{path}` is the path.
    folder: where it lies in the cache directory.
    """

    kind: str
    version: int
    argument: str = "path"
    remedy: str = "Remove it and make it again."
    folder: str = ""

    # --- at a user's path

    def save(self, path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], about: About) -> None:
        """Writes the file, whole or not at all. about: whose it is, as JSON takes it.

        Raises ArtifactError if it can't be written."""
        try:
            write_atomic(path, self._encode(arrays, about))
        except OSError as error:
            raise ArtifactError(
                self.argument, str(path), "a path that can be written to", error.strerror or str(error),
                "Choose another path.",
            ) from error  # fmt: skip

    def load(self, path: str | os.PathLike[str], about: About) -> Arrays:
        """The arrays that `save` wrote. Raises ArtifactError if there is no such file or it is not for `about`."""
        try:
            with open(path, "rb") as file:
                with zipfile.ZipFile(file) as archive:
                    if (name := archive.testzip()) is not None:
                        raise ValueError(f"its part {name} is damaged")
                file.seek(0)
                with np.load(file, allow_pickle=False) as parts:
                    arrays = dict(parts)
            header = str(arrays.pop(_HEADER)) if _HEADER in arrays else ""
        except _UNREADABLE as error:
            raise self.damaged(path, error) from error
        self.check(path, header, about)
        if sorted(arrays) != json.loads(header)["arrays"]:  # the checksums say nothing of the list of parts
            raise self.damaged(path, "parts are missing")
        return arrays

    # --- in the cache directory

    def cached(self, key: About, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of this key from the cache directory. Made and kept if there are none that can be used."""
        arrays = self.find(key)
        if arrays is None:
            arrays = make()
            self.keep(key, arrays)
        return arrays

    def find(self, key: About) -> Arrays | None:
        """None if the cache has no usable file for the key. A warning tells of one that can't be used."""
        path = self.cache_path(key)
        try:
            return self.load(path, key)
        except ArtifactError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                _log.warning("%s can't be used (found %s) and is made again", path, error.found)
            return None

    def keep(self, key: About, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Writes the file of this key into the cache. A warning says so if that is not possible."""
        keep(self.cache_path(key), self._encode(arrays, key))

    def cache_path(self, key: About) -> Path:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return cache_dir() / (self.folder or self.kind.replace(" ", "_")) / f"{name}.npz"

    # --- for what keeps more than one file: the header alone

    def header(self, about: About, arrays: Collection[str] = ()) -> str:
        """What a file of this kind says of itself and of the arrays in it, as JSON."""
        held = {"kind": self.kind, "version": self.version, "about": about, "arrays": sorted(arrays)}
        return json.dumps(held, indent=1)

    def check(self, path: str | os.PathLike[str], header: str, about: About | None = None) -> dict[str, Any]:
        """What a header says of the owner. Raises ArtifactError if it is not of this kind and version, or not for
        `about`."""
        try:
            held = json.loads(header)
            kind, version, of = held["kind"], held["version"], dict(held["about"])
        except (ValueError, KeyError, TypeError):
            raise self._refused(path, "a file that tokloom did not write, or an old version did") from None
        if kind != self.kind:
            raise self._refused(path, f"{kind} (version {version})")
        if version != self.version:
            raise self._refused(path, f"version {version}")
        wanted = of if about is None else json.loads(json.dumps(about))
        other = [name for name in {**wanted, **of} if wanted.get(name) != of.get(name)]
        if other:
            raise self._refused(path, _said(of, other), f" for {_said(wanted, other)}")
        return of

    def damaged(self, path: str | os.PathLike[str], problem: object) -> ArtifactError:
        """The error to raise when the content of a file can't be used."""
        if isinstance(problem, FileNotFoundError | NotADirectoryError):
            return self._refused(path, "no file")
        return self._refused(path, f"damage: {str(problem) or type(problem).__name__}")

    def _refused(self, path: str | os.PathLike[str], found: str, owner: str = "") -> ArtifactError:
        expected = f"{self.kind} (version {self.version}){owner}"
        return ArtifactError(self.argument, str(path), expected, found, self.remedy.format(path=path))

    def _encode(self, arrays: Mapping[str, NDArray[Any]], about: About) -> bytes:
        written = io.BytesIO()
        parts: dict[str, Any] = {_HEADER: np.array(self.header(about, arrays.keys())), **arrays}
        np.savez(written, **parts)
        return written.getvalue()


def _said(about: Mapping[str, Any], names: list[str]) -> str:
    """These entries of what a file says of its owner."""
    return ", ".join(f"{name} {str(about[name])[:120]}" if name in about else f"no {name}" for name in names)


def cache_dir() -> Path:
    """$TOKLOOM_CACHE, else $XDG_CACHE_HOME/tokloom, else ~/.cache/tokloom. It need not exist."""
    if own := os.environ.get("TOKLOOM_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser().absolute() if shared else Path.home() / ".cache") / "tokloom"


def keep(path: Path, data: bytes | str) -> None:
    """Writes a file of the cache, whole or not at all. Where that is not possible it is made again the next time, and a
    warning says so."""
    try:
        write_atomic(path, data)
    except OSError as error:
        _log.warning("%s can't be kept (%s) and is made again the next time", path, error.strerror)
