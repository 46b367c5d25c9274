"""ECG-QA: a folder in the official layout beside records of PTB-XL, and the real files."""

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import wfdb

from fedkim_core.data.adapters import ecg_qa, ptbxl
from fedkim_core.data.check import check_site
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
RECORDS = 60
FIRST = "ecgqa/ptbxl/paraphrased/train/0.json"
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "ecg" / "ecg-qa"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PTB-XL with two records of each patient."""
    folder = tmp_path_factory.mktemp("ptb-xl")
    (folder / "scp_statements.csv").write_text(",description\nNORM,normal\nIMI,infarction\n")
    (folder / "records100").mkdir()
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*ptbxl._COLUMNS, "filename_lr"])
        for ecg in range(1, RECORDS + 1):
            patient = (ecg + 1) // 2
            codes = "{'NORM': 100.0}" if patient % 3 else "{'IMI': 100.0}"
            beats = "1ES" if patient % 5 == 0 else ""
            name = f"{ecg:05d}_lr"
            fold = patient % 10 + 1
            path = f"records100/{name}"
            writer.writerow([ecg, f"{patient}.0", codes, beats, f"{patient % 4}.0", fold, path])
            wfdb.wrsamp(
                name,
                fs=100,
                units=["mV"] * 12,
                sig_name=LEADS,
                p_signal=np.random.default_rng(ecg).integers(-3000, 3000, (1000, 12)) / 1000,
                fmt=["16"] * 12,
                adc_gain=[1000.0] * 12,
                baseline=[0] * 12,
                write_dir=str(folder / "records100"),
            )
    return folder


def question(sample: int, ecg: int, answer: list[str], /, **changed: Any) -> dict[str, Any]:
    return {
        "template_id": 26,
        "question_id": 1709,
        "sample_id": sample,
        "question_type": "single-verify",
        "attribute_type": "noise",
        "question": f"Does this ECG reveal static noise, as asked in {sample}?",
        "answer": answer,
        "ecg_id": [ecg],
        "attribute": ["static noise"],
    } | changed


def questions() -> list[dict[str, Any]]:
    """One on each record, in turn of the three types."""
    kinds = (
        {"question_type": "single-verify", "answer": ["no"]},
        {"question_type": "single-choose", "answer": ["static noise", "baseline drift"]},
        {"question_type": "single-query", "answer": ["lead V3", "lead I"]},
    )
    return [question(ecg, ecg, [], **kinds[ecg % 3]) for ecg in range(1, RECORDS + 1)]


def write(source: Path, train: Any, wording: str = "paraphrased") -> None:
    for split, content in (("train", train), ("valid", []), ("test", [])):
        folder = source / "ecgqa" / "ptbxl" / wording / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "0.json").write_text(json.dumps(content, indent=4))


@pytest.fixture
def source(records: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "ecg-qa"
    write(folder, questions())
    (tmp_path / "ptb-xl").symlink_to(records)
    return folder


def read(source: Path, **settings: Any) -> SourceData:
    return ecg_qa.read(source, source, **settings)


def answers(data: SourceData) -> dict[str, str]:
    return dict(data.examples.filter(task="ecg_noise_qa").select("example_id", "answer").rows())


def test_questions_answers_and_patients(source: Path) -> None:
    data = read(source)
    assert set(data.examples["task"]) == {"ecg_noise_qa"}
    words = ("no", "baseline drift, static noise", "lead I, lead V3")
    assert answers(data) == {
        f"ecg_qa-train-{ecg:06d}": words[ecg % 3] for ecg in range(1, RECORDS + 1)
    }
    row = data.examples.row(6, named=True)
    assert (row["patient_id"], row["signal"]) == ("ptbxl-00004", "signals/00007")
    assert row["question"] == "Does this ECG reveal static noise, as asked in 7?"
    assert set(data.strata) == set(data.natural) == set(data.examples["patient_id"])
    assert data.natural["ptbxl-00004"] == "0.0"
    assert (data.left_out, data.fixed) == ([], {})


def test_with_the_tasks_of_ptbxl_it_becomes_a_network(source: Path, tmp_path: Path) -> None:
    settings = {"records": True, "folds": True}
    prepare(ecg_qa, source, tmp_path / "out", sites=2, seed=0, settings=settings)
    paths = [*(tmp_path / "out" / "sites").iterdir()]
    paths += [tmp_path / "out" / name for name in ("public", "validation", "test")]
    owners: Counter[str] = Counter()
    for path in paths:
        assert check_site(path) == []
        rows = Site.open(path).examples
        owners.update(rows["patient_id"].unique())
        unseen = path.name in ("validation", "test")
        assert set(rows["task"]) == (set(ecg_qa.TASKS) if unseen else {"ecg_abnormal"})
        if unseen:
            asked = rows.filter(task="ecg_noise_qa")
            assert len(asked) == rows["signal"].n_unique()
            assert asked["question"].null_count() == 0
    assert set(owners.values()) == {1}
    assert len(owners) == RECORDS // 2
    test = pl.read_parquet(tmp_path / "out" / "test" / "examples.parquet")
    assert {int(p[-5:]) % 10 + 1 for p in test["patient_id"]} == {10}


def test_what_is_left_out_is_counted_by_file_and_reason(source: Path) -> None:
    pair = {"question_type": "comparison_irrelevant-query", "ecg_id": [1, 2]}
    first = question(1, 1, ["no"])
    write(
        source,
        [
            first,
            first,
            first | {"sample_id": 2, "answer": ["yes"]},
            question(3, 2, ["yes"], attribute_type="heart_axis"),
            question(4, 2, ["yes"], attribute_type="numeric_feature", **pair),
            question(5, 2, ["none"], **pair),
            question(6, 2, ["none"], **pair),
            question(7, 2, []),
            question(8, 2, [" "]),
            question(9, 2, ["no"], question=""),
            question(10, 2, ["no"], ecg_id=[1, 2]),
            question(11, RECORDS + 1, ["no"]),
            question(12, 2, ["no", "no", ""]),
        ],
    )
    data = read(source)
    assert answers(data) == {"ecg_qa-train-000001": "no", "ecg_qa-train-000012": "no"}
    assert dict(reason.split(" questions: ")[::-1] for _, reason in data.left_out) == {
        "repeats another": "1",
        "contradicts another": "1",
        "not about noise": "2",
        "compares two electrocardiograms": "2",
        "no answer": "2",
        "no question": "1",
        "does not name one electrocardiogram": "1",
        "its record is not in the folder of PTB-XL": "1",
    }
    assert {file for file, _ in data.left_out} == {FIRST}


def test_wordings(source: Path) -> None:
    write(source, [question(1, 1, ["yes"], question="In other words?")], "template")
    assert read(source, wording="template").examples["question"].to_list() == ["In other words?"]
    assert len(read(source).examples) == RECORDS
    with pytest.raises(UserError, match="wording=plain: must be paraphrased or template"):
        read(source, wording="plain")


def test_the_folder_of_ptbxl(source: Path, tmp_path: Path, records: Path) -> None:
    (tmp_path / "ptb-xl").unlink()
    rule = "no such folder; it must hold the records of PTB-XL, or name their folder with --set ptb"
    with pytest.raises(UserError, match=rule):
        read(source)
    with pytest.raises(UserError, match=r"elsewhere: no such folder"):
        read(source, ptbxl="../elsewhere")
    assert len(read(source, ptbxl=str(records)).examples) == RECORDS
    (tmp_path / "elsewhere").symlink_to(records)
    assert len(read(source, ptbxl="../elsewhere").examples) == RECORDS
    (source / "ptb-xl").symlink_to(records)
    assert len(read(source).examples) == RECORDS


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("[{", "not a JSON list of questions"),
        ("", "not a JSON list of questions"),
        ('{"data": []}', "not a JSON list of questions"),
        ("[" * 100_000, "not a JSON list of questions"),
        (b"\xff\xfe[]", "not a JSON list of questions"),
        ("[1]", "question 1: question: input should be"),
        ([{}], "question 1: sample_id: field required"),
        ([question(1, 1, ["no"]), question(1, 2, ["no"])], "question 2: sample_id is not unique"),
        (
            [question(1, 1, ["no"], answer="no")],
            "question 1: answer: input should be a valid array",
        ),
        (
            [question(1, 1, ["no"], answer=None)],
            "question 1: answer: input should be a valid array",
        ),
        ([question(1, 1, ["no"], answer=[7])], r"question 1: answer\.0: .* valid string"),
        ([question(1, 1, ["no"], ecg_id=["x"])], r"question 1: ecg_id\.0: .* valid integer"),
        ([question(-1, 1, ["no"])], "question 1: sample_id: input should be greater"),
        ([question(1, 1, ["no"], question_type="triple")], "question 1: question_type: input"),
        ([], "no question about noise on a record of PTB-XL; obtain ECG-QA"),
    ],
)
def test_broken_file(source: Path, content: Any, rule: str) -> None:
    if isinstance(content, list):
        write(source, content)
    elif isinstance(content, bytes):
        (source / FIRST).write_bytes(content)
    else:
        (source / FIRST).write_text(content)
    with pytest.raises(UserError, match=rule) as error:
        read(source)
    assert "\n" not in str(error.value)
    assert "Does this ECG" not in str(error.value)


def test_missing_split(source: Path) -> None:
    (source / "ecgqa" / "ptbxl" / "paraphrased" / "test" / "0.json").unlink()
    with pytest.raises(UserError, match=r"test: holds no \*\.json; obtain ECG-QA"):
        read(source)


@pytest.mark.skipif(
    not (REAL / "ecgqa").is_dir(), reason="needs $FEDKIM_REALDATA/ecg/ecg-qa and ecg/ptb-xl"
)
@pytest.mark.parametrize("wording", ["paraphrased", "template"])
def test_real_questions(tmp_path: Path, wording: str) -> None:
    """322 questions on the records that are there: 248 about noise, 74 about measurements."""
    data = read(REAL, wording=wording)
    assert Counter(answers(data).values()) == {"no": 177, "yes": 71}
    assert data.examples["signal"].n_unique() == 109
    assert data.examples["patient_id"].n_unique() == 107
    assert data.left_out == [
        (f"ecgqa/ptbxl/{wording}/{file}.json", f"{count} questions: not about noise")
        for file, count in (("train/260000", 46), ("valid/60000", 19), ("test/80000", 9))
    ]
    prepare(ecg_qa, REAL, tmp_path / "out", sites=2, seed=0, settings={"records": True})
    for name in ("validation", "test"):
        rows = Site.open(tmp_path / "out" / name).examples.filter(task="ecg_noise_qa")
        assert set(rows["answer"]) == {"yes", "no"}
