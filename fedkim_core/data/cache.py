"""Decoded tensors, kept as safetensors files and mapped into memory.

They hold what the site folder holds, so they stay on the machine that made them, in a folder that
only its user can read, and may be deleted at any time.
"""

import errno
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedkim_core.paths import cache_folder

Shapes = Mapping[str, tuple[int, ...]]
Put = Callable[[str, int, NDArray[np.float32]], None]
"""Takes the name of a tensor, a row (first axis), and the values from that row on."""

_log = logging.getLogger(__name__)


def cache_path(digest: str) -> Path:
    """Where the tensors with this digest are kept."""
    return cache_folder() / "tensors" / f"{digest}.safetensors"


def load_tensors(path: Path, shapes: Shapes) -> dict[str, Tensor] | None:
    """Map cached tensors; None when there are none, or not whole, or not of these shapes.

    Nothing is read but the header; values are when they are used.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    same = {name: tuple(t.shape) for name, t in tensors.items()} == dict(shapes)
    return tensors if same else None


def make_tensors(path: Path, shapes: Shapes, fill: Callable[[Put], None]) -> dict[str, Tensor]:
    """Let ``fill`` put every row of float32 tensors, from any thread, and keep them at ``path``.

    The rows go straight to the file, so memory stays flat. The file appears whole or not at all,
    also when several processes make it at once. On a disk that is full or read-only this only
    warns, and ``fill`` is called once more, with memory to put the rows in.
    """
    try:
        return _make_file(path, shapes, fill)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        _log.warning("%s: tensors are not cached (%s)", path.parent, reason)
    arrays = {name: np.empty(shape, dtype=np.float32) for name, shape in shapes.items()}

    def put(name: str, row: int, values: NDArray[np.float32]) -> None:
        arrays[name][row : row + len(values)] = values

    fill(put)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def link_tensors(path: Path, target: Path) -> None:
    """Make ``path`` a second name of cached tensors; one that cannot be made is done without."""
    partial = _partial(path)
    with suppress(OSError):
        partial.symlink_to(target.name)
        os.replace(partial, path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}")


def _make_file(path: Path, shapes: Shapes, fill: Callable[[Put], None]) -> dict[str, Tensor]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    header, starts, size = _layout(shapes)
    if shutil.disk_usage(path.parent).free < size:  # say so before hours of decoding, not after
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    partial = _partial(path)
    try:
        with partial.open("wb") as file:

            def put(name: str, row: int, values: NDArray[np.float32]) -> None:
                data = np.ascontiguousarray(values, dtype="<f4").data.cast("B")
                start = starts[name] + row * 4 * math.prod(shapes[name][1:])
                while data:
                    written = os.pwrite(file.fileno(), data, start)
                    data, start = data[written:], start + written

            file.write(header)
            file.flush()
            fill(put)
            os.fsync(file.fileno())  # or a power cut could leave the name without the values
        tensors = load_file(partial)
        os.replace(partial, path)
        return tensors
    finally:
        partial.unlink(missing_ok=True)


def _layout(shapes: Shapes) -> tuple[bytes, dict[str, int], int]:
    """Header of a safetensors file, where in it each tensor starts, and its size in bytes.

    The format: https://huggingface.co/docs/safetensors, "Format".
    """
    entries, starts, end = {}, {}, 0
    for name, shape in shapes.items():
        starts[name], end = end, end + 4 * math.prod(shape)
        entries[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {n: len(header) + s for n, s in starts.items()}, len(header) + end
