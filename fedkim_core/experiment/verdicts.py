"""What is left of each gain when patients get each other's data, over the seeds of a cell."""

import statistics
from collections.abc import Sequence

from fedkim_core.experiment.results import Finished
from fedkim_core.experiment.summary import CellVerdict
from fedkim_core.experiment.tables import Table
from fedkim_core.prior import VERDICTS

NOTE = (
    "In how many seeds the control with another patient's features came to each verdict "
    "(docs/evaluation.md, Controls). Left: the share of the gain over the foundation model alone "
    "that is there with another patient's features too; mean over the seeds that have a gain."
)


def collect(runs: Sequence[Finished]) -> list[CellVerdict]:
    """Of every cell and task whose runs asked controls."""
    found: dict[tuple[str, str], CellVerdict] = {}
    for run in runs:
        cell = run.cell
        for name, task in run.summary.tasks.items():
            if task.language_prior is None:
                continue
            own = found.setdefault((cell.name, name), CellVerdict(cell=cell.name, task=name))
            own.verdicts[cell.seed] = task.language_prior.verdict
            if task.language_prior.share is not None:
                own.shares[cell.seed] = task.language_prior.share
    return list(found.values())


def table(found: Sequence[CellVerdict]) -> Table:
    header = ["", "task", *VERDICTS, "left"]
    rows = []
    for one in found:
        counts = [list(one.verdicts.values()).count(verdict) for verdict in VERDICTS]
        left = f"{statistics.mean(one.shares.values()):.2f}" if one.shares else ""
        rows.append([one.cell, one.task, *map(str, counts), left])
    return Table("What is left with another patient's features", header, rows, NOTE)
