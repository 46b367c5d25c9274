"""Site folders read back as a data set, and several data sets joined into one."""

import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fedkim_core.data.adapters import available, settings_of
from fedkim_core.data.contract import CARD_FILE, KIND_OF, TABLES_FILE, TABLES_SCHEMA
from fedkim_core.data.prepare import LazyMapping, Progress, SourceData, write_network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from fedkim_core.settings import DataConfig
from fedkim_core.tasks import load_tasks


def read_folders(folder: Path) -> SourceData:
    """Pool the site folders at or below ``folder``, so that their patients can be divided anew.

    ``natural`` is the name of the site that a patient came from. Files are copied as they are.

    Raises:
        UserError: no site folder, one that breaks its contract, or a patient in two of them.
    """
    found = sorted(path.parent for path in folder.rglob(CARD_FILE))
    if not found:
        raise UserError(f"{folder}: holds no site folder ({CARD_FILE} marks one)")
    parts = [read_folder(path) for path in found]
    owner: dict[str, str] = {}
    for path, part in zip(found, parts, strict=True):
        for patient in part.strata:
            if owner.setdefault(patient, str(path)) != str(path):
                raise UserError(
                    f"{path}: shares a patient_id with {owner[patient]}; put the site's name in "
                    "front of every patient_id"
                )
    return combine(parts, folder.name) if len(parts) > 1 else parts[0]


def assemble(data: DataConfig, out: Path, *, seed: int, progress: Progress | None = None) -> None:
    """Make one federation of several public data sets: ``data.kind=sources``.

    Raises:
        UserError: an unknown adapter or setting, or as the adapters and :func:`write_network`.
    """
    known = available()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fedkim-", dir=out.parent) as scratch:
        parts = []
        for number, part in enumerate(data.parts):
            if part.adapter not in known:
                names = ", ".join(known)
                raise UserError(f"data.parts: adapter {part.adapter!r}: unknown; one of {names}")
            if progress:
                progress(f"reading {part.adapter}", number, len(data.parts))
            folder = Path(scratch) / str(number)
            folder.mkdir()
            words = [f"{key}={value}" for key, value in part.settings.items()]
            settings = settings_of(known[part.adapter], words)
            source = Path(data.source or "").expanduser() / part.folder
            parts.append(known[part.adapter].read(source, folder, **settings))
        write_network(
            combine(parts, data.name),
            out,
            sites=data.sites,
            seed=seed,
            by=data.by,
            drop=data.drop,
            progress=progress,
        )


def read_folder(folder: Path) -> SourceData:
    """One site folder as a data set.

    Raises:
        UserError: it breaks the contract.
    """
    site = Site.open(folder)
    files: dict[str, dict[str, Path]] = {"image": {}, "signal": {}}
    for modality, kind in KIND_OF.items():
        if kind in files:
            for reference in site.examples[modality].drop_nulls().unique():
                files[kind][reference] = folder / reference
    tables = pl.LazyFrame(schema=TABLES_SCHEMA)
    if (folder / TABLES_FILE).is_file():
        scan = pl.scan_parquet(folder / TABLES_FILE, glob=False, hive_partitioning=False)
        tables = scan.select(TABLES_SCHEMA.names()).cast(TABLES_SCHEMA)
    strata = strata_of(site.examples)
    return SourceData(
        name=site.card.name,
        licence=site.card.licence,
        note=site.card.note,
        examples=site.examples.drop("split"),
        strata=strata,
        images=files["image"],
        signals=files["signal"],
        tables=tables,
        synthetic=site.card.synthetic,
    )


def combine(parts: Sequence[SourceData], name: str) -> SourceData:
    """Several data sets as one.

    A ``patient_id`` in two of them is one patient (questions about the same records, say).
    Paths, stays and example ids get the number of their data set in front, since two data sets may
    use the same word. ``natural`` is the name of the data set with its own division after it.
    """
    strata: dict[str, Hashable] = {}
    natural: dict[str, str] = {}
    fixed: dict[str, str] = {}
    for part in parts:
        for patient, stratum in part.strata.items():
            strata[patient] = (strata.get(patient), part.name, stratum)
            own = part.natural.get(patient)
            natural.setdefault(patient, part.name if own is None else f"{part.name}: {own}")
        fixed = {**part.fixed, **fixed}
    numbered = {f"{number:02d}": part for number, part in enumerate(parts)}
    return SourceData(
        name=name,
        licence="; ".join(dict.fromkeys(f"{part.name}: {part.licence}" for part in parts)),
        note="; ".join(dict.fromkeys(part.note for part in parts if part.note)),
        examples=pl.concat(
            [_numbered(part.examples, tag) for tag, part in numbered.items()],
            how="diagonal_relaxed",
        ),
        strata=strata,
        images=_joined({tag: part.images for tag, part in numbered.items()}),
        signals=_joined({tag: part.signals for tag, part in numbered.items()}),
        tables=pl.concat(
            [
                part.tables.with_columns(stay_id=pl.lit(f"{tag}/") + pl.col("stay_id"))
                for tag, part in numbered.items()
            ]
        ),
        natural=natural,
        fixed=fixed,
        synthetic=any(part.synthetic for part in parts),
        left_out=[
            (f"{part.name}: {record}", why) for part in parts for record, why in part.left_out
        ],
    )


def _numbered(examples: pl.DataFrame, tag: str) -> pl.DataFrame:
    columns = [name for name in ("example_id", *KIND_OF) if name in examples.columns]
    return examples.with_columns((pl.lit(f"{tag}/") + pl.col(n)).alias(n) for n in columns)


def _joined(mappings: Mapping[str, Mapping[str, Any]]) -> LazyMapping[tuple[str, str], Any]:
    places = {f"{tag}/{old}": (tag, old) for tag, files in mappings.items() for old in files}
    return LazyMapping(places, lambda place: mappings[place[0]][place[1]])


def strata_of(examples: pl.DataFrame) -> dict[str, Hashable]:
    """By patient: its tasks, with the answer of yes/no tasks ("yes" once is "yes")."""
    yes_no = [name for name, card in load_tasks().items() if card.answer == "yes_no"]
    grouped = (
        examples.with_columns(
            answer=pl.when(pl.col("task").is_in(yes_no)).then("answer").otherwise(pl.lit(""))
        )
        .group_by("patient_id", "task")
        .agg(pl.col("answer").max())
        .sort("patient_id", "task")
    )
    strata: dict[str, Hashable] = {}
    for (patient,), rows in grouped.group_by("patient_id", maintain_order=True):
        strata[str(patient)] = tuple(rows.select("task", "answer").iter_rows())
    return strata


def column_of(file: Path, column: str) -> dict[str, str]:
    """By patient the value of a column of a csv or parquet file that has ``patient_id``.

    Raises:
        UserError: the file cannot be read, lacks a column, or says two things of a patient.
    """
    try:
        frame = (
            pl.read_parquet(file, glob=False)
            if file.suffix == ".parquet"
            else pl.read_csv(file, infer_schema=False)
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file}: cannot be read as csv or parquet") from error
    for name in ("patient_id", column):
        if name not in frame.columns:
            raise UserError(f"{file}: column {name!r} is missing")
    pairs = frame.select("patient_id", column).cast(pl.String).drop_nulls().unique()
    if pairs["patient_id"].is_duplicated().any():
        raise UserError(f"{file}: a patient has two values of {column!r}")
    return dict(pairs.iter_rows())
