"""The ICU stays that become examples: adults, the first stay of every hospital admission."""

from pathlib import Path

import polars as pl

from fedkim_core.data.blocks import ROW
from fedkim_core.data.mimic.files import needed, read_whole, time, whole
from fedkim_core.data.mimic.layout import Layout
from fedkim_core.errors import UserError

ADULT = 18
HOURS = 168
"""Of a stay that are read, the longest that a task looks back on."""
LeftOut = list[tuple[str, str]]


def read_stays(source: Path, layout: Layout) -> tuple[pl.DataFrame, LeftOut]:
    """Read ``icustays``, ``admissions`` and ``patients``.

    Returns:
        One row per stay, sorted by patient and time: ``stay`` (0, 1, 2 ...), ``stay_number``,
        ``patient``, ``admission``, ``start`` (time), ``hours`` (its length), ``limit`` (hours that
        are read, at most 168), ``died`` (in hospital), ``unit`` (first care unit), ``row``. And
        what was left out: stays that end before they begin, and those without a usable admission.

    Raises:
        UserError: a file is missing or broken, or names a stay, admission or patient twice.
    """
    path = needed(source, "icustays", layout.obtain)
    columns = ("subject_id", "hadm_id", layout.stay, "first_careunit", "intime", "outtime")
    table = read_whole(path, columns)
    left_out: LeftOut = []
    stays = _once(table, layout.stay, path, left_out).select(
        pl.col(ROW).alias("row"),
        whole(layout.stay).alias("stay_number"),
        whole("subject_id").alias("patient"),
        whole("hadm_id").alias("admission"),
        time("intime").alias("start"),
        time("outtime").alias("end"),
        pl.col("first_careunit").str.strip_chars().alias("unit"),
    )
    stays = (
        stays.join(_admissions(source, layout, left_out), on="admission", how="left")
        .join(_patients(source, layout, left_out), on="patient", how="left")
        .with_columns(
            hours=(pl.col("end") - pl.col("start")).dt.total_seconds() / 3600,
            age=(pl.col("start") - pl.col("born")).dt.total_days() / 365.25,
        )
        .sort("patient", "start", "stay_number")
    )
    kept = _leave_out(stays, _faults(layout), path, left_out)
    first = pl.col("start").rank("ordinal").over("admission") > 1
    kept = _leave_out(kept, [(first, "not the first ICU stay of the admission")], path, left_out)
    if kept.is_empty():
        raise UserError(f"{path}: no ICU stay of an adult can be used; obtain {layout.obtain}")
    kept = kept.with_columns(limit=pl.min_horizontal("hours", pl.lit(float(HOURS))))
    return kept.with_row_index("stay").with_columns(pl.col("stay").cast(pl.Int32)), left_out


def _faults(layout: Layout) -> list[tuple[pl.Expr, str]]:
    null = [pl.col(name).is_null() for name in ("stay_number", "patient", "admission")]
    return [
        (pl.any_horizontal(null), f"{layout.stay}, subject_id or hadm_id is no whole number"),
        (pl.col("start").is_null() | pl.col("end").is_null(), "intime or outtime is no time"),
        (pl.col("end") <= pl.col("start"), "outtime is not after intime"),
        (pl.col("age").is_null(), "the patient's age is not known"),
        (pl.col("age") < ADULT, f"younger than {ADULT}"),
        (pl.col("died").is_null(), "the admission is missing or was left out"),
    ]


def _admissions(source: Path, layout: Layout, left_out: LeftOut) -> pl.DataFrame:
    path = needed(source, "admissions", layout.obtain)
    columns = ("hadm_id", "admittime", "deathtime", "hospital_expire_flag")
    table = _once(read_whole(path, columns), "hadm_id", path, left_out).select(
        pl.col(ROW).alias("row"),
        whole("hadm_id").alias("admission"),
        time("admittime").alias("admitted"),
        time("deathtime").alias("death"),
        whole("hospital_expire_flag").alias("died"),
    )
    faults = [
        (pl.col("admission").is_null(), "hadm_id is no whole number"),
        (pl.col("admitted").is_null(), "admittime is no time"),
        (~pl.col("died").is_in([0, 1]).fill_null(False), "hospital_expire_flag is neither 0 nor 1"),
        (pl.col("death") < pl.col("admitted"), "deathtime is before admittime"),
    ]
    kept = _leave_out(table, faults, path, left_out)
    return kept.select("admission", "admitted", pl.col("died") == 1)


def _patients(source: Path, layout: Layout, left_out: LeftOut) -> pl.DataFrame:
    """``born``: the year; patients above 89 are said to be 300 in MIMIC-III, which does no harm."""
    path = needed(source, "patients", layout.obtain)
    table = _once(read_whole(path, ("subject_id", *layout.patient)), "subject_id", path, left_out)
    if len(layout.patient) == 1:
        born = time(layout.patient[0])
    else:
        age, year = (whole(name) for name in layout.patient)
        born = pl.datetime(year - age, 1, 1)
    return table.select(patient=whole("subject_id"), born=born)


def _once(table: pl.DataFrame, column: str, path: Path, left_out: LeftOut) -> pl.DataFrame:
    """The table without copies of a row.

    Raises:
        UserError: two rows of the same number differ.
    """
    names = [name for name in table.columns if name != ROW]
    single = table.unique(names, keep="first", maintain_order=True)
    if copies := len(table) - len(single):
        count = "1 row that repeats" if copies == 1 else f"{copies} rows that repeat"
        left_out.append((path.name, f"{count} another row"))
    again = single.filter(~pl.col(column).is_first_distinct() & pl.col(column).is_not_null())
    if len(again):
        raise UserError(f"{path}:{again[ROW][0]}: {column} is not unique; is this one release?")
    return single


def _leave_out(
    table: pl.DataFrame, faults: list[tuple[pl.Expr, str]], path: Path, left_out: LeftOut
) -> pl.DataFrame:
    """The rows without a fault; the others are counted, the first of each kind is named."""
    for broken, reason in faults:
        bad = table.filter(broken.fill_null(False))["row"].sort()
        if len(bad):
            count = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
            left_out.append((path.name, f"{count}: {reason}; first at row {bad[0]}"))
        table = table.filter(~broken.fill_null(False))
    return table
