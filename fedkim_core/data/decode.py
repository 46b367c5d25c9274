"""Files of a site folder become arrays of the shapes in :mod:`fedkim_core.modalities`."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from fedkim_core.data.limits import MAX_BYTES, MAX_VALUES, refuse_large_file, refuse_large_image
from fedkim_core.data.wfdb16 import read_record
from fedkim_core.errors import UserError
from fedkim_core.modalities import Modality, load_modalities

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]
_TO_MILLIVOLT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode L
RATES = 50, 10_000
"""Plausible sampling rates in Hz. A tiny one would make a record of seconds one of years."""


def read_image(path: Path, size: int) -> Array:
    """Read a PNG or DICOM image as ``[1, size, size]``, 0..1, bone bright.

    Colour becomes grey. DICOM: modality and VOI transforms are applied, MONOCHROME1 is inverted;
    without a window the full range of the stored bits is 0..1. The image is resized by exact area
    averages (linear when enlarged), each side on its own, so widths keep their ratios.

    Raises:
        UserError: the file cannot be decoded, is larger than :mod:`fedkim_core.data.limits` allows,
            or holds values that are not finite.
    """
    try:
        grey = read_dicom(path) if path.suffix.lower() == ".dcm" else _read_png(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from error
    if not np.isfinite(grey).all():
        raise UserError(f"{path}: the image holds values that are not finite numbers")
    rows, columns = grey.shape
    # Torch, not NumPy: NumPy's own thread pool can wait for ever inside Flower's server thread.
    import torch  # here: who only lists a folder need not wait for it

    resized = _weights(rows, size) @ torch.from_numpy(grey) @ _weights(columns, size).T
    return resized.clamp(0, 1).numpy()[None]


@lru_cache(maxsize=32)  # the images of a hospital have few sizes; one takes up to 27 MB
def _weights(pixels: int, size: int) -> "Tensor":
    """``[size, pixels]``: how much each old pixel counts in each new one; rows add up to 1."""
    import torch

    scale, old = pixels / size, np.arange(pixels)
    new = np.arange(size)[:, None]
    if pixels >= size:
        overlap = np.minimum((new + 1) * scale, old + 1) - np.maximum(new * scale, old)
        return torch.from_numpy((overlap.clip(0) / scale).astype(np.float32))
    centre = ((new + 0.5) * scale - 0.5).clip(0, pixels - 1)
    return torch.from_numpy((1 - np.abs(centre - old)).clip(0).astype(np.float32))


def _read_png(path: Path) -> Array:
    with opened(path, "PNG") as image:
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.float32) / np.float32(65535)
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


@contextmanager
def opened(path: Path, *formats: str) -> Iterator[Image.Image]:
    """A picture of one of these formats, loaded unless it claims too many pixels.

    Raises:
        UserError: as :func:`refuse_large_image`.
        Exception: whatever Pillow raises of a damaged file.
    """
    try:
        image = Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: the image claims more than {MAX_VALUES} pixels") from error
    with image:
        refuse_large_image(path, *image.size)
        image.load()
        yield image


def read_dicom(path: Path) -> Array:
    """A DICOM image in its own size, ``[H, W]`` in 0..1, bone bright; see :func:`read_image`.

    Raises:
        UserError: more than one frame, or as :mod:`fedkim_core.data.limits` has it.
        Exception: whatever pydicom raises of a damaged file.
    """
    import pydicom
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    # Its warnings and its log quote the element's value, which may be a patient's.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    refuse_large_file(path, MAX_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UserError(f"{path}: the DICOM file is deflated as a whole, to an unknown size")
        ds: Any = pydicom.dcmread(path)
        sizes = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")
        refuse_large_image(path, *(int(ds.get(size) or 1) for size in sizes))
        pixels = ds.pixel_array
    if pixels.ndim == 3 and pixels.shape[-1] == 3 and int(ds.SamplesPerPixel) == 3:
        full = 2.0 ** int(ds.BitsStored) - 1
        return np.asarray((pixels * _LUMA).sum(-1) / full, dtype=np.float32)
    if pixels.ndim != 2:
        raise UserError(f"{path}: a DICOM image must hold one frame, got {list(pixels.shape)}")
    values = apply_voi_lut(apply_modality_lut(pixels, ds), ds)
    low, high = _output_range(ds)
    grey = (values.astype(np.float64) - low) / (high - low)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return np.asarray(grey.clip(0, 1), dtype=np.float32)


def _output_range(ds: Any) -> tuple[float, float]:
    """Range of what modality and VOI transforms give: PS3.3 C.11.1 and C.11.2."""
    if "VOILUTSequence" in ds:
        return 0.0, 2.0 ** int(ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "ModalityLUTSequence" in ds:
        return 0.0, 2.0 ** int(ds.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    span = 2 ** int(ds.BitsStored)
    low = -span // 2 if int(ds.PixelRepresentation) else 0
    rescaled = "RescaleSlope" in ds and "RescaleIntercept" in ds
    slope, intercept = (
        (float(ds.RescaleSlope), float(ds.RescaleIntercept)) if rescaled else (1.0, 0.0)
    )
    ends = sorted((low * slope + intercept, (low + span - 1) * slope + intercept))
    return ends[0], ends[1]


def read_signal(path: Path, card: Modality) -> Array:
    """Read a WFDB record as ``[leads, samples]`` millivolt, leads in the card's order.

    Another rate is resampled (polyphase, anti-aliased); of a longer record the first part is
    taken.

    Raises:
        UserError: unreadable, a lead or unit is unknown, too short, or a sample is missing.
    """
    record = read_record(path)
    order, factors, fault = _select(record.leads, record.units, card.leads)
    if fault:
        raise UserError(f"{path}: {fault}")
    values = record.values[:, order] * factors
    low, high = RATES
    if not low <= record.rate <= high:
        raise UserError(f"{path}: the sampling rate is outside {low} to {high} Hz")
    if record.rate != card.sampling_rate:
        values = _resample(values, record.rate, card.sampling_rate)
    if len(values) < card.samples:
        seconds = card.samples / card.sampling_rate
        raise UserError(f"{path}: the record is shorter than {seconds:g} s")
    values = values[: card.samples]
    if not np.isfinite(values).all():
        raise UserError(f"{path}: the signal has samples that were not recorded")
    return np.ascontiguousarray(values.T, dtype=np.float32)


@lru_cache(maxsize=128)  # the records of a hospital have the same leads, by and large
def _select(
    leads: tuple[str, ...], units: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[list[int], NDArray[np.float64], str]:
    """Columns and factors that make the wanted leads in millivolt, or what is wrong."""
    columns = {name.lower(): i for i, name in enumerate(leads)}
    absent = [lead for lead in wanted if lead.lower() not in columns]
    if absent:
        return [], np.empty(0), f"the record has no lead {absent[0]}"
    order = [columns[lead.lower()] for lead in wanted]
    strange = [units[i] for i in order if units[i].lower() not in _TO_MILLIVOLT]
    if strange:
        return [], np.empty(0), f"unit {strange[0]!r} is not a voltage; known: mV, uV, V"
    return order, np.array([_TO_MILLIVOLT[units[i].lower()] for i in order]), ""


def _resample(values: NDArray[np.float64], rate: float, target: int) -> NDArray[np.float64]:
    from fractions import Fraction

    from scipy.signal import resample_poly

    ratio = Fraction(target) / Fraction(rate).limit_denominator(1000)
    resampled = resample_poly(values, ratio.numerator, ratio.denominator, axis=0, padtype="line")
    return np.asarray(resampled, dtype=np.float64)


def read_tables(path: Path, stays: Mapping[str, Sequence[str]], hours: int) -> dict[str, Array]:
    """Read stays from ``tables.parquet``.

    Args:
        path: the parquet file.
        stays: by modality, the stays wanted, each once.
        hours: how many hours from admission.

    Returns:
        By modality ``[stays, hours, variables]``: the mean of each hour's values, NaN where
        nothing was observed; stays in the order given.

    Raises:
        UserError: the file is gone or cannot be read.
    """
    cards = load_modalities()
    stay_rows = pl.DataFrame(
        [(m, stay, row) for m, wanted in stays.items() for row, stay in enumerate(wanted)],
        schema={"modality": pl.String, "stay_id": pl.String, "row": pl.Int64},
        orient="row",
    )
    columns = pl.DataFrame(
        [(m, v.name, i) for m in stays for i, v in enumerate(cards[m].variables)],
        schema={"modality": pl.String, "variable": pl.String, "column": pl.Int64},
        orient="row",
    )
    wanted_rows = pl.col("stay_id").is_in(stay_rows["stay_id"].implode())
    query = (
        pl.scan_parquet(path, glob=False, hive_partitioning=False)
        .filter(wanted_rows, pl.col("modality").is_in(list(stays)), pl.col("hour") < hours)
        .select("stay_id", "modality", "variable", pl.col("hour").cast(pl.Int64), "value")
        .join(columns.lazy(), on=["modality", "variable"], maintain_order="left")
        .join(stay_rows.lazy(), on=["modality", "stay_id"], maintain_order="left")
        .select("modality", "row", "column", "hour", "value")
    )
    try:
        found = query.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: the tables cannot be read") from error
    arrays = {}
    for modality, wanted in stays.items():
        shape = (len(wanted), hours, len(cards[modality].variables))
        part = found.filter(pl.col("modality") == modality)
        index = (part["row"].to_numpy(), part["hour"].to_numpy(), part["column"].to_numpy())
        flat = np.ravel_multi_index(index, shape)
        size = int(np.prod(shape))
        counts = np.bincount(flat, minlength=size)
        sums = np.bincount(flat, weights=part["value"].to_numpy(), minlength=size)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: not observed
            arrays[modality] = (sums / counts).astype(np.float32).reshape(shape)
    return arrays
