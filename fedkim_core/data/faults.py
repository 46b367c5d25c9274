"""Parquet files of a site folder read without raising, and faults put into words."""

import os
from collections.abc import Iterable
from pathlib import Path

import polars as pl

LISTED = 20
"""Rows named one by one for each broken rule; the rest are counted."""
ROWS_PER_BYTE = 10
"""With more rows per byte of file they are all alike: no record of patients, however compressed."""
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises on a damaged file."""
NOT_PARQUET = "file is not readable parquet"


def unknown_columns(file: str, schema: pl.Schema, known: pl.Schema) -> list[str]:
    """By position: a table exported without its header has patient values for column names."""
    return [
        f"{file}: column {position} has an unknown name; known: {', '.join(known)}"
        for position, name in enumerate(schema, start=1)
        if name not in known
    ]


def wrong_type(file: str, column: str, wanted: str, dtype: pl.DataType) -> str:
    """Without the type's own parameters: those of an Enum or Struct may be patient values."""
    return f"{file}: column {column} must be {wanted}, not {dtype.base_type()}"


def read_schema(path: Path) -> tuple[pl.Schema | None, list[str]]:
    """Column names and types, or the fault that prevents reading the file."""
    if not path.is_file():
        return None, [f"{path.name}: file is missing"]
    if leaves_by_link(path):
        return None, [f"{path.name}: file is a link that leaves the site folder"]
    try:
        schema = pl.Schema(pl.read_parquet_schema(path))
        rows = scan(path).select(pl.len()).collect().item()
    except UNREADABLE:
        return None, [f"{path.name}: {NOT_PARQUET}"]
    if rows > ROWS_PER_BYTE * path.stat().st_size:
        return None, [f"{path.name}: claims more rows than a file of its size can hold"]
    return schema, []


def scan(path: Path) -> pl.LazyFrame:
    """The table, not read yet."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def leaves_by_link(path: Path) -> bool:
    """True when a file is a link to a place outside its folder."""
    return not os.path.realpath(path).startswith(os.path.realpath(path.parent) + os.sep)


def at(file: str, rows: Iterable[int], rule: str, count: int | None = None) -> list[str]:
    """One fault per row (0-based here, 1-based in the message), the many after LISTED as one.

    ``count`` is the number of broken rows where ``rows`` holds only the first of them.
    """
    found = sorted(rows)
    faults = [f"{file}:{row + 1}: {rule}" for row in found[:LISTED]]
    if (more := (count or len(found)) - LISTED) > 0:
        faults.append(f"{file}: {more} more rows: {rule}")
    return faults


def where(frame: pl.DataFrame, broken: pl.Expr) -> list[int]:
    """Rows (from 0) on which the expression is true."""
    rows: list[int] = frame.select(pl.arg_where(broken.fill_null(False))).to_series().to_list()
    return rows
