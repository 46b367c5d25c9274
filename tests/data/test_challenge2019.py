"""Challenge 2019: a folder in the official format, and the real files where they are."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedkim_core.data.adapters import available, challenge2019
from fedkim_core.data.check import check_site
from fedkim_core.data.federation import assemble
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.data.site import Site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.settings import DataConfig
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "ehr" / "physionet-challenge-2019"
COLUMNS = [
    "HR",
    "O2Sat",
    "Temp",
    "SBP",
    "MAP",
    "DBP",
    "Resp",
    "EtCO2",
    "BaseExcess",
    "HCO3",
    "FiO2",
    "pH",
    "PaCO2",
    "SaO2",
    "AST",
    "BUN",
    "Alkalinephos",
    "Calcium",
    "Chloride",
    "Creatinine",
    "Bilirubin_direct",
    "Glucose",
    "Lactate",
    "Magnesium",
    "Phosphate",
    "Potassium",
    "Bilirubin_total",
    "TroponinI",
    "Hct",
    "Hgb",
    "PTT",
    "WBC",
    "Fibrinogen",
    "Platelets",
    "Age",
    "Gender",
    "Unit1",
    "Unit2",
    "HospAdmTime",
    "ICULOS",
    "SepsisLabel",
]
PATIENTS, SECRET = 60, "4711.25"
Row = dict[str, object]


def septic(patient: int) -> bool:
    return patient % 3 == 0


def rows_of(patient: int, hours: int = 20, onset: int | None = None) -> list[Row]:
    """Hourly rows; the label is 1 from row ``onset`` (of a septic patient: 12) on."""
    rng = np.random.default_rng(patient)
    if onset is None:
        onset = 12 if septic(patient) else hours
    rows: list[Row] = []
    for hour in range(hours):
        row: Row = dict.fromkeys(COLUMNS, "NaN")
        row |= {"HR": rng.integers(60, 120), "O2Sat": 97.5, "Age": 70, "HospAdmTime": -8.74}
        row |= {"WBC": 9.5, "Lactate": 2.0} if hour == 1 else {}
        rows.append(row | {"ICULOS": hour + 1, "SepsisLabel": int(hour >= onset)})
    return rows


def write(folder: Path, patient: int, rows: list[Row], columns: list[str] = COLUMNS) -> Path:
    path = folder / f"p{patient:06d}.psv"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["|".join(columns), *("|".join(str(row[c]) for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two hospital systems, as on PhysioNet."""
    folder = tmp_path / "source"
    for patient in range(1, PATIENTS + 1):
        system = "A" if patient <= PATIENTS // 2 else "B"
        write(folder / f"training_set{system}", patient, rows_of(patient))
    return folder


def read(source: Path, tmp_path: Path) -> SourceData:
    return challenge2019.read(source, tmp_path / "scratch")


def values_of(data: SourceData, patient: int, variable: str) -> dict[int, float]:
    rows = data.tables.collect().filter(stay_id=f"challenge2019-p{patient:06d}", variable=variable)
    return dict(rows.select("hour", "value").iter_rows())


def test_official_layout_becomes_a_network(source: Path, tmp_path: Path) -> None:
    assert available()["challenge2019"].TASKS == ("sepsis",)
    data = read(source, tmp_path)
    assert Counter(data.natural.values()) == {"system A": 30, "system B": 30}
    answers = dict(data.examples.select("patient_id", "answer").iter_rows())
    assert answers == {
        f"challenge2019-p{p:06d}": "yes" if septic(p) else "no" for p in range(1, PATIENTS + 1)
    }
    assert data.left_out == []
    (source / "training_setA").rename(tmp_path / "training_setA")
    (source / "training").mkdir()
    (tmp_path / "training_setA").rename(source / "training" / "training_setA")
    assert (
        read(source, tmp_path).examples.sort("patient_id").equals(data.examples.sort("patient_id"))
    )


