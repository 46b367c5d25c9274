"""``experiment.json``: what became of an experiment's runs, and what they say together.

The page is written from it alone, so that ``fedkim report`` can write it again.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from fedkim_core.errors import UserError
from fedkim_core.files import write_whole
from fedkim_core.report.parts import CONFIG, Count, Difference, Estimate
from fedkim_core.report.schema import first_fault

FILE = "experiment.json"
MEAN = "mean"
"""Stands for a task where tables average over tasks."""
Role = Literal["train", "unseen"]


class _Part(BaseModel):
    model_config = CONFIG


class CellRun(_Part):
    """One cell with one seed."""

    cell: str
    seed: int
    state: Literal["done", "failed", "to run"]
    reason: str = ""
    """Why it failed."""
    seconds: float | None = None
    bytes: Count | None = None
    """To and from all sites."""
    replayed: bool = False
    """Another cell's federation was used again: its seconds stand there."""


class _OverSeeds(_Part):
    """What a row did at a task, seed by seed."""

    row: str
    role: Role
    task: str
    """Or :data:`MEAN`."""
    each: dict[int, float]
    """By seed."""
    sd_seeds: float | None = None


class Score(Estimate, _OverSeeds):
    """The lead metric of a row; ``low`` and ``high`` are means of the bounds of single runs.

    A mean over tasks has no interval.
    """

    metric: str


class Compared(Difference, _OverSeeds):
    """AUROC of a row minus that of the row that all are compared with, on the same patients.

    The interval and p are about patients; ``each`` and ``sd_seeds`` are about seeds.
    """

    tasks: Count
    """How many tasks it is the mean of."""
    n: Count
    """Questions that both answered, over all tasks and seeds."""

    @property
    def is_mean(self) -> bool:
        return self.task == MEAN

    @property
    def alike(self) -> int:
        """Seeds in which the difference has the sign that it has on the whole."""
        return sum(value * self.value > 0 for value in self.each.values())

    @property
    def sign(self) -> int:
        """1 or -1 when it is clear: p below 0.05 after correction, and alike with every seed."""
        return super().sign if self.alike == len(self.each) else 0


class CellGate(_Part):
    """How well the gate of a cell tells tasks apart, by seed."""

    cell: str
    bits: dict[int, float] = {}
    """Mutual information between task and expert, over all tasks."""
    bits_trained: dict[int, float] = {}
    """Over the trained tasks."""
    same_input: dict[int, float] = {}
    """Distance (total variation) between tasks that look at the same modalities, text apart."""
    other_input: dict[int, float] = {}


class CellAgreement(_Part):
    """How nearly a cell's injected model ranks patients as the head of a task does, by seed."""

    cell: str
    task: str
    each: dict[int, float] = {}


class CellVerdict(_Part):
    """What the controls say of a cell's gain at a task, by seed."""

    cell: str
    task: str
    verdicts: dict[int, str] = {}
    """Of ``fedkim_core.prior.VERDICTS``."""
    shares: dict[int, float] = {}
    """Of the gain, how much is left with another patient's features; where there is a gain."""


class ExperimentSummary(_Part):
    """``experiment.json``."""

    schema_version: Literal[1] = 1
    fedkim: str
    name: str
    title: str
    about: str = ""
    synthetic: bool
    compare: str = ""
    """The row that all others are compared with."""
    cells: dict[str, list[str]]
    """Overrides of each cell, without the seed."""
    runs: list[CellRun]
    scores: list[Score] = []
    compared: list[Compared] = []
    agreements: list[CellAgreement] = []
    gates: list[CellGate] = []
    verdicts: list[CellVerdict] = []

    def count(self, state: str) -> int:
        return sum(run.state == state for run in self.runs)

    def main(self, role: str) -> list[Compared]:
        """What the rows are judged by: the mean over the tasks of a role, or its one task."""
        own = [one for one in self.compared if one.role == role]
        means = [one for one in own if one.is_mean]
        with_mean = {one.row for one in means}
        return means + [one for one in own if one.row not in with_mean]

    def score(self, row: str, role: str, metric: str = "auroc") -> Score | None:
        """The mean over the tasks of a role, or its one task."""
        own = [s for s in self.scores if (s.row, s.role, s.metric) == (row, role, metric)]
        return next((s for s in own if s.task == MEAN), own[0] if own else None)


def write(summary: ExperimentSummary, folder: Path) -> Path:
    """Raises UserError: it cannot be written."""
    path = folder / FILE
    write_whole(path, summary.model_dump_json(indent=1) + "\n")
    return path


def read(folder: Path) -> ExperimentSummary:
    """Read what :func:`write` wrote.

    Raises:
        UserError: missing, not JSON, or a field at fault.
    """
    path = folder / FILE
    again = "make it again with fedkim experiment"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return ExperimentSummary.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}; {again}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {again}") from error
