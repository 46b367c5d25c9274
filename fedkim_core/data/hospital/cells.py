"""Cells of an export, as text, become identifiers, numbers and times.

Every function gives a Polars expression for the named column of a block. It is null where the cell
is empty or is not what was asked for; nothing is guessed. Columns of parquet files that have a type
already keep their meaning.
"""

import codecs
import re
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from fedkim_core.errors import UserError


class Format(BaseModel):
    """How files are written; parquet files need it only for what they keep as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delimiter: str = ","
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", "'", " "] = ""
    encoding: str = "utf-8"
    datetime: str = ""
    """As Python's strptime has it, such as ``%d.%m.%Y %H:%M``; none: ISO 8601 without zone."""
    missing: tuple[str, ...] = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")
    """Cells that mean "nothing", besides the empty cell."""
    limits: Literal["drop", "keep"] = "drop"
    """Results such as ``<0.01`` or ``> 200``: leave them out, or take the limit for the value."""

    @model_validator(mode="after")
    def _readable(self) -> "Format":
        if len(self.delimiter.encode()) != 1 or self.delimiter in '"\n\r':
            raise ValueError('delimiter must be one ASCII character; a tab is "\\t"')
        if self.thousands == self.decimal:
            raise ValueError("thousands and decimal must differ")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError("encoding is unknown to Python; try utf-8 or latin-1") from error
        return self


def text(block: pl.DataFrame, name: str, style: Format) -> pl.Expr:
    """The stripped cell.

    A whole number loses the ``.0`` that programs add to columns with gaps, so that 17 and 17.0 name
    the same patient.
    """
    return _filled(block, name, style).str.replace(r"^(-?\d+)\.0$", "$1")


def _filled(block: pl.DataFrame, name: str, style: Format) -> pl.Expr:
    stripped = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(~stripped.is_in(["", *style.missing])).then(stripped)


def number(block: pl.DataFrame, name: str, style: Format) -> pl.Expr:
    """The cell as a finite number, in the stated decimal style and no other.

    With a decimal comma, ``1.5`` is refused: it is as likely to be fifteen hundred as one and a
    half. A separator of thousands must stand at every third digit.
    """
    dtype = block.schema[name]
    if dtype.is_numeric() or dtype == pl.Boolean:
        value = pl.col(name).cast(pl.Float64)
        return pl.when(value.is_finite()).then(value)
    cell = _filled(block, name, style).str.replace("\u2212", "-", literal=True)
    if style.limits == "keep":
        cell = cell.str.replace(r"^[<>≤≥]=?\s*", "")
    whole = r"\d+"
    if style.thousands:
        whole = rf"(?:\d{{1,3}}(?:{re.escape(style.thousands)}\d{{3}})+|\d+)"
    point = re.escape(style.decimal)
    pattern = rf"^[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?$"
    plain = cell
    if style.thousands:
        plain = plain.str.replace_all(style.thousands, "", literal=True)
    value = plain.str.replace(style.decimal, ".", literal=True).cast(pl.Float64, strict=False)
    return pl.when(cell.str.contains(pattern) & value.is_finite()).then(value)


def limit(block: pl.DataFrame, name: str, style: Format) -> pl.Expr:
    """Whether the cell is a limit, such as ``<0.01``, that the style leaves out."""
    if style.limits == "keep" or block.schema[name] != pl.String:
        return pl.lit(False)
    return pl.col(name).str.contains(r"^\s*[<>≤≥]").fill_null(False)


def time(block: pl.DataFrame, name: str, style: Format) -> pl.Expr:
    """The cell as local time.

    Raises:
        UserError: the column has a time zone, so it cannot be compared with local times.
    """
    dtype = block.schema[name]
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        raise UserError(f"column {name!r} has a time zone; export local times without zone")
    if isinstance(dtype, pl.Datetime | pl.Date):
        return pl.col(name).cast(pl.Datetime("us"), strict=False)
    cell = _filled(block, name, style)
    if style.datetime:
        return cell.str.to_datetime(style.datetime, time_unit="us", strict=False)
    day = r"^\d{4}-\d{2}-\d{2}"
    clock = cell.str.replace("T", " ", literal=True).str.slice(0, 19)
    padded = (
        pl.when(cell.str.contains(day + "$"))
        .then(clock + " 00:00:00")
        .when(cell.str.contains(day + r"[T ]\d{2}:\d{2}$"))
        .then(clock + ":00")
        .when(cell.str.contains(day + r"[T ]\d{2}:\d{2}:\d{2}(\.\d+)?$"))
        .then(clock)
    )
    return padded.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
