"""Decode one image or signal of a site folder and say what is wrong with it."""

import hashlib
import math
import re
import warnings
from pathlib import Path

import numpy as np

from fedkim_core.data.decode import Array, read_image, read_signal
from fedkim_core.errors import UserError
from fedkim_core.modalities import Modality, load_modalities

MAX_VALUES = 50_000_000
"""Pixels of an image or samples of a signal: more than any radiograph has, less than fills a
memory. A file that claims more is not decoded."""
AMPLITUDE = (0.001, 10.0)
"""Plausible standard deviation of an electrocardiogram's leads (their median), in mV. It is 0.07 to
0.57 in 362 records of PTB-XL and the PhysioNet Challenge 2021; the bounds find a flat line, and a
unit or gain that is wrong by a thousand."""
SIZE = 64
"""Pixels a side of the images whose content is compared."""


def examine(root: str, file: tuple[str, str]) -> tuple[str, str]:
    """A digest of the content and "", or "" and the rule that the file breaks.

    Args:
        root: the site folder.
        file: modality and reference.
    """
    modality, reference = file
    path = Path(root, reference)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the file, which may hold patient values
            card = load_modalities()[modality]
            rule, values = _image(path) if card.kind == "image" else _signal(path, card)
    except UserError as error:
        return "", _without_names(str(error), path)
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        return "", f"the file cannot be decoded ({type(error).__name__})"
    if rule or values is None:
        return "", rule
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest(), ""


def _image(path: Path) -> tuple[str, Array | None]:
    if _pixels(path) > MAX_VALUES:
        return f"the image claims more than {MAX_VALUES} pixels", None
    values = read_image(path, SIZE)
    return "the image holds a single grey value" if np.ptp(values) == 0 else "", values


def _pixels(path: Path) -> int:
    """As the header claims, before anything is decoded."""
    if path.suffix.lower() == ".png":
        with path.open("rb") as file:
            header = file.read(24)  # signature, then IHDR: length, name, width, height
        return int.from_bytes(header[16:20], "big") * int.from_bytes(header[20:24], "big")
    import pydicom

    tags = ["Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"]
    ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    return math.prod(int(ds.get(tag) or 1) for tag in tags)


def _signal(path: Path, card: Modality) -> tuple[str, Array | None]:
    data = path.with_name(f"{path.name}.dat")
    text = path.with_name(f"{path.name}.hea").read_text(encoding="utf-8", errors="replace")
    lines = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    if any(fields[0] != data.name for fields in lines[1:]):
        return "the header names another file than the record's own .dat", None
    claimed = [int(field) for field in lines[0][1:4:2]] if lines else []  # leads, samples
    if max(math.prod(claimed), data.stat().st_size // 2) > MAX_VALUES:
        return f"the record has more than {MAX_VALUES} samples; cut it to its first 10 s", None
    values = read_signal(path, card)
    low, high = AMPLITUDE
    if not low <= float(np.median(values.std(axis=1))) <= high:
        return "the signal's amplitude is implausible; are its unit and gain right?", None
    return "", values


def _without_names(message: str, path: Path) -> str:
    """The reason alone: a file's name may be a patient's, and so may what is quoted from it."""
    for name in (f"{path}.hea", str(path)):
        message = message.removeprefix(f"{name}: ")
    return re.sub(r""" (['"]).*\1""", "", message)
