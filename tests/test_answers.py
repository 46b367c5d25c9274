"""The file of answers: what goes in comes out, and a broken one is one line."""

import math
from pathlib import Path

import polars as pl
import pytest

from fedkim_core import answers
from fedkim_core.answers import Answers
from fedkim_core.errors import UserError


def _columns() -> dict[str, dict[str, Answers]]:
    shared = {"example_ids": ["e1", "e2", "e3"], "sites": ["north", None, "coast"]}
    shared["groups"] = {"sex": ["female", None, "male"], "age_band": [None, "40-59", "80+"]}
    yes_no = Answers(["a", "a", "b"], ["yes", "no", "no"], [1.0, 0.0, 0.0], **shared)
    words = Answers(["a", "b", "c"], ["left", "no", ""], [0.0] * 3, **shared)
    return {
        column: {
            "sepsis": Answers(**{**vars(yes_no), "logits": [0.5 + shift, -2.0, 0.0]}),
            "med_vqa_rad": Answers(**{**vars(words), "texts": ["left", "right", "äöü"]}),
        }
        for column, shift in (("before", 0.0), ("injected", 1.25))
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = _columns()
    path = answers.write(tmp_path, written)
    assert path == tmp_path / "answers.parquet"
    read = answers.read(tmp_path)
    assert list(read) == ["before", "injected"]
    for column, tasks in written.items():
        assert read[column]["sepsis"] == tasks["sepsis"]
        # Free text has no label to read back.
        assert vars(read[column]["med_vqa_rad"]) == {**vars(tasks["med_vqa_rad"]), "labels": []}
    assert [p.name for p in tmp_path.iterdir()] == ["answers.parquet"]


def test_the_table_says_what_was_said(tmp_path: Path) -> None:
    answers.write(tmp_path, _columns())
    frame = answers.read_frame(tmp_path)
    assert frame.schema == answers.SCHEMA
    sepsis = frame.filter(pl.col("task") == "sepsis", pl.col("column") == "before")
    assert sepsis["said"].to_list() == ["yes", "no", "no"]  # a logit of 0 is no yes
    assert sepsis["label"].to_list() == [1, 0, 0]
    words = frame.filter(pl.col("task") == "med_vqa_rad")
    assert words["label"].null_count() == words["logit"].null_count() == len(words)


def test_a_logit_that_is_no_number_says_nothing(tmp_path: Path) -> None:
    columns = _columns()
    columns["before"]["sepsis"].logits[1] = math.nan
    answers.write(tmp_path, columns)
    row = answers.read_frame(tmp_path).row(1, named=True)
    assert row["said"] is None
    assert math.isnan(answers.read(tmp_path)["before"]["sepsis"].logits[1])


def test_a_file_of_before_there_were_groups_is_read(tmp_path: Path) -> None:
    path = answers.write(tmp_path, _columns())
    pl.read_parquet(path).drop("sex", "age_band").write_parquet(path)
    assert answers.read(tmp_path)["injected"]["sepsis"].groups == {}
    assert answers.read_frame(tmp_path)["sex"].null_count() == 12


def test_a_second_write_replaces_the_first(tmp_path: Path) -> None:
    answers.write(tmp_path, _columns())
    answers.write(tmp_path, {"before": _columns()["before"]})
    assert list(answers.read(tmp_path)) == ["before"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "not found; write it with fedkim evaluate"),
        (lambda path: path.write_bytes(b"PAR1?"), "not a parquet file"),
        (lambda path: pl.DataFrame({"task": ["a"]}).write_parquet(path), "column example_id"),
        (
            lambda path: pl.concat([pl.read_parquet(path)] * 2).write_parquet(path),
            "two answers of the same column",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, break_it, message: str) -> None:
    break_it(answers.write(tmp_path, _columns()))
    with pytest.raises(UserError, match=message) as caught:
        answers.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_room(tmp_path: Path) -> None:
    (tmp_path / "answers.parquet").mkdir()
    with pytest.raises(UserError, match=r"answers\.parquet: cannot be written"):
        answers.write(tmp_path, _columns())
    assert [p.name for p in tmp_path.iterdir()] == ["answers.parquet"]
