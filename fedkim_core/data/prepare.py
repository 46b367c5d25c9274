"""From the rows of one public data set to a network folder; what every adapter ends with."""

import csv
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from fedkim_core.data.contract import EXAMPLES_SCHEMA, GROUPS, KIND_OF, TABLES_SCHEMA, SiteCard
from fedkim_core.data.dropout import drop_modalities
from fedkim_core.data.holdings import draw_holdings
from fedkim_core.data.partition import FRACTIONS, partition_patients, site_names, split_patients
from fedkim_core.data.write import whole_folder, without_files, write_site
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

if TYPE_CHECKING:
    from fedkim_core.data.adapters import Adapter

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
LEFT_OUT_FILE = "left_out.csv"
LOCAL_FRACTIONS = {"train": 0.9, "validation": 0.1}
"""Within a hospital's site folder."""
UNSEEN_FRACTIONS = {"validation": 0.5, "test": 0.5}
"""Of patients of whom nothing is trained."""


Source = TypeVar("Source")
Value = TypeVar("Value")


class LazyMapping(Mapping[str, Value], Generic[Source, Value]):
    """Values that are read from their sources whenever they are asked for, and not kept."""

    def __init__(self, sources: Mapping[str, Source], read: Callable[[Source], Value]) -> None:
        self._sources, self._read = dict(sorted(sources.items())), read

    def __getitem__(self, key: str) -> Value:
        return self._read(self._sources[key])

    def __contains__(self, key: object) -> bool:
        return key in self._sources  # Mapping's own would read the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True)
class SourceData:
    """A public data set, read, before anybody owns a part of it."""

    name: str
    licence: str
    note: str
    examples: pl.DataFrame
    """``EXAMPLES_SCHEMA`` without ``split``."""
    strata: Mapping[str, Hashable]
    """By patient: what to spread evenly."""
    images: Mapping[str, NDArray[np.unsignedinteger] | Path] = field(default_factory=dict)
    """As :func:`write_site` wants them; read when asked for."""
    signals: Mapping[str, NDArray[np.floating] | Path] = field(default_factory=dict)
    tables: pl.LazyFrame = field(default_factory=lambda: pl.LazyFrame(schema=TABLES_SCHEMA))
    """``TABLES_SCHEMA``; as a rule a scan of parquet files in the scratch folder."""
    natural: Mapping[str, str] = field(default_factory=dict)
    """By patient: the hospital, unit or device that the data set itself names, if it does."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """By patient: ``sites``, ``public``, ``validation`` or ``test``, where the official split of
    the data set is to be kept."""
    synthetic: bool = False
    left_out: Sequence[tuple[str, str]] = ()
    """Records that could not be used: name in the source, reason."""


def prepare(
    adapter: "Adapter",
    source: Path,
    out: Path,
    *,
    sites: int = 3,
    seed: int = 0,
    by: str = "iid",
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> int:
    """Read a public data set as its owner ships it and write it as a network folder.

    Returns:
        How many records are listed in ``left_out.csv``.

    Raises:
        UserError: a file of the data set is missing or broken, or as :func:`write_network`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fedkim-", dir=out.parent) as scratch:
        data = adapter.read(source, Path(scratch), **(settings or {}))
        return write_network(data, out, sites=sites, seed=seed, by=by, progress=progress)


def write_network(
    data: SourceData,
    out: Path,
    *,
    sites: int,
    seed: int,
    by: str = "iid",
    drop: float = 0.0,
    progress: Progress | None = None,
) -> int:
    """Divide a data set by patient and write the network folder, all of it or nothing.

    Trained tasks go everywhere; unseen tasks only to ``validation`` and ``test``, so patients of
    whom nothing is trained are divided between these two. Examples that found no place are counted
    in ``network.yaml``; records that could not be used are listed in ``left_out.csv``, and so is an
    image or signal that turns out to be damaged.

    Args:
        data: the data set.
        out: new folder.
        sites: how many hospitals; with ``by="natural"`` at most as many as the data set names.
        seed: of the division.
        by: ``iid``, ``dirichlet:ALPHA`` or ``natural``; see :func:`partition_patients`.
        drop: chance that a site lacks a modality; see :func:`drop_modalities`.
        progress: told which folder is being written.

    Returns:
        How many records are listed in ``left_out.csv``.

    Raises:
        UserError: no trained task, too few patients, a place without a row or without an image or
            signal that can be read, a faulty array, no room on the disk.
    """
    places = _places(data, sites=sites, seed=seed, by=by)
    rows = data.examples.with_columns(place=pl.col("patient_id").replace_strict(places))
    whole = len(rows)
    tested = pl.col("place").is_in(["validation", "test"])
    rows = rows.filter(pl.col("task").is_in(_trained_tasks()) | tested)
    unseen = whole - len(rows)
    rows = rows.with_columns(
        *(pl.when(tested).then(pl.col(name)) for name in GROUPS if name in rows.columns),
        origin=pl.when(tested).then(_origins(rows, data, places, by)),
    )
    folders = {name: Path("sites") / name for name in site_names(sites)}
    if drop:
        at_sites = pl.col("place").is_in(list(folders))
        thinned = drop_modalities(rows.filter(at_sites), rate=drop, seed=seed)
        rows = pl.concat([thinned, rows.filter(~at_sites)])
    folders |= {name: Path(name) for name in ("public", "validation", "test")}
    damaged: dict[str, str] = {}
    with whole_folder(out) as building:
        for done, (place, folder) in enumerate(folders.items()):
            if progress:
                progress(f"writing {folder}", done, len(folders))
            part = rows.filter(pl.col("place") == place).drop("place")
            if part.is_empty():
                raise UserError(f"{out}: too few patients, no example is left for {folder}")
            part = part.with_columns(split=_splits(part, place, data.strata, seed))
            _write_part(building / folder, place, part, data, damaged)
        kept = without_files(rows, damaged)
        lost = rows["patient_id"].n_unique() - kept["patient_id"].n_unique()
        left_out = [*data.left_out, *damaged.items()]
        _write_left_out(building / LEFT_OUT_FILE, left_out)
        parameters = {
            "sites": sites,
            "by": by,
            "drop": drop,
            "patients": len(places) - lost,
            "examples": len(kept),
            "examples_without_modality": whole - unseen - len(rows),
            "examples_of_unseen_tasks_at_sites": unseen,
            "left_out": len(left_out),
        }
        header = {
            "name": data.name,
            "synthetic": data.synthetic,
            "seed": seed,
            "parameters": parameters,
            "version": 1,
        }
        (building / "network.yaml").write_text(yaml.safe_dump(header, sort_keys=False))
        draw_holdings(building)
    if progress:
        progress("done", len(folders), len(folders))
    return len(left_out)


