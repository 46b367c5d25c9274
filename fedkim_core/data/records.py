"""What the readers of clinical text files share: rows of text, rules about them, amounts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
import yaml

from fedkim_core.data.prepare import SourceData
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError
from fedkim_core.paths import CONF


def source_variables(name: str) -> dict[str, tuple[str, str]]:
    """``conf/source/NAME.yaml``: by the source's own name, our variable and the source's unit."""
    text = (CONF / "source" / f"{name}.yaml").read_text(encoding="utf-8")
    return {own: (variable, unit) for own, (variable, unit) in yaml.safe_load(text).items()}


def read_rows(
    path: Path, columns: Iterable[str], *, obtain: str, separator: str = ","
) -> pl.DataFrame:
    """The columns of a small text file as text; an empty or missing cell is null.

    ``file`` and ``row`` are added, for :func:`refuse`; the header is row 1.

    Raises:
        UserError: the file or a column is missing, or the file is no such table.
    """
    try:
        rows = pl.read_csv(
            path, separator=separator, infer_schema=False, quote_char=None, glob=False
        )
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing; obtain {obtain}") from error
    except pl.exceptions.NoDataError as error:
        raise UserError(f"{path}: file is empty; obtain {obtain}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__})") from error
    wanted = list(columns)
    absent = [name for name in wanted if name not in rows.columns]
    if absent:
        raise UserError(f"{path}: column {absent[0]!r} is missing; obtain {obtain}")
    return rows.select(
        *wanted, file=pl.lit(str(path)), row=pl.int_range(2, pl.len() + 2, dtype=pl.UInt32)
    )


def refuse(rows: pl.DataFrame, rules: Mapping[str, pl.Expr]) -> None:
    """Refuse files with a row that breaks a rule.

    Args:
        rows: of :func:`read_rows`, one file or several together.
        rules: by the message, what is true of a row that breaks the rule.

    Raises:
        UserError: names the file, the first such row and the rule, and no value.
    """
    firsts = rows.select(
        broken.fill_null(False).arg_true().first().alias(rule) for rule, broken in rules.items()
    )
    for rule, first in firsts.row(0, named=True).items():
        if first is not None:
            raise UserError(f"{rows['file'][first]}:{rows['row'][first]}: {rule}")


def note(left_out: list[tuple[str, str]], name: str, reason: str, count: int) -> None:
    """Add how many rows of a file or table were left out, if any."""
    if count:
        left_out.append((name, f"{reason}: {count}"))


def hourly_rates(amounts: pl.DataFrame) -> pl.DataFrame:
    """Amounts noted now and then become rates per hour, in the hour in which they were noted.

    What is noted in one hour is added up and divided by the hours since the last hour with a note
    of the same variable. The first note is divided by the hours since admission: 900 mL in hour 0
    are 900 mL/h, even if the bladder was emptied right on arrival.

    Args:
        amounts: columns ``stay_id``, ``hour`` (0 or more), ``variable``, ``value``; every note of
            a stay.

    Returns:
        The same columns, one row for each stay, variable and hour with a note, sorted.
    """
    hour = pl.col("hour")
    before = hour.shift().over("stay_id", "variable").fill_null(-1)
    return (
        amounts.with_columns(hour.floor())
        .group_by("stay_id", "variable", "hour")
        .agg(pl.col("value").sum())
        .sort("stay_id", "variable", "hour")
        .with_columns(value=pl.col("value") / (hour - before))
        .select("stay_id", "hour", "variable", "value")
    )


def single_stays(
    name: str,
    task: str,
    answers: Mapping[str, bool],
    natural: Mapping[str, str],
    spool: Spool,
    *,
    licence: str,
    note: str,
    left_out: Sequence[tuple[str, str]],
    absent: str,
) -> SourceData:
    """A data set in which every record is one stay of one patient.

    Args:
        name: of the data set; stays and patients are called ``name-record``.
        task: the one yes/no task.
        answers: by record.
        natural: by record, what the data set itself names, as in :class:`SourceData`.
        spool: holds the observations. A record without one is left out.
        licence: as in :class:`SourceData`, like ``note`` and ``left_out``.
        absent: says that nothing is there and how to obtain it.

    Raises:
        UserError: no record has an observation; the text is ``absent``.
    """
    stays = {f"{name}-{record}": (f"{name}-{record}", yes) for record, yes in answers.items()}
    examples = stay_examples(task, stays, spool.stays())
    if examples.is_empty():
        raise UserError(absent)
    patients = {patient: patient.removeprefix(f"{name}-") for patient in examples["patient_id"]}
    unobserved = [record for record in answers if f"{name}-{record}" not in patients]
    return SourceData(
        name=name,
        licence=licence,
        note=note,
        examples=examples,
        strata={patient: (answers[record],) for patient, record in patients.items()},
        tables=spool.scan(),
        natural={patient: natural[record] for patient, record in patients.items()},
        left_out=[
            *left_out,
            *((record, "no observation that the task reads") for record in unobserved),
            *spool.left_out(),
        ],
    )


def stay_examples(
    task: str, stays: Mapping[str, tuple[str, bool]], observed: Mapping[str, Collection[str]]
) -> pl.DataFrame:
    """Rows of ``examples.parquet`` about stays, each referring to the modalities that it has.

    Args:
        task: a yes/no task.
        stays: by stay, its patient and the answer.
        observed: by modality, the stays with an observation that the task reads. A stay that has
            none at all gets no row.
    """
    rows = [
        {
            "example_id": f"{stay}-{task}",
            "patient_id": patient,
            "task": task,
            "answer": "yes" if answer else "no",
            **{name: stay if stay in held else None for name, held in observed.items()},
        }
        for stay, (patient, answer) in stays.items()
        if any(stay in held for held in observed.values())
    ]
    names = ("example_id", "patient_id", "task", "answer", *observed)
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))
