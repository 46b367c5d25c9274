"""One flat list of events of all stays, on disk."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

EVENTS = pl.Schema(
    {
        "stay": pl.Int32(),
        "variable": pl.String(),
        "item": pl.Int64(),
        "hour": pl.Float64(),  # since ICU admission
        "end": pl.Float64(),  # of an infusion
        "value": pl.Float64(),
        "unit": pl.String(),
        "weight": pl.Float64(),  # kg, where the row names it
        "key": pl.Int64(),  # order, specimen, or number of the calendar day
        "note": pl.String(),  # the kind of specimen, or what else matters
        "void": pl.String(),  # why the row is not used
    }
)
_ROWS = 500_000
"""In memory at once."""


class Events:
    """Events of all stays, in parquet files in ``scratch``."""

    def __init__(self, scratch: Path, stays: pl.DataFrame) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch, self._count = scratch, len(stays)
        self._parts: list[Path] = []
        self._waiting: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Columns of ``EVENTS``; those left out are null."""
        absent = [
            pl.lit(None, kind).alias(n) for n, kind in EVENTS.items() if n not in rows.columns
        ]
        self._waiting.append(rows.with_columns(absent).select(EVENTS.names()).cast(EVENTS))
        if sum(map(len, self._waiting)) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        """Sorted by stay and in small groups of rows, so that a reader can skip most of them."""
        if self._waiting:
            path = self._scratch / f"events-{len(self._parts):06d}.parquet"
            rows = pl.concat(self._waiting).sort("stay", maintain_order=True)
            rows.write_parquet(path, row_group_size=16_384)
            self._parts.append(path)
            self._waiting = []

    def groups(self) -> Iterator[pl.DataFrame]:
        """All events of as many stays at a time as fit, in order."""
        self._flush()
        if not self._parts:
            return
        table = pl.scan_parquet(self._parts, glob=False)
        rows = table.select(pl.len()).collect().item()
        size = max(1, self._count * _ROWS // max(rows, 1))
        for first in range(0, self._count, size):
            yield table.filter(pl.col("stay").is_between(first, first + size - 1)).collect()
