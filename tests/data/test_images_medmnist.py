"""MedMNIST: files in the official form, and the real PneumoniaMNIST where it is."""

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fedkim_core.data.adapters import medmnist
from fedkim_core.data.check import check_site
from fedkim_core.data.pixels import read_grey
from fedkim_core.data.prepare import prepare
from fedkim_core.errors import UserError

SIZES = {"train": 40, "val": 12, "test": 16}
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "cxr" / "pneumoniamnist"


def arrays(*, colour: bool = False, columns: int = 1, highest: int = 1) -> dict[str, Any]:
    """Distinct images; labels take turns."""
    chance = np.random.default_rng(7)
    content: dict[str, Any] = {}
    for part, size in SIZES.items():
        shape = (size, 28, 28, 3) if colour else (size, 28, 28)
        content[f"{part}_images"] = chance.integers(0, 256, shape, dtype=np.uint8)
        turns = np.arange(size * columns).reshape(size, columns) % (highest + 1)
        content[f"{part}_labels"] = turns.astype(np.uint8)
    return content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    np.savez_compressed(folder / "pneumoniamnist.npz", **arrays())
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def read(source: Path, scratch: Path, **settings: Any) -> Any:
    return medmnist.read(source, scratch, **settings)


def answers(data: Any) -> Counter[str]:
    return Counter(data.examples["answer"])


def test_pneumoniamnist(source: Path, scratch: Path) -> None:
    data = read(source, scratch)
    assert answers(data) == {"yes": 34, "no": 34}
    assert set(data.examples["task"]) == {"lung_opacity"}
    assert data.examples["patient_id"].n_unique() == sum(SIZES.values())
    assert (data.fixed, data.natural, data.left_out) == ({}, {}, [])
    content = arrays()
    for part, size in SIZES.items():
        for index in range(size):
            reference = f"images/pneumoniamnist-{part}-{index:06d}.png"
            np.testing.assert_array_equal(data.images[reference], content[f"{part}_images"][index])


