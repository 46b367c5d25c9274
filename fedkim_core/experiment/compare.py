"""Differences between two rows of an experiment on the same patients.

Each run's ``answers.parquet`` holds what it said of every test example. Two rows are compared seed
by seed, on examples that both answered; a patient's examples are drawn together (Efron &
Tibshirani, An Introduction to the Bootstrap, 1993). What seeds change stands beside the interval,
not in it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedkim_core.experiment.execute import Work
from fedkim_core.experiment.plan import RowFile
from fedkim_core.experiment.tables import Table
from fedkim_core.seeds import derive

ANSWERS = "answers.parquet"
RESAMPLES = 1000
Floats = NDArray[np.float64]
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


def compare(work: Work, rows: dict[str, RowFile], reference: str) -> pl.DataFrame:
    """AUROC of every row minus that of ``reference``, by task.

    Columns ``row, task, seeds, difference, sd_seeds, low, high, n``: the mean of the seeds'
    differences, their standard deviation, and the 95 % interval over patients of that mean.
    """
    base = _answers(work, rows[reference])
    found: list[dict[str, Any]] = []
    for label, row in rows.items():
        if label == reference:
            continue
        pairs = _pairs(_answers(work, row), base)
        for (task,), own in pairs.group_by("task", maintain_order=True):
            if line := _difference(own, derive(0, "compare", label, str(task))):
                found.append({"row": label, "task": str(task), **line})
    return pl.DataFrame(found, schema=SCHEMA)


SCHEMA = {
    "row": pl.String,
    "task": pl.String,
    "seeds": pl.Int64,
    "difference": pl.Float64,
    "sd_seeds": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}


def _answers(work: Work, row: RowFile) -> pl.DataFrame:
    """The yes/no answers of a row: all cells of its method, all seeds that are done."""
    frames = []
    for cell in work.experiment.cells:
        path: Path = work.folder.run(cell) / ANSWERS
        if cell.method == row.method and work.done(cell) and path.is_file():
            own = pl.read_parquet(path, glob=False).filter(
                (pl.col("column") == row.column) & pl.col("label").is_not_null()
            )
            frames.append(
                own.select(
                    pl.lit(cell.seed).alias("seed"),
                    *KEYS,
                    "patient_id",
                    pl.col("label").cast(pl.Float64),
                    "logit",
                )
            )
    return pl.concat([ANSWERED.to_frame(), *(f.cast(ANSWERED) for f in frames)])


def _pairs(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Both answers to each question that both were asked with the same seed."""
    paired = one.join(
        other.select("seed", *KEYS, "label", pl.col("logit").alias("other")),
        on=["seed", *KEYS, "label"],
        maintain_order="left",
    )
    return paired.filter(pl.col("logit").is_finite() & pl.col("other").is_finite())


def _difference(pairs: pl.DataFrame, seed: int) -> dict[str, Any] | None:
    patients, owner = np.unique(pairs["patient_id"].to_numpy(), return_inverse=True)
    label, one, other = (pairs[name].to_numpy() for name in ("label", "logit", "other"))
    of_seed = [pairs["seed"].to_numpy() == s for s in pairs["seed"].unique().sort()]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(patients), (RESAMPLES, len(patients)))
    drawn += len(patients) * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * len(patients))
    # The first line is the sample itself. A patient of several seeds is drawn for all of them.
    weights = np.ones((RESAMPLES + 1, len(patients)))
    weights[1:] = times.reshape(RESAMPLES, -1)
    weights = weights[:, owner]
    each = np.stack(
        [
            aurocs(label[own], one[own], weights[:, own])
            - aurocs(label[own], other[own], weights[:, own])
            for own in of_seed
        ]
    )
    each = each[~np.isnan(each[:, 0])]
    if not len(each):
        return None
    draws = each[:, 1:].mean(0)
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) > 1 else (None, None)
    return {
        "seeds": len(each),
        "difference": float(each[:, 0].mean()),
        "sd_seeds": float(each[:, 0].std(ddof=1)) if len(each) > 1 else None,
        "low": low,
        "high": high,
        "n": len(pairs),
    }


def aurocs(labels: Floats, logits: Floats, weights: Floats) -> Floats:
    """``[B]`` AUROC of rows that count ``weights [B, n]`` times; NaN where one class is missing."""
    order = np.argsort(logits, kind="stable")
    ranked = logits[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    yes = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    no = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1)
    won = (yes * (no.cumsum(1) - no / 2)).sum(1)  # a tie is half a win
    pairs = yes.sum(1) * no.sum(1)
    area: Floats = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
    return area


def table(compared: pl.DataFrame, reference: str) -> Table:
    """Rows by tasks, as the tables of scores."""
    tasks = compared["task"].unique(maintain_order=True).to_list()
    cells = {}
    for r in compared.iter_rows(named=True):
        spread = "" if r["sd_seeds"] is None else f" ± {r['sd_seeds']:.3f}"
        interval = "" if r["low"] is None else f" [{r['low']:+.3f}, {r['high']:+.3f}]"
        cells[r["row"], r["task"]] = f"{r['difference']:+.3f}{spread}{interval}"
    rows = [
        [row, *(cells.get((row, task), "") for task in tasks)]
        for row in compared["row"].unique(maintain_order=True).to_list()
    ]
    note = (
        "AUROC on the same patients: mean over seeds ± their standard deviation; in brackets the "
        f"95 % interval over patients of that mean ({RESAMPLES} paired resamples by patient). "
        "Not corrected for the number of comparisons."
    )
    return Table(f"Difference from {reference}", ["", *tasks], rows, note)
