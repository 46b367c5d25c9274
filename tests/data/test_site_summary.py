"""The summary that a site may send: true counts, and none of a few patients, nor a way to one."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.contract import EXAMPLES_SCHEMA, TABLES_SCHEMA
from fedkim_core.data.site import Site, SiteCard
from fedkim_core.data.site_summary import BINS, HIDDEN, HOURS, count, summarise, write_summary
from fedkim_core.errors import UserError

NO_COUNT = ["schema_version", "site", "synthetic", "rule"]
NO_COUNT += ["task", "split", "modality", "variable", "unit", "edges"]
TASKS = ("covid19", "mortality", "med_vqa_rad")


def make_site(folder: Path, patients: list[dict[str, Any]]) -> Site:
    """A site of patients with split, answer, images, stays and the heart rates of each stay.

    It is not checked: the summary needs no image file.
    """
    examples: list[dict[str, Any]] = []
    observations: list[tuple[Any, ...]] = []
    for number, patient in enumerate(patients):
        row = {"patient_id": f"p{number}", "split": patient["split"], "answer": patient["answer"]}
        for image in range(patient["images"]):
            examples.append(row | {"task": "covid19", "image": f"images/{number}-{image}.png"})
        for stay, values in enumerate(patient["stays"]):
            name = f"s{number}-{stay}"
            examples.append(row | {"task": "mortality", "vitals": name if values else None})
            observations += [
                (name, hour, "vitals", "heart_rate", value, "1/min") for hour, value in values
            ]
        examples.append(row | {"task": "med_vqa_rad", "image": "images/x.png", "answer": "left"})
    frame = pl.DataFrame(
        [{"example_id": str(i), **row} for i, row in enumerate(examples)],
        schema=EXAMPLES_SCHEMA,
        infer_schema_length=None,
    )
    folder.mkdir(exist_ok=True)
    pl.DataFrame(observations, schema=TABLES_SCHEMA, orient="row").write_parquet(
        folder / "tables.parquet"
    )
    return Site(folder, SiteCard(name="north", tasks=TASKS), frame)


def alike(number: int, **changes: Any) -> list[dict[str, Any]]:
    patient = {"split": "train", "answer": "no", "images": 1, "stays": [[(0, 80.0)]]}
    return [patient | changes for _ in range(number)]


def cells(part: Any) -> Iterator[Any]:
    """Every count of a summary."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in NO_COUNT:
                yield from cells(value)
    elif isinstance(part, list):
        for value in part:
            yield from cells(value)
    else:
        yield part


