"""CheXpert: 224,316 chest radiographs of 65,240 patients of Stanford Hospital.

Irvin J, Rajpurkar P, Ko M, et al. CheXpert: a large chest radiograph dataset with uncertainty
labels and expert comparison. AAAI 33:590-597 (2019), arXiv:1901.07031. Layouts CheXpert-v1.0-small
and CheXpert-v1.0.

Labels: each task is the column of the same name, 1 "yes" and 0 "no".

- ``valid.csv`` (200 patients): three radiologists read the images; there are only 1 and 0.
- ``train.csv``: a program read the reports. -1 is a finding that the report leaves uncertain, a
  blank one that the report does not mention.

An uncertain label is left out (the paper's U-Ignore) or, by the setting ``uncertain``, taken as 1
or 0 (U-Ones, U-Zeros; the paper's uncertainty approaches). A blank is a "no" where ``No Finding``
is 1, since the labeller gives that only to reports without any positive or uncertain finding;
elsewhere silence about a finding is no reading of it, and the label is left out. ``blank=zeros``
takes every blank as a "no".
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedkim_core.data.csv_rows import csv_rows
from fedkim_core.data.partition import split_patients
from fedkim_core.data.pixels import Radiograph, collect
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "chexpert"
MODALITIES = ("image",)
TASKS = ("enlarged_cardiomediastinum", "atelectasis", "pleural_effusion", "lung_opacity")
LICENCE = "Stanford University Dataset Research Use Agreement"
OBTAIN = "CheXpert-v1.0-small from https://stanfordmlgroup.github.io/competitions/chexpert/"

_COLUMN = {
    "enlarged_cardiomediastinum": "Enlarged Cardiomediastinum",
    "atelectasis": "Atelectasis",
    "pleural_effusion": "Pleural Effusion",
    "lung_opacity": "Lung Opacity",
}
_MARKS = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1, "": None}
_PATH = re.compile(
    r"CheXpert-v1\.0(?:-small)?/"
    r"((?:train|valid)/(patient\d+)/study\d+/view\d+_(?:frontal|lateral)\.jpg)"
)
_OF_TRAIN = {"sites": 7 / 9, "public": 1 / 9, "validation": 1 / 9}
"""Where patients of train.csv go when those of valid.csv are the test set."""


def read(
    source: Path,
    scratch: Path,
    *,
    subset: str = "valid",
    uncertain: str = "leave_out",
    blank: str = "no_finding",
    frontal_only: bool = True,
) -> SourceData:
    """Read the labels; images are decoded when they are written.

    Args:
        source: ``CheXpert-v1.0-small`` with ``valid.csv`` and ``valid``, ``train.csv`` and
            ``train``.
        scratch: not needed.
        subset: ``valid``, ``train``, or ``all``: then patients of ``valid.csv`` are the test set.
        uncertain: ``leave_out``, ``ones`` or ``zeros``.
        blank: ``no_finding`` or ``zeros``.
        frontal_only: leave lateral views out.

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    _one_of("subset", subset, ("valid", "train", "all"))
    _one_of("uncertain", uncertain, ("leave_out", "ones", "zeros"))
    _one_of("blank", blank, ("no_finding", "zeros"))
    found: dict[str, Radiograph] = {}
    left_out: list[tuple[str, str]] = []
    for part in ("train", "valid") if subset == "all" else (subset,):
        counts: Counter[str] = Counter()
        listed: set[str] = set()
        for where, row, file, patient in _rows(source, part):
            if file in listed:
                left_out.append((Path(where).name, "row repeats an earlier Path"))
                continue
            listed.add(file)
            if frontal_only and row["Frontal/Lateral"] == "Lateral":
                counts["lateral views"] += 1
                continue
            answers = {}
            no_finding = _mark(row, "No Finding", where) == 1
            for task, column in _COLUMN.items():
                mark = _mark(row, column, where)
                if mark is None and (no_finding or blank == "zeros"):
                    mark = 0
                if mark == -1 and uncertain != "leave_out":
                    mark = int(uncertain == "ones")
                if mark is None or mark == -1:
                    counts[f"{'blank' if mark is None else 'uncertain'} labels of {column}"] += 1
                else:
                    answers[task] = mark == 1
            if answers:
                found[file] = Radiograph(file, patient, answers)
            else:
                counts["images without any label"] += 1
        left_out += [(f"{part}.csv", f"{number} {what}") for what, number in sorted(counts.items())]
        left_out += [
            (file, f"image is not listed in {part}.csv") for file in _unlisted(source, part, listed)
        ]
    data = collect(
        source,
        found.values(),
        name=NAME,
        licence=LICENCE,
        note="CheXpert, Irvin et al. 2019, arXiv:1901.07031; real, de-identified patients",
        obtain=OBTAIN,
        left_out=left_out,
    )
    return _with_official_test(data, found) if subset == "all" else data


def _with_official_test(data: SourceData, found: dict[str, Radiograph]) -> SourceData:
    test = {f"{NAME}-{r.patient}" for r in found.values() if r.file.startswith("valid/")}
    rest = {patient: labels for patient, labels in data.strata.items() if patient not in test}
    fixed = split_patients(rest, fractions=_OF_TRAIN, seed=0, name=NAME)
    return replace(data, fixed=fixed | dict.fromkeys(sorted(test & data.strata.keys()), "test"))


def _rows(source: Path, part: str) -> Iterator[tuple[str, dict[str, str], str, str]]:
    """Rows of ``valid.csv`` or ``train.csv``, with "file:row", the image's path and the patient."""
    columns = ("Path", "Frontal/Lateral", "No Finding", *_COLUMN.values())
    for where, row in csv_rows(source / f"{part}.csv", columns, OBTAIN):
        match = _PATH.fullmatch(row["Path"])
        if not match or not match[1].startswith(part):
            raise UserError(f"{where}: Path is not of the form {part}/patient/study/view.jpg")
        if row["Frontal/Lateral"] not in ("Frontal", "Lateral"):
            raise UserError(f"{where}: Frontal/Lateral is neither Frontal nor Lateral")
        yield where, row, match[1], match[2]


def _mark(row: dict[str, str], column: str, where: str) -> int | None:
    if row[column] not in _MARKS:
        raise UserError(f"{where}: {column} is none of 1, 0, -1 and blank")
    return _MARKS[row[column]]


def _unlisted(source: Path, part: str, listed: set[str]) -> list[str]:
    there = {p.relative_to(source).as_posix() for p in source.glob(f"{part}/patient*/study*/*.jpg")}
    return sorted(there - listed)


def _one_of(setting: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{setting}: must be one of {', '.join(known)}")
