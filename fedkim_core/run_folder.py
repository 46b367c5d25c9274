"""The run folder: where a run writes, and whether it may."""

import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from fedkim_core.errors import UserError

RUN_LOG = "run.log"
MINIMUM_FREE = 1_000_000_000
"""Bytes that must be free: three checkpoints of the default model, its adapter and the report."""


def resolve(output: str | None, *, now: datetime | None = None) -> Path:
    """Absolute path of the run folder: ``output``, or ``outputs/<date>_<time>`` here."""
    if output:
        return Path(output).expanduser().absolute()
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    return Path("outputs", stamp).absolute()


def check(folder: Path, *, minimum_free: int = MINIMUM_FREE) -> None:
    """Refuse a run folder that holds something, cannot be written or has no room.

    Creates nothing. A lone ``run.log`` does not count: the runner opens it before the server
    application starts, and both may ask.

    Raises:
        UserError: says which folder, what is wrong and what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder}: is a file; give a new folder with output=...")
    if folder.is_dir() and any(path.name != RUN_LOG for path in folder.iterdir()):
        raise UserError(f"output={folder}: is not empty; give a new folder with output=...")
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if not parent.is_dir():
        raise UserError(f"output={folder}: {parent} is a file; give a new folder with output=...")
    try:
        # os.access is no proof: a mount may be read-only, a quota used up.
        with tempfile.NamedTemporaryFile(dir=parent) as probe:
            probe.write(b"fedkim")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"output={folder}: cannot write in {parent} ({reason}); give another with output=..."
        ) from error
    free = shutil.disk_usage(parent).free
    if free < minimum_free:
        raise UserError(
            f"output={folder}: {free / 1e9:.1f} GB free, a run needs {minimum_free / 1e9:.1f} GB; "
            "make room or give another folder with output=..."
        )


def claim(folder: Path) -> None:
    """:func:`check` the folder, then create it.

    Raises:
        UserError: as :func:`check`, or when it cannot be created.
    """
    check(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be created ({error.strerror})") from error