def tables_of(summary: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Every total with the cells that add up to it."""
    yield summary["patients"], list(summary["patients_by_split"].values())
    for task in summary["tasks"]:
        answers = [cell["examples"] for cell in task["answers"].values()]
        for modality in task["modalities"].values():
            both = [modality["present"], modality["missing"]]
            # No total is shown; when one of the two is 0 the other is the total.
            if 0 in both:
                yield next((n for n in both if n != 0), 0), answers
    for table in summary["tables"]:
        yield table["stays_with_value"], table["mean_of_stay"]["stays"]


def test_counts(tmp_path: Path) -> None:
    site = make_site(
        tmp_path / "site",
        alike(23)
        + alike(12, answer="yes", images=2)
        + alike(9, split="validation", images=0, stays=[[(30, 60.0), (200, 62.0)]])
        + alike(11, split="validation", images=0, stays=[[(7, 120.0)], []]),
    )
    summary = summarise(site)
    assert (summary["schema_version"], summary["site"]) == (1, "north")
    assert summary["patients"] == 50  # 55
    assert summary["patients_by_split"] == {"train": 30, "validation": 20, "test": 0}
    by_task = {(t["task"], t["split"]): t for t in summary["tasks"]}
    assert ("covid19", "validation") not in by_task
    assert by_task["covid19", "train"]["answers"] == {
        "yes": {"examples": 20, "patients": 10},  # 24 of 12
        "no": {"examples": 20, "patients": 20},  # 23
    }
    assert by_task["covid19", "train"]["modalities"] == {"image": {"present": 40, "missing": 0}}
    mortality = by_task["mortality", "validation"]
    assert mortality["modalities"]["vitals"] == {"present": 20, "missing": 10}  # 20, 11
    assert mortality["modalities"]["labs"] == {"present": 0, "missing": 30}
    assert by_task["med_vqa_rad", "train"]["answers"] == {
        "in words": {"examples": 30, "patients": 30}
    }
    rate = next(t for t in summary["tables"] if t["variable"] == "heart_rate")
    assert (rate["unit"], rate["stays"], rate["stays_with_value"]) == ("1/min", 50, 50)
    assert rate["stays_with_value_by_hours"] == {
        "0-5": 30,
        "6-11": 10,
        "12-23": 0,
        "24-47": HIDDEN,
        "48-167": 0,
        "168-8784": HIDDEN,
    }
    assert rate["mean_of_stay"] == {
        "edges": [51, 69, 87, 105, 123],
        "stays": [0, HIDDEN, 30, 0, 10, 0],
    }
    assert {t["modality"] for t in summary["tables"]} == {"vitals"}
    unseen = next(t for t in summary["tables"] if t["variable"] == "spo2")
    assert (unseen["stays"], unseen["stays_with_value"]) == (50, 0)


@pytest.mark.parametrize(
    ("rows", "patients", "shown"),
    [
        (0, 0, 0),
        (1, 1, HIDDEN),
        (9, 9, HIDDEN),
        (400, 9, HIDDEN),
        (10, 10, 10),
        (19, 19, 10),
        (20, 10, 20),
    ],
)
def test_count(rows: int, patients: int, shown: int | str) -> None:
    frame = pl.DataFrame({"patient_id": [str(i % patients) for i in range(rows)]})
    assert count(frame) == shown


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, list[dict[str, Any]]]:
    """The most images and stays of a patient, and patients in groups that are alike."""
    most = draw(st.integers(1, 2))
    hour_and_value = st.tuples(st.sampled_from([0, 8, 30, 200]), st.sampled_from([50, 75, 110]))
    patient = st.fixed_dictionaries(
        {
            "split": st.sampled_from(["train", "validation", "test"]),
            "answer": st.sampled_from(["yes", "no"]),
            "images": st.integers(0, most),
            "stays": st.lists(st.lists(hour_and_value, max_size=2), max_size=most),
        }
    )
    drawn = draw(st.lists(st.tuples(patient, st.integers(1, 30)), min_size=1, max_size=8))
    return most, [patient for patient, number in drawn for _ in range(number)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups())
def test_no_small_number_is_shown_or_can_be_worked_out(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[int, list[dict[str, Any]]]
) -> None:
    most, patients = drawn
    summary = summarise(make_site(tmp_path_factory.mktemp("site"), patients))
    numbers = {cell for cell in cells(summary) if cell != HIDDEN}
    assert all(type(number) is int and number % 10 == 0 for number in numbers)
    assert not any(0 < abs(a - b) < 10 for a, b in itertools.combinations(numbers, 2))
    for total, parts in tables_of(summary):
        for i, part in enumerate(parts):
            if part == HIDDEN:
                low, high = bounds(total, parts[:i] + parts[i + 1 :], 9 * most)
                assert high > low


def bounds(total: Any, others: list[Any], largest: int) -> tuple[int, int]:
    """What a total and the other cells tell about a hidden cell; ``largest``: what it may hold.

    A shown n is n to n + 9, a shown 0 is 0.
    """

    def ends(cell: Any) -> tuple[int, int]:
        return (1, largest) if cell == HIDDEN else (cell, cell + 9 if cell else 0)

    low = ends(total)[0] - sum(ends(cell)[1] for cell in others)
    high = ends(total)[1] - sum(ends(cell)[0] for cell in others)
    return max(low, 1), min(high, largest)


def test_no_table_has_nine_cells_that_add_up() -> None:
    assert len(BINS) + 1 < 9
    assert all(earlier[1] + 1 == later[0] for earlier, later in itertools.pairwise(HOURS))


@pytest.mark.parametrize("suffix", [".json", ".md"])
def test_nothing_of_a_patient_is_written(
    site_folder: Path, tmp_path: Path, secret: str, suffix: str
) -> None:
    path = tmp_path / f"summary{suffix}"
    site = Site.open(site_folder)
    write_summary(site, path)
    text = path.read_text()
    assert secret not in text
    for private in ("left lung", "140.25", "97.5", "Which side", site.card.licence):
        assert private not in text
    if suffix == ".json":
        assert set(cells(json.loads(text))) == {0, HIDDEN}
    else:
        counts = re.findall(r"(?<=\| )(\S+)(?= \|)", text)
        assert not any(0 < int(word) < 10 for word in counts if word.isdigit())


def test_markdown_has_the_counts_of_the_json(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", alike(25) + alike(12, answer="yes"))
    write_summary(site, tmp_path / "s.md")
    lines = (tmp_path / "s.md").read_text().splitlines()
    for line in (
        "# north",
        "| 30 | 30 | 0 | 0 |",
        "| covid19 | train | yes | 10 | 10 |",
        "| mortality | train | vitals | 30 | 0 |",
        "| vitals heart_rate | 1/min | 30 | 30 | 30 | 0 | 0 | 0 | 0 | 0 |",
        "| vitals heart_rate | 1/min | 0 [51] 0 [69] 30 [87] 0 [105] 0 [123] 0 |",
    ):
        assert line in lines


def test_a_site_without_tables(
    site_folder: Path, tmp_path: Path, rewrite: Callable[..., None]
) -> None:
    rows = pl.read_parquet(site_folder / "examples.parquet").filter(pl.col("vitals").is_null())
    rewrite("examples.parquet", rows=rows)
    (site_folder / "tables.parquet").unlink()
    site = Site.open(site_folder)
    assert summarise(site)["tables"] == []
    write_summary(site, tmp_path / "s.md")
    assert "Stays" not in (tmp_path / "s.md").read_text()


def test_refused_names(site_folder: Path, tmp_path: Path) -> None:
    site = Site.open(site_folder)
    with pytest.raises(UserError, match=r"s\.html: a summary ends in \.json or \.md"):
        write_summary(site, tmp_path / "s.html")
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        write_summary(site, tmp_path / "nowhere" / "s.md")