def test_tests_a_federation_that_trains_on_other_data(source: Path, tmp_path: Path) -> None:
    """Nobody trains on sepsis, so its patients go to validation and test."""
    site = tmp_path / "trained"
    (site / "set-a").mkdir(parents=True)
    outcomes = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    for record in range(1, 41):
        text = f"Time,Parameter,Value\n00:00,RecordID,{record}\n00:07,HR,{60 + record}\n"
        (site / "set-a" / f"{record}.txt").write_text(text)
        outcomes.append(f"{record},1,1,5,-1,{record % 2}")
    (site / "Outcomes-a.txt").write_text("\n".join(outcomes) + "\n")
    parts = [
        {"adapter": "challenge2012", "folder": "trained"},
        {"adapter": "challenge2019", "folder": "source"},
    ]
    data = DataConfig.model_validate(
        {"name": "icu", "kind": "sources", "sites": 2, "source": str(tmp_path), "parts": parts}
    )
    out = tmp_path / "out"
    assemble(data, out, seed=0)
    sites = [out / "sites" / "site-1", out / "sites" / "site-2"]
    server = [out / name for name in ("public", "validation", "test")]
    assert [check_site(folder) for folder in (*sites, *server)] == [[]] * 5
    opened = [Site.open(folder) for folder in (*sites, *server)]
    owners = Counter(p for site in opened for p in site.examples["patient_id"].unique())
    assert len(owners) == PATIENTS + 40
    assert set(owners.values()) == {1}
    for held in opened[:3]:
        assert set(held.examples["task"]) == {"mortality"}
    for held in opened[3:]:
        rows = held.examples.filter(task="sepsis")
        assert Counter(rows["answer"]) == {"yes": 10, "no": 20}
        for example in load_examples(held, split=None, cards=load_tasks(), image_size=16):
            hours = load_tasks()[example.task].hours
            assert example.features["vitals"].shape[0] == hours


def test_alone_it_is_no_network(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hospitals train none of its tasks"):
        prepare(challenge2019, source, tmp_path / "out", sites=2, seed=0)


def test_values_in_our_units(source: Path, tmp_path: Path) -> None:
    rows = rows_of(1, hours=4)
    rows[0] |= {"HR": "NaN", "FiO2": 0.4, "Magnesium": 2.0, "Temp": 36.8}
    rows[1] |= {"Lactate": 2.1, "WBC": 9.9, "Platelets": 180, "Hgb": 10.1, "BUN": 17}
    rows[2] |= {"SaO2": 93, "Potassium": 4, "Bilirubin_total": 0.9, "TroponinI": 0.24}
    for row in rows:
        row["ICULOS"] = int(str(row["ICULOS"])) + 4  # records may begin later
    write(source / "training_setA", 1, rows)
    data = read(source, tmp_path)
    assert sorted(values_of(data, 1, "heart_rate")) == [5, 6, 7]
    expected = {
        "fio2": {4: 0.4},
        "magnesium": {4: 2.0},
        "temperature": {4: 36.8},
        "lactate": {5: 2.1},
        "leucocytes": {5: 9.9},
        "platelets": {5: 180},
        "haemoglobin": {5: 10.1},
        "urea_nitrogen": {5: 17},
        "potassium": {6: 4.0},
        "bilirubin": {6: 0.9},
        "troponin": {6: 0.24},
        "spo2": {4: 97.5, 5: 97.5, 6: 97.5, 7: 97.5},
    }
    for variable, values in expected.items():
        assert values_of(data, 1, variable) == pytest.approx(values), variable


def test_only_the_week_that_the_task_reads(source: Path, tmp_path: Path) -> None:
    write(source / "training_setA", 1, rows_of(1, hours=170, onset=167))
    write(source / "training_setA", 2, rows_of(2, hours=180, onset=168))
    write(source / "training_setA", 3, rows_of(3, hours=180, onset=180))
    write(source / "training_setA", 4, rows_of(4, hours=9, onset=0))
    data = read(source, tmp_path)
    answers = dict(data.examples.select("patient_id", "answer").iter_rows())
    assert answers["challenge2019-p000001"] == "yes"
    assert "challenge2019-p000002" not in answers
    assert answers["challenge2019-p000003"] == "no"
    assert answers["challenge2019-p000004"] == "yes"
    reason = "sepsis only after the 168 hours that the task reads"
    assert data.left_out == [("training_setA/p000002.psv", reason)]
    hours = data.tables.collect()["hour"]
    assert (hours.min(), hours.max()) == (0, 167)
    assert max(values_of(data, 1, "heart_rate")) == 167


def test_what_is_left_out_is_listed(source: Path, tmp_path: Path) -> None:
    rows = rows_of(1, hours=3)
    rows[0] |= {"Calcium": 1.1, "FiO2": 40}
    write(source / "training_setA", 1, rows)
    empty = [row | {"HR": "NaN", "O2Sat": "NaN"} for row in rows_of(2, hours=1)]
    write(source / "training_setA", 2, empty)
    data = read(source, tmp_path)
    assert data.left_out == [
        ("p000002", "no observation that the task reads"),
        ("labs/calcium", "1 value outside 4..18 mg/dL"),
        ("vitals/fio2", "1 value outside 0.21..1 fraction"),
    ]
    assert set(data.strata) == set(data.natural) == set(data.examples["patient_id"])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"HR": f"{SECRET}x"}, r"psv:5: HR is not a number"),
        ({"HR": ""}, r"psv:5: HR is not a number"),
        ({"ICULOS": "x"}, r"psv:5: ICULOS is not a number"),
        ({"ICULOS": "NaN"}, "ICULOS must be a whole number from 1"),
        ({"ICULOS": -3}, "ICULOS must be a whole number from 1"),
        ({"ICULOS": 4.5}, "ICULOS must be a whole number from 1"),
        ({"ICULOS": 2}, r"psv:5: ICULOS does not go up by 1"),
        ({"ICULOS": 9}, r"psv:5: ICULOS does not go up by 1"),
        ({"SepsisLabel": 2}, "SepsisLabel must be 0 or 1"),
        ({"SepsisLabel": "NaN"}, "SepsisLabel must be 0 or 1"),
        ({"SepsisLabel": ""}, "the row is cut short"),
    ],
)
def test_broken_row(source: Path, tmp_path: Path, change: Row, rule: str) -> None:
    rows = rows_of(5)
    rows[3] |= change
    write(source / "training_setA", 5, rows)
    with pytest.raises(UserError, match=rule) as error:
        read(source, tmp_path)
    assert "training_setA/p000005.psv" in str(error.value)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_files(source: Path, tmp_path: Path) -> None:
    def refused(rule: str) -> None:
        with pytest.raises(UserError, match=rule):
            read(source, tmp_path)

    path = source / "training_setB" / "p000050.psv"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    refused(r"p000050\.psv:\d+: the row is cut short")
    path.write_text("")
    refused(r"p000050\.psv: file is empty")
    path.write_bytes(b"\x80\x81" + text.encode())
    refused(r"p000050\.psv: ")
    write(path.parent, 50, rows_of(50), [c for c in COLUMNS if c != "Lactate"])
    refused(r"p000050\.psv: column 'Lactate' is missing; obtain PhysioNet Challenge 2019")
    write(path.parent, 50, rows_of(50))
    write(source / "training_setB", 1, rows_of(1))
    refused(r"training_setB/p000001\.psv: the patient is in another set as well")
    with pytest.raises(UserError, match="no training_setA or training_setB is there; obtain"):
        read(tmp_path / "nowhere", tmp_path)


