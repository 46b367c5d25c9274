"""Parquet files of a site folder read without raising, and faults put into words."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

LISTED = 20
"""Rows named one by one for each broken rule; the rest are counted."""


def unknown_columns(file: str, schema: pl.Schema, known: pl.Schema) -> list[str]:
    """By position: a table exported without its header has patient values for column names."""
    return [
        f"{file}: column {position} has an unknown name; known: {', '.join(known)}"
        for position, name in enumerate(schema, start=1)
        if name not in known
    ]


def read_schema(path: Path) -> tuple[pl.Schema | None, list[str]]:
    """Column names and types, or the fault that prevents reading them."""
    if not path.is_file():
        return None, [f"{path.name}: file is missing"]
    try:
        return pl.Schema(pl.read_parquet_schema(path)), []
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None, [f"{path.name}: file is not readable parquet"]


def read_frame(path: Path) -> tuple[pl.DataFrame | None, list[str]]:
    """The whole table, or the fault that prevents reading it."""
    try:
        return pl.read_parquet(path, glob=False, hive_partitioning=False), []
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None, [f"{path.name}: file is not readable parquet"]


def at(file: str, rows: Iterable[int], rule: str) -> list[str]:
    """One fault per row (0-based here, 1-based in the message), the many after LISTED as one."""
    found = sorted(rows)
    faults = [f"{file}:{row + 1}: {rule}" for row in found[:LISTED]]
    if len(found) > LISTED:
        faults.append(f"{file}: {len(found) - LISTED} more rows: {rule}")
    return faults


def where(frame: pl.DataFrame, broken: pl.Expr) -> list[int]:
    """Rows (from 0) on which the expression is true."""
    rows: list[int] = frame.select(pl.arg_where(broken.fill_null(False))).to_series().to_list()
    return rows
