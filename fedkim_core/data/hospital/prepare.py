"""A hospital's export and its ``mapping.yaml`` become a site folder.

Nothing is sent anywhere, and nothing of the export is changed. What could not be used is listed in
``<folder>.left_out.csv`` beside the site folder, by file and row and without a value.
"""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedkim_core.data.blocks import ROW
from fedkim_core.data.contract import EXAMPLES_SCHEMA, TABLE_MODALITIES, SiteCard
from fedkim_core.data.hospital import cells
from fedkim_core.data.hospital.export import Export
from fedkim_core.data.hospital.left_out import LeftOut
from fedkim_core.data.hospital.load import load_mapping
from fedkim_core.data.hospital.mapping import Mapping
from fedkim_core.data.hospital.pseudonyms import Pseudonym, keyed, read_key
from fedkim_core.data.hospital.rows import Row, read_rows, unambiguous
from fedkim_core.data.hospital.tables import read_stays, read_table
from fedkim_core.data.partition import split_patients
from fedkim_core.data.prepare import Progress
from fedkim_core.data.spool import Spool
from fedkim_core.data.write import write_site
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks


@dataclass(frozen=True)
class Prepared:
    """What became of an export."""

    patients: int
    examples: int
    left_out: int
    """Lines of the list."""
    listed: Path


def prepare_site(mapping_file: Path, out: Path, *, progress: Progress | None = None) -> Prepared:
    """Read the export that a mapping describes and write the site folder, all of it or nothing.

    Args:
        mapping_file: ``mapping.yaml``; the folder of the export is found from it.
        out: new folder.
        progress: told what is being read.

    Raises:
        UserError: the mapping or a file of the export is wrong (names file, row and rule), nothing
            can be used, or the folder exists.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; remove it or choose another folder")
    mapping = load_mapping(mapping_file)
    source = mapping_file.parent / mapping.source
    if not source.is_dir():
        raise UserError(f"{mapping_file}: source: no such folder")
    name_of = _names(mapping, mapping_file.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fedkim-", dir=out.parent) as scratch:
            export = Export(source, mapping, Path(scratch), name_of, LeftOut())
            return _write(export, mapping_file, out, progress or (lambda what, done, of: None))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{out}: cannot be written ({reason})") from error


def _write(export: Export, mapping_file: Path, out: Path, tell: Progress) -> Prepared:
    spool = Spool(export.scratch / "tables")
    rows = _read(export, spool, tell)
    examples = _examples(rows, export, spool.stays())
    listed = out.with_name(out.name + ".left_out.csv")
    lines = export.left_out.write(listed)
    if examples.is_empty():
        raise UserError(f"{mapping_file}: no example is left; {listed} says why")
    splits = _splits(export, examples)
    examples = examples.with_columns(split=pl.col("patient_id").replace_strict(splits))
    used = {stay for name in TABLE_MODALITIES for stay in examples[name].drop_nulls()}
    tasks = tuple(sorted(set(examples["task"])))
    write_site(
        out,
        SiteCard(tasks=tasks, **export.mapping.site.model_dump()),
        examples,
        images=_copies(export, examples["image"]),
        signals=_copies(export, examples["signal"]),
        tables=spool.scan().filter(pl.col("stay_id").is_in(sorted(used))),
    )
    return Prepared(examples["patient_id"].n_unique(), len(examples), lines, listed)


def _names(mapping: Mapping, folder: Path) -> Pseudonym:
    """How ids are written in the site folder: the site's name in front, then a pseudonym."""
    site = mapping.site.name
    if mapping.pseudonyms.keep:
        public = keyed(b"")  # files have names of their own, whatever they were called
        return lambda what, own: public(what, own) if what == "file" else f"{site}-{own}"
    secret = keyed(read_key(folder / mapping.pseudonyms.key))
    return lambda what, own: secret(what, own) if what == "file" else f"{site}-{secret(what, own)}"


def _read(export: Export, spool: Spool, tell: Progress) -> list[Row]:
    """Observations go to the spool, questions come back."""
    mapping = export.mapping
    steps = 1 + len(mapping.tables) + len(mapping.examples)
    tell("reading stays", 0, steps)
    stays = read_stays(export)
    hours = max(load_tasks()[question.task].hours for question in mapping.examples)
    for done, table in enumerate(mapping.tables, start=1):
        tell(f"reading {table.file}", done, steps)
        read_table(export, table, stays, spool, hours=hours)
    export.left_out.records += spool.left_out()
    rows: list[Row] = []
    for done, question in enumerate(mapping.examples, start=1 + len(mapping.tables)):
        tell(f"reading {question.task}", done, steps)
        rows += read_rows(export, question, stays)
    tell("done", steps, steps)
    return unambiguous(rows, export.left_out)


def _examples(rows: Sequence[Row], export: Export, held: dict[str, set[str]]) -> pl.DataFrame:
    """Rows as ``EXAMPLES_SCHEMA`` without split; a stay without observation is left out."""
    found = []
    for row in rows:
        tables = sorted(TABLE_MODALITIES & set(load_tasks()[row.task].encoded)) if row.stay else []
        stays = {name: row.stay if row.stay in held[name] else None for name in tables}
        if row.stay and not any(stays.values()):
            export.left_out.add(row.record, f"{row.task}: no observation of the stay can be used")
            continue
        found.append(
            {
                "example_id": export.name_of("example", "\0".join(map(str, row.asked))),
                "patient_id": row.patient,
                "task": row.task,
                "answer": row.answer,
                "question": row.question,
                "image": row.image,
                "signal": row.signal,
                **stays,
                "text": row.text,
            }
        )
    schema = pl.Schema({n: t for n, t in EXAMPLES_SCHEMA.items() if n != "split"})
    return pl.DataFrame(found, schema=schema)


def _splits(export: Export, examples: pl.DataFrame) -> dict[str, str]:
    """By patient ``train`` or ``validation``."""
    split = export.mapping.split
    if split.by:
        validating = _validating(export)
        return {
            patient: "validation" if patient in validating else "train"
            for patient in examples["patient_id"].unique()
        }
    yes_no = [name for name, card in load_tasks().items() if card.answer == "yes_no"]
    labels = defaultdict[str, set[tuple[str, str]]](set)
    for patient, task, answer in examples.select("patient_id", "task", "answer").iter_rows():
        labels[patient].add((task, answer if task in yes_no else ""))
    return split_patients(
        {patient: tuple(sorted(found)) for patient, found in labels.items()},
        fractions={"train": 1 - split.validation, "validation": split.validation},
        seed=split.seed,
        name=export.mapping.site.name,
    )


def _validating(export: Export) -> set[str]:
    by = export.mapping.split.by
    assert by is not None  # asked before
    sides: dict[str, bool] = {}
    for file, block in export.blocks(by, [by.patient, by.column]):
        style = export.style(by)
        rows = block.select(
            ROW,
            patient=cells.text(block, by.patient, style),
            side=cells.text(block, by.column, style),
        )
        for row, patient, side in rows.drop_nulls("patient").iter_rows():
            if sides.setdefault(patient, side in by.validation) != (side in by.validation):
                raise UserError(f"{export.folder / file}:{row}: a patient trains and validates")
    return {export.name_of("patient", patient) for patient, side in sides.items() if side}


def _copies(export: Export, references: pl.Series) -> dict[str, Path]:
    return {name: export.scratch / name for name in references.drop_nulls().unique().sort()}
