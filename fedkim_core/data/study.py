"""The files of one patient, outside any site folder, under the same rules as in one."""

import re
import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from fedkim_core.data.check_tables import check_tables
from fedkim_core.data.contract import IMAGE_SUFFIXES, TABLES_FILE
from fedkim_core.data.decode import read_image, read_signal, read_tables
from fedkim_core.data.examine import examine
from fedkim_core.data.faults import UNREADABLE, read_schema, scan
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

STAY = "stay"
MOST_ROWS = 1_000_000
"""Of one stay's tables: more than every variable in every hour of a year."""


class StudyError(UserError):
    """A file of a study that breaks a rule of the contract.

    The message names the kind of file and the rule, never the file's name or a value: both may
    tell who the patient is.
    """

    def __init__(self, kind: str, rule: str) -> None:
        self.kind, self.rule = kind, rule
        super().__init__(f"{kind}: {rule}")


def read_study(
    readable: Sequence[str],
    *,
    image: Path | None = None,
    signal: Path | None = None,
    tables: Path | None = None,
    hours: int,
    image_size: int,
) -> dict[str, Tensor]:
    """The files of a study by modality, shapes as in :mod:`fedkim_core.modalities`.

    Args:
        readable: the modalities that the task reads.
        hours: of tables, from admission.

    Raises:
        StudyError: a file that the task does not read, or that breaks a rule.
    """
    kinds = {name: load_modalities()[name].kind for name in readable}
    given = {"image": image, "signal": signal, "table": tables}
    names = {"table": "tables"}
    for kind, path in given.items():
        if path is not None and kind not in kinds.values():
            reads = ", ".join(dict.fromkeys(names.get(k, k) for k in kinds.values()))
            raise StudyError(names.get(kind, kind), f"this task reads {reads or 'no file'}")
    features: dict[str, Tensor] = {}
    for name, kind in kinds.items():
        if kind == "image" and image is not None:
            features[name] = study_image(image, image_size)
        if kind == "signal" and signal is not None:
            features[name] = study_signal(signal)
    if tables is not None:
        wanted = [name for name, kind in kinds.items() if kind == "table"]
        found = study_tables(tables, wanted, hours)
        if not found:
            rule = f"nothing of {', '.join(wanted)} was observed within the first {hours} hours"
            raise StudyError("tables", rule)
        features |= found
    return features


def study_image(path: Path, size: int) -> Tensor:
    """``[1, size, size]`` of a PNG or DICOM file.

    Raises:
        StudyError: it is none, is damaged, too large or blank.
    """
    if not path.is_file():
        raise StudyError("image", "no such file")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise StudyError("image", f"must end in {' or '.join(IMAGE_SUFFIXES)}")
    if path.suffix.lower() == ".png" and not _is_png(path):
        raise StudyError("image", "not a PNG file")
    if rule := _rule(path, "image"):
        raise StudyError("image", rule)
    return torch.from_numpy(read_image(path, size))


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def _rule(path: Path, modality: str) -> str:
    """The rule that an image or record breaks, as the check of a site folder says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the file
        return examine(path.parent, modality, path.name)[1]


def study_signal(path: Path) -> Tensor:
    """``[leads, samples]`` in millivolt of a WFDB record, given its header file.

    Raises:
        StudyError: no header or no ``.dat`` beside it, or one that breaks a rule.
    """
    if path.suffix.lower() != ".hea":
        raise StudyError("signal", "give the header of a WFDB record, a file that ends in .hea")
    for suffix in (".hea", ".dat"):
        if not path.with_suffix(suffix).is_file():
            raise StudyError("signal", f"the record's {suffix} file is missing")
    record = path.with_suffix("")
    if rule := _rule(record, "signal"):
        raise StudyError("signal", rule)
    return torch.from_numpy(read_signal(record, load_modalities()["signal"]))


def study_tables(path: Path, modalities: Collection[str], hours: int) -> dict[str, Tensor]:
    """``[hours, variables]`` for each of the modalities that has an observation in them.

    Args:
        path: csv or parquet with the columns of ``tables.parquet``; ``stay_id`` may be left out,
            and the file holds one stay.
        modalities: the table modalities wanted.
        hours: how many, from admission.

    Raises:
        StudyError: not such a file, or a row breaks a rule; names the first and how many.
    """
    if not path.is_file():
        raise StudyError("tables", "no such file")
    rows = _rows(path)
    with tempfile.TemporaryDirectory() as scratch:
        tables = Path(scratch) / TABLES_FILE
        rows.write_parquet(tables)
        faults = check_tables(Path(scratch), None)
        if faults:
            first = re.sub(rf"^{re.escape(TABLES_FILE)}:(\d+): ", r"row \1: ", faults[0])
            first = first.removeprefix(f"{TABLES_FILE}: ")
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise StudyError("tables", first + more)
        stays = {modality: [STAY] for modality in modalities}
        read = read_tables(tables, stays, hours)
    values = {name: torch.from_numpy(table[0]) for name, table in read.items()}
    return {name: table for name, table in values.items() if not table.isnan().all()}


def _rows(path: Path) -> pl.DataFrame:
    """The file with its one stay named :data:`STAY`."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise StudyError("tables", "must end in .csv or .parquet")
    try:
        if kind == ".csv":
            rows = pl.read_csv(path, n_rows=MOST_ROWS + 1)
        else:
            _, faults = read_schema(path)
            if faults:
                raise StudyError("tables", faults[0].partition(": ")[2])
            rows = scan(path).head(MOST_ROWS + 1).collect()
    except UNREADABLE as error:
        raise StudyError("tables", f"not a readable {kind[1:]} file") from error
    if len(rows) > MOST_ROWS:
        raise StudyError("tables", f"holds more than {MOST_ROWS} rows; one stay has fewer")
    if rows.is_empty():
        raise StudyError("tables", "holds no row")
    if "stay_id" in rows.columns and rows["stay_id"].n_unique() > 1:
        raise StudyError("tables", "holds more than one stay; give the rows of one patient's stay")
    return rows.with_columns(stay_id=pl.lit(STAY))
