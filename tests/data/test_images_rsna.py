"""RSNA pneumonia: a folder in the layout of the Kaggle competition, stage 2."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from fedkim_core.data.adapters import rsna
from fedkim_core.data.check import check_site
from fedkim_core.data.pixels import read_grey
from fedkim_core.data.prepare import prepare
from fedkim_core.errors import UserError

IMAGES = 80
SECRET = "Secretname^Anna"
HEADER = ["patientId", "x", "y", "width", "height", "Target"]
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal", "Normal")


def name_of(index: int) -> str:
    return f"{index:08x}-8c78-4f51-88f5-0123456789ab"


def pixels_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (16, 16), dtype=np.uint8)


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.276.0.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds: Any = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.276.0.1"
    ds.PatientName, ds.PatientAge, ds.PatientSex = SECRET, "051Y", "F"
    ds.Modality, ds.ViewPosition = "CR", "PA"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)


def label_rows() -> list[dict[str, str]]:
    """Every fourth image has an opacity, every eighth two boxes."""
    rows = []
    for i in range(IMAGES):
        empty = dict.fromkeys(HEADER, "") | {"patientId": name_of(i), "Target": "0"}
        box = {"x": "1.0", "y": "2.0", "width": "3.0", "height": "4.0", "Target": "1"}
        rows.append(empty | box if i % 4 == 0 else empty)
        if i % 8 == 0:
            rows.append(empty | box | {"x": "9.0"})
    return rows


def write_csv(path: Path, header: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsna")
    for i in range(IMAGES):
        write_dicom(folder / f"{name_of(i)}.dcm", pixels_of(i))
    return folder


@pytest.fixture
def source(images: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "stage_2_train_images").mkdir(parents=True)
    for path in images.iterdir():
        (folder / "stage_2_train_images" / path.name).hardlink_to(path)
    write_csv(folder / "stage_2_train_labels.csv", HEADER, label_rows())
    return folder


def write_classes(source: Path) -> None:
    """As in the official file, a row for each box."""
    rows = [
        {"patientId": r["patientId"], "class": CLASSES[int(r["patientId"][:8], 16) % 4]}
        for r in label_rows()
    ]
    write_csv(source / "stage_2_detailed_class_info.csv", ["patientId", "class"], rows)


def write_mapping(source: Path) -> None:
    """Image 2k and 2k + 1 show one person."""
    entries = [
        {"subset_img_id": name_of(i), "img_id": f"{i // 2 + 1:08d}_{i % 2:03d}.png"}
        for i in range(IMAGES)
    ]
    path = source / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps(entries))


def answers(data: Any) -> Counter[str]:
    return Counter(data.examples["answer"])


def test_one_example_for_each_image(source: Path, tmp_path: Path) -> None:
    data = rsna.read(source, tmp_path)
    assert answers(data) == {"yes": IMAGES // 4, "no": IMAGES * 3 // 4}
    assert data.left_out == []
    assert set(data.examples["task"]) == {"lung_opacity"}
    labels = dict(data.examples.select("patient_id", "answer").iter_rows())
    assert labels == {f"rsna-{name_of(i)}": "yes" if i % 4 == 0 else "no" for i in range(IMAGES)}
    assert (data.natural, data.fixed) == ({}, {})


def test_prepared_network_is_sound_and_without_patient_attributes(
    source: Path, tmp_path: Path
) -> None:
    write_classes(source)
    write_mapping(source)
    out = tmp_path / "out"
    prepare(rsna, source, out, sites=2, seed=0)
    owners: Counter[str] = Counter()
    seen = 0
    for folder in (
        *sorted((out / "sites").iterdir()),
        *(out / n for n in ("public", "validation", "test")),
    ):
        assert check_site(folder) == []
        rows = pl.read_parquet(folder / "examples.parquet")
        assert set(rows["answer"]) == {"yes", "no"}
        owners.update(rows["patient_id"].unique().to_list())
        for row in rows.iter_rows(named=True):
            index = int(row["image"].split("-")[-5], 16)
            np.testing.assert_array_equal(read_grey(folder / row["image"]), pixels_of(index))
            assert row["patient_id"] == f"rsna-nih-{index // 2 + 1:08d}"
            assert SECRET.encode() not in (folder / row["image"]).read_bytes()
            seen += 1
    assert seen == IMAGES
    assert set(owners.values()) == {1}
    assert len(owners) == IMAGES // 2


def test_detailed_classes_balance_and_choose(source: Path, tmp_path: Path) -> None:
    write_classes(source)
    data = rsna.read(source, tmp_path)
    strata = Counter(data.strata.values())
    assert strata[(("lung_opacity", False), "No Lung Opacity / Not Normal")] == IMAGES // 4
    normal = rsna.read(source, tmp_path, negatives="normal")
    assert answers(normal) == {"yes": IMAGES // 4, "no": IMAGES // 2}
    assert normal.left_out == [
        (
            "stage_2_detailed_class_info.csv",
            f"{IMAGES // 4} images of the class No Lung Opacity / Not Normal",
        )
    ]


def test_missing_unlisted_and_repeated_records_are_left_out(source: Path, tmp_path: Path) -> None:
    rows = label_rows()
    write_csv(source / "stage_2_train_labels.csv", HEADER, [*rows[2:], rows[5]])
    (source / "stage_2_train_images" / f"{name_of(7)}.dcm").unlink()
    data = rsna.read(source, tmp_path)
    assert dict(data.left_out) == {
        f"stage_2_train_labels.csv:{len(rows)}": "row repeats an earlier one",
        f"stage_2_train_images/{name_of(0)}.dcm": (
            "image is not listed in stage_2_train_labels.csv"
        ),
        f"stage_2_train_images/{name_of(7)}.dcm": "image file is missing",
    }
    assert len(data.examples) == IMAGES - 2


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"Target": "2"}, r"labels\.csv:4: Target is neither 0 nor 1"),
        ({"Target": ""}, r"labels\.csv:4: Target is neither 0 nor 1"),
        ({"patientId": "../../secret"}, r"labels\.csv:4: patientId is not made of letters"),
        ({"patientId": name_of(0)}, r"labels\.csv:4: Target contradicts an earlier row"),
    ],
)
def test_broken_row(source: Path, tmp_path: Path, change: dict[str, str], rule: str) -> None:
    rows = label_rows()
    rows[2] |= change
    write_csv(source / "stage_2_train_labels.csv", HEADER, rows)
    with pytest.raises(UserError, match=rule) as error:
        prepare(rsna, source, tmp_path / "out", sites=2)
    assert not any(value in str(error.value) for value in change.values() if len(value) > 2)
    assert not (tmp_path / "out").exists()


def test_broken_class_file(source: Path, tmp_path: Path) -> None:
    path = source / "stage_2_detailed_class_info.csv"
    with pytest.raises(UserError, match=r"class_info\.csv: file is missing"):
        rsna.read(source, tmp_path, negatives="normal")
    with pytest.raises(UserError, match="negatives: must be all or normal"):
        rsna.read(source, tmp_path, negatives="some")
    for lines, rule in (
        (["patientId", name_of(0)], "column 'class' is missing"),
        (["patientId,class", f"{name_of(0)},Pneumonia"], r":2: class is none of: Lung Opacity"),
        (["patientId,class", f"{name_of(0)},Normal"], r":2: class contradicts Target"),
        (
            ["patientId,class", f"{name_of(2)},Normal", f"{name_of(2)},Lung Opacity"],
            r":3: class contradicts an earlier row",
        ),
    ):
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError, match=rule):
            rsna.read(source, tmp_path)
    path.write_text(f"patientId,class\n{name_of(0)},Lung Opacity\n")
    with pytest.raises(UserError, match=f"{IMAGES - 1} images of .* have no class"):
        rsna.read(source, tmp_path, negatives="normal")


@pytest.mark.parametrize("content", ["{", "[1]", '[{"subset_img_id": "a"}]', '{"a": 1}', "\xff"])
def test_broken_mapping(source: Path, tmp_path: Path, content: str) -> None:
    path = source / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="not a list of subset_img_id and img_id"):
        rsna.read(source, tmp_path)


def test_mapping_of_some_images(source: Path, tmp_path: Path) -> None:
    write_mapping(source)
    rows = [*label_rows(), dict.fromkeys(HEADER, "") | {"patientId": "new", "Target": "0"}]
    write_csv(source / "stage_2_train_labels.csv", HEADER, rows)
    with pytest.raises(UserError, match=r"2018\.json: 1 images of .* have no entry"):
        rsna.read(source, tmp_path)


def test_missing_files(source: Path, tmp_path: Path) -> None:
    labels = source / "stage_2_train_labels.csv"
    write_csv(labels, HEADER[:-1], [{n: row[n] for n in HEADER[:-1]} for row in label_rows()])
    with pytest.raises(UserError, match="column 'Target' is missing; obtain stage_2_train_images"):
        rsna.read(source, tmp_path)
    labels.unlink()
    with pytest.raises(UserError, match=r"stage_2_train_labels\.csv: file is missing"):
        rsna.read(source, tmp_path)


def test_truncated_dicom_is_left_out_and_listed(source: Path, tmp_path: Path) -> None:
    path = source / "stage_2_train_images" / f"{name_of(3)}.dcm"
    whole = path.read_bytes()
    path.unlink()  # a hard link to the file of all tests
    path.write_bytes(whole[:-50])
    prepare(rsna, source, tmp_path / "out", sites=2)
    listed = (tmp_path / "out" / "left_out.csv").read_text()
    assert f"{name_of(3)}.png,not a readable image (" in listed
