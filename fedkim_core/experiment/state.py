"""What has become of an experiment's runs: one small file beside each run folder.

The file is written when a run has ended, whole or not at all. A run folder without one was
interrupted, and is made again.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedkim_core.errors import UserError
from fedkim_core.experiment.plan import Cell

RUNS = "runs"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    key: str
    settings_key: str
    federation_key: str | None
    status: str
    """``done`` or ``failed``."""
    reason: str
    seconds: float
    """From its start to its end, as the clock on the wall has it."""
    replayed: str
    """The run folder whose federation was used again, counted from the experiment's; or empty."""


def _read(path: Path) -> Ended:
    try:
        return Ended(**json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to run again") from error


class Folder:
    """The output folder of an experiment; finished runs of ``others`` are taken over from theirs.

    Raises:
        UserError: one of ``others`` is no folder of an experiment, or a state in it is broken.
    """

    def __init__(self, root: Path, others: Sequence[Path] = ()) -> None:
        self.root = root
        self._others: list[tuple[Path, Ended]] = []
        """Finished runs elsewhere."""
        for other in others:
            if not (other / RUNS).is_dir():
                raise UserError(f"--reuse {other}: no folder of an experiment (it has no {RUNS}/)")
            for file in sorted((other / RUNS).glob("*/seed-*.json")):
                ended, run = _read(file), file.with_suffix("")
                if ended.status == "done" and (run / "summary.json").is_file():
                    self._others.append((run, ended))

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.root / RUNS / cell.name / f"seed-{cell.seed}"

    def log(self, cell: Cell) -> Path:
        return self.run(cell).with_suffix(".log")

    def _file(self, cell: Cell) -> Path:
        return self.run(cell).with_suffix(".json")

    def ended(self, cell: Cell) -> Ended | None:
        """How the cell ended last time, whatever the settings and code were; None if it did not."""
        try:
            return _read(self._file(cell))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def finished(self, cell: Cell, *, any_code: bool = False) -> Ended | None:
        """How the cell ended if it is done with these settings and, unless ``any_code``, code."""
        ended = self.ended(cell)
        if ended is None or ended.status != "done":
            return None
        same = _same(ended, cell, any_code=any_code)
        return ended if same and (self.run(cell) / "summary.json").is_file() else None

    def elsewhere(self, cell: Cell, *, any_code: bool = False) -> tuple[Path, Ended] | None:
        """A finished run of another experiment that is this cell's, and how it ended."""
        found = (each for each in self._others if _same(each[1], cell, any_code=any_code))
        return next(found, None)

    def take_over(self, cell: Cell, run: Path, ended: Ended) -> None:
        """Copy a finished run of another experiment, without its checkpoints.

        Raises:
            UserError: it cannot be copied.
        """
        folder = self.clear(cell)
        try:
            shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
        except (OSError, shutil.Error) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"{run}: cannot be copied to {folder} ({error})") from error
        self.end(cell, ended)

    def clear(self, cell: Cell) -> Path:
        """Remove what an earlier attempt left; returns the run folder, which is not there."""
        folder = self.run(cell)
        self._file(cell).unlink(missing_ok=True)
        self.log(cell).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def end(self, cell: Cell, ended: Ended) -> None:
        path = self._file(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(ended), indent=1) + "\n")
        os.replace(part, path)

    def recorded(self, cell: Cell, others: Iterable[Cell]) -> Path | None:
        """A finished run, here or elsewhere, that recorded the federation of this cell."""
        for other in others:
            if other.name == cell.name and other.seed == cell.seed:
                continue
            ended = self.ended(other)
            if (
                ended is not None
                and ended.status == "done"
                and ended.federation_key == cell.federation_key
                and (self.run(other) / "federation" / "profiles.json").is_file()
            ):
                return self.run(other)
        for run, ended in self._others:
            recorded = (run / "federation" / "profiles.json").is_file()
            if recorded and ended.federation_key == cell.federation_key:
                return run
        return None


def _same(ended: Ended, cell: Cell, *, any_code: bool) -> bool:
    return ended.key == cell.key or (any_code and ended.settings_key == cell.settings_key)


def check_writable(root: Path) -> None:
    """Raises UserError: the output folder is a file or cannot be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {root}: cannot be created ({error.strerror})") from error
