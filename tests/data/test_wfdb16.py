"""Our reader and writer of format 16 against the wfdb package."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.wfdb16 import GAIN, Record, read_record, write_record
from fedkim_core.errors import UserError

LEADS = ("I", "II", "V6")


def ours(folder: Path, samples: int = 20) -> Path:
    values = np.random.default_rng(0).normal(0, 0.5, (samples, 3))
    write_record(folder / "r", values, LEADS, 100)
    return folder / "r"


def assert_same(ours: Record, path: Path) -> None:
    theirs = wfdb.rdrecord(str(path))
    np.testing.assert_array_equal(ours.values, theirs.p_signal)
    assert ours.rate == theirs.fs
    assert ours.leads == tuple(theirs.sig_name)
    assert ours.units == tuple(theirs.units)


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 50),
    leads=st.integers(1, 12),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0]),
    rate=st.sampled_from([100, 250, 500]),
    seed=st.integers(0, 1000),
)
def test_written_records_are_read_back_by_wfdb_within_half_a_microvolt(
    samples: int, leads: int, scale: float, rate: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0, scale, (samples, leads))
    names = tuple(f"L{i}" for i in range(leads))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r-1_x"
        write_record(path, values, names, rate)
        header = wfdb.rdheader(str(path))
        assert header.checksum == wfdb.rdrecord(str(path), physical=False).calc_checksum()
        assert_same(read_record(path), path)
        np.testing.assert_allclose(read_record(path).values, values, atol=0.5 / GAIN + 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    gain=st.sampled_from([1.0, 200.0, 204.8, 1000.0, 0.5]),
    baseline=st.integers(-2000, 2000),
    unit=st.sampled_from(["mV", "uV", "V"]),
    fmt=st.sampled_from(["16", "16", "24", "32", "212", "80"]),
    invalid=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_record_that_wfdb_writes_is_read_as_wfdb_reads_it(
    gain: float, baseline: int, unit: str, fmt: str, invalid: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    limit = {"80": 127, "212": 2047}.get(fmt, 30000)
    digital = rng.integers(-limit, limit + 1, (17, 3))
    if invalid and fmt == "16":
        digital[3, 1] = -32768
    with TemporaryDirectory() as folder:
        wfdb.wrsamp(
            "r",
            fs=100,
            units=[unit] * 3,
            sig_name=list(LEADS),
            d_signal=digital,
            fmt=[fmt] * 3,
            adc_gain=[gain] * 3,
            baseline=[baseline] * 3,
            write_dir=folder,
        )
        assert_same(read_record(Path(folder) / "r"), Path(folder) / "r")


def test_a_sample_that_was_not_recorded_is_nan(tmp_path: Path) -> None:
    path = ours(tmp_path)
    data = np.fromfile(f"{path}.dat", dtype="<i2")
    data[4] = -32768
    data.tofile(f"{path}.dat")
    assert np.argwhere(np.isnan(read_record(path).values)).tolist() == [[1, 1]]


def test_header_with_comments_and_loose_spacing(tmp_path: Path) -> None:
    path = ours(tmp_path)
    header = path.with_suffix(".hea")
    header.write_text("# a comment\n" + header.read_text().replace(" 16 ", "  16\t", 1) + "# end\n")
    assert_same(read_record(path), path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "r 3 100 20\n",
        "r 3 100 20\nr.dat 16 x y z\n",
        "r 3 100 9999\n" + "r.dat 16 1000(0)/mV 16 0 0 0 0 I\n" * 3,
        "r 1 100 20\nnone.dat 16 1000(0)/mV 16 0 0 0 0 I\n",
        b"\xff\xfe\x00",
    ],
)
def test_broken_header(tmp_path: Path, text: str | bytes) -> None:
    path = ours(tmp_path)
    path.with_suffix(".hea").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=str(path)) as error:
        read_record(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../r.dat", "/tmp/r.dat", "sub/r.dat", "..\\r.dat"])
def test_header_may_not_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    path = ours(tmp_path)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r.dat", name))
    with pytest.raises(UserError, match="outside its own folder"):
        read_record(path)


def test_truncated_data(tmp_path: Path) -> None:
    path = ours(tmp_path)
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:-6])
    with pytest.raises(UserError, match="not a readable WFDB record"):
        read_record(path)


def test_missing_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="header cannot be read"):
        read_record(tmp_path / "none")


@pytest.mark.parametrize("name", ["a.b", "a b", "p:1"])
def test_names_that_wfdb_does_not_allow(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="name may hold"):
        write_record(tmp_path / name, np.zeros((5, 3)), LEADS, 100)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.zeros((5, 2)), r"must be \[samples, 3\], got \[5, 2\]"),
        (np.zeros((0, 3)), r"must be \[samples, 3\]"),
        (np.zeros(3), r"must be \[samples, 3\]"),
        (np.full((5, 3), np.nan), "not finite numbers"),
        (np.full((5, 3), 33.0), "exceeds"),
    ],
)
def test_signals_that_cannot_be_written(tmp_path: Path, values: np.ndarray, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        write_record(tmp_path / "r", values, LEADS, 100)
    assert list(tmp_path.iterdir()) == []
