"""MedMNIST v2: sets of small, standardised 2-D images, one ``.npz`` file each.

Yang J, Shi R, Wei D, et al. MedMNIST v2 - a large-scale lightweight benchmark for 2D and 3D
biomedical image classification. Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8. A
file holds ``{train,val,test}_{images,labels}``: images ``[N, H, W]`` grey or ``[N, H, W, 3]``
colour, uint8; labels ``[N, 1]`` class numbers, or ``[N, L]`` of 0 and 1 in multi-label sets.

Label: which classes mean "yes" for which task is a setting. The default is ``pneumoniamnist`` (0
normal, 1 pneumonia) for ``lung_opacity``: its images are Kermany's, and pneumonia on a radiograph
is what that task asks for (see :mod:`fedkim_core.data.adapters.kermany`, also for what it misses;
do not put both sets into one federation). Another choice: ``dataset=chestmnist classes=14
positive=0 task=atelectasis`` (column 0 atelectasis, 1 cardiomegaly, 2 effusion; labels mined from
reports).

MedMNIST names no patients. Every image counts as a patient of its own, and one person may be on
both sides of a split unless ``official_split`` is set: the authors kept the split of the source
where it had one.
"""

import hashlib
import re
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from fedkim_core.data.partition import split_patients
from fedkim_core.data.prepare import LazyMapping, SourceData
from fedkim_core.errors import UserError

NAME = "medmnist"
MODALITIES = ("image",)
TASKS = ("lung_opacity", "atelectasis", "enlarged_cardiomediastinum", "pleural_effusion")
LICENCE = "CC BY 4.0 (DermaMNIST: CC BY-NC 4.0)"
OBTAIN = "the npz file of the set, such as pneumoniamnist.npz, from https://medmnist.com"

Array = NDArray[np.generic]
_PARTS = ("test", "val", "train")
"""Of equal images the first is kept: the test set loses none."""
_OF_TRAIN = {"sites": 7 / 8, "public": 1 / 8}


def read(
    source: Path,
    scratch: Path,
    *,
    dataset: str = "pneumoniamnist",
    task: str = "lung_opacity",
    positive: str = "1",
    classes: int = 2,
    official_split: bool = False,
) -> SourceData:
    """Unpack one file into ``scratch``; images are read from there when they are written.

    Args:
        source: the folder that holds ``DATASET.npz``.
        scratch: the arrays are unpacked here, not into memory.
        dataset: name of the file without ending, such as ``pneumoniamnist`` or
            ``pneumoniamnist_224``.
        task: what the labels answer.
        positive: class numbers that mean "yes", separated by commas; in multi-label sets column
            numbers, any of which.
        classes: how many classes, or columns, the set has.
        official_split: keep ``val`` as the validation set and ``test`` as the test set.

    Raises:
        UserError: the file is missing, damaged or of another form; a setting does not fit it.
    """
    if task not in TASKS:
        raise UserError(f"task: must be one of {', '.join(TASKS)}")
    if not re.fullmatch(r"\w+", dataset):
        raise UserError("dataset: must be the name of a file without .npz")
    wanted = _wanted(positive, classes)
    path = source / f"{dataset}.npz"
    images, labels = _arrays(path, scratch)
    answers = {part: _answers(path, part, labels[part], wanted, classes) for part in _PARTS}
    places, left_out = _distinct(images, answers)
    rows = []
    sources: dict[str, Array] = {}
    for part, index in places:
        key = f"{dataset}-{part}-{index:06d}"
        answer = "yes" if answers[part][index] else "no"
        reference = f"images/{key}.png"
        sources[reference] = images[part][index]
        rows.append((f"{NAME}-{key}-{task}", f"{NAME}-{key}", task, answer, reference))
    columns = ("example_id", "patient_id", "task", "answer", "image")
    strata = {row[1]: (row[3],) for row in rows}
    return SourceData(
        name=NAME,
        licence=LICENCE,
        note=f"MedMNIST v2 {dataset}, Yang et al. 2023; real, de-identified patients",
        examples=pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"),
        strata=strata,
        images=LazyMapping(sources, _grey),
        fixed=_official(strata, dataset) if official_split else {},
        left_out=left_out,
    )


