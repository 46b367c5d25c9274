"""Decoded tensors, kept as safetensors files.

They hold what the site folder holds, so they stay on the machine that made them, in a folder that
only its user can read, and may be deleted at any time.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkim_core.paths import cache_folder

_log = logging.getLogger(__name__)


def cache_path(digest: str) -> Path:
    """Where the tensors with this digest are kept."""
    return cache_folder() / "tensors" / f"{digest}.safetensors"


def load_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    """Read cached tensors; None when there are none, or not whole, or not of these shapes."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    same = {name: tuple(t.shape) for name, t in tensors.items()} == dict(shapes)
    return tensors if same else None


def store_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically; a disk that is full or read-only only warns."""
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_file(dict(tensors), partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        _log.warning("%s: tensors are not cached (%s)", path.parent, error)
    finally:
        with suppress(OSError):
            partial.unlink()
