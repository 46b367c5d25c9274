"""RSNA Pneumonia Detection Challenge 2018: 26,684 labelled frontal chest radiographs.

Shih G, Wu CC, Halabi SS, et al. Augmenting the National Institutes of Health chest radiograph
dataset with expert annotations of possible pneumonia. Radiology: Artificial Intelligence
1(1):e180041 (2019), doi:10.1148/ryai.2019180041. Layout of the Kaggle competition, stage 2.

Label: ``lung_opacity`` is "yes" if and only if ``Target`` of ``stage_2_train_labels.csv`` is 1:
radiologists drew at least one box around an opacity suspicious for pneumonia. An abnormal
radiograph without such an opacity (class "No Lung Opacity / Not Normal") is a "no".

A ``patientId`` names one image, not one person: the images are taken from NIH ChestX-ray14, where
people come back. Which person an image shows is in RSNA's file
``pneumonia-challenge-dataset-mappings_2018.json``
(https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018). Put that
file beside the others and patients are divided as people; without it every image counts as a
patient of its own, and one person may be on both sides of a split.
"""

import json
import re
from pathlib import Path

from fedkim_core.data.csv_rows import csv_rows
from fedkim_core.data.pixels import Radiograph, collect, files_in
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "rsna"
MODALITIES = ("image",)
TASKS = ("lung_opacity",)
LICENCE = "RSNA terms of use: non-commercial research and education"
OBTAIN = (
    "stage_2_train_images and stage_2_train_labels.csv from"
    " https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data"
)

_LABELS, _CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
_PEOPLE, _IMAGES = "pneumonia-challenge-dataset-mappings_2018.json", "stage_2_train_images"
_OPACITY, _OTHER, _NORMAL = "Lung Opacity", "No Lung Opacity / Not Normal", "Normal"


def read(source: Path, scratch: Path, *, negatives: str = "all") -> SourceData:
    """Read the labels; images are decoded when they are written.

    Args:
        source: folder with ``stage_2_train_images`` and ``stage_2_train_labels.csv``. With
            ``stage_2_detailed_class_info.csv`` the two kinds of "no" are spread evenly.
        scratch: not needed.
        negatives: ``all``, or ``normal`` to leave out the class "No Lung Opacity / Not Normal".

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    if negatives not in ("all", "normal"):
        raise UserError("negatives: must be all or normal")
    targets, left_out = _targets(source)
    classes = _classes(source, targets, required=negatives == "normal")
    people = _people(source, targets)
    others = {image for image in targets if classes.get(image) == _OTHER}
    if negatives == "normal" and others:
        left_out.append((_CLASSES, f"{len(others)} images of the class {_OTHER}"))
        targets = {image: target for image, target in targets.items() if image not in others}
    listed = {f"{image}.dcm" for image in (*targets, *others)}
    left_out += [
        (f"{_IMAGES}/{name}", f"image is not listed in {_LABELS}")
        for name in files_in(source / _IMAGES)
        if name not in listed
    ]
    found = [
        Radiograph(
            file=f"{_IMAGES}/{image}.dcm",
            patient=people.get(image, image),
            answers={"lung_opacity": target},
            group=classes.get(image, ""),
        )
        for image, target in targets.items()
    ]
    return collect(
        source,
        found,
        name=NAME,
        licence=LICENCE,
        note="RSNA Pneumonia Detection Challenge, Shih et al. 2019; real, de-identified patients",
        obtain=OBTAIN,
        left_out=left_out,
    )


def _targets(source: Path) -> tuple[dict[str, bool], list[tuple[str, str]]]:
    """``Target`` by image, and rows that repeat another one exactly; a row is one box."""
    targets: dict[str, bool] = {}
    seen: set[tuple[str, ...]] = set()
    repeated: list[tuple[str, str]] = []
    columns = ("patientId", "x", "y", "width", "height", "Target")
    for where, row in csv_rows(source / _LABELS, columns, OBTAIN):
        image = _image(row, where)
        if row["Target"] not in ("0", "1"):
            raise UserError(f"{where}: Target is neither 0 nor 1")
        target = row["Target"] == "1"
        if targets.setdefault(image, target) != target:
            raise UserError(f"{where}: Target contradicts an earlier row of the image")
        values = tuple(row[name] for name in columns)
        if values in seen:
            repeated.append((Path(where).name, "row repeats an earlier one"))
        seen.add(values)
    return targets, repeated


def _classes(source: Path, targets: dict[str, bool], *, required: bool) -> dict[str, str]:
    """The detailed class by image; empty when the file is not there and not required."""
    path = source / _CLASSES
    if not required and not path.is_file():
        return {}
    classes: dict[str, str] = {}
    for where, row in csv_rows(path, ("patientId", "class"), OBTAIN):
        image, named = _image(row, where), row["class"]
        if named not in (_OPACITY, _OTHER, _NORMAL):
            raise UserError(f"{where}: class is none of: {_OPACITY}, {_OTHER}, {_NORMAL}")
        if classes.setdefault(image, named) != named:
            raise UserError(f"{where}: class contradicts an earlier row of the image")
        if targets.get(image, named == _OPACITY) != (named == _OPACITY):
            raise UserError(f"{where}: class contradicts Target in {_LABELS}")
    if required and (unknown := targets.keys() - classes.keys()):
        raise UserError(f"{path}: {len(unknown)} images of {_LABELS} have no class")
    return classes


def _people(source: Path, targets: dict[str, bool]) -> dict[str, str]:
    """The person by image, from names such as ``00000001_000.png`` of ChestX-ray14."""
    path = source / _PEOPLE
    if not path.is_file():
        return {}
    people: dict[str, str] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            person = re.fullmatch(r"(\d{8})_\d+\.png", entry["img_id"])
            if not person:
                raise ValueError
            people[entry["subset_img_id"]] = f"nih-{person[1]}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a list of subset_img_id and img_id") from error
    if unknown := targets.keys() - people.keys():
        raise UserError(f"{path}: {len(unknown)} images of {_LABELS} have no entry")
    return people


def _image(row: dict[str, str], where: str) -> str:
    if not re.fullmatch(r"[\w-]+", row["patientId"]):
        raise UserError(f"{where}: patientId is not made of letters, digits and hyphens")
    return row["patientId"]
