"""Write a site folder: all of it or nothing."""

import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from PIL import Image

from fedkim_core.data.check import check_site
from fedkim_core.data.contract import (
    CARD_FILE,
    EXAMPLES_FILE,
    EXAMPLES_SCHEMA,
    KIND_OF,
    TABLES_FILE,
    TABLES_SCHEMA,
    SiteCard,
    SiteError,
    leaves_folder,
)
from fedkim_core.data.threads import in_threads
from fedkim_core.data.wfdb16 import write_record
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks

DICOM_UID_ROOT = "2.25."
"""UIDs derived from a hash need no registered root (PS3.5 B.2)."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``folder`` when the block ends well, and is gone otherwise.

    Raises:
        UserError: ``folder`` exists and holds something, or cannot be written (disk full,
            no permission).
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; remove it or choose another folder")
    building = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        building.mkdir(parents=True)
        yield building
        building.rename(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{folder}: cannot be written ({reason})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_site(
    folder: Path,
    card: SiteCard,
    examples: pl.DataFrame,
    *,
    images: Mapping[str, NDArray[np.unsignedinteger] | Path],
    signals: Mapping[str, NDArray[np.floating] | Path],
    tables: pl.DataFrame | pl.LazyFrame,
    damaged: dict[str, str] | None = None,
) -> None:
    """Write a site folder and check it; it appears complete or not at all.

    Args:
        folder: must not exist yet, or be empty.
        card: becomes ``site.yaml``.
        examples: columns of ``EXAMPLES_SCHEMA``; those left out are filled with null.
        images: by relative path ending in ``.png`` or ``.dcm``; ``[H, W]`` uint8 or uint16.
        signals: by relative path without extension; ``[samples, leads]`` in millivolt at the
            rate and in the lead order of the modality card.

            Instead of an array either may give the path of a file that keeps the contract (of a
            signal without extension, and with the same name): it is copied as it is.
        tables: columns of ``TABLES_SCHEMA``; no rows when there are no tables. A lazy frame is
            written as it streams by.
        damaged: takes, by reference, why an image or signal cannot be read. Examples lose it, and
            those of which nothing is left are not written. None: the first such file is an error.

    ``images`` and ``signals`` are asked for one value at a time, in this thread and in their order,
    so a mapping that computes its values keeps memory small.

    Raises:
        SiteError: what was written breaks the contract.
        UserError: an array has a wrong shape, type or path; nothing is left; the disk is full.
    """
    with whole_folder(folder) as building:
        _make_folders(building, (*images, *signals))
        in_threads(
            lambda image: _write_image(building / image[0], image[1]),
            _readable(images, damaged),  # they are read here, one after the other
        )
        ecg = load_modalities()["signal"]
        for reference, signal in _readable(signals, damaged):
            path = building / reference
            if isinstance(signal, Path):
                for end in (".hea", ".dat"):
                    shutil.copyfile(f"{signal}{end}", f"{path}{end}")
            else:
                write_record(path, signal, ecg.leads, ecg.sampling_rate)
        if damaged:
            examples = without_files(examples, damaged)
            if examples.is_empty():
                first = ": ".join(next(iter(damaged.items())))
                raise UserError(f"{folder}: no example is left; damaged is {first}")
        (building / CARD_FILE).write_text(
            yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
        _write_frame(building / EXAMPLES_FILE, examples, EXAMPLES_SCHEMA)
        _write_frame(building / TABLES_FILE, tables, TABLES_SCHEMA)
        if faults := check_site(building):
            raise SiteError(folder, faults)


def _readable(
    files: Mapping[str, NDArray[Any] | Path], damaged: dict[str, str] | None
) -> Iterator[tuple[str, NDArray[Any] | Path]]:
    """Reference and value of every file that can be read."""
    for reference in files:
        try:
            value = files[reference]
        except UserError as error:
            if damaged is None:
                raise
            damaged[reference] = str(error).partition(": ")[2] or str(error)  # the path before
        else:
            yield reference, value


def without_files(examples: pl.DataFrame, damaged: Collection[str]) -> pl.DataFrame:
    """The examples without references to damaged files, if their task still has a modality."""
    if not damaged:
        return examples
    gone, held = list(damaged), [name for name in KIND_OF if name in examples.columns]
    files = [name for name in held if KIND_OF[name] != "table"]
    left = pl.any_horizontal(
        (pl.col("task") == task) & pl.col(modality).is_not_null()
        for task, card in load_tasks().items()
        for modality in card.encoded
        if modality in held
    )
    return (
        examples.with_columns(
            *(pl.when(~pl.col(name).is_in(gone)).then(name).alias(name) for name in files),
            lost=pl.any_horizontal(pl.col(files).is_in(gone)).fill_null(False),
        )
        .filter(~pl.col("lost") | left)
        .drop("lost")
    )


def _write_frame(path: Path, frame: pl.DataFrame | pl.LazyFrame, schema: pl.Schema) -> None:
    names = frame.lazy().collect_schema().names()
    unknown = [name for name in names if name not in schema]
    if unknown:
        raise UserError(f"{path.name}: unknown column {unknown[0]!r}; known: {', '.join(schema)}")
    columns = [pl.col(n) if n in names else pl.lit(None).alias(n) for n in schema]
    try:
        typed = frame.lazy().select(columns).cast(schema)
        if isinstance(frame, pl.DataFrame):  # a wrong type is found before the file is begun
            typed = typed.collect().lazy()
        typed.sink_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # Polars keeps it in its words
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise UserError(f"{path.name}: a column has the wrong type; see {schema}") from error


def _make_folders(building: Path, references: Collection[str]) -> None:
    for reference in references:
        if leaves_folder(reference):
            raise UserError(f"{reference!r}: must be a relative path inside the site folder")
    for folder in {os.path.dirname(reference) for reference in references}:
        (building / folder).mkdir(parents=True, exist_ok=True)


def _write_image(path: Path, pixels: NDArray[np.unsignedinteger] | Path) -> None:
    if isinstance(pixels, Path):
        shutil.copyfile(pixels, path)
        return
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
        raise UserError(
            f"{path.name}: an image must be [H, W] uint8 or uint16,"
            f" got {list(pixels.shape)} {pixels.dtype}"
        )
    if path.suffix.lower() == ".dcm":
        path.write_bytes(dicom_bytes(pixels))
    elif path.suffix.lower() == ".png":
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=3)
    else:
        raise UserError(f"{path.name}: an image must end in .png or .dcm")


def dicom_bytes(pixels: NDArray[np.unsignedinteger]) -> bytes:
    """A computed radiography object without any patient attribute; same pixels, same bytes."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    digest = hashlib.blake2b(little.tobytes(), digest_size=16).digest()
    instance = DICOM_UID_ROOT + str(int.from_bytes(digest, "big"))
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds: Any = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, instance
    ds.StudyInstanceUID = ds.SeriesInstanceUID = instance
    ds.PatientID = ds.PatientName = ""
    ds.Modality = "CR"
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "MONOCHROME2", 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    data = little.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