@pytest.mark.skipif(
    not (REAL / "training_setB").is_dir(),
    reason="needs records in $FEDKIM_REALDATA/ehr/physionet-challenge-2019",
)
def test_real_records(tmp_path: Path) -> None:
    """The first 1,500 patients of set B: 83 septic, 8 of them only after the first week."""
    data = challenge2019.read(REAL, tmp_path)
    assert Counter(data.examples["answer"]) == {"no": 1417, "yes": 75}
    assert set(data.natural.values()) == {"system B"}
    assert data.examples["vitals"].null_count() == 0
    assert data.examples["labs"].null_count() == 56
    late = [name for name, reason in data.left_out if reason.startswith("sepsis only after")]
    assert len(late) == 8
    assert dict(data.left_out[8:]) == {
        "labs/calcium": "749 values outside 4..18 mg/dL",
        "labs/haemoglobin": "1 value outside 3..22 g/dL",
        "labs/potassium": "2 values outside 1.5..10 mmol/L",
        "labs/troponin": "15 values outside 0..100 ng/mL",
        "labs/urea_nitrogen": "1 value outside 1..200 mg/dL",
        "vitals/diastolic_bp": "14 values outside 10..180 mmHg",
        "vitals/fio2": "2 values outside 0.21..1 fraction",
        "vitals/mean_bp": "14 values outside 15..220 mmHg",
        "vitals/respiratory_rate": "45 values outside 2..80 1/min",
        "vitals/spo2": "6 values outside 40..100 %",
        "vitals/systolic_bp": "7 values outside 30..280 mmHg",
    }
    medians = dict(
        data.tables.group_by("variable").agg(pl.col("value").median()).collect().iter_rows()
    )
    assert (medians["heart_rate"], medians["fio2"], medians["magnesium"]) == (83, 0.4, 2.0)
    assert medians["lactate"] == pytest.approx(2.0, abs=0.02)