def _trained_tasks() -> list[str]:
    return [name for name, card in load_tasks().items() if card.role == "train"]


def _places(data: SourceData, *, sites: int, seed: int, by: str) -> dict[str, str]:
    """By patient a site or a set of the server."""
    rows = data.examples.filter(pl.col("task").is_in(_trained_tasks()))
    taught = set(rows["patient_id"])
    if not taught:
        raise UserError(
            f"{data.name}: hospitals train none of its tasks; join it with a data set of which "
            "they do: data.kind=sources, as in conf/data/public_small.yaml"
        )
    untaught = {p: stratum for p, stratum in data.strata.items() if p not in taught}
    free = {p: stratum for p, stratum in untaught.items() if p not in data.fixed}
    places = split_patients(free, fractions=UNSEEN_FRACTIONS, seed=seed, name="unseen")
    places |= {p: data.fixed[p] for p in untaught if p in data.fixed}
    return places | partition_patients(
        {p: stratum for p, stratum in data.strata.items() if p in taught},
        sites=sites,
        seed=seed,
        by=by,
        column=data.natural,
        fixed=data.fixed,
    )


def _origins(rows: pl.DataFrame, data: SourceData, places: Mapping[str, str], by: str) -> pl.Series:
    """Whose patients each row's patient resembles; null where the data do not say.

    Where the sites were made of what the data set names (``natural``), it is the site that got the
    patients of that name; otherwise what the rows say already, or else that name itself.
    """
    patients = rows["patient_id"]
    if by != "natural" and not by.startswith("column:"):
        named = patients.replace_strict(data.natural, default=None, return_dtype=pl.String)
        own = rows["origin"] if "origin" in rows.columns else pl.Series([None] * len(rows))
        return own.cast(pl.String).fill_null(named).alias("origin")
    at_sites = {p: place for p, place in places.items() if place not in FRACTIONS}
    site_of = {data.natural[p]: place for p, place in at_sites.items() if p in data.natural}
    by_patient = {p: site_of.get(name) for p, name in data.natural.items()}
    return patients.replace_strict(by_patient, default=None, return_dtype=pl.String)


def _splits(
    part: pl.DataFrame, place: str, strata: Mapping[str, Hashable], seed: int
) -> pl.Expr | pl.Series:
    """The column ``split`` of the rows of one place."""
    if place in ("validation", "test"):
        return pl.lit(place)
    if place == "public":
        return pl.lit("train")
    patients = {patient: strata[patient] for patient in part["patient_id"].unique().to_list()}
    local = split_patients(patients, fractions=LOCAL_FRACTIONS, seed=seed, name=place)
    return part["patient_id"].replace_strict(local)


def _write_part(
    folder: Path, place: str, part: pl.DataFrame, data: SourceData, damaged: dict[str, str]
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    used: dict[str, set[str]] = {"image": set(), "signal": set(), "table": set()}
    for modality, kind in KIND_OF.items():
        if modality in part.columns:
            used[kind] |= set(part[modality].drop_nulls().to_list())
    card = SiteCard(
        name=place,
        tasks=tuple(sorted(part["task"].unique())),
        synthetic=data.synthetic,
        licence=data.licence,
        note=data.note,
    )
    write_site(
        folder,
        card,
        part.select(name for name in EXAMPLES_SCHEMA if name in part.columns),
        images=LazyMapping({name: name for name in used["image"]}, data.images.__getitem__),
        signals=LazyMapping({name: name for name in used["signal"]}, data.signals.__getitem__),
        tables=data.tables.filter(pl.col("stay_id").is_in(sorted(used["table"]))),
        damaged=damaged,
    )


def _write_left_out(path: Path, left_out: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("record", "reason"))
        writer.writerows(left_out)