def _wanted(positive: str, classes: int) -> list[int]:
    numbers = [int(word) for word in positive.split(",") if word.strip().isdecimal()]
    if len(numbers) != len(positive.split(",")) or any(n >= classes for n in numbers):
        raise UserError("positive: must be numbers below classes, separated by commas")
    return numbers


def _arrays(path: Path, scratch: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Images and labels by part, mapped from disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [f"{part}_{what}.npy" for part in _PARTS for what in ("images", "labels")]
            if (
                sum(archive.getinfo(name).file_size for name in names)
                > shutil.disk_usage(scratch).free
            ):
                raise UserError(f"{path}: no room to unpack it beside the output")
            arrays = {}
            for name in names:
                with archive.open(name) as packed, (scratch / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                arrays[name] = np.load(scratch / name, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing; obtain {OBTAIN}") from error
    except KeyError as error:
        raise UserError(f"{path}: must hold train, val and test images and labels") from error
    except (
        *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise UserError(f"{path}: not a readable npz file ({type(error).__name__})") from error
    images = {part: arrays[f"{part}_images.npy"] for part in _PARTS}
    labels = {part: arrays[f"{part}_labels.npy"] for part in _PARTS}
    for part, pixels in images.items():
        flat = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
        if pixels.dtype != np.uint8 or not flat or not pixels[:1].size:
            raise UserError(f"{path}: {part}_images must be uint8 [N, H, W] or [N, H, W, 3]")
        if labels[part].ndim != 2 or len(labels[part]) != len(pixels):
            raise UserError(f"{path}: {part}_labels must be [N, 1] or [N, L], a row for each image")
    return images, labels


def _answers(
    path: Path, part: str, labels: Array, wanted: list[int], classes: int
) -> NDArray[np.bool_]:
    multi = labels.shape[1] > 1
    highest = 1 if multi else classes - 1
    if multi and labels.shape[1] != classes:
        raise UserError(f"{path}: {part}_labels has {labels.shape[1]} columns; set classes to it")
    valid = np.isin(labels, np.arange(highest + 1)).all(axis=1)
    if not valid.all():
        row = int(np.argmin(valid))
        raise UserError(f"{path}: {part}_labels[{row}] is not a whole number 0..{highest}")
    if multi:
        return np.asarray((labels[:, wanted] == 1).any(axis=1))
    return np.isin(labels[:, 0], wanted)


def _distinct(
    images: dict[str, Array], answers: dict[str, NDArray[np.bool_]]
) -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
    """One place of every image; all of those with contradicting answers are left out."""
    copies: dict[bytes, list[tuple[str, int]]] = {}
    for part in _PARTS:
        for index, pixels in enumerate(images[part]):
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
            copies.setdefault(digest, []).append((part, index))
    kept: list[tuple[str, int]] = []
    left_out: list[tuple[str, str]] = []
    for first, *others in copies.values():
        same = f"same image as {first[0]} {first[1]}"
        if len({bool(answers[part][index]) for part, index in (first, *others)}) == 1:
            kept.append(first)
        else:
            left_out.append((f"{first[0]} {first[1]}", "its copies have another answer"))
            same += " with another answer"
        left_out += [(f"{part} {index}", same) for part, index in others]
    return kept, left_out


def _official(strata: dict[str, tuple[str]], dataset: str) -> dict[str, str]:
    """``test`` and ``validation`` by patient; train is divided between sites and public."""
    start = f"{NAME}-{dataset}-"
    train = {p: stratum for p, stratum in strata.items() if p.startswith(f"{start}train-")}
    fixed = {p: "test" if p.startswith(f"{start}test-") else "validation" for p in strata}
    return fixed | split_patients(train, fractions=_OF_TRAIN, seed=0, name=NAME)


def _grey(pixels: Array) -> NDArray[np.unsignedinteger]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
