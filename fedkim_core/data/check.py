"""Check a site folder against its contract: every fault at once, no patient value shown."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import ValidationError

from fedkim_core.data.check_files import Progress, check_files
from fedkim_core.data.check_tables import check_tables
from fedkim_core.data.contract import (
    AGE_BAND,
    CARD_FILE,
    EXAMPLES_FILE,
    EXAMPLES_SCHEMA,
    KIND_OF,
    REQUIRED,
    SEXES,
    SPLITS,
    SiteCard,
)
from fedkim_core.data.faults import (
    NOT_PARQUET,
    UNREADABLE,
    at,
    leaves_by_link,
    read_schema,
    scan,
    unknown_columns,
    where,
    wrong_type,
)
from fedkim_core.tasks import load_tasks

MAX_CARD_BYTES = 1 << 20
_TWICE = "a key is given twice"


def check_site(
    folder: Path, *, decode: bool = False, progress: Progress | None = None
) -> list[str]:
    """Every fault of a site folder, as ``file:row: rule``; rows count from 1. Empty when good.

    Args:
        folder: the site folder.
        decode: read every image and signal as well (minutes for a large folder); without it they
            are only looked for.
        progress: told how many of them are read.

    Raises:
        UserError: the machine ran out of memory while decoding.
    """
    return read_site(folder, decode=decode, progress=progress)[2]


def read_site(
    folder: Path, *, decode: bool = False, progress: Progress | None = None
) -> tuple[SiteCard | None, pl.DataFrame | None, list[str]]:
    """The card and the examples of a site folder, if they can be read, and :func:`check_site`."""
    if not folder.is_dir():
        return None, None, [f"{folder}: no such folder"]
    card, faults = read_card(folder)
    examples, problems = read_examples(folder)
    faults += problems
    if examples is not None:
        faults += _check_rows(examples, card)
        faults += check_files(examples, folder, decode=decode, progress=progress)
    faults += check_tables(folder, examples)
    return card, examples, faults


def read_card(folder: Path) -> tuple[SiteCard | None, list[str]]:
    """Read ``site.yaml``; the card is None when it cannot be understood."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None, [f"{CARD_FILE}: file is missing"]
    if leaves_by_link(path):
        return None, [f"{CARD_FILE}: file is a link that leaves the site folder"]
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            return None, [f"{CARD_FILE}: file is larger than 1 MiB"]
        values = yaml.load(path.read_text(encoding="utf-8"), _CardLoader)
    except (OSError, UnicodeDecodeError):
        return None, [f"{CARD_FILE}: file cannot be read as UTF-8 text"]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return None, [f"{CARD_FILE}:{line}: {_TWICE if error.problem == _TWICE else 'not YAML'}"]
    except Exception:  # YAML's constructors raise whatever a month 13 or !!bool maybe trips
        return None, [f"{CARD_FILE}:1: not YAML"]
    if not isinstance(values, dict):
        return None, [f"{CARD_FILE}:1: must be a mapping with name and tasks"]
    fields = SiteCard.model_fields
    faults = [
        f"{CARD_FILE}: key {position} has an unknown name; known: {', '.join(fields)}"
        for position, key in enumerate(values, start=1)
        if key not in fields
    ]
    try:
        card = SiteCard.model_validate({key: values[key] for key in fields if key in values})
    except ValidationError as error:
        return None, faults + [
            f"{CARD_FILE}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        ]
    known = load_tasks()
    return card, faults + [
        f"{CARD_FILE}: tasks: unknown task {name!r}; known: {', '.join(known)}"
        for name in card.tasks
        if name not in known
    ]


class _CardLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the parent class refuses it
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=_TWICE, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
            faults.append(wrong_type(EXAMPLES_FILE, name, "string", dtype))
    if faults:
        return None, faults
    try:
        frame = scan(folder / EXAMPLES_FILE).collect()
    except UNREADABLE:
        return None, [f"{EXAMPLES_FILE}: {NOT_PARQUET}"]
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
        (~pl.col("sex").is_in(SEXES), f"sex is none of: {', '.join(SEXES)}"),
        (~pl.col("age_band").str.contains(AGE_BAND), "age_band is not like 40-59 or 80+"),
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
