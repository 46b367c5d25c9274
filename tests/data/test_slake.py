"""SLAKE: a folder in the official layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fedkim_core.data.adapters import available, settings_of, slake
from fedkim_core.data.federation import combine
from fedkim_core.data.prepare import SourceData, write_network
from fedkim_core.data.site import Site, check_site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
SECRET = "Secretname-4711"
FILES = {"train.json": (1, 2, 3), "validate.json": (4, 5), "test.json": (6, 7)}
Records = list[dict[str, Any]]
# language, location, modality, question, answer, answer_type
ASKED = (
    ("en", "Abdomen", "MRI", "What modality is used to take this image?", "MRI", "OPEN"),
    ("en", "Abdomen", "MRI", "Does the picture contain liver?", "Yes", "CLOSED"),
    ("zh", "Abdomen", "MRI", "图片中包含肝脏吗?", "包含", "CLOSED"),
)


def records(images: tuple[int, ...], start: int) -> Records:
    return [
        {
            "img_id": image,
            "img_name": f"xmlab{image}/source.jpg",
            "question": question,
            "answer": answer,
            "q_lang": language,
            "location": location,
            "modality": modality,
            "answer_type": kind,
            "base_type": "vqa",
            "content_type": "Organ",
            "triple": ["vhead", "_", "_"],
            "qid": start + 10 * image + number,
        }
        for image in images
        for number, (language, location, modality, question, answer, kind) in enumerate(ASKED)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, images in FILES.items():
        for image in images:
            grey = np.random.default_rng(image).integers(0, 256, (16 + image, 20), dtype=np.uint8)
            path = folder / "imgs" / f"xmlab{image}" / "source.jpg"
            path.parent.mkdir(parents=True)
            Image.fromarray(grey).convert("RGB").save(path)
        text = json.dumps(records(images, start=0), ensure_ascii=name != "train.json")
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def change(source: Path, file: str, number: int, **values: object) -> None:
    rows = json.loads((source / file).read_text(encoding="utf-8"))
    rows[number - 1] |= values
    (source / file).write_text(json.dumps(rows), encoding="utf-8")


def test_adapter_and_its_settings() -> None:
    adapter = available()["slake"]
    assert set(adapter.TASKS) <= set(load_tasks())
    given = settings_of(adapter, ["language=both", "official_split=no"])
    assert given == {"language": "both", "official_split": False}


@pytest.mark.parametrize(
    ("language", "questions", "lines"),
    [("en", 14, {"3", "2"}), ("zh", 7, {"6", "4"}), ("both", 21, set())],
)
def test_languages(
    source: Path, tmp_path: Path, language: str, questions: int, lines: set[str]
) -> None:
    data = slake.read(source, tmp_path, language=language)
    assert len(data.examples) == questions
    assert {record for record, _ in data.left_out} == (set(FILES) if lines else set())
    assert {reason for _, reason in data.left_out} == {
        f"{count} questions in another language: language={language}" for count in lines
    }


def test_words_patients_and_strata(source: Path, tmp_path: Path) -> None:
    data = slake.read(source, tmp_path, language="both")
    rows = data.examples.filter(patient_id="slake-xmlab2")
    assert rows.select("example_id", "answer", "question").rows() == [
        ("slake-20", "MRI", "What modality is used to take this image?"),
        ("slake-21", "yes", "Does the picture contain liver?"),
        ("slake-22", "包含", "图片中包含肝脏吗?"),
    ]
    assert set(rows["image"]) == {"images/xmlab2.png"}
    assert set(data.strata.values()) == {("MRI Abdomen closed", "MRI Abdomen open")}
    assert set(data.strata) == {f"slake-xmlab{image}" for image in range(1, 8)}


def test_official_split_is_by_image(source: Path, tmp_path: Path) -> None:
    places = {"train.json": "sites", "validate.json": "validation", "test.json": "test"}
    expected = {f"slake-xmlab{i}": places[name] for name, held in FILES.items() for i in held}
    assert slake.read(source, tmp_path).fixed == expected
    assert slake.read(source, tmp_path, official_split=False).fixed == {}
    (source / "validate.json").rename(source / "validation.json")  # as at huggingface.co
    assert slake.read(source, tmp_path).fixed == expected


def test_image_in_two_files_belongs_to_the_test_set(source: Path, tmp_path: Path) -> None:
    change(source, "train.json", 1, img_name="xmlab6/source.jpg")
    data = slake.read(source, tmp_path)
    assert ("qid 10", "its image belongs to test.json") in data.left_out
    assert data.fixed["slake-xmlab6"] == "test"
    whole = slake.read(source, tmp_path, official_split=False)
    assert ("qid 10", "repeats an earlier question about its image") in whole.left_out


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"answer": " "}, "answer is empty or not text"),
        ({"answer": f"{SECRET}\ud800"}, "answer is empty or not text"),
        ({"question": None}, "question is empty or not text"),
        ({"answer_type": SECRET}, "answer_type is neither OPEN nor CLOSED"),
        ({"q_lang": SECRET}, "q_lang is neither en nor zh"),
        ({"img_name": f"../{SECRET}/source.jpg"}, "img_name is not of the form xmlabN/source.jpg"),
        ({"img_name": "xmlab1/../source.jpg"}, "img_name is not of the form xmlabN/source.jpg"),
        ({"img_name": 1}, "img_name is not of the form xmlabN/source.jpg"),
    ],
)
def test_unusable_question_is_listed(
    source: Path, tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    change(source, "test.json", 1, **values)
    data = slake.read(source, tmp_path)
    assert ("qid 60", reason) in data.left_out
    assert "slake-60" not in set(data.examples["example_id"])
    assert SECRET not in str(data.left_out)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "image file is missing; 2 questions"),
        (cut_short, "image cannot be decoded; 2 questions"),
    ],
)
def test_unusable_image_is_listed(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(source / "imgs" / "xmlab4" / "source.jpg")
    data = slake.read(source, tmp_path)
    assert ("imgs/xmlab4/source.jpg", reason) in data.left_out
    assert "slake-xmlab4" not in {*data.strata, *data.fixed, *data.examples["patient_id"]}


def test_broken_files(source: Path, tmp_path: Path) -> None:
    def refused(rule: str, **settings: Any) -> None:
        with pytest.raises(UserError, match=rule) as error:
            slake.read(source, tmp_path, **settings)
        assert "\n" not in str(error.value)
        assert SECRET not in str(error.value)

    refused("language=de: must be one of en, zh, both", language="de")
    train = source / "train.json"
    whole = train.read_text(encoding="utf-8")
    train.write_bytes(whole.encode("gb18030"))
    refused(r"train\.json: cannot be read as JSON \(UnicodeDecodeError\)")
    train.write_text(whole[:-5], encoding="utf-8")
    refused(r"train\.json: cannot be read as JSON")
    train.write_text(whole.replace('"q_lang"', '"language"', 1), encoding="utf-8")
    refused(r"train\.json: record 1: key 'q_lang' is missing; obtain SLAKE")
    train.write_text(whole.replace('"qid": 10,', '"qid": 60,').replace('"qid": 10}', '"qid": 60}'))
    refused("two question files use the same qid; obtain SLAKE")
    train.write_text(json.dumps([SECRET]))
    refused(r"train\.json: record 1: must be an object")
    train.unlink()
    refused(r"train\.json: file is missing; obtain SLAKE")
    train.write_text(whole, encoding="utf-8")
    (source / "validate.json").unlink()
    refused(r"validate\.json: file is missing; obtain SLAKE")
    (source / "validate.json").write_text("[]")
    (source / "imgs").rename(tmp_path / "away")
    refused("no question has words and a readable image; obtain SLAKE")


def test_network_with_hospitals_of_another_data_set(source: Path, tmp_path: Path) -> None:
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
    trained = SourceData(
        name="cxr",
        licence="none",
        note="",
        examples=pl.DataFrame(rows),
        strata={row["patient_id"]: row["answer"] for row in rows},
        images={row["image"]: np.zeros((8, 8), dtype=np.uint8) for row in rows},
    )
    joined = combine([trained, slake.read(source, tmp_path)], "joined")
    write_network(joined, tmp_path / "out", sites=2, seed=0)
    for name, images in {
        "sites/site-1": (),
        "sites/site-2": (),
        "public": (),
        "validation": FILES["validate.json"],
        "test": FILES["test.json"],
    }.items():
        folder = tmp_path / "out" / name
        assert check_site(folder) == []
        asked = Site.open(folder).examples.filter(task="med_vqa_slake")
        assert set(asked["patient_id"]) == {f"slake-xmlab{image}" for image in images}
        assert len(asked) == 2 * len(images)
        load_examples(Site.open(folder), split=None, cards=load_tasks(), image_size=16)
