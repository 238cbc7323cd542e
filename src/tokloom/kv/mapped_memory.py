"""Memory for keys and values that lies in temporary files, mapped into the process: only what is touched takes up RAM.

The files have no name, so that nothing is left behind however the process ends.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from math import prod
from pathlib import Path
from weakref import ref

import torch

from tokloom.errors import ArgumentError

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
DONTNEED = 4  # madvise's


class MappedMemory:
    """Makes tensors and knows which of their pages are in RAM.

    directory: where the files are made; it must be on a disk for RAM to be saved.
    resident: bytes that may stay in RAM between two passes; beyond, `tidy` gives all pages back to the system, which
        keeps a copy as long as nobody else needs the RAM.

    Raises ArgumentError if no file can be made there.
    """

    def __init__(self, directory: str | Path, resident: int = 0) -> None:
        self.directory, self.limit = Path(directory), resident
        self._tensors: list[ref[torch.Tensor]] = []
        try:
            tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as error:
            raise ArgumentError("offload", str(directory), f"a directory that can be written to ({error})") from error

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in a file of its own. Raises OSError if the disk has no room for it."""
        size = prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        with tempfile.TemporaryFile(dir=self.directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would end the process later
            flat = torch.from_file(f"/proc/self/fd/{file.fileno()}", shared=True, size=size, dtype=torch.uint8)
        tensor = flat.view(dtype).view(shape)
        self._tensors = [each for each in self._tensors if each() is not None]
        self._tensors.append(ref(tensor))
        return tensor

    @property
    def bytes(self) -> int:
        """Size of all tensors that are in use."""
        return sum(tensor.nbytes for tensor in self._live())

    @property
    def resident_bytes(self) -> int:
        """How much of them is mapped to RAM in this process."""
        return sum(_present(tensor) for tensor in self._live()) * PAGE

    def tidy(self) -> None:
        """Gives pages back if more than the limit are in RAM. What they hold stays in the file."""
        if self.bytes <= self.limit or self.resident_bytes <= self.limit:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for tensor in self._live():
            size = ctypes.c_size_t(tensor.nbytes)
            if libc.madvise(ctypes.c_void_p(tensor.data_ptr()), size, DONTNEED) != 0:
                raise OSError(ctypes.get_errno(), "madvise failed")

    def _live(self) -> list[torch.Tensor]:
        return [tensor for each in self._tensors if (tensor := each()) is not None]


def _present(tensor: torch.Tensor) -> int:
    """Pages of a mapped tensor that are in RAM, as the kernel's table of pages has them."""
    first, pages = tensor.data_ptr() // PAGE, -(-tensor.nbytes // PAGE)
    with open("/proc/self/pagemap", "rb", buffering=0) as table:
        entries = torch.frombuffer(bytearray(os.pread(table.fileno(), 8 * pages, 8 * first)), dtype=torch.int64)
    return int((entries < 0).sum())  # the highest bit: present
