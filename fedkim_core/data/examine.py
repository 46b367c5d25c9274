"""Decode one image or signal of a site folder and say what is wrong with it."""

import hashlib
import re
from pathlib import Path

import numpy as np

from fedkim_core.data.decode import Array, read_image, read_signal
from fedkim_core.data.wfdb16 import header_lines
from fedkim_core.errors import UserError
from fedkim_core.modalities import Modality, load_modalities

AMPLITUDE = (0.001, 10.0)
"""Plausible standard deviation of an electrocardiogram's leads (their median), in mV. It is 0.07 to
0.57 in 362 records of PTB-XL and the PhysioNet Challenge 2021; the bounds find a flat line, and a
unit or gain that is wrong by a thousand."""
SIZE = 64
"""Pixels a side of the images whose content is compared."""


def examine(folder: Path, modality: str, reference: str) -> tuple[str, str]:
    """A digest of the content and "", or "" and the rule that the file breaks.

    The caller silences warnings: they quote the file, which may hold patient values.

    Raises:
        MemoryError: the memory ran out.
    """
    path = folder / reference
    try:
        card = load_modalities()[modality]
        rule, values = _image(path) if card.kind == "image" else _signal(path, card)
    except UserError as error:
        return "", _without_names(str(error), path)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        return "", f"the file cannot be decoded ({type(error).__name__})"
    if rule or values is None:
        return "", rule
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest(), ""


def _image(path: Path) -> tuple[str, Array | None]:
    values = read_image(path, SIZE)
    return "the image holds a single grey value" if np.ptp(values) == 0 else "", values


def _signal(path: Path, card: Modality) -> tuple[str, Array | None]:
    if any(line.split()[0] != f"{path.name}.dat" for line in header_lines(path)[1:]):
        return "the header names another file than the record's own .dat", None
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
