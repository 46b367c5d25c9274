"""The tables of CLIF: found, read block by block, and their observations converted."""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict

from fedkim_core.data.blocks import blocks, header_of
from fedkim_core.data.records import hourly_rates, note
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError
from fedkim_core.paths import CONF

ID = "hospitalization_id"
Kind = Literal["text", "number", "time"]

_RATE = pl.lit("mL/h")
_NO_UNIT = ("", "(no units)", "no units")
_TIME = r"^(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|[+]00:?00)?$"
_EMPTY: dict[Kind, pl.DataType] = {
    "text": pl.String(),
    "number": pl.Float64(),
    "time": pl.Datetime("us"),
}


class Observed(BaseModel):
    """One table of ``conf/source/clif.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str
    category: str = ""
    """Empty: the table has one variable, under the empty category."""
    value: str
    unit: str = ""
    amount: bool = False
    """Volumes in mL, which become rates."""
    apart: tuple[str, ...] = ()
    """Optional columns that tell two rows apart which are otherwise the same."""
    variables: dict[str, tuple[str, str | None]]

    def kinds(self) -> dict[str, Kind]:
        kinds: dict[str, Kind] = {ID: "text", self.time: "time", self.value: "number"}
        return kinds | {name: "text" for name in (self.category, self.unit) if name}


@cache
def observed_tables() -> dict[str, Observed]:
    values = yaml.safe_load((CONF / "source" / "clif.yaml").read_text(encoding="utf-8"))
    return {name: Observed.model_validate(value) for name, value in values.items()}


def find(source: Path, table: str) -> Path | None:
    """The file of a table, ``clif_TABLE.parquet`` before the CSV ones."""
    paths = (source / f"clif_{table}{end}" for end in (".parquet", ".csv", ".csv.gz"))
    return next((path for path in paths if path.is_file()), None)


def read_columns(
    path: Path, kinds: Mapping[str, Kind], *, maybe: Mapping[str, Kind] | None = None
) -> Iterator[pl.DataFrame]:
    """Columns of a table in blocks: text, numbers (Float64) and times (UTC, without zone).

    The first block is empty, so that a table without rows gives one too. Cells of a CSV file that
    are no number or no time become null. The standard has times in UTC; a time with another offset
    is none.

    Args:
        path: of :func:`find`.
        kinds: by column, what it must be.
        maybe: likewise, of columns that may be absent and are null then.

    Raises:
        UserError: a column is missing or of another type, or the file is damaged.
    """
    header = header_of(path, delimiter=",", encoding="utf-8")
    if absent := [name for name in kinds if name not in header]:
        raise UserError(f"{path}: column {absent[0]!r} is missing; see clif-icu.com")
    wanted = {**kinds, **(maybe or {})}
    there = [name for name in wanted if name in header]
    yield pl.DataFrame(schema={name: _EMPTY[kind] for name, kind in wanted.items()})
    for block in blocks(path, there, delimiter=",", encoding="utf-8"):
        yield block.select(
            _typed(path, name, kind, block.schema[name])
            if name in there
            else pl.lit(None, _EMPTY[kind]).alias(name)
            for name, kind in wanted.items()
        )


def _typed(path: Path, name: str, kind: Kind, dtype: pl.DataType) -> pl.Expr:
    column, is_csv = pl.col(name), path.suffix != ".parquet"
    if kind == "text" and (dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum)):
        return column.cast(pl.String).str.strip_chars()
    if kind == "number" and (is_csv or dtype.is_numeric()):
        stripped = column.str.strip_chars() if is_csv else column
        return stripped.cast(pl.Float64, strict=False)
    if kind == "time" and is_csv:
        part = column.str.strip_chars().str.extract_groups(_TIME).struct
        text = part.field("1") + " " + part.field("2")
        return text.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False).alias(name)
    if kind == "time" and isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
        return utc.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    raise UserError(f"{path}: column {name!r} must be {kind}, not {dtype}")


def read_observations(
    source: Path, stays: pl.DataFrame, hours: int, spool: Spool, left_out: list[tuple[str, str]]
) -> None:
    """Add what was observed in the first hours of the stays; absent tables are noted.

    Args:
        source: folder of the tables.
        stays: columns ``hospitalization_id``, ``admission`` and ``stay_id``.
        hours: how many from admission.
        spool: takes the observations.
        left_out: takes rows that are there twice and tables that are absent.
    """
    for name, table in observed_tables().items():
        path = find(source, name)
        if path is None:
            left_out.append((f"clif_{name}", "table is absent"))
            continue
        volumes, twice = [], 0
        apart: dict[str, Kind] = dict.fromkeys(table.apart, "text")
        for block in read_columns(path, table.kinds(), maybe=apart):
            rows = _observations(block, table, stays, hours)
            once = rows.unique(maintain_order=True).drop("category", *apart)
            twice += len(rows) - len(once)
            if table.amount:
                millilitres = pl.col("unit").str.to_lowercase() == "ml"
                once = once.with_columns(unit=pl.when(millilitres).then(_RATE).otherwise("unit"))
                good = (pl.col("unit") == _RATE) & pl.col("hour").is_not_null()
                good &= pl.col("value").is_between(0, math.inf, closed="left")
                volumes.append(once.filter(good))
                once = once.filter(~good.fill_null(False))  # the spool says what is wrong
            spool.add(once)
        if volumes:
            spool.add(hourly_rates(pl.concat(volumes)).with_columns(unit=_RATE))
        note(left_out, f"clif_{name}", "rows that are there twice", twice)


def _observations(
    block: pl.DataFrame, table: Observed, stays: pl.DataFrame, hours: int
) -> pl.DataFrame:
    """Rows of the stays and hours wanted, of the variables of the table."""
    category = pl.col(table.category).str.to_lowercase() if table.category else pl.lit("")
    variables = {own: variable for own, (variable, _) in table.variables.items()}
    units = {own: unit for own, (_, unit) in table.variables.items()}
    if table.amount:
        units = dict.fromkeys(units, "mL")
    named = pl.col(table.unit).replace(dict.fromkeys(_NO_UNIT)) if table.unit else pl.lit(None)
    hour = (pl.col(table.time) - pl.col("admission")).dt.total_seconds() / 3600
    return (
        block.with_columns(category=category)
        .filter(pl.col("category").is_in(list(variables)))
        .join(stays, on=ID, maintain_order="left")
        .select(
            "stay_id",
            "category",
            *table.apart,
            hour=hour,
            value=pl.col(table.value),
            variable=pl.col("category").replace_strict(variables, return_dtype=pl.String),
            unit=pl.coalesce(
                named.cast(pl.String),
                pl.col("category").replace_strict(units, return_dtype=pl.String),
            ),
        )
        .filter(pl.col("hour").is_between(0, hours, closed="left") | pl.col("hour").is_null())
    )
