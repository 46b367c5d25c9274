"""Check ``tables.parquet`` of a site folder; millions of rows in well under a second."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from fedkim_core.data.contract import EXAMPLES_FILE, TABLE_MODALITIES, TABLES_FILE, TABLES_SCHEMA
from fedkim_core.data.faults import at, read_frame, read_schema, unknown_columns, where
from fedkim_core.modalities import load_modalities


def check_tables(folder: Path, examples: pl.DataFrame | None) -> list[str]:
    """Faults of the table itself, and of the examples that refer to it."""
    path = folder / TABLES_FILE
    wanted = _wanted_stays(examples)
    if not path.exists() and wanted.is_empty():
        return []
    schema, faults = read_schema(path)
    if schema is None:
        return faults
    accepts: dict[str, tuple[str, Callable[[pl.DataType], bool]]] = {
        "hour": ("integer", lambda dtype: dtype.is_integer()),
        "value": ("number", lambda dtype: dtype.is_numeric() and not dtype.is_decimal()),
    }
    for name in TABLES_SCHEMA:
        kind, accepted = accepts.get(name, ("string", lambda dtype: dtype == pl.String))
        if name not in schema:
            faults.append(f"{TABLES_FILE}: column {name} is missing")
        elif not accepted(schema[name]):
            faults.append(f"{TABLES_FILE}: column {name} must be {kind}, not {schema[name]}")
    faults += unknown_columns(TABLES_FILE, schema, TABLES_SCHEMA)
    if faults:
        return faults
    tables, faults = read_frame(path)
    if tables is None:
        return faults
    return _check_observations(tables) + _check_stays(tables, wanted)


def _variables() -> pl.DataFrame:
    """The plausible range is widened a little: float32 holds 7.9 as 7.9000001."""
    cards = load_modalities()
    rows = [
        (name, v.name, v.unit, v.low - 1e-6 * (v.high - v.low), v.high + 1e-6 * (v.high - v.low))
        for name in sorted(TABLE_MODALITIES)
        for v in cards[name].variables
    ]
    columns = ["modality", "variable", "known_unit", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _check_observations(tables: pl.DataFrame) -> list[str]:
    """Summaries per variable first; rows are looked at only where a summary is wrong."""
    value, hour, known = pl.col("value"), pl.col("hour"), pl.col("known_unit").is_not_null()
    summary = (
        tables.lazy()
        .group_by("modality", "variable", "unit")
        .agg(
            low_value=value.min(),
            high_value=value.max(),
            finite=(value.is_finite() & value.is_not_null()).all(),
            hours=(hour.is_not_null() & (hour >= 0)).all(),
        )
        .collect()
        .join(_variables(), on=["modality", "variable"], how="left")
    )
    plausible = (pl.col("low_value") >= pl.col("low")) & (pl.col("high_value") <= pl.col("high"))
    good = known & (pl.col("unit") == pl.col("known_unit")) & plausible
    good &= pl.col("finite") & pl.col("hours")
    if summary.select(good.fill_null(False).all()).item() and not tables["stay_id"].null_count():
        return []
    rows = tables.join(_variables(), on=["modality", "variable"], how="left", maintain_order="left")
    finite = value.is_finite().fill_null(False)
    rules = [
        (pl.col("stay_id").is_null(), "stay_id is empty"),
        (hour.is_null() | (hour < 0), "hour must be 0 or more, counted from admission"),
        (~known, "no such variable of this modality; see conf/modality"),
        (
            known & ~(pl.col("unit") == pl.col("known_unit")).fill_null(False),
            "unit is not the variable's unit; see conf/modality",
        ),
        (~finite, "value is not a finite number"),
        (
            known & finite & ~value.is_between(pl.col("low"), pl.col("high")),
            "value is implausible (outside low..high in conf/modality)",
        ),
    ]
    return [f for broken, rule in rules for f in at(TABLES_FILE, where(rows, broken), rule)]


def _wanted_stays(examples: pl.DataFrame | None) -> pl.DataFrame:
    """Which stay each example refers to: columns stay_id, modality, row."""
    empty = pl.DataFrame(schema={"stay_id": pl.String, "modality": pl.String, "row": pl.UInt32})
    if examples is None:
        return empty
    parts = [
        examples.with_row_index("row")
        .filter(pl.col(name).is_first_distinct() & (pl.col(name).str.strip_chars() != ""))
        .select(pl.col(name).alias("stay_id"), pl.lit(name).alias("modality"), "row")
        for name in sorted(TABLE_MODALITIES)
    ]
    return pl.concat([empty, *parts])


def _check_stays(tables: pl.DataFrame, wanted: pl.DataFrame) -> list[str]:
    held = tables.lazy().select("stay_id", "modality").unique().collect()
    lost = wanted.join(held, on=["stay_id", "modality"], how="anti")
    return [
        fault
        for name in sorted(TABLE_MODALITIES)
        for fault in at(
            EXAMPLES_FILE,
            lost.filter(pl.col("modality") == name)["row"].to_list(),
            f"{name}: the stay has no row of this modality in {TABLES_FILE}",
        )
    ]
