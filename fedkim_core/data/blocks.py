"""Read a table that a hospital exported, block by block and as it is written.

Memory holds one block, whatever the size of the file. Rows count from 1 and the header is row 1,
so that a row of a CSV file has the number that a spreadsheet shows.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import polars as pl

from fedkim_core.errors import UserError

ROW = "row of the file"
"""Name of the added column. No export has a column of this name by accident."""
TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
CHARACTERS = 4 * 2**20
"""Of a CSV file that are held at once."""
_LONGEST_RECORD = 4 * CHARACTERS
_PARQUET_ROWS = 250_000


def header_of(path: Path, *, delimiter: str, encoding: str) -> list[str]:
    """Names of the columns, stripped.

    Raises:
        UserError: as :func:`blocks`.
    """
    if path.suffix == ".parquet":
        return list(_parquet_schema(path))
    return _names(path, next(_records(path, encoding))[1], delimiter)


def blocks(
    path: Path, columns: Collection[str], *, delimiter: str, encoding: str
) -> Iterator[pl.DataFrame]:
    """The named columns of a file, in blocks, with the row number of each row in :data:`ROW`.

    Columns of CSV files are strings, an empty cell is null; those of parquet files keep their type.

    Args:
        path: a CSV file (delimited text of any ending, also gzipped) or ``.parquet``.
        columns: names in the header.
        delimiter: between the fields of a CSV file.
        encoding: of a CSV file, a name that Python knows. A byte order mark is skipped.

    Raises:
        UserError: missing, cut off, other encoding, a column is missing or not unique, a row has
            more or fewer fields than the header.
    """
    wanted = list(dict.fromkeys(columns))
    if path.suffix == ".parquet":
        yield from _parquet_blocks(path, wanted)
        return
    records = _records(path, encoding)
    names = _names(path, next(records)[1], delimiter)
    _check_columns(path, wanted, names)
    positions = [str(names.index(name)) for name in wanted]
    schema = {str(i): pl.String() for i in range(len(names))}
    for first, text in records:
        frame = _parse(path, first, text, delimiter, schema)
        part = frame.select(pl.col(p).alias(n) for p, n in zip(positions, wanted, strict=True))
        yield part.with_row_index(ROW, offset=first)


def _check_columns(path: Path, wanted: list[str], names: list[str]) -> None:
    """The header is not quoted: a table exported without one has patient values in its place."""
    for name in wanted:
        if name not in names:
            count = "1 column" if len(names) == 1 else f"{len(names)} columns"
            raise UserError(
                f"{path}:1: column {name!r} is missing (the header has {count});"
                " check its spelling, and the delimiter and encoding that are stated"
            )
        if names.count(name) > 1:
            raise UserError(f"{path}:1: the header has column {name!r} twice; rename one")


def _names(path: Path, header: str, delimiter: str) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error as error:
        raise UserError(f"{path}:1: the header cannot be read as CSV") from error
    if not any(names):
        raise UserError(f"{path}:1: the file has no header")
    return names


def _records(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """The header, then blocks of whole records, each with the number of its first row."""
    try:
        with _open(path, encoding) as file:
            text = file.read(CHARACTERS)
            end = _end_of_record(text, first=True) or len(text)
            yield 1, text[:end]
            rest, row = text[end:], 2
            while True:
                more = file.read(CHARACTERS)
                rest += more
                end = _end_of_record(rest) if more else len(rest)
                if end:
                    yield row, rest[:end]
                    row += _rows_in(rest[:end])
                    rest = rest[end:]
                if not more:
                    return
                if len(rest) > _LONGEST_RECORD:
                    raise UserError(f"{path}:{row}: a quotation mark is opened and never closed")
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not {encoding}; state its encoding, such as latin-1"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the gzip file is damaged or cut off; export it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'input error'})") from error


def _open(path: Path, encoding: str) -> io.TextIOBase:
    """Universal newlines; UTF-8 with or without a byte order mark."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding)
    return path.open(encoding=encoding)


def _end_of_record(text: str, *, first: bool = False) -> int:
    """Where the last (or first) whole record ends; 0 when none does.

    A line break ends a record unless it stands between quotation marks, that is, after an odd
    number of them.
    """
    if first:
        start, end = 0, text.find("\n")
        marks = text.count('"', start, max(end, 0))
        while end >= 0 and marks % 2:
            start, end = end, text.find("\n", end + 1)
            marks += text.count('"', start, max(end, 0))
        return end + 1
    end = text.rfind("\n")
    before = text.count('"', 0, end) if end >= 0 else 0
    while end >= 0 and before % 2:
        earlier = text.rfind("\n", 0, end)
        before -= text.count('"', max(earlier, 0), end)
        end = earlier
    return end + 1


def _rows_in(text: str) -> int:
    if '"' not in text:
        return text.count("\n")
    # Even pieces lie outside quotation marks.
    return sum(piece.count("\n") for piece in text.split('"')[::2])


def _parse(
    path: Path, first: int, text: str, delimiter: str, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    try:
        frame = pl.read_csv(
            text.encode(), separator=delimiter, has_header=False, schema=schema, low_memory=True
        )
    except pl.exceptions.PolarsError as error:
        fault = _wrong_row(path, first, text, delimiter, len(schema))
        rule = "this row or one of those below cannot be read as CSV"
        raise fault or UserError(f"{path}:{first}: {rule}") from error
    # Polars fills a row that has too few fields. Without quoted text, counting shows it.
    counted = text.count(delimiter) == frame.height * (len(schema) - 1)
    if not counted and (fault := _wrong_row(path, first, text, delimiter, len(schema))):
        raise fault
    return frame


def _wrong_row(path: Path, first: int, text: str, delimiter: str, fields: int) -> UserError | None:
    """The first row that has too few or too many fields, if there is one."""
    row = first
    try:
        for cells in csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter):
            if cells and len(cells) != fields:
                few = "fewer" if len(cells) < fields else "more"
                return UserError(f"{path}:{row}: the row has {few} fields than the header")
            row += 1
    except csv.Error:
        return UserError(f"{path}:{row}: the row cannot be read as CSV")
    return None


def _parquet_schema(path: Path) -> pl.Schema:
    try:
        return pl.Schema(pl.read_parquet_schema(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: file is not readable parquet") from error


def _parquet_blocks(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    schema = _parquet_schema(path)
    _check_columns(path, columns, list(schema))
    for name in columns:
        if schema[name].is_nested() or schema[name] == pl.Binary:
            raise UserError(f"{path}: column {name!r} must hold text, numbers or times")
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(columns)
    try:
        rows = frame.select(pl.len()).collect().item()
        for start in range(0, rows, _PARQUET_ROWS):
            part = frame.slice(start, _PARQUET_ROWS).collect()
            yield part.with_row_index(ROW, offset=start + 2)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: file is not readable parquet") from error
