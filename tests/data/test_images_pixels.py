"""Pixels of PNG, JPEG and DICOM files, and what is left out of a collection of images."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit

from fedkim_core.data.csv_rows import csv_rows
from fedkim_core.data.pixels import Radiograph, collect, files_in, read_grey
from fedkim_core.errors import UserError

GREY = np.random.default_rng(1).integers(0, 256, (24, 20), dtype=np.uint8)
SECRET = "Secretname^Anna"


def dicom(path: Path, pixels: np.ndarray, *, jpeg: bool = False, **elements: Any) -> Path:
    """A DICOM radiograph of a named patient, written by pydicom."""
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.276.0.1"
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    ds: Any = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.276.0.1"
    ds.PatientName, ds.PatientAge, ds.PatientSex = SECRET, "051Y", "F"
    ds.Modality, ds.ViewPosition = "CR", "PA"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    if jpeg:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        ds.PixelData = encapsulate([buffer.getvalue()])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    else:
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)
    return path


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few bytes whose header claims ``side`` pixels each way."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def test_png_and_jpeg(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "grey.png"), GREY)
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    read = read_grey(tmp_path / "deep.png")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, deep)
    Image.fromarray(np.stack([GREY] * 3, axis=2)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "rgb.png"), GREY)
    smooth = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (16, 1))
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "rgb.jpeg", quality=95)
    read = read_grey(tmp_path / "rgb.jpeg")
    assert (read.shape, read.dtype) == (smooth.shape, np.uint8)
    assert np.abs(read.astype(int) - smooth).max() < 4


def test_dicom_is_windowed_and_bone_is_bright(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_grey(dicom(tmp_path / "a.dcm", GREY)), GREY)
    inverse = dicom(tmp_path / "b.dcm", GREY, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_grey(inverse), 255 - GREY)
    window = dicom(tmp_path / "c.dcm", GREY, WindowCenter=128, WindowWidth=2)
    assert set(np.unique(read_grey(window))) <= {0, 128, 255}
    twelve = (GREY.astype(np.uint16) * 16) + 15
    read = read_grey(dicom(tmp_path / "d.dcm", twelve, BitsStored=12))
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read, twelve / 4095 * 65535, atol=0.6)
    smooth = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (16, 1))
    read = read_grey(dicom(tmp_path / "e.dcm", smooth, jpeg=True))  # as RSNA ships them
    assert np.abs(read.astype(int) - smooth).max() < 4


def test_damaged_images_are_named(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(np.tile(GREY, (8, 8))).save(tmp_path / "b.jpeg")
    dicom(tmp_path / "c.dcm", GREY)
    dicom(tmp_path / "d.dcm", np.tile(GREY, (8, 8)), jpeg=True)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for size in (0, 10, len(whole) // 2):
            path.write_bytes(whole[:size])
            with pytest.raises(UserError, match=f"{path.name}: not a readable image") as error:
                read_grey(path)
            assert SECRET not in str(error.value)
            assert "\n" not in str(error.value)
    (tmp_path / "e.png").write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(UserError, match=r"e\.png: not a readable image"):
        read_grey(tmp_path / "e.png")


@pytest.mark.parametrize("side", [10_000, 40_000, 2**31 - 1])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    """Pillow's limit is 89 million pixels; it only warns below twice that."""
    with pytest.raises(UserError, match=r"bomb\.png: the image claims more than 50000000 pixels"):
        read_grey(bomb(tmp_path / "bomb.png", side))


def test_a_dicom_that_claims_more_pixels_than_it_has(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", GREY, Rows=65535, Columns=65535)
    with pytest.raises(UserError, match=r"a\.dcm: the image claims more than 50000000 pixels"):
        read_grey(path)
    path = dicom(tmp_path / "a.dcm", GREY, Rows=500, Columns=500)
    with pytest.raises(UserError, match=r"a\.dcm: not a readable image"):
        read_grey(path)


def test_dicom_of_several_frames(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", GREY, NumberOfFrames=2, Rows=12)
    with pytest.raises(UserError, match="must hold one frame"):
        read_grey(path)


def gather(source: Path, *found: Radiograph) -> Any:
    return collect(source, found, name="set", licence="", note="", obtain="it anywhere")


def picture(path: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.name


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    picture(tmp_path / "secret.png", 99)
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    (source / "inner.png").symlink_to(source / "a.png")
    (source / "empty.png").touch()
    picture(source / "a.png", 1)
    for name in ("b.png", "c.png"):
        picture(source / name, 2)
    for name in ("d.png", "e.png"):
        picture(source / name, 3)
    picture(source / "f-1.png", 4)
    picture(source / "f 1.png", 5)
    names = ["link", "inner", "empty", "gone", "a", "b", "c", "d", "e", "f 1", "f-1"]
    found = [Radiograph(f"{n}.png", f"p-{n}", {"lung_opacity": n == "d"}) for n in names]
    data = gather(source, *reversed(found))
    assert dict(data.left_out) == {
        "link.png": "image file is a link that leaves the folder",
        "empty.png": "image file is empty",
        "gone.png": "image file is missing",
        "inner.png": "same image as a.png",
        "c.png": "same image as b.png",
        "d.png": "same image as e.png with another answer",
        "e.png": "same image as d.png with another answer",
        "f-1.png": "the name differs from another's in punctuation or ending only",
    }
    assert list(data.images) == ["images/a.png", "images/b.png", "images/f-1.png"]
    assert data.examples["example_id"].to_list() == [
        "set-a-lung_opacity",
        "set-b-lung_opacity",
        "set-f-1-lung_opacity",
    ]
    assert set(data.strata) == set(data.examples["patient_id"])


def test_the_whole_source_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    picture(tmp_path / "real" / "a.png", 1)
    (tmp_path / "source").symlink_to(tmp_path / "real")
    data = gather(tmp_path / "source", Radiograph("a.png", "a", {"covid19": True}))
    assert data.left_out == []


def test_strata_are_of_patients(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        picture(tmp_path / name, seed)
    data = gather(
        tmp_path,
        Radiograph("a.png", "one", {"covid19": False, "lung_opacity": False}, "x"),
        Radiograph("b.png", "one", {"covid19": True}, "y"),
        Radiograph("c.png", "two", {"covid19": False}, "x"),
    )
    assert data.strata == {
        "set-one": (("covid19", True), ("lung_opacity", False), "x", "y"),
        "set-two": (("covid19", False), "x"),
    }


def test_no_usable_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no usable image; obtain it anywhere"):
        gather(tmp_path)
    with pytest.raises(UserError, match=r"no usable image \(a\.png: image file is missing\)"):
        gather(tmp_path, Radiograph("a.png", "a", {"covid19": True}))


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".DS_Store", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert files_in(tmp_path) == ["a.png", "b.png"]
    assert files_in(tmp_path / "none") == []


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def read() -> list[tuple[str, dict[str, str]]]:
        return list(csv_rows(path, ("a", "b"), "it anywhere"))

    path.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n")
    assert read() == [(f"{path}:2", {"a": "1", "b": "2"})]
    for content, rule in (
        (b"a\n1\n", r"t\.csv: column 'b' is missing; obtain it anywhere"),
        (b"", r"column 'a' is missing"),
        (b"a,b\n1,2\n1\n", r"t\.csv:3: the row has too few columns"),
        (b"a,b\n\xff,2\n", r"t\.csv: cannot be read \(UnicodeDecodeError\)"),
        (b"a,b\n" + b"x" * 200_000, r"t\.csv: cannot be read \(Error\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rule):
            read()
    path.unlink()
    with pytest.raises(UserError, match="file is missing; obtain it anywhere"):
        read()
