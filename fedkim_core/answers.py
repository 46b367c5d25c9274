"""``answers.parquet``: what each model said of each test example, row by row.

Everything that the summary and the report say about the test set can be worked out from this file
again, and other statistics too. It holds the server's own test set, never a hospital's patients.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from fedkim_core.data.contract import GROUPS
from fedkim_core.errors import UserError

ANSWERS = "answers.parquet"
SCHEMA = pl.Schema(
    {
        "task": pl.String(),
        "example_id": pl.String(),
        "patient_id": pl.String(),
        "site": pl.String(),  # whose patients this one resembles; null where unknown
        "column": pl.String(),  # before, extractor, injected, or the name of a control
        "label": pl.Int8(),  # 1 yes, 0 no; null for free text
        "logit": pl.Float64(),  # log odds of yes; null for free text
        "truth": pl.String(),
        "said": pl.String(),  # null where a logit is not a number
        **{name: pl.String() for name in GROUPS},  # of the patient; null where unknown
    }
)
_SAID_TWICE = ["task", "example_id", "column"]


@dataclass
class Answers:
    """The answers of one model to one task's questions; all lists are ``[n]`` or empty."""

    patients: list[str] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    """Of yes/no tasks: 1 yes, 0 no."""
    logits: list[float] = field(default_factory=list)
    """Of yes/no tasks."""
    texts: list[str] = field(default_factory=list)
    """Of free-text tasks."""
    example_ids: list[str] = field(default_factory=list)
    sites: list[str | None] = field(default_factory=list)
    """Whose patient each row resembles; None where unknown."""
    groups: dict[str, list[str | None]] = field(default_factory=dict)
    """By name of a grouping (sex, age_band), to which group each row's patient belongs."""


Columns = Mapping[str, Mapping[str, Answers]]
"""By column (``before``, ``extractor``, ``injected``, a control) and task."""


def write(folder: Path, columns: Columns) -> Path:
    """Write ``answers.parquet`` into a run folder, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / ANSWERS
    part = path.with_suffix(".part")
    frames = [
        _frame(task, column, answers)
        for column, tasks in columns.items()
        for task, answers in tasks.items()
    ]
    try:
        pl.concat([SCHEMA.to_frame(), *frames]).write_parquet(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room") from error
    return path


def read(folder: Path) -> dict[str, dict[str, Answers]]:
    """Read ``answers.parquet`` of a run folder: by column and task, in the order written.

    Raises:
        UserError: it is missing, is not such a file, or answers an example twice.
    """
    frame = read_frame(folder)
    columns: dict[str, dict[str, Answers]] = {}
    for (column, task), rows in frame.group_by("column", "task", maintain_order=True):
        yes_no = rows["label"].null_count() == 0
        columns.setdefault(str(column), {})[str(task)] = Answers(
            patients=rows["patient_id"].to_list(),
            truth=rows["truth"].to_list(),
            labels=rows["label"].cast(pl.Float64).to_list() if yes_no else [],
            logits=rows["logit"].to_list() if yes_no else [],
            texts=[] if yes_no else rows["said"].to_list(),
            example_ids=rows["example_id"].to_list(),
            sites=rows["site"].to_list(),
            groups={n: rows[n].to_list() for n in GROUPS if rows[n].null_count() < len(rows)},
        )
    return columns


def read_frame(folder: Path) -> pl.DataFrame:
    """``answers.parquet`` as it is, with the columns of ``SCHEMA``.

    Raises:
        UserError: as :func:`read`.
    """
    path = folder / ANSWERS
    if not path.is_file():
        raise UserError(f"{path}: not found; write it with fedkim evaluate {folder}")
    try:
        frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: not a parquet file; run fedkim evaluate {folder}") from error
    # Runs made before there were groups are of the same kind.
    frame = frame.with_columns(
        pl.lit(None, pl.String).alias(name) for name in GROUPS if name not in frame.columns
    )
    for name, dtype in SCHEMA.items():
        if frame.schema.get(name) != dtype:
            raise UserError(f"{path}: column {name}: missing or not {dtype}")
    if frame.select(_SAID_TWICE).is_duplicated().any():
        raise UserError(f"{path}: an example has two answers of the same column")
    return frame.select(SCHEMA.names())


def _frame(task: str, column: str, answers: Answers) -> pl.DataFrame:
    yes_no = bool(answers.logits)
    said: list[str | None] = list(answers.texts)
    if yes_no:
        said = [None if x != x else "yes" if x > 0 else "no" for x in answers.logits]
    n = len(answers.patients)
    return pl.DataFrame(
        {
            "task": [task] * n,
            "example_id": answers.example_ids,
            "patient_id": answers.patients,
            "site": answers.sites,
            "column": [column] * n,
            "label": [int(x) for x in answers.labels] if yes_no else [None] * n,
            "logit": answers.logits if yes_no else [None] * n,
            "truth": answers.truth,
            "said": said,
            **{name: answers.groups.get(name, [None] * n) for name in GROUPS},
        },
        schema=SCHEMA,
    )
