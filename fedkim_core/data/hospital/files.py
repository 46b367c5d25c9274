"""Images and signals of a hospital's export: found, checked, and copied without who they are of."""

import bisect
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fedkim_core.data.decode import read_signal
from fedkim_core.data.hospital.left_out import Unusable
from fedkim_core.data.hospital.mapping import FIELD
from fedkim_core.data.pixels import read_grey
from fedkim_core.data.wfdb16 import write_record
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

Find = Callable[[Mapping[str, str | None]], Path]


def finder(folder: Path, template: str, ending: str = "") -> Find:
    """How the file of a row is found.

    Args:
        folder: of the export.
        template: a path below it, with columns in braces, and ``*`` for any characters but ``/``.
        ending: is added where the path does not have it.

    Returns:
        A function of a row's cells that gives the file, or raises :class:`Unusable`.
    """
    root = Path(os.path.realpath(folder))
    fixed = re.split(r"[{*]", template, maxsplit=1)[0].rpartition("/")[0]
    listing = _listing(folder, fixed, ending) if "*" in template else []

    def find(cells: Mapping[str, str | None]) -> Path:
        parts = FIELD.split(template)  # text, column, text, column, ..., text
        parts[1::2] = [_as_path(cells[column]) for column in parts[1::2]]
        if "*" in template:
            path = folder / _only_one(listing, parts)
        else:
            name = "".join(parts)
            path = folder / (name if name.endswith(ending) else name + ending)
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise Unusable("its file is a path or link that leaves the source folder")
        if not path.is_file():
            raise Unusable("its file is missing")
        return path

    return find


def _as_path(cell: str | None) -> str:
    """A cell as part of a path; exports from Windows separate folders by backslashes."""
    if cell is None:
        raise Unusable("the row names no file")
    path = PurePosixPath(cell.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in cell:
        raise Unusable("its file is a path or link that leaves the source folder")
    return str(path)


def _listing(folder: Path, below: str, ending: str) -> list[str]:
    found = [
        (Path(where) / name).relative_to(folder).as_posix()
        for where, _, names in os.walk(folder / below)
        for name in names
        if name.endswith(ending)
    ]
    return sorted(found)


def _only_one(listing: list[str], parts: list[str]) -> str:
    """The one file that fits; looked for among those that begin as the pattern does."""
    pattern, begin, open_end = "", "", False
    for position, part in enumerate(parts):
        for number, piece in enumerate(part.split("*") if position % 2 == 0 else [part]):
            if number:
                pattern, open_end = pattern + "[^/]*", True
            pattern += re.escape(piece)
            begin += "" if open_end else piece
    fits = re.compile(pattern).fullmatch
    found = []
    position = bisect.bisect_left(listing, begin)
    while position < len(listing) and listing[position].startswith(begin):
        if fits(listing[position]):
            found.append(listing[position])
        position += 1
    if not found:
        raise Unusable("no file fits the pattern")
    if len(found) > 1:
        raise Unusable("several files fit the pattern; it must find one")
    return found[0]


def copy_image(path: Path, target: Path) -> str:
    """Copy the pixels of a DICOM, PNG or JPEG file, and nothing else of it, as PNG.

    Args:
        path: the file; DICOM is known by its content, whatever its ending.
        target: without ending.

    Returns:
        The ending of the copy.

    Raises:
        Unusable: damaged, not one frame, or marked as having text in its pixels.
    """
    try:
        with path.open("rb") as file:
            is_dicom = file.read(132)[128:] == b"DICM"
        if is_dicom and path.suffix.lower() != ".dcm":
            path = Path(shutil.copyfile(path, target.with_suffix(".dcm")))
        pixels = read_grey(path)
        if is_dicom and _has_text(path):
            raise Unusable("its image has text in its pixels (BurnedInAnnotation is YES)")
    except UserError as error:
        raise Unusable(f"its image: {_reason(error, path)}") from error
    except OSError as error:
        raise Unusable("its image cannot be read") from error
    Image.fromarray(np.ascontiguousarray(pixels)).save(target.with_suffix(".png"), compress_level=3)
    target.with_suffix(".dcm").unlink(missing_ok=True)
    return ".png"


def _has_text(path: Path) -> bool:
    """Whether the file says that names or dates are part of the picture, PS3.3 C.7.6.1."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the element's value
            header: Any = pydicom.dcmread(path, stop_before_pixels=True)
            return str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise Unusable(f"its image has a damaged header ({type(error).__name__})") from error


def copy_signal(path: Path, target: Path) -> str:
    """Copy the first ten seconds of a WFDB record, twelve leads, without its comments.

    Args:
        path: its header, ``.hea``.
        target: without ending.

    Returns:
        Nothing to add to the target: a record is named without ending.

    Raises:
        Unusable: damaged, too short, a lead is missing, a unit is unknown.
    """
    card = load_modalities()["signal"]
    record = path.with_suffix("")
    try:
        values = read_signal(record, card).T
        write_record(target, values, card.leads, card.sampling_rate)
    except UserError as error:
        named = target if str(target) in str(error) else record
        raise Unusable(f"its signal: {_reason(error, named)}") from error
    return ""


def _reason(error: UserError, path: Path) -> str:
    """What follows the file's name in a message: the name may be a patient's."""
    return str(error).removeprefix(str(path)).partition(": ")[2]
