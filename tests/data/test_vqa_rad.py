"""VQA-RAD: a folder in the official layout, and the real files where they are."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fedkim_core.data.adapters import available, settings_of, vqa_rad
from fedkim_core.data.federation import combine
from fedkim_core.data.prepare import SourceData, prepare, write_network
from fedkim_core.data.site import Site, check_site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
DATABASE, IMAGES = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "vqa" / "VQA-RAD"
CASE = "https://medpix.nlm.nih.gov/case?id=0000-"
SECRET = "Secretname-4711"
Records = list[dict[str, Any]]
# image, organ, phrase_type, question, answer, answer_type
ASKED = (
    (1, "CHEST", "freeform", "Is the heart enlarged?", "Yes", "CLOSED"),
    (1, "CHEST", "para", "Is the heart  big? ", "YES", "CLOSED "),
    (1, "CHEST", "test_freeform", "Where is the mass?", "Right  upper\tlobe", "OPEN"),
    (2, "HEAD", "freeform", "How was this image taken?", "T2 MRI", "OPEN"),
    (2, "HEAD", "para", "how was this image  taken?", "T2 MRI", "OPEN"),  # repeats
    (3, "ABD", "test_para", "How many kidneys are there?", 2, "OPEN"),
    (4, "ABD", "freeform", "Is this a CT?", "no", "Open"),  # closed by its answer
    (5, "CHEST", "freeform", "Which plane is this?", "PA", "closed"),
)


def records() -> Records:
    return [
        {
            "qid": number,
            "phrase_type": phrase,
            "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
            "image_case_url": f"{CASE}{image}",
            "image_name": f"synpic{image}.jpg",
            "image_organ": organ,
            "evaluation": "not evaluated",
            "question": question,
            "question_rephrase": "NULL",
            "question_relation": "NULL",
            "question_frame": "NULL",
            "question_type": "PRES",
            "answer": answer,
            "answer_type": kind,
        }
        for number, (image, organ, phrase, question, answer, kind) in enumerate(ASKED, start=1)
    ]


def write(folder: Path, rows: Records, images: int = 5) -> Path:
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    (folder / DATABASE).write_text(json.dumps(rows, indent=2), encoding="utf-8")
    for number in range(1, images + 1):
        grey = np.random.default_rng(number).integers(0, 256, (20 + number, 30), dtype=np.uint8)
        Image.fromarray(grey).convert("RGB").save(folder / IMAGES / f"synpic{number}.jpg")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", records())


def trained_tasks() -> SourceData:
    """Radiographs for the hospitals: nobody trains on the questions of VQA-RAD."""
    chance = np.random.default_rng(3)
    rows = [
        {
            "example_id": f"cxr-{i}",
            "patient_id": f"cxr-{i}",
            "task": "lung_opacity",
            "answer": "yes" if i % 2 else "no",
            "image": f"images/{i}.png",
        }
        for i in range(40)
    ]
    return SourceData(
        name="cxr",
        licence="none",
        note="",
        examples=pl.DataFrame(rows),
        strata={row["patient_id"]: row["answer"] for row in rows},
        images={row["image"]: chance.integers(0, 256, (9, 9), dtype=np.uint8) for row in rows},
    )


def changed(number: int, **values: object) -> Records:
    rows = records()
    rows[number - 1] |= values
    return rows


def test_adapter_and_its_settings() -> None:
    adapter = available()["vqa_rad"]
    assert set(adapter.TASKS) <= set(load_tasks())
    given = settings_of(adapter, ["organ=chest", "official_split=false"])
    assert given == {"organ": "chest", "official_split": False}


def test_words_repetitions_and_patients(source: Path, tmp_path: Path) -> None:
    data = vqa_rad.read(source, tmp_path, official_split=False)
    rows = {row["example_id"]: row for row in data.examples.iter_rows(named=True)}
    answers = {key.removeprefix("vqa_rad-"): row["answer"] for key, row in rows.items()}
    assert answers == {
        "1": "yes",
        "2": "yes",
        "3": "Right upper lobe",
        "4": "T2 MRI",
        "6": "2",
        "7": "no",
        "8": "PA",
    }
    assert rows["vqa_rad-2"]["question"] == "Is the heart big?"
    assert data.left_out == [("qid 5", "repeats an earlier question about its image")]
    assert {row["patient_id"] for row in rows.values()} == set(data.strata)
    assert data.strata["vqa-rad-synpic1"] == ("chest closed", "chest open")
    assert data.strata["vqa-rad-synpic4"] == ("abd closed",)
    assert data.strata["vqa-rad-synpic5"] == ("chest closed",)
    assert data.fixed == {}


def test_official_test_questions_are_kept(source: Path, tmp_path: Path) -> None:
    data = vqa_rad.read(source, tmp_path)
    place = dict(data.fixed)
    assert place == {
        "vqa-rad-synpic1": "test",
        "vqa-rad-synpic2": "validation",
        "vqa-rad-synpic3": "test",
        "vqa-rad-synpic4": "validation",
        "vqa-rad-synpic5": "validation",
    }
    assert sorted(data.examples["example_id"]) == [f"vqa_rad-{i}" for i in (3, 4, 6, 7, 8)]
    assert (DATABASE, "2 training questions about images of the test set: official_split") in (
        data.left_out
    )


def test_one_organ(source: Path, tmp_path: Path) -> None:
    data = vqa_rad.read(source, tmp_path, organ="chest", official_split=False)
    assert set(data.examples["image"]) == {"images/synpic1.png", "images/synpic5.png"}
    assert data.left_out == [(DATABASE, "4 questions about other organs: organ=chest")]
    with pytest.raises(UserError, match="organ=Chest: must be one of all, chest, abd, head"):
        vqa_rad.read(source, tmp_path, organ="Chest")


def test_images_of_one_case_are_one_patient(tmp_path: Path) -> None:
    rows = records()
    rows[3]["image_case_url"] = rows[0]["image_case_url"]  # 1 and 2
    rows[5]["image_case_url"] = rows[4]["image_case_url"]  # 2 and 3
    rows[6]["image_case_url"] = rows[7]["image_case_url"] = "NULL"  # says nothing of 4 and 5
    data = vqa_rad.read(write(tmp_path / "source", rows), tmp_path, official_split=False)
    owners = dict(data.examples.select("image", "patient_id").iter_rows())
    assert {owners[f"images/synpic{i}.png"] for i in (1, 2, 3)} == {"vqa-rad-synpic1"}
    assert owners["images/synpic4.png"] == "vqa-rad-synpic4"
    assert owners["images/synpic5.png"] == "vqa-rad-synpic5"


@pytest.mark.parametrize(
    ("number", "values", "reason"),
    [
        (1, {"answer": "  "}, "answer is empty or not text"),
        (1, {"answer": None}, "answer is empty or not text"),
        (1, {"answer": [SECRET]}, "answer is empty or not text"),
        (1, {"answer": float("nan")}, "answer is empty or not text"),
        (1, {"answer": True}, "answer is empty or not text"),
        (1, {"answer": f"{SECRET}\0"}, "answer is empty or not text"),
        (1, {"answer": f"{SECRET}\ud800"}, "answer is empty or not text"),
        (1, {"question": ""}, "question is empty or not text"),
        (1, {"question": {SECRET: 1}}, "question is empty or not text"),
        (4, {"answer_type": SECRET}, "answer_type is neither OPEN nor CLOSED"),
        (1, {"image_organ": SECRET}, "image_organ is none of chest, abd, head"),
        (1, {"image_name": f"../{SECRET}.jpg"}, "image_name is not the plain name of a .jpg file"),
        (1, {"image_name": f"/{SECRET}.jpg"}, "image_name is not the plain name of a .jpg file"),
        (1, {"image_name": f"{SECRET}.png"}, "image_name is not the plain name of a .jpg file"),
        (1, {"image_name": "a" * 300 + ".jpg"}, "image_name is not the plain name of a .jpg file"),
        (1, {"image_name": [SECRET]}, "image_name is not the plain name of a .jpg file"),
    ],
)
def test_unusable_question_is_listed(
    tmp_path: Path, number: int, values: dict[str, Any], reason: str
) -> None:
    folder = write(tmp_path / "source", changed(number, **values))
    data = vqa_rad.read(folder, tmp_path, official_split=False)
    assert (f"qid {number}", reason) in data.left_out
    assert f"vqa_rad-{number}" not in set(data.examples["example_id"])
    assert SECRET not in str(data.left_out)


def break_jpeg(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def not_an_image(path: Path) -> None:
    path.write_text(SECRET)


def bomb(path: Path) -> None:
    """65,500 rows and columns in the header of a small file."""
    data = path.read_bytes()
    frame = re.search(rb"\xff\xc0.{3}", data, re.DOTALL)
    assert frame
    path.write_bytes(data[: frame.end()] + b"\xff\xdc\xff\xdc" + data[frame.end() + 4 :])


def outward_link(path: Path) -> None:
    target = path.parent.parent.parent / "elsewhere.jpg"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "image file is missing; 3 questions"),
        (break_jpeg, "image cannot be decoded; 3 questions"),
        (not_an_image, "image cannot be decoded; 3 questions"),
        (bomb, "image cannot be decoded; 3 questions"),
        (outward_link, "image file is a link that leaves the folder; 3 questions"),
    ],
)
def test_unusable_image_is_listed(source: Path, tmp_path: Path, damage: Any, reason: str) -> None:
    damage(source / IMAGES / "synpic1.jpg")
    data = vqa_rad.read(source, tmp_path, official_split=False)
    assert (f"{IMAGES}/synpic1.jpg", reason) in data.left_out
    assert "images/synpic1.png" not in set(data.examples["image"]) | set(data.images)
    assert "vqa-rad-synpic1" not in data.strata


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"[{]", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'[{"qid": ' + b"1" * 5000 + b"}]", "cannot be read as JSON"),
        (f'["{SECRET}\u00e9"]'.encode("latin-1"), r"cannot be read as JSON \(UnicodeDecodeError\)"),
        (f'["{SECRET}"]'.encode("utf-16"), r"cannot be read as JSON \(UnicodeDecodeError\)"),
        (b"{}", "must be a list of questions"),
        (f'["{SECRET}"]'.encode(), "record 1: must be an object"),
        (b"[]", "no question has words and a readable image; obtain VQA-RAD"),
    ],
)
def test_broken_question_file(source: Path, tmp_path: Path, content: bytes, rule: str) -> None:
    (source / DATABASE).write_bytes(content)
    with pytest.raises(UserError, match=rule) as error:
        vqa_rad.read(source, tmp_path)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("key", [*vqa_rad._KEYS])
def test_missing_key(tmp_path: Path, key: str) -> None:
    rows = records()
    del rows[2][key]
    with pytest.raises(UserError, match=rf"Public\.json: record 3: key '{key}' is missing; obtain"):
        vqa_rad.read(write(tmp_path / "source", rows), tmp_path)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("5", "qid is not a whole number"),
        (True, "qid is not a whole number"),
        (-1, "qid is not a whole number"),
        (10**12, "qid is not a whole number"),
        (1, "qid is not unique"),
    ],
)
def test_bad_identifier(tmp_path: Path, value: object, rule: str) -> None:
    folder = write(tmp_path / "source", changed(5, qid=value))
    with pytest.raises(UserError, match=rf"record 5: {rule}"):
        vqa_rad.read(folder, tmp_path)


def test_no_file_and_no_image(source: Path, tmp_path: Path) -> None:
    for image in (source / IMAGES).iterdir():
        image.unlink()
    with pytest.raises(UserError, match="no question has words and a readable image"):
        vqa_rad.read(source, tmp_path)
    (source / DATABASE).unlink()
    with pytest.raises(UserError, match=r"Public\.json: file is missing; obtain VQA-RAD"):
        vqa_rad.read(source, tmp_path)


def test_network_with_hospitals_of_another_data_set(source: Path, tmp_path: Path) -> None:
    joined = combine([trained_tasks(), vqa_rad.read(source, tmp_path)], "joined")
    write_network(joined, tmp_path / "out", sites=2, seed=0)
    held: dict[str, list[str]] = {}
    for folder in [*(tmp_path / "out" / "sites").iterdir(), *(tmp_path / "out").glob("[pvt]*")]:
        if not folder.is_dir():
            continue
        assert check_site(folder) == []
        site = Site.open(folder)
        asked = site.examples.filter(task="med_vqa_rad")
        held[folder.name] = sorted(asked["example_id"].str.extract(r"(\d+)$").to_list())
        for example in load_examples(site, split=None, cards=load_tasks(), image_size=16):
            assert example.features["image"].shape == (1, 16, 16)
    assert held.pop("test") == ["3", "6"]
    assert held.pop("validation") == ["4", "7", "8"]
    assert set(map(len, held.values())) == {0}


def test_pixels_are_those_of_the_jpeg(source: Path, tmp_path: Path) -> None:
    data = vqa_rad.read(source, tmp_path)
    with Image.open(source / IMAGES / "synpic3.jpg") as image:
        expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(data.images["images/synpic3.png"], expected)
    assert data.images["images/synpic3.png"].dtype == np.uint8


def test_alone_it_has_nothing_for_hospitals(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        prepare(vqa_rad, source, tmp_path / "out", sites=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not (REAL / DATABASE).is_file(),
    reason="needs images and questions of VQA-RAD in $FEDKIM_REALDATA/vqa/VQA-RAD",
)
def test_real_files(tmp_path: Path) -> None:
    """197 of the 315 images with their 1,418 questions, of which 279 are official test ones."""
    data = vqa_rad.read(REAL, tmp_path, official_split=False)
    again = "repeats an earlier question about its image"
    assert data.left_out == [(f"qid {qid}", again) for qid in (79, 196, 943)]
    assert len(data.examples) == 1415
    assert len(data.strata) == len(data.images) == 197
    words = Counter(a if a in ("yes", "no") else "other" for a in data.examples["answer"])
    assert words == {"no": 407, "yes": 349, "other": 659}
    kinds = Counter(" ".join(kind) for kind in data.strata.values())
    assert sum(number for kind, number in kinds.items() if "chest" in kind) == 68

    official = vqa_rad.read(REAL, tmp_path)
    assert Counter(official.fixed.values()) == {"test": 125, "validation": 72}
    tested = [p for p, place in official.fixed.items() if place == "test"]
    assert len(official.examples.filter(pl.col("patient_id").is_in(tested))) == 279
    assert len(official.examples) == 747
    chest = vqa_rad.read(REAL, tmp_path, organ="chest")
    assert (len(chest.examples), len(chest.strata)) == (264, 68)

    write_network(combine([trained_tasks(), chest], "joined"), tmp_path / "out", sites=2, seed=0)
    counts = {
        name: len(Site.open(tmp_path / "out" / name).examples.filter(task="med_vqa_rad"))
        for name in ("validation", "test")
    }
    assert counts == {"validation": 165, "test": 99}
