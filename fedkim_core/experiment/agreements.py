"""How nearly each cell's injected model says what the federated heads say, over seeds."""

import statistics
from collections.abc import Sequence

from fedkim_core.experiment.results import Finished
from fedkim_core.experiment.summary import CellAgreement
from fedkim_core.experiment.tables import Table, spread

NOTE = (
    "Rank correlation between what the injected model and the task's own federated head say of the "
    "same patients: 1 where all that the heads know arrived. No label takes part. Mean ± standard "
    "deviation over seeds."
)


def collect(runs: Sequence[Finished]) -> list[CellAgreement]:
    """Of every cell and task with a head and an injected model."""
    found: dict[tuple[str, str], CellAgreement] = {}
    for run in runs:
        for name, task in run.summary.tasks.items():
            if task.agreement is not None:
                key = run.cell.name, name
                own = found.setdefault(key, CellAgreement(cell=key[0], task=name))
                own.each[run.cell.seed] = task.agreement
    return list(found.values())


def table(found: Sequence[CellAgreement]) -> Table:
    """A line per cell; the mean is over tasks, of seeds that have them all."""
    tasks = list(dict.fromkeys(one.task for one in found))
    rows = []
    for cell in dict.fromkeys(one.cell for one in found):
        own = {one.task: one.each for one in found if one.cell == cell}
        whole = set.intersection(*(set(own.get(task, {})) for task in tasks))
        means = {seed: statistics.mean(own[task][seed] for task in tasks) for seed in whole}
        columns = [*(own.get(task, {}) for task in tasks), means]
        rows.append([cell, *(spread(each.values(), 3) for each in columns)])
    return Table("Agreement with the heads", ["", *tasks, "mean"], rows, NOTE)
