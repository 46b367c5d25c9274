"""Check the files and stays that the rows of a site folder refer to; decode them when asked."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import torch

from fedkim_core.data.contract import (
    EXAMPLES_FILE,
    IMAGE_SUFFIXES,
    KIND_OF,
    files_of,
    leaves_folder,
)
from fedkim_core.data.examine import examine
from fedkim_core.data.faults import LISTED, at
from fedkim_core.errors import UserError

SERIAL_BELOW = 64
"""So few files are read before other processes have started."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def check_references(examples: pl.DataFrame, folder: Path) -> list[str]:
    """Look for every image and signal, and report a fault at its first row.

    A file or stay of two patients is reported at the first row of the second patient.
    """
    root, real = os.path.realpath(folder), cache(os.path.realpath)
    faults: dict[str, list[int]] = {}
    for modality, reference, row in _files(examples):
        for rule in _file_faults(root, modality, reference, real):
            faults.setdefault(f"{modality}: {rule}", []).append(row)
    for modality, row in _shared(examples, root, real):
        what = "stay" if KIND_OF[modality] == "table" else "file"
        faults.setdefault(f"{modality}: the {what} is another patient's too", []).append(row)
    return [fault for rule, rows in faults.items() for fault in at(EXAMPLES_FILE, rows, rule)]


def check_contents(
    examples: pl.DataFrame, folder: Path, progress: Progress | None = None
) -> list[str]:
    """Decode every image and signal that is there, on all cores.

    A fault is reported at the file's first row. The same content under two patients of different
    splits is one: a copy of what is trained on must not be tested on.

    Raises:
        UserError: the system ended a process, as it does when memory runs out.
    """
    root = os.path.realpath(folder)
    files = [file for file in _files(examples) if not any(_file_faults(root, *file[:2]))]
    faults: dict[str, list[int]] = {}
    contents: list[tuple[str, str, str]] = []
    try:
        results = _examine_all(root, [file[:2] for file in files])
        for done, (modality, reference, row) in enumerate(files, start=1):
            content, rule = next(results)
            if rule:
                faults.setdefault(f"{modality}: {rule}", []).append(row)
            else:
                contents.append((modality, reference, content))
            if progress:
                progress("reading images and signals", done, len(files))
    except BrokenProcessPool as error:
        raise UserError(
            f"{folder}: a process that read images and signals was ended by the system, as happens "
            "when memory runs out; free some, or check with --quick"
        ) from error
    found = [fault for rule, rows in faults.items() for fault in at(EXAMPLES_FILE, rows, rule)]
    return found + _copies(examples, contents)


def _references(examples: pl.DataFrame) -> pl.DataFrame:
    """One row for each modality of an example, in the order of the examples.

    Columns row, patient_id, split, modality, kind, reference.
    """
    rows = examples.with_row_index("row")
    parts = [
        rows.filter(pl.col(name).str.strip_chars() != "").select(
            "row",
            "patient_id",
            "split",
            modality=pl.lit(name),
            kind=pl.lit(kind),
            reference=pl.col(name),
        )
        for name, kind in KIND_OF.items()
    ]
    return pl.concat(parts).sort("row", maintain_order=True)


def _files(examples: pl.DataFrame) -> Iterator[tuple[str, str, int]]:
    """Modality, reference and first row of every image and signal, each once."""
    files = _references(examples).filter(pl.col("kind") != "table")
    firsts = files.unique(["modality", "reference"], keep="first", maintain_order=True)
    yield from firsts.select("modality", "reference", "row").iter_rows()


def _file_faults(
    root: str, modality: str, reference: str, real: Callable[[str], str] = os.path.realpath
) -> Iterator[str]:
    if leaves_folder(reference):
        yield "path must be relative, with forward slashes, and stay inside the site folder"
        return
    if KIND_OF[modality] == "image" and not reference.lower().endswith(IMAGE_SUFFIXES):
        yield f"image must end in {' or '.join(IMAGE_SUFFIXES)}"
        return
    for name in files_of(modality, reference):
        path = real(os.path.join(root, name))
        what = "file" if KIND_OF[modality] == "image" else f"{name[-4:]} file"
        if not path.startswith(root + os.sep):
            yield f"{what} is a link that leaves the site folder"
        elif not os.path.isfile(path):
            yield f"{what} is missing"
        elif os.path.getsize(path) == 0:
            yield f"{what} is empty"


def _shared(
    examples: pl.DataFrame, root: str, real: Callable[[str], str]
) -> Iterator[tuple[str, int]]:
    """Modality and row of every file and stay that was an earlier patient's.

    A file is its path with links followed; a stay is the same in all four tables.
    """

    paths = {
        (modality, reference): real(os.path.join(root, files_of(modality, reference)[-1]))
        for modality, reference, _ in _files(examples)
        if not leaves_folder(reference)
    }
    rows = _references(examples).drop_nulls("patient_id")
    things = [paths.get(key, key[1]) for key in rows.select("modality", "reference").iter_rows()]
    rows = rows.with_columns(thing=pl.Series(things, dtype=pl.String))
    first = pl.col("patient_id").first().over("kind", "thing")
    again = rows.filter(pl.col("patient_id") != first)
    again = again.unique(["kind", "thing", "patient_id"], keep="first", maintain_order=True)
    yield from again.select("modality", "row").iter_rows()


def _examine_all(root: str, files: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    if len(files) < SERIAL_BELOW:
        yield from map(partial(examine, root), files)
        return
    # Spawned, because torch has threads that a fork would copy halfway through their work.
    with ProcessPoolExecutor(
        mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(partial(examine, root), files, chunksize=8)


def _copies(examples: pl.DataFrame, contents: list[tuple[str, str, str]]) -> list[str]:
    columns = {"modality": pl.String, "reference": pl.String, "content": pl.String}
    rows = (
        _references(examples)
        .join(pl.DataFrame(contents, schema=columns, orient="row"), on=["modality", "reference"])
        .sort("row", maintain_order=True)
        .with_columns(pl.col("row", "patient_id", "split").first().over("content").name.prefix("_"))
        .filter(pl.col("patient_id") != pl.col("_patient_id"), pl.col("split") != pl.col("_split"))
        .unique(["content", "patient_id"], keep="first", maintain_order=True)
    )
    faults = [
        f"{EXAMPLES_FILE}:{row + 1}: {modality}: same content as in row {earlier + 1}, which is "
        "another patient's in another split"
        for row, modality, earlier in rows.select("row", "modality", "_row").iter_rows()
    ]
    if (more := len(faults) - LISTED) > 0:
        rule = "same content as in a row of another patient in another split"
        faults[LISTED:] = [f"{EXAMPLES_FILE}: {more} more rows: {rule}"]
    return faults
