"""The run folder: where a run writes, and whether it may."""

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fedkim_core.errors import UserError

log = logging.getLogger("fedkim")
OVERRIDES = "overrides.json"
"""What the sites of a federation on separate machines were told: they cannot read the folder."""
CARRIED = ("config.yaml", "checkpoints", "progress.jsonl", OVERRIDES)
"""What a run that goes on in another folder takes along."""
RUN_LOG = "run.log"
LOCK = ".lock"
MINIMUM_FREE = 1_200_000_000
"""Bytes that must be free: the checkpoints of the default model that are kept at a time, and the
report."""


def resolve(output: str | None, *, now: datetime | None = None) -> Path:
    """Absolute path of the run folder: ``output``, or ``outputs/<date>_<time>`` here."""
    if output:
        return Path(output).expanduser().absolute()
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    return Path("outputs", stamp).absolute()


def check(folder: Path, *, minimum_free: int = MINIMUM_FREE) -> None:
    """Refuse a run folder that holds something, cannot be written or has no room.

    Creates nothing. What the runner writes before the server application starts does not count, as
    both may ask.

    Raises:
        UserError: says which folder, what is wrong and what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder}: is a file; give a new folder with output=...")
    if folder.is_dir() and any(
        path.name not in (RUN_LOG, LOCK, OVERRIDES) for path in folder.iterdir()
    ):
        raise UserError(f"output={folder}: is not empty; give a new folder with output=...")
    _check_writable(folder, minimum_free)


def check_resumable(folder: Path, source: Path, rounds: int) -> None:
    """Refuse to go on in ``folder`` with the run in ``source``.

    Raises:
        UserError: the run is complete or still going on, or ``folder`` is another one and not free.
    """
    done = _rounds_of(source / "summary.json") if (source / "report.html").is_file() else 0
    if done >= rounds:
        raise UserError(
            f"resume={source}: this run is complete, with {done} rounds; go on with more "
            f"(rounds={done + 1} or higher), or ask its model: fedkim evaluate {source}"
        )
    if folder == source:
        with occupied(folder):
            _check_writable(folder, MINIMUM_FREE)
    else:
        check(folder)


def _rounds_of(summary: Path) -> int:
    try:
        return int(json.loads(summary.read_text())["rounds"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or none that can be read
        return 0


def reopen(folder: Path, source: Path, rounds: int) -> None:
    """Make ``folder`` ready to go on with the run in ``source``: copied there, if it is another.

    Raises:
        UserError: as :func:`check_resumable`, or it cannot be written.
    """
    check_resumable(folder, source, rounds)
    try:
        if folder == source:
            # It shows the run as it ended before; `fedkim report` makes it again.
            (folder / "report.html").unlink(missing_ok=True)
        else:
            claim(folder)
            for name in CARRIED:
                if (source / name).is_dir():
                    shutil.copytree(source / name, folder / name)
                elif (source / name).exists():
                    shutil.copy(source / name, folder / name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"output={folder}: cannot be written ({reason}); make room") from error


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep every other process from writing a run into ``folder``, until it is left or killed.

    Raises:
        UserError: another process is at work there.
    """
    try:
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{folder}: cannot be written ({reason})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{folder}: process {lock.read().strip() or '(unknown)'} still writes this run; "
                "wait for its end, or stop it"
            ) from error
        except OSError as error:  # a file system without locks: then it is the user's to know
            log.warning("%s: cannot be locked (%s)", folder, error.strerror)
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except OSError as error:  # the number is only a courtesy
            log.warning("%s: the disk is full (%s)", folder, error.strerror)
        yield


def _check_writable(folder: Path, minimum_free: int) -> None:
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
