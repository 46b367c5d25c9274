"""Writing, opening and reading site folders."""

import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedkim_core.data import decode, tensors, threads
from fedkim_core.data.site import Site, SiteCard, SiteError, load_examples, write_site
from fedkim_core.data.wfdb16 import GAIN
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
CARDS = load_tasks()
LEADS = load_modalities()["signal"].leads
Rewrite = Callable[..., None]


def read(folder: Path, split: str | None = None, tasks: tuple[str, ...] = (*CARDS,), **kw: Any):
    site = Site.open(folder)
    return load_examples(
        site, split=split, cards={name: CARDS[name] for name in tasks}, **{"image_size": 16} | kw
    )


def test_examples_keep_what_their_card_allows(site_folder: Path, secret: str) -> None:
    examples = read(site_folder)
    assert [e.example_id for e in examples] == [f"{secret}-{i}" for i in range(1, 8)]
    shapes = [{m: tuple(t.shape) for m, t in e.features.items()} for e in examples]
    image, signal = {"image": (1, 16, 16)}, {"signal": (12, 1000)}
    assert shapes == [
        image,
        image,
        signal,  # the row has an image too, but the task does not look at it
        image,
        {"vitals": (24, 9)},  # the only laboratory value is at hour 30
        {"vitals": (168, 9), "labs": (168, 22)},
        image,
    ]
    assert examples[0].question == CARDS["lung_opacity"].question
    assert examples[6].question == "Which side is opaque?"
    assert (examples[6].text, examples[6].answer) == (f"note {secret}", "the left lung")
    assert {e.text for e in examples[:6]} == {None}
    assert all(t.dtype == torch.float32 for e in examples for t in e.features.values())


def test_tables_hold_hourly_means(site_folder: Path) -> None:
    vitals = read(site_folder, tasks=("sepsis",))[0].features["vitals"]
    assert vitals[0, 0] == 85
    assert vitals[30, 6] == 97.5
    assert int((~vitals.isnan()).sum()) == 2


def test_split_and_tasks_select(site_folder: Path, secret: str) -> None:
    assert [e.task for e in read(site_folder, "validation")] == ["lung_opacity"]
    assert {e.task for e in read(site_folder, "train", ("covid19", "sepsis"))} == {
        "covid19",
        "sepsis",
    }
    assert read(site_folder, "test", ("covid19",)) == []
    with pytest.raises(UserError, match="split='dev'"):
        read(site_folder, "dev")


def test_a_file_is_read_once_and_shared(site_folder: Path) -> None:
    first, second, *_ = read(site_folder)
    assert first.features["image"].data_ptr() == second.features["image"].data_ptr()
    short, long = (read(site_folder, tasks=("mortality", "sepsis"))[i].features for i in (0, 1))
    assert short["vitals"].shape[0] == 24
    torch.testing.assert_close(short["vitals"], long["vitals"][:24], equal_nan=True)


