"""How the files of an export are written and what their columns hold, from their beginning."""

import codecs
import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedkim_core.data.blocks import ROW, TABLE_ENDINGS, blocks, header_of
from fedkim_core.data.hospital import cells
from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.hospital.proposal.synonyms import bare, plain, role_words, variable_of
from fedkim_core.errors import UserError

BYTES = 2**20
ROWS = 50_000
MOST = 0.9
"""Share of the filled cells that must agree."""
TIMES = (
    "",
    *(f"{day}{clock}" for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d")
      for clock in (" %H:%M:%S", " %H:%M", "")),
    "%Y%m%d%H%M%S",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """The beginning of one file."""

    name: str
    format: Format
    rows: pl.DataFrame
    evident: frozenset[str] = frozenset()
    """Fields of the format that the file itself shows; the others are defaults."""

    @property
    def columns(self) -> list[str]:
        return [name for name in self.rows.columns if name != ROW]

    def _share(self, column: str, read: Callable[..., pl.Expr], style: Format) -> float:
        filled = self.rows.select(cells.text(self.rows, column, style).is_not_null().sum()).item()
        understood = self.rows.select(read(self.rows, column, style).is_not_null().sum()).item()
        return understood / filled if filled else 0.0

    def is_number(self, column: str) -> bool:
        return self._share(column, cells.number, self.format) >= MOST / 2  # limits, remarks

    def is_time(self, column: str) -> bool:
        return self._share(column, cells.time, self.format) >= MOST

    def is_date(self, column: str) -> bool:
        """Whether the cells are times in any format, also in another than the file's own."""
        styles = (self.format.model_copy(update={"datetime": pattern}) for pattern in TIMES)
        return any(self._share(column, cells.time, style) >= MOST for style in styles)

    def texts(self, column: str) -> pl.Series:
        """Cell by cell, empty ones null."""
        return self.rows.select(cells.text(self.rows, column, self.format)).to_series()

    def numbers(self, column: str) -> pl.Series:
        return self.rows.select(cells.number(self.rows, column, self.format)).to_series()

    def column(self, role: str) -> str | None:
        """The column that is called like a role; one with times must also look like it."""
        timed = role in ("time", "admitted", "discharged")
        for word in role_words(role):
            for name in self.columns:
                if plain(bare(name)) == plain(word) and (self.is_time(name) or not timed):
                    return name
        return None

    def variables(self) -> list[str]:
        """Columns that are called like a variable and hold numbers."""
        return [name for name in self.columns if variable_of(name) and self.is_number(name)]

    @property
    def is_stays(self) -> bool:
        return all(self.column(role) for role in ("stay", "patient", "admitted"))

    @property
    def shape(self) -> str:
        """``long`` or ``wide`` when the file holds observations, otherwise nothing."""
        if not self.column("stay") or not (self.column("time") or self.column("hours")):
            return ""
        if self.column("name") and self.column("value"):
            return "long"
        return "wide" if self.variables() else ""


def tables_in(folder: Path) -> list[str]:
    """Every file that may hold a table, by its path below the folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in found]
    return sorted(name for name in names if name.lower().endswith(TABLE_ENDINGS))


def look_at(folder: Path, name: str) -> Seen:
    """Read the beginning of a file and find out how it is written.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / name
    found: dict[str, str] = {} if path.suffix == ".parquet" else _text_form(path)
    form = Format.model_validate(found)
    names = header_of(path, delimiter=form.delimiter, encoding=form.encoding)
    unique = [column for column in names if column and names.count(column) == 1]
    block = next(blocks(path, unique, delimiter=form.delimiter, encoding=form.encoding), None)
    rows = pl.DataFrame(schema=dict.fromkeys(unique, pl.String)) if block is None else block
    rows = rows.head(ROWS)
    found |= _decimal(rows)
    form = Format.model_validate(found)
    found |= _datetime(rows, form)
    return Seen(name, Format.model_validate(found), rows, frozenset(found))


def _text_form(path: Path) -> dict[str, str]:
    """Delimiter and encoding of a CSV file; of plain ASCII any encoding may be meant."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__})") from error
    try:
        text, found = codecs.getincrementaldecoder("utf-8")().decode(start), {"encoding": "utf-8"}
    except UnicodeDecodeError:
        text, found = start.decode("cp1252", errors="replace"), {"encoding": "cp1252"}
    if start.isascii():
        del found["encoding"]
    header = text.partition("\n")[0]
    delimiter = max(";\t|,", key=header.count)
    return found | ({"delimiter": delimiter} if delimiter in header else {})


def _texts(rows: pl.DataFrame) -> list[str]:
    return [name for name, dtype in rows.schema.items() if dtype == pl.String]


def _decimal(rows: pl.DataFrame) -> dict[str, str]:
    """The sign that stands in most numbers with a fraction."""
    counts = {
        sign: sum(
            rows[name].str.contains(rf"^\s*-?\d+{re.escape(sign)}\d+\s*$").sum()
            for name in _texts(rows)
        )
        for sign in (".", ",")
    }
    return {"decimal": max(counts, key=lambda sign: counts[sign])} if any(counts.values()) else {}


def _datetime(rows: pl.DataFrame, form: Format) -> dict[str, str]:
    """The format of times that fits most columns; of equals, the first of the list."""
    fitting = {}
    for pattern in TIMES:
        seen = Seen("", form.model_copy(update={"datetime": pattern}), rows)
        fitting[pattern] = sum(seen.is_time(name) for name in _texts(rows))
    best = max(TIMES, key=lambda pattern: fitting[pattern])
    return {"datetime": best} if fitting[best] else {}
