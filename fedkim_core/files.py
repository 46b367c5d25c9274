"""Files that are whole or not there, also after a power cut."""

import os
from pathlib import Path

from fedkim_core.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; what was there before stays until the new file is on the disk.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room") from error


def sync(path: Path) -> None:
    """Have the disk itself hold a file's content, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
