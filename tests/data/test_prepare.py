"""From the rows of a data set to a network folder, with images and tables."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from fedkim_core.data.prepare import LazyMapping, SourceData, write_network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError

PATIENTS = 80


def pixels(number: int) -> np.ndarray:
    return np.full((3, 5), number, np.uint8)


def source(read: Counter[int]) -> SourceData:
    """Every patient has an X-ray with a trained and an unseen task, and a stay."""

    def image(number: int) -> np.ndarray:
        read[number] += 1
        return pixels(number)

    rows = [
        {
            "example_id": f"{task}-{i}",
            "patient_id": f"p{i}",
            "task": task,
            "answer": "yes" if i % 4 == 0 else "no",
            "image": None if task == "mortality" else f"images/{i}.png",
            "vitals": f"s{i}" if task == "mortality" else None,
        }
        for i in range(PATIENTS)
        for task in ("lung_opacity", "pleural_effusion", "mortality")
    ]
    tables = pl.DataFrame(
        {
            "stay_id": [f"s{i}" for i in range(PATIENTS)],
            "hour": 0,
            "modality": "vitals",
            "variable": "heart_rate",
            "value": [60.0 + i for i in range(PATIENTS)],
            "unit": "1/min",
        }
    )
    return SourceData(
        name="example",
        licence="CC0",
        note="made up",
        examples=pl.DataFrame(rows),
        strata={f"p{i}": i % 4 == 0 for i in range(PATIENTS)},
        images=LazyMapping({f"images/{i}.png": i for i in range(PATIENTS)}, image),
        tables=tables.lazy(),
        left_out=[("images/99.png", "no label")],
    )


def test_network(tmp_path: Path) -> None:
    read: Counter[int] = Counter()
    write_network(source(read), tmp_path / "out", sites=3, seed=4)
    assert set(read.values()) == {1}
    assert len(read) == PATIENTS
    paths = [*(tmp_path / "out" / "sites").iterdir()]
    paths += [tmp_path / "out" / name for name in ("public", "validation", "test")]
    held: Counter[str] = Counter()
    written = 0
    for path in paths:
        site = Site.open(path)
        written += len(site.examples)
        unseen = "pleural_effusion" in set(site.examples["task"])
        assert unseen == (path.name in ("validation", "test"))
        patients = set(site.examples["patient_id"])
        held.update(patients)
        assert {p.stem for p in (path / "images").iterdir()} == {p[1:] for p in patients}
        stays = pl.read_parquet(path / "tables.parquet")["stay_id"]
        assert sorted(stays) == sorted(f"s{p[1:]}" for p in patients)
    assert set(held.values()) == {1}
    assert len(held) == PATIENTS
    assert yaml.safe_load((tmp_path / "out" / "network.yaml").read_text()) == {
        "name": "example",
        "synthetic": False,
        "seed": 4,
        "parameters": {
            "sites": 3,
            "by": "iid",
            "drop": 0.0,
            "patients": PATIENTS,
            "examples": written,
            "examples_without_modality": 0,
            "examples_of_unseen_tasks_at_sites": 3 * PATIENTS - written,
            "left_out": 1,
        },
        "version": 1,
    }
    assert "images/99.png,no label" in (tmp_path / "out" / "left_out.csv").read_text()


def test_who_is_never_trained_on_serves_to_test(tmp_path: Path) -> None:
    data = source(Counter())
    untaught = {f"p{i}" for i in range(0, PATIENTS, 4)}
    trained = pl.col("patient_id").is_in(sorted(untaught)) & (pl.col("task") != "pleural_effusion")
    rows = data.examples.filter(~trained)
    fixed = {"p0": "sites", "p4": "test"}
    some = SourceData(**{**vars(data), "examples": rows, "fixed": fixed})
    write_network(some, tmp_path / "out", sites=2, seed=0)
    held = {
        name: set(Site.open(tmp_path / "out" / name).examples["patient_id"])
        for name in ("public", "validation", "test")
    }
    assert untaught - {"p0"} <= held["validation"] | held["test"]
    assert "p4" in held["test"]
    assert "p0" not in set.union(*held.values())
    none = SourceData(**{**vars(data), "examples": rows.filter(task="pleural_effusion")})
    with pytest.raises(UserError, match="hospitals train none of its tasks; join it"):
        write_network(none, tmp_path / "none", sites=2, seed=0)


def test_a_faulty_array_leaves_nothing_behind(tmp_path: Path) -> None:
    data = source(Counter())
    broken = LazyMapping({f"images/{i}.png": i for i in range(PATIENTS)}, lambda i: np.zeros(i))
    faulty = SourceData(**{**vars(data), "images": broken})
    with pytest.raises(UserError, match="an image must be"):
        write_network(faulty, tmp_path / "out", sites=3, seed=4)
    assert list(tmp_path.iterdir()) == []


def damaging(data: SourceData, *numbers: int) -> SourceData:
    """Images of these numbers cannot be read."""

    def read(number: int) -> np.ndarray:
        if number in numbers:
            raise UserError(f"/data/set/{number}.png: not a readable image (OSError)")
        return pixels(number)

    images = LazyMapping({f"images/{i}.png": i for i in range(PATIENTS)}, read)
    return SourceData(**{**vars(data), "images": images})


def test_damaged_images_are_left_out(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert write_network(source(Counter()), whole, sites=3, seed=4) == 1
    assert write_network(damaging(source(Counter()), 7, 12, 40), out, sites=3, seed=4) == 4
    lines = (out / "left_out.csv").read_text().splitlines()
    rule = "not a readable image (OSError)"
    assert sorted(lines[2:]) == sorted(f"images/{i}.png,{rule}" for i in (7, 12, 40))
    counts = yaml.safe_load((out / "network.yaml").read_text())["parameters"]
    assert (counts["left_out"], counts["patients"]) == (4, PATIENTS)  # their stays are good
    written = 0
    for card in out.rglob("site.yaml"):
        folder = card.parent
        here = Site.open(folder).examples
        before = Site.open(whole / folder.relative_to(out)).examples
        lost = [f"images/{i}.png" for i in (7, 12, 40)]
        assert here.equals(before.filter(~pl.col("image").is_in(lost).fill_null(False)))
        assert not any((folder / name).exists() for name in lost)
        written += len(here)
    assert counts["examples"] == written


def test_a_folder_in_which_every_image_is_damaged_is_an_error(tmp_path: Path) -> None:
    data = damaging(source(Counter()), *range(PATIENTS))
    images = data.examples.filter(pl.col("task") != "mortality")
    data = SourceData(**{**vars(data), "examples": images})
    with pytest.raises(UserError, match=r"no example is left; damaged is images/\d+\.png: not a"):
        write_network(data, tmp_path / "out", sites=3, seed=4)
    assert list(tmp_path.iterdir()) == []


def test_lazy_mapping_reads_when_asked_and_keeps_nothing() -> None:
    read: list[str] = []
    lazy = LazyMapping({"b": "two", "a": "one"}, lambda text: read.append(text) or text.upper())
    assert (list(lazy), len(lazy), "a" in lazy, "c" in lazy) == (["a", "b"], 2, True, False)
    assert read == []
    assert (lazy["a"], lazy["a"], read) == ("ONE", "ONE", ["one", "one"])
    with pytest.raises(KeyError):
        lazy["c"]
