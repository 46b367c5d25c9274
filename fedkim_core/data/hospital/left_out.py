"""What of an export could not be used: counted, listed by file and row, and never quoted."""

import csv
from collections import Counter
from pathlib import Path

import polars as pl

_NAMED = 5
"""Rows of one file and reason that are named; the others are counted."""


class Unusable(Exception):
    """A row, or the file that it names, cannot be used; the text is the reason, without a value."""


class LeftOut:
    """Collects what was left out."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str]] = []
        """Single records: name, such as ``ecg.csv:17``, and reason."""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], list[int]] = {}

    def add(self, record: str, reason: str) -> None:
        self.records.append((record, reason))

    def count(self, record: str, reason: str, rows: pl.Series) -> None:
        """Values of one file that share a reason, by their rows; they are told together."""
        key = (record, reason)
        self._counts[key] += len(rows)
        first = self._first.setdefault(key, [])
        first += rows.head(_NAMED - len(first)).to_list()

    def most_often(self, file: str) -> str:
        """The reason that most values of a file share."""
        counts = Counter[str]()
        for (record, reason), number in self._counts.items():
            if record.startswith(file):
                counts[reason] += number
        return counts.most_common(1)[0][0] if counts else "it holds no row"

    def write(self, path: Path) -> int:
        """Write the list, columns record and reason; returns the number of lines."""
        lines = list(self.records)
        for (record, reason), number in sorted(self._counts.items()):
            rows = ", ".join(map(str, self._first[record, reason]))
            some = "first rows" if number > _NAMED else "rows" if number > 1 else "row"
            values = "values" if number > 1 else "value"
            lines.append((record, f"{number} {values} {reason}; {some} {rows}"))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("record", "reason"))
            writer.writerows(lines)
        return len(lines)
