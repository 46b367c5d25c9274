"""CheXpert: a folder in the layout of CheXpert-v1.0-small."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fedkim_core.data.adapters import chexpert
from fedkim_core.data.check import check_site
from fedkim_core.data.prepare import prepare
from fedkim_core.errors import UserError

FINDINGS = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
PATIENTS = 60
"""In each subset."""


def row_of(part: str, patient: int, view: str, study: int = 1, **marks: str) -> dict[str, str]:
    number = 1 if view == "Frontal" else 2
    path = f"{part}/patient{patient:05d}/study{study}/view{number}_{view.lower()}.jpg"
    blank = "0.0" if part == "valid" else ""
    row = dict.fromkeys(FINDINGS, blank) | marks
    head = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Male", "Age": "51"}
    return head | {"Frontal/Lateral": view, "AP/PA": "AP" if view == "Frontal" else ""} | row


def valid_rows() -> list[dict[str, str]]:
    """Every patient has a frontal view, every third a lateral one as well."""
    rows = []
    for i in range(PATIENTS):
        marks = {
            "Lung Opacity": f"{i % 2:.1f}",
            "Atelectasis": f"{i % 3 == 0:.1f}",
            "Pleural Effusion": f"{i % 5 == 0:.1f}",
            "Enlarged Cardiomediastinum": f"{i % 4 == 0:.1f}",
        }
        rows.append(row_of("valid", 64541 + i, "Frontal", **marks))
        if i % 3 == 0:
            rows.append(row_of("valid", 64541 + i, "Lateral", **marks))
    return rows


def train_rows() -> list[dict[str, str]]:
    """Of four patients: a normal report, an opacity, an uncertain opacity, silence about it."""
    marks = (
        {"No Finding": "1.0"},
        {"Lung Opacity": "1.0", "Pleural Effusion": "0.0"},
        {"Lung Opacity": "-1.0", "Pleural Effusion": "1.0"},
        {"Fracture": "1.0"},
    )
    return [row_of("train", i + 1, "Frontal", **marks[i % 4]) for i in range(PATIENTS)]


def write_csv(source: Path, part: str, rows: list[dict[str, str]]) -> None:
    with (source / f"{part}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)


def path_of(source: Path, row: dict[str, str]) -> Path:
    return source / row["Path"].partition("/")[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "CheXpert-v1.0-small"
    folder.mkdir()
    for part, rows in (("valid", valid_rows()), ("train", train_rows())):
        write_csv(folder, part, rows)
        for seed, row in enumerate(rows):
            path = path_of(folder, row)
            path.parent.mkdir(parents=True, exist_ok=True)
            chance = np.random.default_rng((len(part) + seed, part == "train"))
            pixels = chance.integers(0, 256, (12, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(path, "JPEG")
    return folder


def answers(data: Any) -> dict[str, Counter[str]]:
    pairs = data.examples.select("task", "answer").iter_rows()
    counts: dict[str, Counter[str]] = {task: Counter() for task in chexpert.TASKS}
    for task, answer in pairs:
        counts[task][answer] += 1
    return counts


def test_valid_frontal_views(source: Path, tmp_path: Path) -> None:
    data = chexpert.read(source, tmp_path)
    assert answers(data) == {
        "enlarged_cardiomediastinum": {"yes": 15, "no": 45},
        "atelectasis": {"yes": 20, "no": 40},
        "pleural_effusion": {"yes": 12, "no": 48},
        "lung_opacity": {"yes": 30, "no": 30},
    }
    assert data.left_out == [("valid.csv", "20 lateral views")]
    assert data.fixed == {}
    first = data.examples.row(0, named=True)
    assert first["patient_id"] == "chexpert-patient64541"
    assert first["image"] == "images/valid-patient64541-study1-view1-frontal.png"


def test_lateral_views_belong_to_the_same_patient(source: Path, tmp_path: Path) -> None:
    data = chexpert.read(source, tmp_path, frontal_only=False)
    assert answers(data)["lung_opacity"].total() == 80
    assert data.examples["patient_id"].n_unique() == PATIENTS
    assert data.left_out == []


def test_blank_and_uncertain_labels(source: Path, tmp_path: Path) -> None:
    data = chexpert.read(source, tmp_path, subset="train")
    quarter = PATIENTS // 4
    found = answers(data)
    assert found["lung_opacity"] == {"no": quarter, "yes": quarter}  # normal reports and opacities
    assert found["pleural_effusion"] == {"no": 2 * quarter, "yes": quarter}
    assert found["atelectasis"] == {"no": quarter}
    assert dict(map(reversed, data.left_out)) == {
        f"{quarter} uncertain labels of Lung Opacity": "train.csv",
        f"{quarter} blank labels of Lung Opacity": "train.csv",
        f"{quarter} blank labels of Pleural Effusion": "train.csv",
        f"{3 * quarter} blank labels of Atelectasis": "train.csv",
        f"{3 * quarter} blank labels of Enlarged Cardiomediastinum": "train.csv",
        f"{quarter} images without any label": "train.csv",
    }
    ones = answers(chexpert.read(source, tmp_path, subset="train", uncertain="ones"))
    assert ones["lung_opacity"] == {"no": quarter, "yes": 2 * quarter}
    zeros = answers(chexpert.read(source, tmp_path, subset="train", uncertain="zeros"))
    assert zeros["lung_opacity"] == {"no": 2 * quarter, "yes": quarter}
    blank = answers(chexpert.read(source, tmp_path, subset="train", blank="zeros"))
    assert blank["lung_opacity"] == {"no": 2 * quarter, "yes": quarter}
    assert blank["atelectasis"] == {"no": PATIENTS}


def test_all_keeps_the_radiologists_labels_for_the_test(source: Path, tmp_path: Path) -> None:
    data = chexpert.read(source, tmp_path, subset="all")
    assert set(data.fixed) == set(data.strata)
    for patient, place in data.fixed.items():
        assert (place == "test") == (int(patient[-5:]) >= 64541)
    assert set(data.fixed.values()) == {"sites", "public", "validation", "test"}


def test_prepared_network_is_sound(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(chexpert, source, out, sites=2, seed=0)
    owners: Counter[str] = Counter()
    for folder in (*sorted((out / "sites").iterdir()), *(out / n for n in ("public", "test"))):
        assert check_site(folder) == []
        rows = pl.read_parquet(folder / "examples.parquet")
        owners.update(rows["patient_id"].unique().to_list())
        tasks = set(chexpert.TASKS) if folder.name == "test" else {"lung_opacity"}
        assert set(rows["task"]) == tasks
        assert set(rows.filter(task="lung_opacity")["answer"]) == {"yes", "no"}
    assert set(owners.values()) == {1}


def test_missing_unlisted_and_repeated_records_are_left_out(source: Path, tmp_path: Path) -> None:
    rows = valid_rows()
    path_of(source, rows[2]).unlink()
    write_csv(source, "valid", [*rows[2:], rows[4]])
    data = chexpert.read(source, tmp_path, frontal_only=False)
    names = [path_of(Path(), row).as_posix() for row in rows[:3]]
    assert dict(data.left_out) == {
        f"valid.csv:{len(rows)}": "row repeats an earlier Path",
        names[0]: "image is not listed in valid.csv",
        names[1]: "image is not listed in valid.csv",
        names[2]: "image file is missing",
    }


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"Lung Opacity": "2.0"}, r"valid\.csv:3: Lung Opacity is none of 1, 0, -1 and blank"),
        ({"No Finding": "yes"}, r"valid\.csv:3: No Finding is none of 1, 0, -1 and blank"),
        ({"Frontal/Lateral": "Side"}, r"valid\.csv:3: Frontal/Lateral is neither"),
        ({"Path": "CheXpert-v1.0-small/valid/../../x.jpg"}, r"valid\.csv:3: Path is not of"),
        ({"Path": train_rows()[0]["Path"]}, r"valid\.csv:3: Path is not of the form valid/"),
    ],
)
def test_broken_row(source: Path, tmp_path: Path, change: dict[str, str], rule: str) -> None:
    rows = [row for row in valid_rows() if row["Frontal/Lateral"] == "Frontal"]
    rows[1] |= change
    write_csv(source, "valid", rows)
    with pytest.raises(UserError, match=rule) as error:
        prepare(chexpert, source, tmp_path / "out", sites=2)
    assert not any(value in str(error.value) for value in change.values() if len(value) > 4)
    assert not (tmp_path / "out").exists()


def test_broken_files(source: Path, tmp_path: Path) -> None:
    text = (source / "valid.csv").read_text()
    (source / "valid.csv").write_text(text.replace("Atelectasis", "Atelektase", 1))
    with pytest.raises(UserError, match="column 'Atelectasis' is missing; obtain CheXpert"):
        chexpert.read(source, tmp_path)
    (source / "valid.csv").unlink()
    with pytest.raises(UserError, match=r"valid\.csv: file is missing"):
        chexpert.read(source, tmp_path)
    for setting in ({"subset": "test"}, {"uncertain": "half"}, {"blank": "ones"}):
        with pytest.raises(UserError, match=f"{next(iter(setting))}: must be one of"):
            chexpert.read(source, tmp_path, **setting)


def test_truncated_jpeg_is_left_out_and_listed(source: Path, tmp_path: Path) -> None:
    path = path_of(source, valid_rows()[0])
    path.write_bytes(path.read_bytes()[:300])
    prepare(chexpert, source, tmp_path / "out", sites=2)
    listed = (tmp_path / "out" / "left_out.csv").read_text()
    assert "view1-frontal.png,not a readable image (" in listed
