"""Images and signals that are decoded by the check, and the command around it."""

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedkim_core.cli import app
from fedkim_core.data import check_files, threads
from fedkim_core.data.adapters import ptbxl
from fedkim_core.data.examine import examine
from fedkim_core.data.faults import LISTED
from fedkim_core.data.limits import MAX_VALUES
from fedkim_core.data.prepare import prepare
from fedkim_core.data.site import check_site
from fedkim_core.errors import UserError

EXAMPLES = "examples.parquet"
Rewrite = Callable[..., None]
REAL = Path(os.environ.get("FEDKIM_REALDATA", "."))
REAL_ECG, REAL_IMAGES = REAL / "ecg" / "ptb-xl", REAL / "cxr" / "hannover_covid-19-image-repository"


def png_of_claimed_size(side: int) -> bytes:
    """A hundred bytes that say they are an image of side x side."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def change_dicom(path: Path, **elements: object) -> None:
    ds = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.save_as(path)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text))


A_PNG, B_DCM = "images/Secretname-4711-a.png", "images/Secretname-4711-b.dcm"
HEADER, DATA = "signals/Secretname-4711-a.hea", "signals/Secretname-4711-a.dat"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_sample(path: Path) -> None:
    samples = np.fromfile(path, dtype="<i2")
    samples[500] = -32768
    samples.tofile(path)


def halve(path: Path) -> None:
    cut(path)
    replace_in(path.with_suffix(".hea"), r" 1000\n", " 500\n")


@pytest.mark.parametrize(
    ("file", "damage", "fault"),
    [
        (A_PNG, cut, "1: image: not a readable image (OSError)"),
        (A_PNG, lambda p: p.write_text("Secret"), "1: image: not a readable image (Unidentified"),
        (
            A_PNG,
            lambda p: p.write_bytes(png_of_claimed_size(100_000)),
            f"1: image: the image claims more than {MAX_VALUES} pixels",
        ),
        (
            A_PNG,
            lambda p: Image.new("L", (30, 30), 7).save(p),
            "1: image: the image holds a single grey value",
        ),
        (B_DCM, cut, "4: image: not a readable image (ValueError)"),
        (B_DCM, lambda p: p.write_bytes(b"Secret"), "4: image: not a readable image (Invalid"),
        (
            B_DCM,
            lambda p: change_dicom(p, Rows=65535, Columns=65535),
            f"4: image: the image claims more than {MAX_VALUES} pixels",
        ),
        (
            B_DCM,
            lambda p: change_dicom(p, NumberOfFrames=2, Rows=31, Columns=8),
            "4: image: a DICOM image must hold one frame, got [2, 31, 8]",
        ),
        (HEADER, lambda p: replace_in(p, " V6", " V7"), "3: signal: the record has no lead V6"),
        (
            HEADER,
            lambda p: replace_in(p, "/mV", "/Secret"),
            "3: signal: unit is not a voltage; known: mV, uV, V",
        ),
        (
            HEADER,
            lambda p: replace_in(p, "/mV", "/V"),
            "3: signal: the signal's amplitude is implausible; are its unit and gain right?",
        ),
        (
            HEADER,
            lambda p: replace_in(p, "Secretname-4711-a.dat", "Secret.dat"),
            "3: signal: the header names another file than the record's own .dat",
        ),
        (
            HEADER,
            lambda p: replace_in(p, r" 1000\n", " 9999999999\n"),
            f"3: signal: the record has more than {MAX_VALUES} samples; cut it to its first 10 s",
        ),
        (HEADER, lambda p: p.write_text("Secret\n"), "3: signal: not a readable WFDB record ("),
        (HEADER, lambda p: replace_in(p, " 12 100 ", " 12 0 "), "3: signal: "),
        (DATA, lose_a_sample, "3: signal: the signal has samples that were not recorded"),
        (DATA, halve, "3: signal: the record is shorter than 10 s"),
        (DATA, cut, "3: signal: "),
        (
            DATA,
            lambda p: p.write_bytes(bytes(p.stat().st_size)),
            "3: signal: the signal's amplitude is implausible",
        ),
    ],
)
def test_damaged_file(
    site_folder: Path,
    file: str,
    damage: Callable[[Path], object],
    fault: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage(site_folder / file)
    assert check_site(site_folder) == []
    faults = check_site(site_folder, decode=True)
    assert len(faults) == 1
    assert faults[0].startswith(f"{EXAMPLES}:{fault}")
    assert "Secret" not in faults[0]
    assert capfd.readouterr() == ("", "")


ODD = ["images/a.png", "images/./a.png", "images//a.png", "linked/a.png", "linked/sub/b.png"]
ODD += [f"images/{name}.png" for name in ("none", "empty", "folder", "pipe", "inside", "outside")]
ODD += [f"images/{name}.png" for name in ("loop", "dangling", "gone", "x" * 300, "\u00fc")]
ODD += ["images/A.PNG", "away/c.png", "away/none.png", "images/a.png/b.png", "a.png", ".png"]


def test_files_are_found_as_realpath_finds_them(tmp_path: Path) -> None:
    """One ``lstat`` tells the same as following every step of every path."""
    site, images, away = tmp_path / "site", tmp_path / "site" / "images", tmp_path / "away"
    for folder in (images / "sub", images / "folder.png", away):
        folder.mkdir(parents=True)
    for path in (images / "a.png", images / "sub" / "b.png", away / "c.png"):
        path.write_bytes(b"x")
    (images / "empty.png").touch()
    os.mkfifo(images / "pipe.png")
    links = {"inside": "a.png", "outside": "../../away/c.png", "loop": "loop.png"}
    links |= {"dangling": "none.png", "gone": "/none/none.png"}
    for name, target in links.items():
        (images / f"{name}.png").symlink_to(target)
    (site / "linked").symlink_to("images")
    (site / "away").symlink_to(away)
    (tmp_path / "door").symlink_to(site)
    for door in (site, tmp_path / "door"):
        find, root = check_files._Finder(door), os.path.realpath(door)
        for reference in ODD:
            path = os.path.realpath(f"{root}/{reference}")
            rules = ["file is empty"] if os.path.isfile(path) and not os.path.getsize(path) else []
            if not os.path.isfile(path):
                rules = ["file is missing"]
            if not path.startswith(f"{root}/"):
                rules = ["file is a link that leaves the site folder"]
            assert find("image", reference) == (path, tuple(rules))


def test_decoding_goes_on_beside_other_faults(site_folder: Path, rewrite: Rewrite) -> None:
    row = pl.int_range(pl.len())
    rewrite(
        EXAMPLES,
        pl.when(row == 0).then(pl.lit("maybe")).otherwise("answer").alias("answer"),
        pl.when(row == 2).then(pl.lit("signals/none")).otherwise("signal").alias("signal"),
    )
    cut(site_folder / B_DCM)
    faults = check_site(site_folder, decode=True)
    assert [fault.split(":")[1] for fault in faults] == ["1", "3", "3", "4"]


@pytest.mark.parametrize(
    ("split", "patient", "faulty"),
    [("test", "other", True), ("train", "other", True), ("train", "Secretname-4711-a", False)],
)
def test_same_content_under_two_patients(
    site_folder: Path, rewrite: Rewrite, secret: str, split: str, patient: str, faulty: bool
) -> None:
    """The copy is written anew, with other bytes."""
    pixels = np.asarray(Image.open(site_folder / A_PNG))
    Image.fromarray(pixels).save(site_folder / "images" / "copy.png", compress_level=9)
    row = pl.read_parquet(site_folder / EXAMPLES)[:1].with_columns(
        example_id=pl.lit("8"),
        patient_id=pl.lit(patient),
        split=pl.lit(split),
        image=pl.lit("images/copy.png"),
    )
    rewrite(EXAMPLES, rows=pl.concat([pl.read_parquet(site_folder / EXAMPLES), row]))
    assert check_site(site_folder) == []
    rule = "image: same content as in row 1, which is another patient's"
    assert check_site(site_folder, decode=True) == [f"{EXAMPLES}:8: {rule}"] * faulty


def test_many_copies_are_counted(site_folder: Path, rewrite: Rewrite) -> None:
    rows = pl.read_parquet(site_folder / EXAMPLES)
    for i in range(LISTED + 2):
        Image.open(site_folder / A_PNG).save(site_folder / "images" / f"{i}.png")
        row = rows[:1].with_columns(
            example_id=pl.lit(f"copy-{i}"),
            patient_id=pl.lit(f"other-{i}"),
            split=pl.lit("test"),
            image=pl.lit(f"images/{i}.png"),
        )
        rows = pl.concat([rows, row])
    rewrite(EXAMPLES, rows=rows)
    faults = check_site(site_folder, decode=True)
    assert len(faults) == LISTED + 1
    assert faults[-1].startswith(f"{EXAMPLES}: 2 more rows: same content as in a row of another")


@pytest.mark.parametrize("workers", [1, 3])
def test_decoding_in_threads(
    site_folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    cut(site_folder / B_DCM)
    monkeypatch.setattr(threads, "cores", lambda: workers)
    told: list[tuple[str, int, int]] = []
    faults = check_site(site_folder, decode=True, progress=lambda *now: told.append(now))
    assert faults == [f"{EXAMPLES}:4: image: not a readable image (ValueError)"]
    assert told == [("reading images and signals", done, 4) for done in range(5)]


def test_the_check_leaves_no_process_behind(site_folder: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert check_site(site_folder, decode=True) == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_memory_that_runs_out(site_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, size: int) -> None:
        raise MemoryError

    monkeypatch.setattr("fedkim_core.data.examine.read_image", full)
    with pytest.raises(UserError, match="the memory ran out while images and signals were read"):
        check_site(site_folder, decode=True)


def fedkim(*arguments: str | Path) -> tuple[str, str, BaseException | None]:
    done = CliRunner().invoke(app, ["check-site", *map(str, arguments)])
    return done.stdout, done.stderr, done.exception


def test_command(site_folder: Path, tmp_path: Path) -> None:
    summary = tmp_path / "north.md"
    out, err, error = fedkim(site_folder, "--summary", summary)
    assert error is None
    first, *counts, last = out.splitlines()
    assert first == f"{site_folder}: north, synthetic, 4 patients"
    assert counts[0] == "  covid19 train: 1"
    assert len(counts) == 7
    assert last == f"{summary}: summary written"
    assert err == "reading images and signals\n"
    assert summary.read_text().startswith("# north\n")


def test_command_decodes_unless_told_not_to(site_folder: Path, tmp_path: Path) -> None:
    cut(site_folder / B_DCM)
    out, _, error = fedkim(site_folder, "--summary", tmp_path / "north.md")
    assert out == f"{EXAMPLES}:4: image: not a readable image (ValueError)\n"
    assert str(error) == f"{site_folder}: 1 fault"
    assert not (tmp_path / "north.md").exists()
    out, err, error = fedkim(site_folder, "--quick")
    assert error is None
    assert err == ""


def test_command_refuses_a_summary_of_unknown_format(site_folder: Path, tmp_path: Path) -> None:
    out, _, error = fedkim(site_folder, "--summary", tmp_path / "north.html")
    assert isinstance(error, UserError)
    assert out == ""


@pytest.mark.skipif(
    not (REAL_IMAGES / "png").is_dir(),
    reason="needs the images of the Hannover repository in $FEDKIM_REALDATA/cxr",
)
def test_real_images() -> None:
    """84 radiographs of 29 patients: all are readable and no two are the same."""
    paths = sorted((REAL_IMAGES / "png").glob("*.png"))
    results = [examine(REAL_IMAGES, "image", f"png/{path.name}") for path in paths]
    assert [rule for _, rule in results if rule] == []
    assert len({content for content, _ in results}) == len(paths) == 84


@pytest.mark.skipif(
    not (REAL_ECG / "records100").is_dir(),
    reason="needs the records of PTB-XL in $FEDKIM_REALDATA/ecg/ptb-xl",
)
def test_real_signals(tmp_path: Path) -> None:
    """312 records: all are readable, plausible and different."""
    headers = sorted((REAL_ECG / "records100").rglob("*.hea"))
    names = [str(path.relative_to(REAL_ECG).with_suffix("")) for path in headers]
    results = [examine(REAL_ECG, "signal", name) for name in names]
    assert [rule for _, rule in results if rule] == []
    assert len({content for content, _ in results}) == len(names) == 312
    prepare(ptbxl, REAL_ECG, tmp_path / "out", sites=2, seed=0)
    for folder in [*(tmp_path / "out" / "sites").iterdir(), tmp_path / "out" / "test"]:
        assert check_site(folder, decode=True) == []
