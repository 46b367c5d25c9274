"""How large an image or signal may be; one that claims more is refused before it is decoded.

A few bytes can claim to be an image that fills the memory (a decompression bomb), and so can a
header with a wrong digit. Every reader asks here with what the file claims, and nothing is
allocated before.
"""

import os
from pathlib import Path

from fedkim_core.errors import UserError

MAX_VALUES = 50_000_000
"""Pixels of an image or samples of a signal: more than any radiograph has, less than fills a
memory."""
MAX_SIDE = 30_000
"""Pixels of a row or column; what resizing holds in memory grows with it."""
MAX_BYTES = 8 * MAX_VALUES
"""Of a DICOM file, which is read whole: pixels of 16 bits, and four times that to spare."""
MAX_HEADER_BYTES = 1 << 20
"""Of a WFDB header."""


def refuse_large_image(path: Path, *counts: int) -> None:
    """Refuse an image by its rows and columns, and what else multiplies its pixels.

    Raises:
        UserError: too many pixels, in all or in a row or column.
    """
    pixels = 1
    for count in counts:
        pixels *= count
    if pixels > MAX_VALUES:
        raise UserError(f"{path}: the image claims more than {MAX_VALUES} pixels")
    if max(counts[:2]) > MAX_SIDE:
        raise UserError(f"{path}: the image claims more than {MAX_SIDE} pixels a side")


def refuse_large_signal(path: Path, samples: int) -> None:
    """Refuse a signal by the samples of all its leads together.

    Raises:
        UserError: too many.
    """
    if samples > MAX_VALUES:
        raise UserError(
            f"{path}: the record has more than {MAX_VALUES} samples; cut it to its first 10 s"
        )


def refuse_large_file(path: Path | str, most: int) -> None:
    """Refuse a file that would be read whole.

    Raises:
        UserError: more than ``most`` bytes.
        OSError: the file is gone.
    """
    if os.path.getsize(path) > most:
        raise UserError(f"{path}: the file is larger than {most} bytes")
