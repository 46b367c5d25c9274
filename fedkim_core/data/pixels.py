"""What the adapters of radiograph collections share: reading pixels, and rows from images."""

import hashlib
import os
import re
import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedkim_core.data.decode import opened, read_dicom
from fedkim_core.data.prepare import LazyMapping, SourceData
from fedkim_core.errors import UserError

Pixels = NDArray[np.unsignedinteger]
_COLUMNS = ("example_id", "patient_id", "task", "answer", "image")


def read_grey(path: Path) -> Pixels:
    """A PNG, JPEG or DICOM image as ``[H, W]`` uint8 or uint16, bone bright, in its own size.

    Colour becomes grey; DICOM is windowed as in :func:`fedkim_core.data.decode.read_image` and
    spread over the 8 or 16 bits that hold its stored ones.

    Raises:
        UserError: the file is damaged, or larger than :mod:`fedkim_core.data.limits` allows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote an element of a DICOM header
            return _dicom(path) if path.suffix.lower() == ".dcm" else _picture(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from error


def _picture(path: Path) -> Pixels:
    with opened(path, "PNG", "JPEG") as image:
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image.convert("L"))


def _dicom(path: Path) -> Pixels:
    import pydicom

    grey = read_dicom(path)
    if not np.isfinite(grey).all():
        raise UserError(f"{path}: the image holds values that are not finite numbers")
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["BitsStored"])
    kind = np.uint8 if int(header.BitsStored) <= 8 else np.uint16
    return np.rint(grey * np.float64(np.iinfo(kind).max)).astype(kind)


def files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted; none when there is no such folder.

    Hidden files, such as those that macOS leaves in archives, are no part of a data set.
    """
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir())


@dataclass(frozen=True)
class Radiograph:
    """One image of a data set and what is known about it."""

    file: str
    """Path in the data set's folder."""
    patient: str
    answers: Mapping[str, bool]
    """By task."""
    group: str = ""
    """Spread evenly like the answers, for example the kind of pneumonia."""


def collect(
    source: Path,
    found: Iterable[Radiograph],
    *,
    name: str,
    licence: str,
    note: str,
    obtain: str,
    left_out: Iterable[tuple[str, str]] = (),
    natural: Mapping[str, str] | None = None,
) -> SourceData:
    """Radiographs as a data set: one example for each image and task.

    Left out and listed: an image without a file, or behind a link that leaves ``source``; a copy
    of an image that is there already; every copy of an image whose answers contradict each other.
    Files are compared byte by byte, those of equal size only.

    Args:
        source: the data set's folder.
        found: its radiographs, each file once.
        name: prefix of every identifier.
        licence: as in :class:`SourceData`, like ``note``.
        note: one sentence on where the data are from.
        obtain: where to get the data set, for the message when there is no image.
        left_out: what the adapter itself left out.
        natural: by ``Radiograph.patient``, the origin that the data set names.

    Raises:
        UserError: no image can be used.
    """
    root, listed = source.resolve(), list(left_out)
    usable: dict[str, Radiograph] = {}
    for radiograph in sorted(found, key=lambda radiograph: radiograph.file):
        if reason := _fault(root, radiograph.file):
            listed.append((radiograph.file, reason))
        else:
            usable[radiograph.file] = radiograph
    for copies in _same_bytes(root, usable):
        agree = all(usable[file].answers == usable[copies[0]].answers for file in copies)
        other = "" if agree else " with another answer"
        for file in copies[1:] if agree else copies:
            first = copies[0] if file != copies[0] else copies[1]
            listed.append((file, f"same image as {first}{other}"))
            del usable[file]
    references: dict[str, str] = {}
    for file in list(usable):
        reference = re.sub(r"[^A-Za-z0-9]+", "-", file.rpartition(".")[0])
        if references.setdefault(reference, file) != file:
            listed.append((file, "the name differs from another's in punctuation or ending only"))
            del usable[file]
    if not usable:
        first_reason = f" ({listed[0][0]}: {listed[0][1]})" if listed else ""
        raise UserError(f"{source}: no usable image{first_reason}; obtain {obtain}")
    rows = [
        (
            f"{name}-{reference}-{task}",
            f"{name}-{usable[file].patient}",
            task,
            "yes" if answer else "no",
            f"images/{reference}.png",
        )
        for reference, file in references.items()
        for task, answer in usable[file].answers.items()
    ]
    images = {f"images/{reference}.png": root / file for reference, file in references.items()}
    return SourceData(
        name=name,
        licence=licence,
        note=note,
        examples=pl.DataFrame(rows, schema=dict.fromkeys(_COLUMNS, pl.String), orient="row"),
        strata={f"{name}-{p}": stratum for p, stratum in _strata(usable.values()).items()},
        images=LazyMapping(images, read_grey),
        natural={f"{name}-{patient}": origin for patient, origin in (natural or {}).items()},
        left_out=listed,
    )


def _fault(root: Path, file: str) -> str:
    """Why an image cannot be used; empty when it can."""
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        return "image file is a link that leaves the folder"
    if not path.is_file():
        return "image file is missing"
    if not os.access(path, os.R_OK):
        return "image file may not be read"
    return "" if path.stat().st_size else "image file is empty"


def _same_bytes(root: Path, files: Iterable[str]) -> list[list[str]]:
    """Files with the same content, two or more together, in the order given."""
    sizes: dict[int, list[str]] = {}
    for file in files:
        sizes.setdefault((root / file).stat().st_size, []).append(file)
    contents: dict[tuple[int, bytes], list[str]] = {}
    for size, alike in sizes.items():
        for file in alike if len(alike) > 1 else ():
            with (root / file).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            contents.setdefault((size, digest), []).append(file)
    return [copies for copies in contents.values() if len(copies) > 1]


def _strata(radiographs: Iterable[Radiograph]) -> dict[str, Hashable]:
    """By patient: for each task whether any image is a "yes", and the groups of the images."""
    answers: dict[str, dict[str, bool]] = {}
    groups: dict[str, set[str]] = {}
    for radiograph in radiographs:
        known = answers.setdefault(radiograph.patient, {})
        for task, answer in radiograph.answers.items():
            known[task] = known.get(task, False) or answer
        groups.setdefault(radiograph.patient, set()).add(radiograph.group)
    return {
        patient: (*sorted(known.items()), *sorted(groups[patient]))
        for patient, known in answers.items()
    }
