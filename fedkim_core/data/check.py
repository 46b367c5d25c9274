"""Check a site folder against its contract: every fault at once, no patient value shown."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import yaml
from pydantic import ValidationError

from fedkim_core.data.check_tables import check_tables
from fedkim_core.data.contract import (
    CARD_FILE,
    EXAMPLES_FILE,
    EXAMPLES_SCHEMA,
    IMAGE_SUFFIXES,
    KIND_OF,
    REQUIRED,
    SPLITS,
    SiteCard,
    files_of,
    leaves_folder,
)
from fedkim_core.data.faults import at, read_frame, read_schema, unknown_columns, where
from fedkim_core.tasks import load_tasks


def check_site(folder: Path) -> list[str]:
    """Every fault of a site folder, as ``file:row: rule``; rows count from 1. Empty when good.

    Images and signals are looked for, not decoded.
    """
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    card, faults = read_card(folder)
    examples, problems = read_examples(folder)
    faults += problems
    if examples is not None:
        faults += _check_rows(examples, card)
        faults += _check_files(examples, folder)
    faults += check_tables(folder, examples)
    return faults


def read_card(folder: Path) -> tuple[SiteCard | None, list[str]]:
    """Read ``site.yaml``; the card is None when it cannot be understood."""
    try:
        values = yaml.safe_load((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, [f"{CARD_FILE}: file is missing"]
    except (OSError, UnicodeDecodeError):
        return None, [f"{CARD_FILE}: file cannot be read as UTF-8 text"]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return None, [f"{CARD_FILE}:{mark.line + 1 if mark else 1}: not YAML"]
    if not isinstance(values, dict):
        return None, [f"{CARD_FILE}:1: must be a mapping with name and tasks"]
    try:
        card = SiteCard.model_validate(values)
    except ValidationError as error:
        return None, [
            f"{CARD_FILE}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        ]
    known = load_tasks()
    return card, [
        f"{CARD_FILE}: tasks: unknown task {name!r}; known: {', '.join(known)}"
        for name in card.tasks
        if name not in known
    ]


def read_examples(folder: Path) -> tuple[pl.DataFrame | None, list[str]]:
    """Read ``examples.parquet`` with all columns of the contract, missing ones as null."""
    schema, faults = read_schema(folder / EXAMPLES_FILE)
    if schema is None:
        return None, faults
    for name in REQUIRED:
        if name not in schema:
            faults.append(f"{EXAMPLES_FILE}: column {name} is missing")
    faults += unknown_columns(EXAMPLES_FILE, schema, EXAMPLES_SCHEMA)
    for name, dtype in schema.items():
        if name in EXAMPLES_SCHEMA and dtype not in (pl.String, pl.Null):
            faults.append(f"{EXAMPLES_FILE}: column {name} must be string, not {dtype}")
    if faults:
        return None, faults
    frame, faults = read_frame(folder / EXAMPLES_FILE)
    if frame is None:
        return None, faults
    if frame.is_empty():
        return None, [f"{EXAMPLES_FILE}: holds no row"]
    columns = [
        (pl.col(name) if name in schema else pl.lit(None)).cast(pl.String).alias(name)
        for name in EXAMPLES_SCHEMA
    ]
    return frame.select(columns), []


def _check_rows(frame: pl.DataFrame, card: SiteCard | None) -> list[str]:
    cards = load_tasks()
    yes_no = [name for name, c in cards.items() if c.answer == "yes_no"]
    task, split, answer = pl.col("task"), pl.col("split"), pl.col("answer")
    filled = {name: pl.col(name).str.strip_chars().str.len_bytes() > 0 for name in EXAMPLES_SCHEMA}
    rules: list[tuple[pl.Expr, str]] = [
        (~filled[name].fill_null(False), f"{name} is empty") for name in REQUIRED
    ]
    rules += [
        (~filled[name], f"{name} is blank; leave it null when there is none")
        for name in ("question", *KIND_OF)
    ]
    rules += [
        (~pl.col("example_id").is_first_distinct(), "example_id is not unique"),
        (~task.is_in(list(cards)), f"task is none of: {', '.join(cards)}"),
        (~split.is_in(SPLITS), f"split is none of: {', '.join(SPLITS)}"),
        (
            task.is_in(yes_no) & ~answer.is_in(["yes", "no"]) & filled["answer"],
            "answer must be yes or no (lower case) for this task",
        ),
        (
            (split.first().over("patient_id") != split) & filled["patient_id"],
            "patient_id has rows in another split; a patient belongs to one split",
        ),
    ]
    if card is not None:
        offered = task.is_in(card.tasks)
        rules.append((task.is_in(list(cards)) & ~offered, f"task is not offered in {CARD_FILE}"))
    for name, task_card in cards.items():
        if task_card.encoded:
            absent = pl.all_horizontal(pl.col(m).is_null() for m in task_card.encoded)
            wanted = ", ".join(task_card.encoded)
            rules.append(((task == name) & absent, f"task needs at least one of: {wanted}"))
    return [
        fault for broken, rule in rules for fault in at(EXAMPLES_FILE, where(frame, broken), rule)
    ]


def _check_files(frame: pl.DataFrame, folder: Path) -> list[str]:
    """Look for every referenced image and signal once, and report at its first row."""
    root = os.path.realpath(folder)
    faults: dict[str, list[int]] = {}
    for modality, kind in KIND_OF.items():
        if kind == "table":
            continue
        for reference, row in _first_rows(frame, modality):
            for rule in _file_faults(root, modality, reference):
                faults.setdefault(f"{modality}: {rule}", []).append(row)
    return [fault for rule, rows in faults.items() for fault in at(EXAMPLES_FILE, rows, rule)]


def _first_rows(frame: pl.DataFrame, column: str) -> Iterator[tuple[str, int]]:
    firsts = frame.with_row_index("row").filter(
        pl.col(column).is_first_distinct() & (pl.col(column).str.strip_chars() != "")
    )
    yield from zip(firsts[column], firsts["row"], strict=True)


def _file_faults(root: str, modality: str, reference: str) -> Iterator[str]:
    if leaves_folder(reference):
        yield "path must be relative, with forward slashes, and stay inside the site folder"
        return
    if KIND_OF[modality] == "image" and not reference.lower().endswith(IMAGE_SUFFIXES):
        yield f"image must end in {' or '.join(IMAGE_SUFFIXES)}"
        return
    for name in files_of(modality, reference):
        real = os.path.realpath(os.path.join(root, name))
        what = "file" if KIND_OF[modality] == "image" else f"{name[-4:]} file"
        if not real.startswith(root + os.sep):
            yield f"{what} is a link that leaves the site folder"
        elif not os.path.isfile(real):
            yield f"{what} is missing"
        elif os.path.getsize(real) == 0:
            yield f"{what} is empty"
