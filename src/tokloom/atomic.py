"""Files and directories that appear whole or not at all, also when the writer is killed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokloom.errors import ArgumentError

STALE_AFTER = 600.0
"""Seconds without any write after which a temporary directory counts as left behind by a killed process."""


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file (text as UTF-8) beside its target, then renames it over the target.

    A reader sees the old content or the new, never a part; the last of several writers wins.
    Missing parent directories are made. Raises OSError as `open` does; the target is then as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        draft.chmod(0o666 & ~_umask())  # mkstemp makes it private; a file that `open` made would not be
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check_writable(argument: str, path: str | os.PathLike[str]) -> None:
    """Raises ArgumentError if no file can be made at `path`: before long work whose result goes there, not after it.

    Leaves nothing behind. Folders that are missing will be made."""
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ArgumentError(
            argument, str(path), f"a path that can be written to ({error.strerror})", "Choose another path."
        ) from None


@contextmanager
def workspace(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary directory beside `path`, on the same disk, removed at the end of the block.

    Removes first what killed processes left of earlier workspaces for the same path.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        if left.is_dir() and time.time() - _last_write(left) > STALE_AFTER:
            shutil.rmtree(left, ignore_errors=True)  # another process may be removing it too
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone already when it was renamed


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary directory that becomes `path` when the block ends without an error.

    If another process made `path` in the meantime, that one stays and this one is discarded: the
    content of such a directory must be determined by its name. Raises OSError if it can't be written.
    """
    target = Path(path)
    with workspace(target) as draft:
        yield draft
        draft.chmod(0o777 & ~_umask())
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _last_write(directory: Path) -> float:
    """Newest modification time within a directory; now, if it vanishes while we look."""
    try:
        return max(path.stat().st_mtime for path in (directory, *directory.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
