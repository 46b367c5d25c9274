"""Differences between two rows of an experiment on the same patients.

Each run's ``answers.parquet`` holds what it said of every test example. Two rows are compared on
the seeds that both have and on the examples that both answered, by DeLong's test with a patient's
examples added up over tasks and seeds. What seeds change stands beside the interval, not in it.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import polars as pl

from fedkim_core.experiment.execute import Work
from fedkim_core.experiment.plan import RowFile
from fedkim_core.experiment.summary import MEAN, Compared, Role
from fedkim_core.experiment.tables import Table
from fedkim_core.statistics.delong import Pair, mean_difference
from fedkim_core.statistics.multiple import holm

ANSWERS = "answers.parquet"
KEYS = ["task", "example_id"]
ANSWERED = pl.Schema(
    {
        "seed": pl.Int64(),
        "task": pl.String(),
        "example_id": pl.String(),
        "patient_id": pl.String(),
        "label": pl.Float64(),
        "logit": pl.Float64(),
    }
)


def compare(
    work: Work, rows: dict[str, RowFile], reference: str, roles: Mapping[str, str]
) -> list[Compared]:
    """AUROC of every row minus that of ``reference``: each task, and the mean of each role.

    p-values are corrected after Holm: those of means among themselves, and those of single tasks
    among themselves.

    Args:
        work: the experiment.
        rows: by label.
        reference: one of the labels.
        roles: of tasks, ``train`` or ``unseen``.
    """
    base = _answers(work, rows[reference])
    found: list[Compared] = []
    for label, row in rows.items():
        if label != reference:
            pairs = _pairs(_answers(work, row), base)
            for role in get_args(Role):
                found += _of_role(label, role, pairs.filter(pl.col("task").is_in(_of(roles, role))))
    return _corrected(found)


def _of(roles: Mapping[str, str], role: str) -> list[str]:
    return [task for task, own in roles.items() if own == role]


def _answers(work: Work, row: RowFile) -> pl.DataFrame:
    """The yes/no answers of a row: all cells of its method, all seeds that are done."""
    frames = []
    for cell in work.experiment.cells:
        path: Path = work.folder.run(cell) / ANSWERS
        if cell.method != row.method or work.done(cell) is None or not path.is_file():
            continue
        try:
            own = pl.read_parquet(path, glob=False).filter(
                (pl.col("column") == row.column) & pl.col("label").is_not_null()
            )
            chosen = own.select(
                pl.lit(cell.seed).alias("seed"),
                *KEYS,
                "patient_id",
                pl.col("label").cast(pl.Float64),
                "logit",
            )
            frames.append(chosen.cast(ANSWERED))
        except (OSError, pl.exceptions.PolarsError) as error:
            work.damage(cell, f"{ANSWERS} cannot be read ({type(error).__name__})")
    return pl.concat([ANSWERED.to_frame(), *frames])


def _pairs(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Both answers to each question that both were asked with the same seed."""
    paired = one.join(
        other.select("seed", *KEYS, "label", pl.col("logit").alias("other")),
        on=["seed", *KEYS, "label"],
        maintain_order="left",
    )
    return paired.filter(pl.col("logit").is_finite() & pl.col("other").is_finite())


@dataclass(frozen=True)
class _Asked:
    """What two rows said with one seed about one task."""

    seed: int
    task: str
    pair: Pair


def _of_role(row: str, role: Role, answered: pl.DataFrame) -> list[Compared]:
    """The differences of one row in the tasks of a role, and of their mean if they are several."""
    asked = []
    for (task, seed), own in answered.group_by("task", "seed", maintain_order=True):
        if own["label"].n_unique() == 2:  # an AUROC needs both answers
            labels, one, other = (own[name].to_numpy() for name in ("label", "logit", "other"))
            pair = Pair(labels, one, other, own["patient_id"].to_list())
            asked.append(_Asked(int(str(seed)), str(task), pair))
    tasks = list(dict.fromkeys(one.task for one in asked))
    found = [_compared(row, role, task, [a for a in asked if a.task == task]) for task in tasks]
    if len(tasks) > 1:
        found.append(_compared(row, role, MEAN, asked))
    return found


def _compared(row: str, role: Role, task: str, asked: list[_Asked]) -> Compared:
    each = {}
    for seed in sorted({one.seed for one in asked}):
        each[seed] = mean_difference([a.pair for a in asked if a.seed == seed])["value"]
    return Compared(
        row=row,
        role=role,
        task=task,
        tasks=len({one.task for one in asked}),
        each=each,
        sd_seeds=statistics.stdev(each.values()) if len(each) > 1 else None,
        n=sum(len(one.pair.patients) for one in asked),
        **mean_difference([one.pair for one in asked]),
    )


def _corrected(found: list[Compared]) -> list[Compared]:
    """With the p-values that Holm's correction gives, in two families."""
    adjusted: dict[str, float] = {}
    for wanted in (True, False):
        family = {
            str(place): one.p
            for place, one in enumerate(found)
            if one.is_mean == wanted and one.p is not None
        }
        adjusted |= holm(family)
    return [
        one.model_copy(update={"p_holm": adjusted.get(str(place))})
        for place, one in enumerate(found)
    ]


def table(compared: list[Compared], reference: str) -> Table:
    """Rows by tasks, as the tables of scores."""
    columns = list(dict.fromkeys((one.role, one.task) for one in compared))
    names = [f"{task} ({role})" if task == MEAN else task for role, task in columns]
    cells = {}
    for one in compared:
        spread = "" if one.sd_seeds is None else f" ± {one.sd_seeds:.3f}"
        interval = "" if one.span is None else f" [{one.low:+.3f}, {one.high:+.3f}]"
        mark = " *" if one.sign else ""
        cells[one.row, one.role, one.task] = f"{one.value:+.3f}{spread}{interval}{mark}"
    rows = [
        [row, *(cells.get((row, *column), "") for column in columns)]
        for row in dict.fromkeys(one.row for one in compared)
    ]
    note = (
        "AUROC on the same patients: mean over seeds ± their standard deviation; in brackets the "
        "95 % interval over patients of that mean (DeLong's test, by patient). * p below 0.05 "
        "after Holm's correction, means and single tasks each among themselves, and the same sign "
        "with every seed."
    )
    return Table(f"Difference from {reference}", ["", *names], rows, note)


def write_csv(compared: list[Compared], path: Path) -> None:
    """``compare.csv``, with full precision."""
    lines = [one.model_dump(exclude={"each"}) | {"seeds": len(one.each)} for one in compared]
    pl.DataFrame(lines, infer_schema_length=None).write_csv(path)
