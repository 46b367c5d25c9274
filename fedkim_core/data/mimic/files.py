"""The CSV files of MIMIC, found and read in blocks, whatever the case of their names."""

from collections.abc import Collection, Iterator
from pathlib import Path

import polars as pl

from fedkim_core.data.blocks import blocks, header_of
from fedkim_core.errors import UserError

FOLDERS = ("", "hosp", "icu", "core")
"""Subfolders of MIMIC-IV; everything may also lie in one folder."""


def find(source: Path, table: str) -> Path | None:
    """The file of a table, ``TABLE.csv`` or ``TABLE.csv.gz`` in upper or lower case."""
    for folder in FOLDERS:
        for name in (table.lower(), table.upper()):
            for ending in (".csv.gz", ".csv"):
                path = source / folder / (name + ending)
                if path.is_file():
                    return path
    return None


def needed(source: Path, table: str, obtain: str) -> Path:
    """As :func:`find`.

    Raises:
        UserError: there is no such file.
    """
    path = find(source, table)
    if path is None:
        raise UserError(f"{source}: {table}.csv.gz is missing; obtain {obtain}")
    return path


def read_blocks(
    path: Path, columns: Collection[str], *, maybe: Collection[str] = ()
) -> Iterator[pl.DataFrame]:
    """Columns of a file as strings, with the row number in ``ROW``, one block after the other.

    Args:
        path: of :func:`find`.
        columns: lower-case names, as the blocks have them.
        maybe: further ones, null where the file has no such column.

    Raises:
        UserError: damaged or cut off, a column is missing, a row of another length.
    """
    there = {name.lower(): name for name in header_of(path, delimiter=",", encoding="utf-8")}
    for name in columns:
        if name not in there:
            raise UserError(f"{path}: column {name!r} is missing; is it the official file?")
    wanted = [name for name in (*columns, *maybe) if name in there]
    names = [there[name] for name in wanted]
    absent = [pl.lit(None, pl.String).alias(name) for name in maybe if name not in there]
    for block in blocks(path, names, delimiter=",", encoding="utf-8"):
        yield block.rename(dict(zip(names, wanted, strict=True))).with_columns(absent)


def read_whole(
    path: Path, columns: Collection[str], *, maybe: Collection[str] = ()
) -> pl.DataFrame:
    """As :func:`read_blocks`, for a file that is small in every release."""
    parts = list(read_blocks(path, columns, maybe=maybe))
    if not parts:
        raise UserError(f"{path}: the file has a header and no row")
    return pl.concat(parts)


def time(column: str) -> pl.Expr:
    """``2180-07-23 14:00:00`` as a time; null where it is none."""
    return pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)


def number(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)


def whole(column: str) -> pl.Expr:
    """A number of a stay, patient or item, also where a program has made it ``17.0``."""
    return number(column).cast(pl.Int64, strict=False)
