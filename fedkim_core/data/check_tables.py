"""Check ``tables.parquet`` of a site folder as it streams by; memory stays flat in its rows."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from fedkim_core.data.contract import (
    EXAMPLES_FILE,
    LAST_HOUR,
    TABLE_MODALITIES,
    TABLES_FILE,
    TABLES_SCHEMA,
)
from fedkim_core.data.faults import (
    LISTED,
    NOT_PARQUET,
    UNREADABLE,
    at,
    read_schema,
    scan,
    unknown_columns,
    wrong_type,
)
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
            faults.append(wrong_type(TABLES_FILE, name, kind, schema[name]))
    faults += unknown_columns(TABLES_FILE, schema, TABLES_SCHEMA)
    if faults:
        return faults
    try:
        return _check_observations(scan(path)) + _check_stays(scan(path), wanted)
    except UNREADABLE:
        return [f"{TABLES_FILE}: {NOT_PARQUET}"]


def _variables() -> pl.LazyFrame:
    """The plausible range is widened a little: float32 holds 7.9 as 7.9000001."""
    cards = load_modalities()
    rows = [
        (name, v.name, v.unit, v.low - 1e-6 * (v.high - v.low), v.high + 1e-6 * (v.high - v.low))
        for name in sorted(TABLE_MODALITIES)
        for v in cards[name].variables
    ]
    columns = ["modality", "variable", "known_unit", "low", "high"]
    return pl.LazyFrame(rows, schema=columns, orient="row")


def _check_observations(tables: pl.LazyFrame) -> list[str]:
    """Count the broken rows of every rule in one pass; fetch the first rows of a broken rule."""
    value, hour, known = pl.col("value"), pl.col("hour"), pl.col("known_unit").is_not_null()
    finite = value.is_finite().fill_null(False)
    broken = {
        "stay_id is empty": pl.col("stay_id").is_null(),
        "hour must be 0 or more, counted from admission": hour.is_null() | (hour < 0),
        f"hour is more than a year ({LAST_HOUR}) after admission": hour > LAST_HOUR,
        "no such variable of this modality; see conf/modality": ~known,
        "unit is not the variable's unit; see conf/modality": (
            known & ~(pl.col("unit") == pl.col("known_unit")).fill_null(False)
        ),
        "value is not a finite number": ~finite,
        "value is implausible (outside low..high in conf/modality)": (
            known & finite & ~value.is_between(pl.col("low"), pl.col("high"))
        ),
    }
    broken = {rule: rows.fill_null(False) for rule, rows in broken.items()}
    keys = ["modality", "variable"]
    counts = (
        tables.join(_variables(), on=keys, how="left")
        .select(rows.sum().alias(rule) for rule, rows in broken.items())
        .collect(engine="streaming")
        .row(0, named=True)
    )
    numbered = tables.with_row_index("row").join(
        _variables(), on=keys, how="left", maintain_order="left"
    )
    faults = []
    for rule, count in counts.items():
        if count:
            first = numbered.filter(broken[rule]).select("row").head(LISTED)
            rows = first.collect(engine="streaming")["row"].to_list()
            faults += at(TABLES_FILE, rows, rule, count)
    return faults


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


def _check_stays(tables: pl.LazyFrame, wanted: pl.DataFrame) -> list[str]:
    keys = ["stay_id", "modality"]
    held = tables.select(keys).join(wanted.lazy(), on=keys, how="semi").unique()
    lost = wanted.join(held.collect(engine="streaming"), on=keys, how="anti")
    return [
        fault
        for name in sorted(TABLE_MODALITIES)
        for fault in at(
            EXAMPLES_FILE,
            lost.filter(pl.col("modality") == name)["row"].to_list(),
            f"{name}: the stay has no row of this modality in {TABLES_FILE}",
        )
    ]
