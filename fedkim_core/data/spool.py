"""Observations of a hospital's tables, converted and written to disk as they come.

What every adapter of clinical tables ends with. Memory does not grow with the number of rows.
"""

from collections import Counter
from pathlib import Path

import polars as pl

from fedkim_core.data.contract import TABLE_MODALITIES, TABLES_SCHEMA
from fedkim_core.data.units import convert, variables
from fedkim_core.errors import UserError

_ROWS = 500_000  # in memory before they are written


class Spool:
    """Takes observations in the source's units and gives them back in those of the cards.

    Rows are dropped and counted, see :meth:`left_out`, when the value is no number, the time is
    missing or before admission, the unit is unknown, or the value outside the plausible range of
    ``conf/modality``.

    Args:
        scratch: a folder for parquet files; they must stay until :meth:`scan` has been read.
    """

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch = scratch
        self._parts: list[Path] = []
        self._waiting: list[pl.DataFrame] = []
        self._held = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._stays: dict[str, set[str]] = {name: set() for name in sorted(TABLE_MODALITIES)}

    def add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add observations; many at a time is faster than one at a time.

        Args:
            rows: columns ``stay_id`` (string), ``hour`` (number: hours since admission, floored
                here), ``variable`` (a name of ``conf/modality``), ``value`` (number), ``unit``
                (string: the source's unit, or null).

        Returns:
            The rows kept, as ``TABLES_SCHEMA``.

        Raises:
            UserError: a variable that no card lists, a mistake in the data set's table of names.
        """
        cards = _cards()
        unknown = set(rows["variable"].unique()) - set(cards["variable"])
        if unknown:
            raise UserError(f"variable {min(map(str, unknown))!r}: no card in conf/modality")
        rows = rows.with_columns(pl.col("hour", "value").cast(pl.Float64))
        number = rows["value"].is_finite().fill_null(False)
        rows = convert(rows).join(cards, on="variable", how="left", maintain_order="left")
        hour, value = pl.col("hour"), pl.col("value")
        slack = 1e-6 * (pl.col("high") - pl.col("low"))  # as the check of a site folder has it
        reason = (
            pl.when(~pl.lit(number))
            .then(pl.lit("without a number"))
            .when(~hour.is_finite().fill_null(False) | (hour > 2**31 - 1))
            .then(pl.lit("without a valid time"))
            .when(hour < 0)
            .then(pl.lit("before admission"))
            .when(pl.col("unit").is_null())
            .then(pl.lit("in an unknown unit"))
            .when(~value.is_between(pl.col("low") - slack, pl.col("high") + slack))
            .then(pl.col("outside"))
        )
        rows = rows.with_columns(reason=reason)
        dropped = rows.filter(pl.col("reason").is_not_null())
        name = pl.concat_str("modality", "variable", separator="/")
        for record, why, count in dropped.group_by(name, "reason").len().iter_rows():
            self._dropped[record, why] += count
        kept = rows.filter(pl.col("reason").is_null()).with_columns(hour.floor())
        kept = kept.select(TABLES_SCHEMA.names()).cast(TABLES_SCHEMA)
        self._keep(kept)
        return kept

    def _keep(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        for modality, stay in rows.select("modality", "stay_id").unique().iter_rows():
            self._stays[modality].add(stay)
        self._waiting.append(rows)
        self._held += len(rows)
        if self._held >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            path = self._scratch / f"tables-{len(self._parts):06d}.parquet"
            pl.concat(self._waiting).write_parquet(path)
            self._parts.append(path)
            self._waiting, self._held = [], 0

    def scan(self) -> pl.LazyFrame:
        """All observations kept, as ``TABLES_SCHEMA``, in the order in which they were added."""
        self._flush()
        if not self._parts:
            return pl.LazyFrame(schema=TABLES_SCHEMA)
        return pl.scan_parquet(self._parts, glob=False)

    def stays(self) -> dict[str, set[str]]:
        """By modality: the stays that have at least one observation."""
        return self._stays

    def leave_out(self, record: str, reason: str, count: int) -> None:
        """Count values that the caller leaves out itself, as ``labs/pao2`` and why."""
        if count:
            self._dropped[record, reason] += count

    def left_out(self) -> list[tuple[str, str]]:
        """What was dropped: one line for each variable and reason, with the number of values."""
        return [
            (record, f"{count} {'value' if count == 1 else 'values'} {why}")
            for (record, why), count in sorted(self._dropped.items())
        ]


def _cards() -> pl.DataFrame:
    rows = [
        (modality, name, v.low, v.high, f"outside {v.low:g}..{v.high:g} {v.unit}")
        for name, (modality, v) in variables().items()
    ]
    columns = ["modality", "variable", "low", "high", "outside"]
    return pl.DataFrame(rows, schema=columns, orient="row")
