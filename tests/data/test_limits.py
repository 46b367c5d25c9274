"""Every reader refuses what claims to be too large, before it takes the memory."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedkim_core.data import decode
from fedkim_core.data.decode import read_image, read_signal
from fedkim_core.data.limits import MAX_BYTES, MAX_HEADER_BYTES, MAX_SIDE, MAX_VALUES
from fedkim_core.data.pixels import read_grey
from fedkim_core.data.site import Site, load_examples
from fedkim_core.data.wfdb16 import write_record
from fedkim_core.data.write import dicom_bytes
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks

ECG = load_modalities()["signal"]
PIXELS = f"claims more than {MAX_VALUES} pixels"


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """A refusal needs next to none."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def read_pixels(path: Path) -> object:
    return read_image(path, 64)


def png(path: Path, columns: int, rows: int) -> None:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )


def dicom(path: Path, **elements: object) -> None:
    path.write_bytes(dicom_bytes(np.arange(600, dtype=np.uint16).reshape(20, 30)))
    ds = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.save_as(path)


def deflate(path: Path) -> None:
    dicom(path)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)


def grow(path: Path, size: int) -> None:
    os.truncate(path, size)  # a sparse file: nothing is written


def grown(path: Path) -> None:
    dicom(path)
    grow(path, MAX_BYTES + 1)


@pytest.mark.parametrize("read", [read_pixels, read_grey])
@pytest.mark.parametrize(
    ("name", "make", "rule"),
    [
        ("a.png", lambda path: png(path, 10_000, 5_001), PIXELS),
        ("a.png", lambda path: png(path, 2**31 - 1, 2**31 - 1), PIXELS),
        ("a.png", lambda path: png(path, MAX_SIDE + 1, 1), f"more than {MAX_SIDE} pixels a side"),
        ("a.dcm", lambda path: dicom(path, Rows=65535, Columns=65535), PIXELS),
        ("a.dcm", lambda path: dicom(path, NumberOfFrames=100_000), PIXELS),
        ("a.dcm", lambda path: dicom(path, Rows=MAX_SIDE + 1, Columns=1), "pixels a side"),
        ("a.dcm", grown, f"the file is larger than {MAX_BYTES} bytes"),
        ("a.dcm", deflate, "deflated as a whole"),
    ],
)
def test_images(
    tmp_path: Path,
    read: Callable[[Path], object],
    name: str,
    make: Callable[[Path], None],
    rule: str,
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError, match=rule) as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ("r 12 100 9999999999\n", f"more than {MAX_VALUES} samples; cut it"),
        ("r 9999999999 100 1000\n", f"more than {MAX_VALUES} samples; cut it"),
        ("r/2 12 100 9999999999\nr1 500\nr2 500\n", f"more than {MAX_VALUES} samples"),
        ("r 12 100\n", f"more than {MAX_VALUES} samples"),  # the length is that of the file
        ("# " + "x" * MAX_HEADER_BYTES, f"larger than {MAX_HEADER_BYTES} bytes"),
    ],
)
def test_signals(tmp_path: Path, header: str, rule: str) -> None:
    write_record(tmp_path / "r", np.zeros((1000, 12)), ECG.leads, 100)
    lines = (tmp_path / "r.hea").read_text().partition("\n")[2]
    (tmp_path / "r.hea").write_text(header + lines)
    if header == "r 12 100\n":
        grow(tmp_path / "r.dat", 2 * MAX_VALUES + 24)
    with pytest.raises(UserError, match=rule) as error:
        read_signal(tmp_path / "r", ECG)
    assert "\n" not in str(error.value)


def test_a_run_refuses_as_the_check_does(site_folder: Path, private_cache: Path) -> None:
    site = Site.open(site_folder)
    (image,) = site.examples.filter(task="covid19")["image"]
    png(site_folder / image, 10_000, 10_000)
    cards = {"covid19": load_tasks()["covid19"]}
    with pytest.raises(UserError, match=PIXELS):
        load_examples(Site.open(site_folder), split=None, cards=cards, image_size=32)


def test_what_resizing_keeps_is_bounded() -> None:
    kept = decode._weights.cache_info().maxsize
    assert kept is not None
    for pixels in range(70, 70 + 2 * kept):
        decode._weights(pixels, 64)
    assert decode._weights.cache_info().currsize <= kept
