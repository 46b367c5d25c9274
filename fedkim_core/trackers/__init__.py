"""Trackers: where the curves of a run are drawn, besides its own files. One file each.

Each exports ``start(folder) -> Tracker``, which begins the curves of the run in ``folder`` anew. A
run that goes on draws again what it had. ``tracking`` names the files: ``[tensorboard,mlflow]``.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedkim_core.errors import UserError
from fedkim_core.methods import files

log = logging.getLogger("fedkim")


class Tracker(Protocol):
    """What every tracker can do."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each of the curves named."""

    def close(self) -> None:
        """Nothing is added any more."""


class Trackers:
    """The trackers of a run. One that fails is left out from then on, which is told once.

    Args:
        names: files of this folder.
        folder: of the run.
        tell: takes the line that says what went wrong.
    """

    def __init__(self, names: Sequence[str], folder: Path, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            with self._guarded(name):
                self._open[name] = importlib.import_module(f"{__name__}.{name}").start(folder)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._open.items()):
            with self._guarded(name):
                tracker.scalars(values, step)

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            with self._guarded(name):
                tracker.close()
        self._open = {}

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker's library does, the run does not hang on it
            self._open.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            message = f"tracking={name}: {reason}; the run goes on without it"
            log.warning("%s", message)
            self._tell(message)


def check(names: Sequence[str]) -> None:
    """Raises UserError: there is no tracker of such a name."""
    known = files(__path__)
    for name in names:
        if name not in known:
            raise UserError(f"tracking={name}: no such tracker; known: {', '.join(known)}")