def test_rows_with_nothing_left_are_left_out_and_counted(
    site_folder: Path, rewrite: Rewrite, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    rewrite("tables.parquet", pl.col("hour") + 30)
    with caplog.at_level(logging.WARNING):
        assert [e.task for e in read(site_folder, tasks=("mortality", "sepsis"))] == ["sepsis"]
    assert "1 of 2 examples left out" in caplog.text
    assert secret not in caplog.text


def test_damaged_file_is_named(site_folder: Path, secret: str) -> None:
    image = site_folder / "images" / f"{secret}-a.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UserError, match=r"-a\.png: not a readable image"):
        read(site_folder)


def test_file_that_vanishes_after_opening(site_folder: Path, secret: str) -> None:
    site = Site.open(site_folder)
    (site_folder / "images" / f"{secret}-a.png").unlink()
    with pytest.raises(UserError, match="a file is gone"):
        load_examples(site, split=None, cards=CARDS, image_size=16)


def same(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.example_id, a.features.keys()) == (b.example_id, b.features.keys())
        for name in a.features:
            torch.testing.assert_close(
                a.features[name], b.features[name], rtol=0, atol=0, equal_nan=True
            )


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of files count at once, not only seconds after their last change."""
    monkeypatch.setattr(tensors, "_SETTLED", -60.0)


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """After the call, what is named must not be used any more."""

    def forbid(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(tensors, name, None)

    return forbid


DECODERS = ("read_image", "read_signal", "read_tables")


def test_cache_gives_the_same_without_decoding(
    site_folder: Path, private_cache: Path, no_reading: Callable[..., None]
) -> None:
    cold = read(site_folder)
    (cached,) = private_cache.iterdir()
    assert private_cache.stat().st_mode & 0o077 == 0
    written = cached.stat().st_mtime_ns
    no_reading(*DECODERS)
    same(read(site_folder), cold)
    assert cached.stat().st_mtime_ns == written


@pytest.mark.usefixtures("settled")
def test_a_known_folder_is_opened_by_the_times_of_its_files(
    site_folder: Path, private_cache: Path, no_reading: Callable[..., None]
) -> None:
    cold = read(site_folder)
    second_name, cached = sorted(private_cache.iterdir(), key=lambda p: p.is_symlink())[::-1]
    assert second_name.resolve() == cached.resolve()
    no_reading("_contents", *DECODERS)
    same(read(site_folder), cold)


@pytest.mark.usefixtures("settled")
def test_a_copy_of_the_folder_finds_the_tensors(
    site_folder: Path, private_cache: Path, tmp_path: Path, no_reading: Callable[..., None]
) -> None:
    cold = read(site_folder)
    shutil.copytree(site_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    no_reading(*DECODERS)
    same(read(tmp_path / "copy"), cold)
    assert sum(not path.is_symlink() for path in private_cache.iterdir()) == 1


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("replace", [False, True])
def test_a_change_is_seen_though_size_and_time_are_the_same(
    site_folder: Path, secret: str, replace: bool
) -> None:
    """As after restoring a backup, or by a program that sets the time of modification."""
    path = site_folder / "signals" / f"{secret}-a.dat"
    old = read(site_folder)[2].features["signal"].clone()
    before, data = path.stat(), path.read_bytes()
    time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    if replace:
        path.unlink()
    path.write_bytes(data[24:] + data[:24])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert not torch.equal(read(site_folder)[2].features["signal"], old)


def test_a_folder_that_changed_a_moment_ago_gets_no_second_name(
    site_folder: Path, private_cache: Path
) -> None:
    read(site_folder)
    read(site_folder)
    assert not any(path.is_symlink() for path in private_cache.iterdir())


def test_a_file_that_changes_while_it_is_read(
    site_folder: Path, private_cache: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = site_folder / "images" / f"{secret}-a.png"

    def read_and_change(path: Path, size: int) -> np.ndarray:
        Image.new("L", (9, 9), 255).save(image)
        return decode.read_image(path, size)

    monkeypatch.setattr(tensors, "read_image", read_and_change)
    with pytest.raises(UserError, match="a file changed while it was read"):
        read(site_folder)
    assert list(private_cache.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, None])
@pytest.mark.usefixtures("settled")
def test_damaged_cache_is_made_again(
    site_folder: Path, private_cache: Path, damage: bytes | None
) -> None:
    cold = read(site_folder)
    (cached,) = (path for path in private_cache.iterdir() if not path.is_symlink())
    whole = cached.read_bytes()
    cached.unlink()  # the tensors of ``cold`` are still mapped to the file
    cached.write_bytes(whole[:-7] if damage is None else damage)
    same(read(site_folder), cold)
    same(read(site_folder), cold)
    assert len(list(private_cache.iterdir())) == 2
    assert cached.read_bytes() == whole


def test_second_name_without_tensors(site_folder: Path, private_cache: Path, settled: None) -> None:
    cold = read(site_folder)
    (cached,) = (path for path in private_cache.iterdir() if not path.is_symlink())
    cached.unlink()
    same(read(site_folder), cold)
    assert cached.exists()


def test_openers_at_once(site_folder: Path, private_cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: read(site_folder), range(4))
    for other in others:
        same(other, first)
    assert len(list(private_cache.iterdir())) == 1


def test_changed_data_are_read_anew(
    site_folder: Path, private_cache: Path, rewrite: Rewrite, secret: str
) -> None:
    read(site_folder)
    Image.new("L", (9, 9), 255).save(site_folder / "images" / f"{secret}-a.png")
    assert bool((read(site_folder)[0].features["image"] == 1).all())
    rewrite("tables.parquet", pl.col("value") + 1)
    assert read(site_folder)[4].features["vitals"][0, 0] == 86
    read(site_folder, image_size=20)
    assert len(list(private_cache.iterdir())) == 4  # before, image, tables, size


@pytest.mark.parametrize("trouble", ["no folder", "disk full before", "disk full meanwhile"])
def test_cache_that_cannot_be_written_only_warns(
    site_folder: Path,
    tmp_path: Path,
    private_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    def no_room(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cold = read(site_folder)
    shutil.rmtree(private_cache)
    if trouble == "no folder":
        (tmp_path / "file").touch()
        monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "file"))
    elif trouble == "disk full before":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 99))
    else:
        monkeypatch.setattr(os, "pwrite", no_room)
    with caplog.at_level(logging.WARNING):
        same(read(site_folder), cold)
    assert "tensors are not cached" in caplog.text
    assert trouble == "no folder" or "No space left on device" in caplog.text
    assert trouble == "no folder" or list(private_cache.iterdir()) == []


def test_every_count_of_threads_gives_the_same(
    site_folder: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_BLOCK", 1)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        found.append(read(site_folder))
        shutil.rmtree(private_cache)
    same(*found)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    deep=st.booleans(),
    suffix=st.sampled_from([".png", ".dcm", ".PNG"]),
    scale=st.floats(0, 5),
    hours=st.lists(st.integers(0, 200), min_size=1, max_size=20, unique=True),
    seed=st.integers(0, 1000),
)
def test_round_trip(
    shape: tuple[int, int], deep: bool, suffix: str, scale: float, hours: list[int], seed: int
) -> None:
    """Images exact, signals within half a quantisation step, tables exact."""
    rng = np.random.default_rng(seed)
    size = max(shape)
    pixels = rng.integers(0, 65536 if deep else 256, (size, size))
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    signal = rng.normal(0, 1, (1000, 12)).clip(-6, 6) * scale
    hours = [*hours, 0]
    values = rng.uniform(40, 160, len(hours)).astype(np.float64)
    examples = pl.DataFrame(
        {
            "example_id": ["1", "2", "3"],
            "patient_id": ["a", "b", "c"],
            "task": ["covid19", "ecg_abnormal", "sepsis"],
            "split": ["train", "test", "train"],
            "answer": ["yes", "no", "no"],
            "image": [f"images/x{suffix}", None, None],
            "signal": [None, "signals/x", None],
            "vitals": [None, None, "s"],
        }
    )
    tables = pl.DataFrame(
        {
            "stay_id": "s",
            "hour": pl.Series(hours, dtype=pl.Int32),
            "modality": "vitals",
            "variable": "heart_rate",
            "value": values,
            "unit": "1/min",
        }
    )
    with TemporaryDirectory() as name:
        folder = Path(name) / "site"
        card = SiteCard(name="a", tasks=("covid19", "ecg_abnormal", "sepsis"), note="ünïcode")
        write_site(
            folder,
            card,
            examples,
            images={f"images/x{suffix}": pixels},
            signals={"signals/x": signal},
            tables=tables,
        )
        site = Site.open(folder)
        assert site.card == card
        assert site.examples.select(examples.columns).equals(examples)
        assert pl.read_parquet(folder / "tables.parquet").equals(tables)
        image, ecg, stay = (e.features for e in read(folder, image_size=size))
        np.testing.assert_array_equal(
            np.rint(image["image"][0].numpy() * np.iinfo(pixels.dtype).max), pixels
        )
        np.testing.assert_allclose(ecg["signal"].numpy().T, signal, atol=0.5 / GAIN + 2e-6)
        expected = np.full(168, np.nan, dtype=np.float32)
        for hour in range(168):
            if hour in hours:
                expected[hour] = values[np.array(hours) == hour].mean()
        np.testing.assert_array_equal(stay["vitals"][:, 0], expected)


def bend(parts: Any, what: str, value: Any) -> None:
    target = getattr(parts, what)
    if isinstance(target, dict):
        target[next(iter(target))] = value
    else:
        setattr(parts, what, target.with_columns(value))


@pytest.mark.parametrize(
    ("what", "value", "rule"),
    [
        ("images", np.zeros((4, 4, 3), np.uint8), r"\[H, W\] uint8 or uint16, got \[4, 4, 3\]"),
        ("images", np.zeros((4, 4)), r"got \[4, 4\] float64"),
        ("images", np.zeros((0, 4), np.uint8), "an image must be"),
        ("signals", np.zeros((12, 1000)), r"must be \[samples, 12\]"),
        ("signals", np.full((1000, 12), np.inf), "not finite"),
        ("examples", pl.lit("x").alias("extra"), "unknown column 'extra'"),
        ("tables", pl.lit("noon").alias("hour"), r"tables\.parquet: a column has the wrong type"),
        ("tables", pl.lit(1e9).alias("value"), "4 faults; first: tables.parquet:1: value is impl"),
        (
            "examples",
            pl.lit("maybe").alias("answer"),
            "6 faults; first: examples.parquet:1: answer",
        ),
    ],
)
def test_bad_input_leaves_nothing_behind(
    parts: Any, tmp_path: Path, what: str, value: Any, rule: str
) -> None:
    bend(parts, what, value)
    with pytest.raises(UserError, match=rule) as error:
        parts.write(tmp_path / "out" / "site")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("path", ["../x.png", "/x.png", "images/../../x.png", ""])
def test_paths_stay_inside(parts: Any, tmp_path: Path, path: str) -> None:
    parts.images[path] = np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match="must be a relative path inside"):
        parts.write(tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_touched(parts: Any, site_folder: Path, tmp_path: Path) -> None:
    before = sorted(site_folder.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        parts.write(site_folder)
    assert sorted(site_folder.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert Site.open(parts.write(tmp_path / "empty")).card == parts.card


def test_written_bytes_depend_on_the_data_only(parts: Any, tmp_path: Path) -> None:
    first, second = parts.write(tmp_path / "1"), parts.write(tmp_path / "2")
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(files) == 8
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_missing_files_are_noticed_before_anything_appears(parts: Any, tmp_path: Path) -> None:
    parts.signals.clear()
    with pytest.raises(SiteError, match=r"first: examples\.parquet:3: signal: \.hea file is miss"):
        parts.write(tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [1, 5000], ids=["image", "table"])
def test_no_room_on_the_disk(tmp_path: Path, rows: int) -> None:
    """A real failing write: the process may not make files larger than 6000 bytes."""
    script = f"""
import resource, signal
from pathlib import Path
import numpy as np, polars as pl
from fedkim_core.data.site import SiteCard, TABLES_SCHEMA, write_site
from fedkim_core.errors import UserError
rows = pl.DataFrame({{"example_id": ["1"], "patient_id": ["1"], "task": ["covid19"],
    "split": ["train"], "answer": ["no"], "image": ["x.png"]}})
rows = pl.concat([rows.with_columns(example_id=pl.lit(str(i))) for i in range({rows})])
noise = np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    write_site(Path({str(tmp_path / "site")!r}), SiteCard(name="a", tasks=("covid19",)), rows,
        images={{"x.png": noise}}, signals={{}}, tables=pl.DataFrame(schema=TABLES_SCHEMA))
except UserError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 6000
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'site'}: cannot be written (File too large)\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    """A client process imports this before it can answer a message."""
    heavy = "{'pandas', 'wfdb', 'pydicom', 'scipy', 'sklearn', 'transformers', 'peft'}"
    script = f"import sys, fedkim_core.data.site; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
