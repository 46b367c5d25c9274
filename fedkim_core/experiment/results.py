"""``results.parquet``: one line per run, task, column and metric of an experiment."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fedkim_core.errors import UserError
from fedkim_core.experiment.execute import Work
from fedkim_core.experiment.plan import Cell, Experiment
from fedkim_core.experiment.state import Ended
from fedkim_core.report.parts import Estimate
from fedkim_core.report.schema import Summary, Task, read_summary
from fedkim_core.settings import Config

RESULTS = "results.parquet"
SCHEMA = {
    "experiment": pl.String,
    "cell": pl.String,
    "method": pl.String,
    "seed": pl.Int64,
    "task": pl.String,
    "role": pl.String,
    "column": pl.String,
    "metric": pl.String,
    "lead": pl.Boolean,  # the metric that tables of this task lead with
    "value": pl.Float64,
    "low": pl.Float64,  # 95 % interval over patients; nothing of other seeds is in it
    "high": pl.Float64,
    "n": pl.Int64,
    "positives": pl.Int64,
    "synthetic": pl.Boolean,
    "axis": pl.String,  # the setting that the experiment names as its axis
    "seconds": pl.Float64,  # of the whole run
    "replayed": pl.Boolean,  # another cell's federation was used again: its seconds stand there
    "bytes": pl.Int64,  # to and from all sites, over all rounds
    "key": pl.String,  # settings and code
}


@dataclass(frozen=True)
class Finished:
    """A run that is done, and what it says of itself."""

    cell: Cell
    config: Config
    ended: Ended
    summary: Summary


def finished(work: Work) -> list[Finished]:
    """Read every finished run, in the order of the experiment's cells and seeds.

    One whose summary cannot be read counts as failed.
    """
    runs = []
    for cell in work.experiment.cells:
        ended = work.done(cell)
        if ended is not None and cell.config is not None:
            try:
                own = read_summary(work.folder.run(cell))
                runs.append(Finished(cell, cell.config, ended, own))
            except UserError as error:
                work.damage(cell, str(error))
    return runs


def collect(runs: Sequence[Finished], experiment: Experiment) -> pl.DataFrame:
    """Everything that runs of an experiment measured, with the columns of ``SCHEMA``."""
    return pl.DataFrame([row for run in runs for row in _rows(run, experiment)], schema=SCHEMA)


def _rows(run: Finished, experiment: Experiment) -> list[dict[str, Any]]:
    shared = {
        "experiment": experiment.name,
        "cell": run.cell.name,
        "method": run.cell.method,
        "seed": run.cell.seed,
        "axis": setting(run.config, experiment.file.axis),
        "seconds": run.ended.seconds,
        "replayed": bool(run.ended.replayed),
        "bytes": sum(x.bytes_down + x.bytes_up for x in run.summary.communication),
        "key": run.ended.key,
    }
    return [
        {
            **shared,
            "task": name,
            "role": task.role,
            "column": column,
            "metric": metric,
            "lead": metric == task.metrics[0],
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "n": task.n,
            "positives": task.positives,
            "synthetic": task.synthetic,
        }
        for name, column, metric, found, task in _estimates(run.summary)
    ]


def _estimates(summary: Summary) -> list[tuple[str, str, str, Estimate, Task]]:
    return [
        (name, column, metric, found, task)
        for name, task in summary.tasks.items()
        for column, scores in _columns(task).items()
        for metric, found in scores.items()
    ]


def _columns(task: Task) -> dict[str, dict[str, Estimate]]:
    own = {
        c: getattr(task, c) or {} for c in ("before", "extractor", "extractor_after", "injected")
    }
    return own | task.controls


def setting(config: Config, key: str) -> str | None:
    """A setting by its dotted name, as text; None for what is no setting (``bytes``)."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return str(value)


def write(results: pl.DataFrame, folder: Path) -> Path:
    """Raises UserError: it cannot be written."""
    path = folder / RESULTS
    part = path.with_suffix(".part")
    try:
        results.write_parquet(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room") from error
    return path
