"""Check the files and stays that the rows of a site folder refer to; decode them when asked."""

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fedkim_core.data.contract import (
    EXAMPLES_FILE,
    IMAGE_SUFFIXES,
    KIND_OF,
    files_of,
    leaves_folder,
)
from fedkim_core.data.examine import examine
from fedkim_core.data.faults import LISTED, at
from fedkim_core.data.threads import in_threads
from fedkim_core.errors import UserError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class _File(NamedTuple):
    """An image or signal, at the first row that refers to it."""

    modality: str
    reference: str
    row: int
    place: str
    """Its path with links followed: what makes two references the same file."""
    rules: tuple[str, ...]
    """That it breaks."""


def check_files(
    examples: pl.DataFrame, folder: Path, *, decode: bool = False, progress: Progress | None = None
) -> list[str]:
    """Look for every image and signal, and decode those that are there when asked.

    A fault is reported at the file's first row; a file or stay of two patients at the first row of
    the second patient. With ``decode``, the same content under two patients is a fault too: it is
    not the picture of one of them, or the two are one, who must not come into two splits.

    Raises:
        UserError: the memory ran out while decoding.
    """
    uses = _uses(examples)
    find = _Finder(folder)
    firsts = uses.filter(pl.col("kind") != "table").unique(
        ["modality", "reference"], keep="first", maintain_order=True
    )
    files = [
        _File(modality, reference, row, *find(modality, reference))
        for modality, reference, row in firsts.select("modality", "reference", "row").iter_rows()
    ]
    faults: dict[str, list[int]] = {}
    for file in files:
        for rule in file.rules:
            faults.setdefault(f"{file.modality}: {rule}", []).append(file.row)
    for modality, row in _shared(uses, files):
        what = "stay" if KIND_OF[modality] == "table" else "file"
        faults.setdefault(f"{modality}: the {what} is another patient's too", []).append(row)
    copies: list[str] = []
    if decode:
        there = [file for file in files if not file.rules]
        contents = []
        for file, (content, rule) in zip(there, _examine(folder, there, progress), strict=True):
            if rule:
                faults.setdefault(f"{file.modality}: {rule}", []).append(file.row)
            else:
                contents.append((file.modality, file.reference, content))
        copies = _copies(uses, contents)
    found = [fault for rule, rows in faults.items() for fault in at(EXAMPLES_FILE, rows, rule)]
    return found + copies


def _uses(examples: pl.DataFrame) -> pl.DataFrame:
    """One row for each modality of an example, in the order of the examples.

    Columns row, patient_id, modality, kind, reference.
    """
    rows = examples.with_row_index("row")
    parts = [
        rows.filter(pl.col(name).str.strip_chars() != "").select(
            "row",
            "patient_id",
            modality=pl.lit(name),
            kind=pl.lit(kind),
            reference=pl.col(name),
        )
        for name, kind in KIND_OF.items()
    ]
    return pl.concat(parts).sort("row", maintain_order=True)


class _Finder:
    """Says of a reference where its file is and which rules it breaks.

    Links are followed once for each folder, and each file costs one ``lstat``: a hospital has tens
    of thousands of files in a few folders, and each run looks for all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._root = os.path.realpath(folder)
        self._real = cache(os.path.realpath)

    def __call__(self, modality: str, reference: str) -> tuple[str, tuple[str, ...]]:
        if leaves_folder(reference):
            rule = "path must be relative, with forward slashes, and stay inside the site folder"
            return reference, (rule,)
        if KIND_OF[modality] == "image" and not reference.lower().endswith(IMAGE_SUFFIXES):
            return reference, (f"image must end in {' or '.join(IMAGE_SUFFIXES)}",)
        rules, path = [], ""
        for name in files_of(modality, reference):
            path, rule = self._look(name)
            if rule:
                what = "file" if KIND_OF[modality] == "image" else f"{name[-4:]} file"
                rules.append(f"{what} {rule}")
        return path, tuple(rules)

    def _look(self, name: str) -> tuple[str, str]:
        parent, _, last = name.rpartition("/")
        path = f"{self._real(f'{self._root}/{parent}')}/{last}"
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                path = os.path.realpath(path)
                found = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name that the file system cannot have
            found = None
        if not path.startswith(f"{self._root}/"):
            return path, "is a link that leaves the site folder"
        if found is None or not stat.S_ISREG(found.st_mode):
            return path, "is missing"
        return path, "" if found.st_size else "is empty"


def _shared(uses: pl.DataFrame, files: Sequence[_File]) -> Iterator[tuple[str, int]]:
    """Modality and row of every file and stay that was an earlier patient's.

    A file is its path with links followed; a stay is the same in all four tables.
    """
    columns = {"modality": pl.String, "reference": pl.String, "thing": pl.String}
    places = [(file.modality, file.reference, file.place) for file in files]
    rows = (
        uses.drop_nulls("patient_id")
        .join(
            pl.DataFrame(places, schema=columns, orient="row"),
            on=["modality", "reference"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.coalesce("thing", "reference").alias("thing"))
    )
    first = pl.col("patient_id").first().over("kind", "thing")
    again = rows.filter(pl.col("patient_id") != first)
    again = again.unique(["kind", "thing", "patient_id"], keep="first", maintain_order=True)
    yield from again.select("modality", "row").iter_rows()


def _examine(
    folder: Path, files: Sequence[_File], progress: Progress | None
) -> list[tuple[str, str]]:
    """Of each file its content and the rule that it breaks, see :func:`examine`."""
    results = [("", "")] * len(files)

    def one(number: int) -> None:
        results[number] = examine(folder, files[number].modality, files[number].reference)

    def begun() -> Iterator[int]:
        for number in range(len(files)):
            if progress:
                progress("reading images and signals", number, len(files))
            yield number

    try:
        with warnings.catch_warnings():
            # Threads share the filters. Decoders' warnings quote the file.
            warnings.simplefilter("ignore")
            in_threads(one, begun())
    except MemoryError as error:
        raise UserError(
            f"{folder}: the memory ran out while images and signals were read; free some, or check "
            "with --quick"
        ) from error
    if progress and files:
        progress("reading images and signals", len(files), len(files))
    return results


def _copies(uses: pl.DataFrame, contents: list[tuple[str, str, str]]) -> list[str]:
    columns = {"modality": pl.String, "reference": pl.String, "content": pl.String}
    rows = (
        uses.join(
            pl.DataFrame(contents, schema=columns, orient="row"), on=["modality", "reference"]
        )
        .sort("row", maintain_order=True)
        .with_columns(pl.col("row", "patient_id").first().over("content").name.prefix("_"))
        .filter(pl.col("patient_id") != pl.col("_patient_id"))
        .unique(["content", "patient_id"], keep="first", maintain_order=True)
    )
    faults = [
        f"{EXAMPLES_FILE}:{row + 1}: {modality}: same content as in row {earlier + 1}, which is "
        "another patient's"
        for row, modality, earlier in rows.select("row", "modality", "_row").iter_rows()
    ]
    if (more := len(faults) - LISTED) > 0:
        rule = "same content as in a row of another patient"
        faults[LISTED:] = [f"{EXAMPLES_FILE}: {more} more rows: {rule}"]
    return faults
