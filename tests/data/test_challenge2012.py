"""Challenge 2012: a folder in the official format, and the real files where they are."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from fedkim_core.data.adapters import available, challenge2012
from fedkim_core.data.check import check_site
from fedkim_core.data.prepare import prepare
from fedkim_core.data.records import hourly_rates, source_variables
from fedkim_core.data.site import Site, load_examples
from fedkim_core.data.units import to_card
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
SERVER = ("public", "validation", "test")
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "ehr" / "physionet-challenge-2012"
FIRST, RECORDS, SECRET = 132539, 60, "4711.25"


def lines_of(record: int) -> list[str]:
    """A record as the set has them: descriptors at 00:00, then rows in order of time."""
    rng = np.random.default_rng(record)
    lines = [
        "Time,Parameter,Value",
        f"00:00,RecordID,{record}",
        f"00:00,Age,{40 + record % 40}",
        "00:00,Gender,0",
        "00:00,Height,-1",
        f"00:00,ICUType,{record % 4 + 1}",
        "00:00,Weight,-1",
    ]
    for hour in range(48):
        lines.append(f"{hour:02d}:07,HR,{rng.integers(60, 120)}")
        lines.append(f"{hour:02d}:07,SysABP,{rng.integers(90, 150)}")
        lines.append(f"{hour:02d}:37,NISysABP,{rng.integers(90, 150)}")
        lines.append(f"{hour:02d}:37,Urine,{rng.integers(10, 200)}")
        lines.append(f"{hour:02d}:37,MechVent,1")
    lines += ["48:00,K,4.1", "48:00,Mg,2"]
    return lines


def write(folder: Path, record: int, lines: list[str], letter: str = "a") -> Path:
    path = folder / f"set-{letter}" / f"{record}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_outcomes(folder: Path, records: list[int], letter: str = "a") -> Path:
    path = folder / f"Outcomes-{letter}.txt"
    header = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
    rows = [f"{r},6,1,5,{4 if died(r) else -1},{int(died(r))}" for r in records]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def died(record: int) -> bool:
    return record % 4 == 0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    records = list(range(FIRST, FIRST + RECORDS))
    for record in records:
        write(folder, record, lines_of(record))
    write_outcomes(folder, records)
    return folder


def read(source: Path, tmp_path: Path) -> tuple[pl.DataFrame, pl.DataFrame, list[tuple[str, str]]]:
    data = challenge2012.read(source, tmp_path / "scratch")
    return data.examples, data.tables.collect(), list(data.left_out)


def values_of(tables: pl.DataFrame, record: int, variable: str) -> dict[int, list[float]]:
    rows = tables.filter(stay_id=f"challenge2012-{record}", variable=variable)
    grouped = rows.group_by("hour").agg("value")
    return dict(grouped.iter_rows())


def test_adapter_and_its_variables() -> None:
    assert available()["challenge2012"].TASKS == ("mortality",)
    for name in ("challenge2012", "challenge2019"):
        for variable, unit in source_variables(name).values():
            assert to_card(variable, unit) is not None, variable


def test_official_layout_becomes_a_network(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(challenge2012, source, out, sites=3, seed=0, by="natural")
    folders = [*sorted((out / "sites").iterdir()), *(out / name for name in SERVER)]
    opened = [Site.open(folder) for folder in folders]
    assert [check_site(folder) for folder in folders] == [[]] * 6
    owners = Counter(p for site in opened for p in site.examples["patient_id"].unique())
    assert set(owners.values()) == {1}
    rows = pl.concat(site.examples for site in opened)
    answers = dict(rows.select("patient_id", "answer").iter_rows())
    assert answers == {
        f"challenge2012-{r}": "yes" if died(r) else "no" for r in range(FIRST, FIRST + RECORDS)
    }
    assert set(rows["task"]) == {"mortality"}
    for site in opened:
        assert (site.card.synthetic, site.card.licence) == (False, "ODC-BY 1.0")
        loaded = load_examples(site, split=None, cards=load_tasks(), image_size=16)
        assert {tuple(sorted(example.features)) for example in loaded} == {("outputs", "vitals")}
    header = yaml.safe_load((out / "network.yaml").read_text())
    assert (header["name"], header["parameters"]["patients"]) == ("challenge2012", RECORDS)
    units = {f"challenge2012-{r}": r % 4 for r in range(FIRST, FIRST + RECORDS)}
    kinds = [{units[p] for p in site.examples["patient_id"]} for site in opened[:3]]
    assert sum(len(kind) for kind in kinds) == 4  # no unit is at two sites


def test_first_day_in_our_units(source: Path, tmp_path: Path) -> None:
    write(
        source,
        FIRST,
        [
            *lines_of(FIRST)[:7],
            "00:07,HR,73",
            "00:59,HR,75",
            "01:00,Na,140",  # mEq/L is mmol/L
            "01:00,Mg,2.1",  # in mg/dL, whatever the list says
            "01:00,TroponinT,0.5",
            "01:00,SaO2,97",
            "02:00,SysABP,120",
            "02:00,NISysABP,110",
            "23:59,GCS,15",
            "24:00,GCS,3",  # the second day is not read
        ],
    )
    examples, tables, left_out = read(source, tmp_path)
    assert left_out == []
    row = examples.filter(patient_id=f"challenge2012-{FIRST}").row(0, named=True)
    stay = f"challenge2012-{FIRST}"
    assert (row["vitals"], row["labs"], row["inputs"], row["outputs"]) == (stay, stay, None, None)
    assert values_of(tables, FIRST, "heart_rate") == {0: [73.0, 75.0]}
    assert values_of(tables, FIRST, "sodium") == {1: [140.0]}
    assert values_of(tables, FIRST, "magnesium") == {1: [2.1]}
    assert values_of(tables, FIRST, "troponin") == {1: [0.5]}
    assert values_of(tables, FIRST, "spo2") == {1: [97.0]}
    assert values_of(tables, FIRST, "systolic_bp") == {2: [120.0, 110.0]}
    assert values_of(tables, FIRST, "gcs") == {23: [15.0]}
    assert tables["hour"].max() == 23


def test_urine_becomes_a_rate(source: Path, tmp_path: Path) -> None:
    urine = ["00:07,Urine,900", "01:10,Urine,40", "01:50,Urine,60", "05:00,Urine,400"]
    write(source, FIRST, [*lines_of(FIRST)[:7], *urine, "06:00,Urine,-1", "07:00,Urine,0"])
    _, tables, left_out = read(source, tmp_path)
    rates = values_of(tables, FIRST, "urine")
    assert rates == {0: [900.0], 1: [100.0], 5: [100.0], 7: [0.0]}
    assert left_out == []


def test_first_amount_is_divided_by_the_hours_since_admission() -> None:
    rows = [("b", 3.5, "urine", 80.0), ("a", 2.0, "stool", 30.0), ("b", 4.0, "urine", 10.0)]
    schema = ["stay_id", "hour", "variable", "value"]
    rates = hourly_rates(pl.DataFrame(rows, schema=schema, orient="row"))
    assert rates.rows() == [
        ("a", 2.0, "stool", 10.0),
        ("b", 3.0, "urine", 20.0),
        ("b", 4.0, "urine", 10.0),
    ]


def test_what_is_left_out_is_listed(source: Path, tmp_path: Path) -> None:
    start = lines_of(FIRST)[:7]
    faulty = ["01:00,pH,735", "01:00,Temp,-17.8", "01:00,SysABP,0", "01:00,HR,80", "01:00,HR,80"]
    write(source, FIRST, [*start, *faulty, "02:00,,31"])
    write(source, FIRST + 1, lines_of(FIRST + 1)[:7])
    write(source, FIRST + 2, [*lines_of(FIRST + 2)[:7], "30:00,HR,80", "30:00,Weight,0"])
    write(source, 1, [line.replace(str(FIRST), "1") for line in start])
    (source / "set-a" / f"{FIRST + 3}.txt").unlink()
    examples, _, left_out = read(source, tmp_path)
    nothing = "no observation that the task reads"
    assert left_out == [
        ("set-a/1.txt", "without an outcome"),
        (f"set-a/{FIRST + 3}.txt", "without a record"),
        (f"set-a/{FIRST}.txt", "rows without a parameter: 1"),
        (f"set-a/{FIRST}.txt", "rows that are there twice: 1"),
        (f"{FIRST + 1}", nothing),
        (f"{FIRST + 2}", nothing),
        ("labs/ph", "1 value outside 6.6..7.9 pH"),
        ("vitals/systolic_bp", "1 value outside 30..280 mmHg"),
        ("vitals/temperature", "1 value outside 28..43 degC"),
    ]
    assert len(examples) == RECORDS - 3


def test_sets_b_and_c(source: Path, tmp_path: Path) -> None:
    write(source, 1, [*(x.replace(str(FIRST), "1") for x in lines_of(FIRST))], letter="b")
    write(source, 2, [*(x.replace(str(FIRST), "2") for x in lines_of(FIRST))], letter="c")
    for letter, record in (("b", 1), ("c", 2)):
        write_outcomes(source, [record], letter)
    assert len(read(source, tmp_path)[0]) == RECORDS + 2
    (source / "Outcomes-b.txt").unlink()
    with pytest.raises(UserError, match=r"Outcomes-b\.txt: file is missing; obtain PhysioNet"):
        read(source, tmp_path)
    write(source, FIRST, lines_of(FIRST), letter="b")
    write_outcomes(source, [FIRST], "b")
    with pytest.raises(UserError, match=rf"set-b/{FIRST}\.txt: the record is in another set"):
        read(source, tmp_path)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (f"00:30,HR,{SECRET}x", r"txt:9: Value is not a number"),
        (f"-01:00,HR,{SECRET}", r"txt:9: Time must be hours:minutes since admission"),
        (f"00:75,HR,{SECRET}", "Time must be hours:minutes since admission"),
        (f",HR,{SECRET}", "Time must be hours:minutes since admission"),
        ("00:06,HR,80", r"txt:9: Time goes backwards"),
        (f"00:30,{SECRET},80", "Parameter is not one of the data set's"),
        ("00:30,RecordID,1", "RecordID is not the file's name"),
        ("00:30,HR", "the row is cut short"),
        ("00:3", "the row is cut short"),
        (f"00:30,HR,{SECRET},80", "cannot be read"),
    ],
)
def test_broken_row(source: Path, tmp_path: Path, line: str, rule: str) -> None:
    write(source, FIRST + 5, [*lines_of(FIRST + 5)[:7], "00:07,HR,80", line])
    with pytest.raises(UserError, match=rule) as error:
        prepare(challenge2012, source, tmp_path / "out", sites=2, seed=0)
    assert f"set-a/{FIRST + 5}.txt" in str(error.value)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_broken_files(source: Path, tmp_path: Path) -> None:
    def refused(rule: str) -> None:
        with pytest.raises(UserError, match=rule):
            read(source, tmp_path)

    outcomes = source / "Outcomes-a.txt"
    text = outcomes.read_text()
    outcomes.write_text(text.replace("In-hospital_death", "death"))
    refused(r"Outcomes-a\.txt: column 'In-hospital_death' is missing; obtain PhysioNet")
    outcomes.write_text(text + f"{FIRST},6,1,5,-1,0\n")
    refused(rf"Outcomes-a\.txt:{RECORDS + 2}: RecordID is not unique")
    outcomes.write_text(text + "7,6,1,5,-1,-1\n")
    refused("In-hospital_death must be 0 or 1")
    outcomes.write_text(text + "7,6\n")
    refused("In-hospital_death must be 0 or 1")
    outcomes.write_text(text + "x,6,1,5,-1,0\n")
    refused("RecordID is not a whole number")
    outcomes.write_text("")
    refused("file is empty")
    outcomes.write_text(text)
    record = source / "set-a" / f"{FIRST}.txt"
    record.write_bytes(b"Time,Parameter,Value\n00:00,\xff\xfe,1\n")
    refused("cannot be read")
    record.write_text("Time,Value\n00:00,1\n")
    refused("column 'Parameter' is missing")
    (source / "set-a").rename(source / "elsewhere")
    refused("no record with an outcome is there; obtain PhysioNet")


@pytest.mark.skipif(
    not (REAL / "Outcomes-a.txt").is_file(),
    reason="needs records in $FEDKIM_REALDATA/ehr/physionet-challenge-2012",
)
def test_real_records(tmp_path: Path) -> None:
    """The first 1,500 records of set A, 218 of whom died."""
    data = challenge2012.read(REAL, tmp_path)
    assert Counter(data.examples["answer"]) == {"no": 1282, "yes": 218}
    referred = {name: 1500 - data.examples[name].null_count() for name in challenge2012.MODALITIES}
    assert referred == {"vitals": 1471, "labs": 1485, "outputs": 1447}
    assert Counter(data.natural.values()) == {
        "medical": 590,
        "surgical": 382,
        "cardiac surgery recovery": 312,
        "coronary care": 216,
    }
    assert dict(data.left_out) == {
        "labs/alt": "2 values outside 2..15000 U/L",
        "labs/magnesium": "3 values outside 0.5..8 mg/dL",
        "labs/ph": "1 value outside 6.6..7.9 pH",
        "labs/potassium": "1 value outside 1.5..10 mmol/L",
        "outputs/urine": "8 values outside 0..2500 mL/h",
        "vitals/diastolic_bp": "258 values outside 10..180 mmHg",
        "vitals/heart_rate": "5 values outside 20..260 1/min",
        "vitals/mean_bp": "70 values outside 15..220 mmHg",
        "vitals/respiratory_rate": "15 values outside 2..80 1/min",
        "vitals/spo2": "1 value outside 40..100 %",
        "vitals/systolic_bp": "277 values outside 30..280 mmHg",
        "vitals/temperature": "21 values outside 28..43 degC",
    }
    tables = data.tables.collect()
    assert (tables["hour"].min(), tables["hour"].max()) == (0, 23)
    medians = dict(tables.group_by("variable").agg(pl.col("value").median()).iter_rows())
    assert medians["heart_rate"] == 87
    assert medians["magnesium"] == 2.0
    assert medians["urine"] == 60
    first = values_of(tables, 132539, "urine")
    assert (first[0], first[1], first[2]) == ([960.0], [30.0], [170.0])
