"""Writing, opening and reading site folders."""

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
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


def test_cache_gives_the_same_without_decoding(
    site_folder: Path, private_cache: Path, secret: str
) -> None:
    cold = read(site_folder)
    (cached,) = private_cache.iterdir()
    assert private_cache.stat().st_mode & 0o077 == 0
    written = cached.stat().st_mtime_ns
    path = site_folder / "images" / f"{secret}-a.png"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)  # undecodable, but looks unchanged
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    same(read(site_folder), cold)
    assert cached.stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, None])
def test_damaged_cache_is_made_again(
    site_folder: Path, private_cache: Path, damage: bytes | None
) -> None:
    cold = read(site_folder)
    (cached,) = private_cache.iterdir()
    cached.write_bytes(cached.read_bytes()[:-7] if damage is None else damage)
    same(read(site_folder), cold)
    same(read(site_folder), cold)
    assert list(private_cache.iterdir()) == [cached]
    assert cached.stat().st_size > 1000


def test_changed_data_are_read_anew(
    site_folder: Path, private_cache: Path, rewrite: Rewrite, secret: str
) -> None:
    read(site_folder)
    Image.new("L", (9, 9), 255).save(site_folder / "images" / f"{secret}-a.png")
    assert bool((read(site_folder)[0].features["image"] == 1).all())
    rewrite("tables.parquet", pl.col("value") + 1)
    assert read(site_folder)[4].features["vitals"][0, 0] == 86
    read(site_folder, image_size=20)
    assert len(list(private_cache.iterdir())) == 4


def test_cache_that_cannot_be_written_only_warns(
    site_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(read(site_folder)) == 7
    assert "tensors are not cached" in caplog.text


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
    assert len(files) == 7
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_missing_files_are_noticed_before_anything_appears(parts: Any, tmp_path: Path) -> None:
    parts.signals.clear()
    with pytest.raises(SiteError, match=r"first: examples\.parquet:3: signal: \.hea file is miss"):
        parts.write(tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_no_room_on_the_disk(tmp_path: Path) -> None:
    """A real failing write: the process may not make files larger than 3000 bytes."""
    script = f"""
import resource, signal
from pathlib import Path
import numpy as np, polars as pl
from fedkim_core.data.site import SiteCard, TABLES_SCHEMA, write_site
from fedkim_core.errors import UserError
rows = pl.DataFrame({{"example_id": ["1"], "patient_id": ["1"], "task": ["covid19"],
    "split": ["train"], "answer": ["no"], "image": ["x.png"]}})
noise = np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write_site(Path({str(tmp_path / "site")!r}), SiteCard(name="a", tasks=("covid19",)), rows,
        images={{"x.png": noise}}, signals={{}}, tables=pl.DataFrame(schema=TABLES_SCHEMA))
except UserError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3000
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'site'}: cannot be written (File too large)\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    """A client process imports this before it can answer a message."""
    heavy = "{'pandas', 'wfdb', 'pydicom', 'scipy', 'sklearn', 'transformers', 'peft'}"
    script = f"import sys, fedkim_core.data.site; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