def test_prepared_network_keeps_pixels(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {"official_split": True}
    prepare(medmnist, source, out, sites=2, seed=0, settings=settings)
    content, parts = arrays(), {"validation": "val", "test": "test"}
    seen = 0
    for folder in (*(out / "sites").iterdir(), *(out / n for n in ("public", *parts))):
        assert check_site(folder) == []
        for row in pl.read_parquet(folder / "examples.parquet").iter_rows(named=True):
            part, index = row["patient_id"].split("-")[-2:]
            assert part == parts.get(folder.name, "train")
            pixels = content[f"{part}_images"][int(index)]
            np.testing.assert_array_equal(read_grey(folder / row["image"]), pixels)
            assert row["answer"] == ("yes" if content[f"{part}_labels"][int(index), 0] else "no")
            seen += 1
    assert seen == sum(SIZES.values())


def test_colour_and_several_classes(source: Path, scratch: Path) -> None:
    np.savez(source / "pathmnist_64.npz", **arrays(colour=True, highest=3))
    data = read(source, scratch, dataset="pathmnist_64", positive="1,3", classes=4)
    assert answers(data) == {"yes": 34, "no": 34}
    assert data.images["images/pathmnist_64-val-000000.png"].shape == (28, 28)


def test_several_labels(source: Path, scratch: Path) -> None:
    np.savez(source / "chestmnist.npz", **arrays(columns=14, highest=1))
    chosen = {"dataset": "chestmnist", "classes": 14, "task": "atelectasis"}
    data = read(source, scratch, **chosen, positive="0")
    assert answers(data) == {"no": sum(SIZES.values())}  # column 0 is never set
    assert set(data.examples["task"]) == {"atelectasis"}
    assert answers(read(source, scratch, **chosen, positive="0,1")) == {"yes": 68}


def test_equal_images(source: Path, scratch: Path) -> None:
    content = arrays()
    images = content["train_images"]
    images[2] = content["test_images"][4]  # the same answer
    images[6] = content["test_images"][4]
    images[3] = images[0]  # another answer
    np.savez(source / "pneumoniamnist.npz", **content)
    data = read(source, scratch)
    assert dict(data.left_out) == {
        "train 0": "its copies have another answer",
        "train 3": "same image as train 0 with another answer",
        "train 2": "same image as test 4",
        "train 6": "same image as test 4",
    }
    assert len(data.examples) == len(data.images) == sum(SIZES.values()) - 4


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"train_labels": np.full((40, 1), 2)}, r"train_labels\[0\] is not a whole number 0\.\.1"),
        ({"val_labels": np.full((12, 1), -1)}, r"val_labels\[0\] is not a whole number 0\.\.1"),
        ({"val_labels": np.full((12, 1), np.nan)}, r"val_labels\[0\] is not a whole number"),
        ({"val_labels": np.zeros(12)}, r"val_labels must be \[N, 1\] or \[N, L\]"),
        ({"val_labels": np.zeros((11, 1))}, "a row for each image"),
        ({"val_labels": np.zeros((12, 3))}, "val_labels has 3 columns; set classes to it"),
        ({"test_images": np.zeros((16, 28, 28))}, r"test_images must be uint8 \[N, H, W\]"),
        ({"test_images": np.zeros((16, 28, 28, 28), np.uint8)}, "test_images must be uint8"),
        ({"test_images": np.zeros((0, 28, 28), np.uint8)}, "test_images must be uint8"),
        ({"test_labels": np.array([[None]] * 16)}, "not a readable npz file"),
    ],
)
def test_broken_arrays(source: Path, tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    np.savez(source / "pneumoniamnist.npz", **(arrays() | change))
    with pytest.raises(UserError, match=rule):
        prepare(medmnist, source, tmp_path / "out", sites=2)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"task": "mortality"}, "task: must be one of lung_opacity"),
        ({"dataset": "../secret"}, "dataset: must be the name of a file"),
        ({"dataset": "bloodmnist"}, r"bloodmnist\.npz: file is missing; obtain"),
        ({"positive": "2"}, "positive: must be numbers below classes"),
        ({"positive": ""}, "positive: must be numbers"),
        ({"positive": "-1"}, "positive: must be numbers"),
        ({"positive": "1,x"}, "positive: must be numbers"),
    ],
)
def test_settings(source: Path, scratch: Path, settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        read(source, scratch, **settings)


def test_damaged_files(source: Path, scratch: Path) -> None:
    path = source / "pneumoniamnist.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[2000] ^= 255
    for content in (b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable npz file"):
            read(source, scratch)
    np.savez(path, train_images=np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(UserError, match="must hold train, val and test images and labels"):
        read(source, scratch)


def test_an_array_shorter_than_its_header_says(source: Path, scratch: Path) -> None:
    path = source / "pneumoniamnist.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["val_images.npy"] = members["val_images.npy"][:-1]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="not a readable npz file"):
        read(source, scratch)


def test_no_room(source: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(medmnist.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match="no room to unpack it"):
        read(source, scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(
    not (REAL / "pneumoniamnist.npz").is_file(),
    reason="needs pneumoniamnist.npz in $FEDKIM_REALDATA/cxr/pneumoniamnist",
)
def test_real_pneumoniamnist(scratch: Path) -> None:
    """5,856 images, 29 of which occur twice in the same class."""
    data = read(REAL, scratch, official_split=True)
    parts = Counter(
        (patient.split("-")[2], answer)
        for patient, answer in data.examples.select("patient_id", "answer").iter_rows()
    )
    assert parts == {
        ("train", "no"): 1213,
        ("train", "yes"): 3469,
        ("val", "no"): 135,
        ("val", "yes"): 389,
        ("test", "no"): 234,
        ("test", "yes"): 387,
    }
    copies = Counter((record.split()[0], reason.split()[3]) for record, reason in data.left_out)
    assert copies == {("train", "train"): 16, ("train", "val"): 10, ("test", "test"): 3}
    assert not any("another answer" in reason for _, reason in data.left_out)
    places = Counter(data.fixed.values())
    assert (places["validation"], places["test"]) == (524, 621)
