"""Rows of the small CSV files that come with public data sets."""

import csv
from collections.abc import Iterator
from pathlib import Path

from fedkim_core.errors import UserError


def csv_rows(
    path: Path, columns: tuple[str, ...], obtain: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with "file:row" of each; the header is row 1.

    Raises:
        UserError: the file or a column is missing, or a row is broken.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [name for name in columns if name not in (reader.fieldnames or ())]
            if absent:
                raise UserError(f"{path}: column {absent[0]!r} is missing; obtain {obtain}")
            for number, row in enumerate(reader, start=2):
                if any(row[name] is None for name in columns):
                    raise UserError(f"{path}:{number}: the row has too few columns")
                yield f"{path}:{number}", row
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing; obtain {obtain}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__})") from error
