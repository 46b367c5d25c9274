"""Images, signals and tables against independent oracles."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
import wfdb
from PIL import Image
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence

from fedkim_core.data.decode import read_image, read_signal, read_tables
from fedkim_core.data.wfdb16 import write_record
from fedkim_core.data.write import dicom_bytes
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

ECG = load_modalities()["signal"]
RNG = np.random.default_rng(3)
GREY8 = RNG.integers(0, 256, (24, 16), dtype=np.uint8)


def block_means(pixels: np.ndarray, size: int) -> np.ndarray:
    rows, columns = pixels.shape
    blocks = pixels.reshape(size, rows // size, size, columns // size)
    return blocks.astype(np.float64).mean(axis=(1, 3))


def png(path: Path, image: Image.Image) -> Path:
    image.save(path, format="PNG")
    return path


def test_png_is_averaged_over_areas(tmp_path: Path) -> None:
    image = read_image(png(tmp_path / "x.png", Image.fromarray(GREY8)), 8)
    assert image.shape == (1, 8, 8)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], block_means(GREY8, 8) / 255, atol=1e-6)


def test_mean_is_kept_when_sides_do_not_divide(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
    image = read_image(png(tmp_path / "x.png", Image.fromarray(pixels)), 16)
    assert image.mean() == pytest.approx(pixels.mean() / 255, abs=1e-5)


def test_same_size_is_untouched_and_16_bit_uses_its_full_range(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (8, 8), dtype=np.uint16)
    image = read_image(png(tmp_path / "x.png", Image.fromarray(pixels)), 8)
    np.testing.assert_allclose(image[0], pixels / 65535, atol=1e-7)


def test_small_image_is_enlarged(tmp_path: Path) -> None:
    image = read_image(png(tmp_path / "x.png", Image.fromarray(GREY8[:3, :5])), 32)
    assert image.shape == (1, 32, 32)
    pixels = GREY8[:3, :5] / 255
    assert pixels.min() - 1e-6 <= image.min() < image.max() <= pixels.max() + 1e-6
    corners = image[0][[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, pixels[[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colour_images_of_grey_pixels_equal_the_grey_image(tmp_path: Path, mode: str) -> None:
    grey = read_image(png(tmp_path / "grey.png", Image.fromarray(GREY8)), 8)
    other = read_image(png(tmp_path / "x.png", Image.fromarray(GREY8).convert(mode)), 8)
    np.testing.assert_allclose(other, grey, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".dcm"])
@pytest.mark.parametrize("keep", [0, 10, 0.6])
def test_damaged_image(tmp_path: Path, suffix: str, keep: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY8).save(buffer, format="PNG")
    whole = dicom_bytes(GREY8) if suffix == ".dcm" else buffer.getvalue()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(UserError, match=r"x\.(png|dcm): not a readable image") as error:
        read_image(path, 8)
    assert "\n" not in str(error.value)


def test_jpeg_that_calls_itself_png(tmp_path: Path) -> None:
    Image.fromarray(GREY8).save(tmp_path / "x.png", format="JPEG")
    with pytest.raises(UserError, match="not a readable image"):
        read_image(tmp_path / "x.png", 8)


def dicom(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(pixels)))
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.save_as(path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_plain_dicom_uses_the_range_of_its_stored_bits(tmp_path: Path, dtype: type) -> None:
    full = np.iinfo(dtype).max
    pixels = RNG.integers(0, full, (7, 7), dtype=dtype, endpoint=True)
    image = read_image(dicom(tmp_path / "x.dcm", pixels), 7)
    np.testing.assert_allclose(image[0], pixels / full, atol=1e-6)
    twelve = dicom(tmp_path / "y.dcm", pixels.astype(np.uint16) % 4096, BitsStored=12, HighBit=11)
    expected = pixels.astype(np.uint16) % 4096 / 4095
    np.testing.assert_allclose(read_image(twelve, 7)[0], expected, atol=1e-6)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    upright = read_image(dicom(tmp_path / "x.dcm", GREY8), 8)
    inverse = dicom(tmp_path / "y.dcm", GREY8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_image(inverse, 8), 1 - upright, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_and_rescale(tmp_path: Path, function: str) -> None:
    pixels = RNG.integers(0, 4096, (9, 9), dtype=np.uint16)
    elements = {
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "WindowCenter": 2000,
        "WindowWidth": 1500,
        "VOILUTFunction": function,
    }
    image = read_image(dicom(tmp_path / "x.dcm", pixels, **elements), 9)
    values = pixels * 2.0 - 1000  # PS3.3 C.11.2.1.2 and C.11.2.1.3, written out
    expected = {
        "LINEAR": np.clip((values - 1999.5) / 1499 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((values - 2000) / 1500 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - 2000) / 1500)),
    }[function]
    np.testing.assert_allclose(image[0], expected, atol=1e-5)


def test_signed_pixels(tmp_path: Path) -> None:
    signed = RNG.integers(-32768, 32768, (6, 6)).astype(np.int16)
    path = dicom(tmp_path / "x.dcm", signed.view(np.uint16), PixelRepresentation=1)
    np.testing.assert_allclose(read_image(path, 6)[0], (signed + 32768.0) / 65535, atol=1e-6)


def test_lookup_table(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 10]
    table.LUTData = [int(v) for v in (np.linspace(0, 1, 256) ** 2 * 1023).round()]
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    path = dicom(tmp_path / "x.dcm", GREY8[:8, :8], VOILUTSequence=Sequence([table]))
    expected = np.array(table.LUTData)[GREY8[:8, :8]] / 1023
    np.testing.assert_allclose(read_image(path, 8)[0], expected, atol=1e-6)
    theirs = apply_voi_lut(GREY8[:8, :8], pydicom.dcmread(path)) / 1023
    np.testing.assert_allclose(expected, theirs, atol=1e-9)


def test_colour_dicom_and_several_frames(tmp_path: Path) -> None:
    rgb = np.repeat(GREY8[:8, :8, None], 3, axis=2)
    elements = {
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "RGB",
        "PixelData": rgb.tobytes(),
    }
    image = read_image(dicom(tmp_path / "x.dcm", GREY8[:8, :8], **elements), 8)
    np.testing.assert_allclose(image[0], GREY8[:8, :8] / 255, atol=1e-5)
    frames = {"NumberOfFrames": 2, "PixelData": GREY8[:8, :8].tobytes() * 2}
    with pytest.raises(UserError, match="must hold one frame"):
        read_image(dicom(tmp_path / "y.dcm", GREY8[:8, :8], **frames), 8)


def test_nothing_of_a_dicom_header_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    path = dicom(tmp_path / "x.dcm", GREY8, SpecificCharacterSet="SECRET")
    caplog.clear()
    recwarn.clear()  # what writing such a file says
    with caplog.at_level(logging.DEBUG):
        read_image(path, 8)
    assert (caplog.text, list(recwarn)) == ("", [])


def write(folder: Path, values: np.ndarray, **settings: Any) -> Path:
    settings = {"fs": 100, "sig_name": list(ECG.leads), "units": ["mV"] * 12} | settings
    count = values.shape[1]
    wfdb.wrsamp("r", p_signal=values, fmt=["16"] * count, write_dir=str(folder), **settings)
    return folder / "r"


def test_leads_are_put_in_the_order_of_the_card(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1000, 12))
    order = np.random.default_rng(1).permutation(12)
    names = [ECG.leads[i].upper() for i in order]  # PTB-XL writes AVR
    signal = read_signal(write(tmp_path, values[:, order], sig_name=names), ECG)
    assert signal.shape == (12, 1000)
    assert signal.dtype == np.float32
    np.testing.assert_allclose(signal, values.T, atol=2e-3)


def test_extra_leads_are_ignored_and_a_longer_record_is_cropped(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1300, 13))
    names = ["X", *ECG.leads]
    signal = read_signal(write(tmp_path, values, sig_name=names, units=["mV"] * 13), ECG)
    np.testing.assert_allclose(signal, values[:1000, 1:].T, atol=2e-3)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e3), ("V", 1e-3)])
def test_other_voltages_become_millivolt(tmp_path: Path, unit: str, factor: float) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1000, 12))
    signal = read_signal(write(tmp_path, values * factor, units=[unit] * 12), ECG)
    np.testing.assert_allclose(signal, values.T, atol=2e-3)


@pytest.mark.parametrize("rate", [500, 250, 360])
def test_other_rates_are_resampled_without_aliasing(tmp_path: Path, rate: int) -> None:
    seconds = np.arange(10 * rate) / rate
    slow, aliasing = np.sin(2 * np.pi * 3 * seconds), np.sin(2 * np.pi * 80 * seconds)
    values = np.repeat((slow + aliasing)[:, None], 12, axis=1)
    signal = read_signal(write(tmp_path, values, fs=rate), ECG)
    expected = np.sin(2 * np.pi * 3 * np.arange(1000) / 100)
    np.testing.assert_allclose(signal[0, 50:-50], expected[50:-50], atol=0.02)


def test_signal_faults(tmp_path: Path) -> None:
    values = np.zeros((1000, 12))
    with pytest.raises(UserError, match="has no lead V6"):
        read_signal(write(tmp_path, values, sig_name=[*ECG.leads[:-1], "X"]), ECG)
    with pytest.raises(UserError, match="unit 'mmHg' is not a voltage"):
        read_signal(write(tmp_path, values, units=["mmHg"] * 12), ECG)
    with pytest.raises(UserError, match="the sampling rate is outside 50 to 10000 Hz"):
        read_signal(write(tmp_path, values, fs=0.05), ECG)
    with pytest.raises(UserError, match="shorter than 10 s"):
        read_signal(write(tmp_path, values[:999]), ECG)
    write_record(tmp_path / "r", values, ECG.leads, 100)
    np.full((1000, 12), -32768, dtype="<i2").tofile(tmp_path / "r.dat")
    with pytest.raises(UserError, match="samples that were not recorded"):
        read_signal(tmp_path / "r", ECG)


def test_tables_against_a_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    cards = load_modalities()
    variables = [(m, v.name) for m in ("vitals", "outputs") for v in cards[m].variables]
    rows = [
        (f"s{rng.integers(6)}", int(rng.integers(40)), *variables[rng.integers(16)], rng.normal())
        for _ in range(600)
    ]
    frame = pl.DataFrame(
        rows, schema=["stay_id", "hour", "modality", "variable", "value"], orient="row"
    )
    frame.with_columns(unit=pl.lit("")).write_parquet(tmp_path / "t.parquet")
    stays = {"vitals": ["s3", "s0"], "outputs": ["s5", "absent", "s3"]}
    tables = read_tables(tmp_path / "t.parquet", stays, 24)
    for modality, wanted in stays.items():
        names = [v.name for v in cards[modality].variables]
        assert tables[modality].shape == (len(wanted), 24, len(names))
        assert tables[modality].dtype == np.float32
        for (i, hour, j), value in np.ndenumerate(tables[modality]):
            held = [r[4] for r in rows if r[:4] == (wanted[i], hour, modality, names[j])]
            if held:
                assert value == pytest.approx(np.mean(held), rel=1e-6)
            else:
                assert np.isnan(value)


def test_tables_that_are_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.parquet: the tables cannot be read"):
        read_tables(tmp_path / "t.parquet", {"vitals": ["s"]}, 24)
