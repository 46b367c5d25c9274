"""CLIF: the tables of an invented health system, in the columns and categories of the standard."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fedkim_core.data.adapters import available, clif
from fedkim_core.data.check import check_site
from fedkim_core.data.clif_tables import observed_tables
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.data.site import Site, load_examples
from fedkim_core.data.units import to_card, variables
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
SECRET = "Secret4711"
PATIENTS = 60
ARRIVAL = datetime(2021, 3, 1, 22, 30, tzinfo=UTC)
ICU = ARRIVAL + timedelta(hours=5)
Row = dict[str, Any]
Tables = dict[str, list[Row]]


def died(stay: int) -> bool:
    return stay % 4 == 0


def septic(stay: int) -> bool:
    return stay % 3 == 0


def after(hours: float) -> datetime:
    """A time, in hours since admission to intensive care."""
    return ICU + timedelta(hours=hours)


def adt(stay: int, place: str, begin: datetime, hospital: str) -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "hospital_id": hospital,
        "hospital_type": "academic",
        "in_dttm": begin,
        "out_dttm": begin + timedelta(hours=5),
        "location_category": place,
    }


def vital(stay: int, hours: float, category: str, value: float | None) -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "recorded_dttm": after(hours),
        "vital_name": SECRET,
        "vital_category": category,
        "vital_value": value,
    }


def lab(stay: int, hours: float, category: str, value: float | None, unit: str | None) -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "lab_order_dttm": after(hours - 1),
        "lab_collect_dttm": after(hours),
        "lab_result_dttm": after(hours + 1),
        "lab_order_category": "bmp",
        "lab_category": category,
        "lab_value": SECRET if value is None else str(value),
        "lab_value_numeric": value,
        "reference_unit": unit,
    }


def dose(stay: int, hours: float, category: str, value: float, unit: str | None) -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "admin_dttm": after(hours),
        "med_category": category,
        "med_dose": value,
        "med_dose_unit": unit,
    }


def output(stay: int, hours: float, category: str, value: float, unit: str = "mL") -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "recorded_dttm": after(hours),
        "output_category": category,
        "output_group": "urine",
        "output_value": value,
        "output_unit": unit,
    }


def system() -> Tables:
    """Sixty patients with one stay each in two hospitals."""
    tables: Tables = {
        name: [] for name in ("hospitalization", "adt", "vitals", "labs", "hospital_diagnosis")
    }
    for stay in range(1, PATIENTS + 1):
        hospital = "north" if stay <= 40 else "south"
        tables["hospitalization"].append(
            {
                "patient_id": f"{SECRET}-{stay}",
                "hospitalization_id": f"H{stay}",
                "admission_dttm": ARRIVAL,
                "discharge_dttm": after(100),
                "age_at_admission": 50,
                "admission_type_category": "ed",
                "discharge_category": "Expired" if died(stay) else "Home",
            }
        )
        tables["adt"] += [adt(stay, "ed", ARRIVAL, hospital), adt(stay, "icu", ICU, hospital)]
        tables["vitals"] += [vital(stay, hour + 0.5, "heart_rate", 80 + hour) for hour in range(3)]
        tables["labs"].append(lab(stay, 2, "sodium", 140, "mmol/L"))
        code = "A41.9" if septic(stay) else "I50.9"
        tables["hospital_diagnosis"].append(diagnosis(stay, code, "ICD-10-CM"))
    return tables


def diagnosis(stay: int, code: str, version: str) -> Row:
    return {
        "hospitalization_id": f"H{stay}",
        "diagnosis_code": code,
        "diagnosis_code_format": version,
        "diagnosis_type": "Principal",
        "present_on_admission": "Yes",
    }


def write(folder: Path, tables: Tables, ending: str = ".parquet") -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        frame = pl.DataFrame(rows, infer_schema_length=None)
        path = folder / f"clif_{name}{ending}"
        if ending == ".parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S+00:00")
    return folder


Reader = Callable[..., SourceData]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    def reader(tables: Tables, ending: str = ".parquet") -> SourceData:
        folder = write(tmp_path / "source", tables, ending)
        return clif.read(folder, tmp_path / "scratch")

    return reader


ABSENT = [
    ("clif_respiratory_support", "table is absent"),
    ("clif_patient_assessments", "table is absent"),
    ("clif_medication_admin_continuous", "table is absent"),
    ("clif_input", "table is absent"),
    ("clif_output", "table is absent"),
]


def left_out(data: SourceData) -> list[tuple[str, str]]:
    return [line for line in data.left_out if line not in ABSENT]


def values_of(data: SourceData, stay: int, variable: str) -> dict[int, float]:
    rows = data.tables.collect().filter(stay_id=f"clif-H{stay}", variable=variable)
    return dict(rows.select("hour", "value").iter_rows())


def test_adapter_and_its_variables() -> None:
    assert available()["clif"].TASKS == ("mortality", "sepsis")
    for table in observed_tables().values():
        for variable, unit in table.variables.values():
            assert variable in variables()
            assert unit is None or to_card(variable, unit) is not None, variable


def test_tables_become_a_network(tmp_path: Path) -> None:
    source, out = write(tmp_path / "source", system()), tmp_path / "out"
    prepare(clif, source, out, sites=2, seed=0, by="natural")
    folders = [out / "sites" / "site-1", out / "sites" / "site-2"]
    folders += [out / name for name in ("public", "validation", "test")]
    assert [check_site(folder) for folder in folders] == [[]] * 5
    opened = [Site.open(folder) for folder in folders]
    owners = Counter(p for site in opened for p in site.examples["patient_id"].unique())
    assert len(owners) == PATIENTS
    assert set(owners.values()) == {1}
    for site in opened[:3]:
        assert set(site.examples["task"]) == {"mortality"}
        assert set(site.examples["answer"]) == {"yes", "no"}
    for site in opened[3:]:
        assert set(site.examples["task"]) == {"mortality", "sepsis"}
    numbers = [{int(p.split("-")[-1]) > 40 for p in s.examples["patient_id"]} for s in opened[:2]]
    assert numbers == [{False}, {True}]
    for example in load_examples(opened[-1], split=None, cards=load_tasks(), image_size=16):
        assert sorted(example.features) == ["labs", "vitals"]


def test_labels(read: Reader) -> None:
    data = read(system())
    for task, holds in (("mortality", died), ("sepsis", septic)):
        rows = data.examples.filter(task=task)
        assert dict(rows.select("patient_id", "answer").iter_rows()) == {
            f"clif-{SECRET}-{stay}": "yes" if holds(stay) else "no"
            for stay in range(1, PATIENTS + 1)
        }
    assert data.strata[f"clif-{SECRET}-3"] == (False, True)
    assert data.natural[f"clif-{SECRET}-3"] == "north"
    assert list(data.left_out) == ABSENT
    assert SECRET not in str(data.left_out)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_csv_says_the_same_as_parquet(read: Reader, tmp_path: Path, ending: str) -> None:
    def told(data: SourceData) -> tuple[object, ...]:
        return data.examples.rows(), data.tables.collect().rows(), data.strata, data.left_out

    tables = system()
    tables["vitals"].append(vital(1, 4, "sbp", None))
    expected = told(read(tables))
    for path in (tmp_path / "source").iterdir():
        path.unlink()
    if ending == ".csv.gz":
        import gzip

        folder = write(tmp_path / "source", tables, ".csv")
        for path in list(folder.iterdir()):
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        assert told(clif.read(folder, tmp_path / "scratch")) == expected
    else:
        assert told(read(tables, ending)) == expected


def test_values_in_our_units(read: Reader) -> None:
    tables = system()
    tables["vitals"] += [vital(1, 0, "temp_c", 36.5), vital(1, 23.9, "MAP", 70)]
    tables["labs"] += [
        lab(1, 1, "creatinine", 88.42, "umol/L"),
        lab(1, 1, "bun", 20, None),  # the standard's unit
        lab(1, 1, "inr", 1.2, "(no units)"),
        lab(1, 1, "ph_arterial", 7.3, None),
        lab(1, 1, "troponin_t", 500, "ng/L"),
        lab(1, 1, "wbc", 9.5, "10^3/µL"),
        lab(1, 1, "basophils_percent", 1, "%"),  # not one of ours
    ]
    tables["medication_admin_continuous"] = [
        dose(1, 3, "norepinephrine", 0.1, "mcg/kg/min"),
        dose(1, 3, "vasopressin", 0.03, "units/min"),
        dose(1, 3, "propofol", 20, "mcg/kg/min"),
        dose(1, 3, "insulin", 2, "units/hr"),
    ]
    respiratory = {"hospitalization_id": "H1", "device_category": "IMV"}
    tables["respiratory_support"] = [respiratory | {"recorded_dttm": after(2), "fio2_set": 0.6}]
    assessed = {"hospitalization_id": "H1", "recorded_dttm": after(5)}
    tables["patient_assessments"] = [
        assessed | {"assessment_category": "gcs_total", "numerical_value": 11.0},
        assessed | {"assessment_category": "RASS", "numerical_value": -2.0},
    ]
    data = read(tables)
    expected = {
        "temperature": {0: 36.5},
        "mean_bp": {23: 70},
        "creatinine": {1: 1.0},
        "urea_nitrogen": {1: 20},
        "inr": {1: 1.2},
        "ph": {1: 7.3},
        "troponin": {1: 0.5},
        "leucocytes": {1: 9.5},
        "noradrenaline": {3: 0.1},
        "vasopressin": {3: 1.8},
        "propofol": {3: 1.2},
        "insulin": {3: 2},
        "fio2": {2: 0.6},
        "gcs": {5: 11},
    }
    for variable, values in expected.items():
        assert values_of(data, 1, variable) == pytest.approx(values, rel=1e-3), variable
    assert left_out(data) == []


def test_volumes_become_rates(read: Reader) -> None:
    tables = system()
    tables["output"] = [
        output(1, 1.5, "indwelling_urinary_catheter", 100),
        output(1, 1.9, "urethral", 100),  # both are urine: 200 mL in two hours
        output(1, 5, "urethral", 400),
        output(1, 5, "urethral", 400),
        output(1, 6, "urethral", 1, "occurrences"),
        output(1, 2, "stool", 30),
        output(1, 3, "stool", -30),
        output(1, 2, "chest_tube_temporary", 60) | {"lda_id": "left"},
        output(1, 2, "chest_tube_temporary", 60) | {"lda_id": "right"},
    ]
    fluid = {"hospitalization_id": "H1", "input_group": "iv_fluids"}
    tables["input"] = [
        fluid
        | {"recorded_dttm": after(0), "input_category": "iv_crystalloid", "input_volume": 90.0}
    ]
    data = read(tables)
    assert values_of(data, 1, "urine") == {1: 100, 5: 100}
    assert values_of(data, 1, "stool") == {2: 10}
    assert values_of(data, 1, "chest_drain") == {2: 40}
    assert values_of(data, 1, "crystalloid") == {0: 90}
    assert left_out(data) == [
        ("clif_output", "rows that are there twice: 1"),
        ("outputs/stool", "1 value outside 0..2000 mL/h"),
        ("outputs/urine", "1 value in an unknown unit"),
    ]


def test_hours_since_admission_to_intensive_care(read: Reader) -> None:
    tables = system()
    tables["adt"] += [adt(1, "ICU", after(50), "south"), adt(1, "ward", after(-30), "south")]
    tables["vitals"] = [
        vital(1, hours, "heart_rate", 80 + i)
        for i, hours in enumerate((-0.1, 0, 23.99, 24, 167.9, 168))
    ]
    tables["vitals"] += [vital(2, 30, "heart_rate", 80)]
    tables["labs"] = [lab(2, 3, "sodium", 140, "mmol/L")]
    data = read(tables)
    assert values_of(data, 1, "heart_rate") == {0: 81, 23: 82, 24: 83, 167: 84}
    columns = ("task", "vitals", "labs")
    assert set(data.examples.filter(patient_id=f"clif-{SECRET}-2").select(columns).rows()) == {
        ("mortality", None, "clif-H2"),  # its vitals come after the first day
        ("sepsis", "clif-H2", "clif-H2"),
    }
    assert left_out(data) == [
        ("mortality", f"stays without an observation: {PATIENTS - 2}"),
        ("sepsis", f"stays without an observation: {PATIENTS - 2}"),
    ]


def test_times_of_any_zone_are_instants(read: Reader) -> None:
    tables = system()
    expected = read(tables).tables.collect()
    for row in tables["vitals"]:
        row["recorded_dttm"] = row["recorded_dttm"].astimezone(None).replace(tzinfo=None) - (
            row["recorded_dttm"].astimezone(None).utcoffset()
        )  # without zone: UTC
    assert read(tables).tables.collect().equals(expected)
    zoned = pl.DataFrame(system()["vitals"]).with_columns(
        pl.col("recorded_dttm").dt.convert_time_zone("America/Chicago")
    )
    tables["vitals"] = zoned.to_dicts()
    assert read(tables).tables.collect().equals(expected)


def test_several_stays_of_a_patient(read: Reader) -> None:
    tables = system()
    tables["hospitalization"][49]["patient_id"] = f"{SECRET}-1"  # in hospital south
    tables["adt"][2 * 49 + 1]["in_dttm"] = after(-500)
    tables["vitals"] += [vital(50, -499.5, "heart_rate", 80)]
    data = read(tables)
    mine = data.examples.filter(patient_id=f"clif-{SECRET}-1", task="mortality")
    assert sorted(mine["example_id"]) == ["clif-H1-mortality", "clif-H50-mortality"]
    assert data.natural[f"clif-{SECRET}-1"] == "south"
    assert len(data.strata) == PATIENTS - 1


def test_what_is_left_out_is_counted(read: Reader) -> None:
    tables = system()
    stays = tables["hospitalization"]
    stays[0]["age_at_admission"] = 17
    stays[1]["discharge_category"] = "Still Admitted"
    stays[2]["discharge_category"] = "Missing"
    stays[3]["discharge_category"] = None
    stays[4]["patient_id"] = None
    tables["adt"] = [row for row in tables["adt"] if row["hospitalization_id"] != "H6"]
    tables["adt"][-1]["in_dttm"] = None
    stays.append(dict(stays[9]))
    stays[10]["discharge_category"] = "expired"  # as CLIF 3.0 writes it
    tables["hospital_diagnosis"] = [
        row for row in tables["hospital_diagnosis"] if row["hospitalization_id"] != "H12"
    ]
    tables["vitals"] += [
        vital(20, 2, "sbp", 900),
        vital(20, 2, "sbp", None),
        vital(20, 3, "spo2", 97),
        vital(20, 3, "spo2", 97),
    ]
    tables["vitals"].append(vital(20, 3, "sbp", 100) | {"recorded_dttm": None})
    tables["labs"] += [lab(20, 1, "lactate", 2, "furlongs"), lab(20, 1, "lactate", None, "mmol/L")]
    tables["medication_admin_continuous"] = [
        dose(20, 1, "norepinephrine", 8, "mcg/min"),
        dose(20, 1, "norepinephrine", 8, None),
    ]
    data = read(tables)
    assert left_out(data) == [
        ("clif_hospitalization", "rows that are there twice: 1"),
        ("clif_hospitalization", "hospitalizations without hospitalization_id or patient_id: 1"),
        ("clif_hospitalization", "hospitalizations of patients under 18: 1"),
        ("clif_hospitalization", "hospitalizations without intensive care in clif_adt: 2"),
        ("clif_hospitalization", "hospitalizations without a known outcome: 3"),
        ("clif_vitals", "rows that are there twice: 1"),
        ("sepsis", "stays without a diagnosis: 1"),
        ("inputs/noradrenaline", "2 values in an unknown unit"),
        ("labs/lactate", "1 value in an unknown unit"),
        ("labs/lactate", "1 value without a number"),
        ("vitals/systolic_bp", "1 value outside 30..280 mmHg"),
        ("vitals/systolic_bp", "1 value without a number"),
        ("vitals/systolic_bp", "1 value without a valid time"),
    ]
    answers = dict(data.examples.filter(task="mortality").select("patient_id", "answer").rows())
    assert len(answers) == PATIENTS - 7
    assert answers[f"clif-{SECRET}-11"] == "yes"


def test_sepsis_codes(read: Reader) -> None:
    codes = [("R6521", "icd10cm", True), ("A40.3", "ICD-10-CM", True), ("995.92", "ICD-9-CM", True)]
    codes += [("A41.9", "ICD-9-CM", False), ("R65.10", "ICD-10-CM", False), ("O85", "", False)]
    tables = system()
    tables["hospital_diagnosis"] = [
        diagnosis(stay, code, version) for stay, (code, version, _) in enumerate(codes, start=1)
    ] + [diagnosis(1, "I10", "ICD-10-CM")]
    rows = read(tables).examples.filter(task="sepsis").sort("example_id")
    assert [answer == "yes" for answer in rows["answer"]] == [is_sepsis for *_, is_sepsis in codes]


def test_without_diagnoses_there_is_no_task_sepsis(read: Reader) -> None:
    tables = system()
    del tables["hospital_diagnosis"]
    data = read(tables)
    assert set(data.examples["task"]) == {"mortality"}
    absent = ("clif_hospital_diagnosis", "table is absent, so there is no task sepsis")
    assert left_out(data) == [absent]


@pytest.mark.parametrize(
    ("table", "column", "rule"),
    [
        ("vitals", pl.lit(SECRET).alias("vital_value"), "'vital_value' must be number, not String"),
        ("vitals", pl.lit(SECRET).alias("recorded_dttm"), "'recorded_dttm' must be time"),
        ("vitals", pl.lit(1.5).alias("vital_category"), "'vital_category' must be text"),
        ("adt", pl.lit(4711).alias("in_dttm"), "'in_dttm' must be time, not Int32"),
        ("hospitalization", pl.lit(1.5).alias("hospitalization_id"), "must be text, not Float64"),
    ],
)
def test_wrong_type(read: Reader, tmp_path: Path, table: str, column: pl.Expr, rule: str) -> None:
    read(system())
    path = tmp_path / "source" / f"clif_{table}.parquet"
    pl.read_parquet(path).with_columns(column).write_parquet(path)
    with pytest.raises(UserError, match=rule) as error:
        clif.read(tmp_path / "source", tmp_path / "scratch")
    assert f"clif_{table}.parquet" in str(error.value)
    assert SECRET not in str(error.value)


def test_text_in_a_csv_column_of_numbers(read: Reader, tmp_path: Path) -> None:
    tables = system()
    tables["vitals"] += [vital(20, 2, "sbp", 100), vital(20, 3, "sbp", 100)]
    read(tables, ".csv")
    path = tmp_path / "source" / "clif_vitals.csv"
    text = path.read_text().replace("sbp,100", f"sbp,{SECRET}", 1)
    path.write_text(text.replace(" 04:00:00+00:00", " 04:00:00-06:00", 1))  # not UTC
    data = clif.read(tmp_path / "source", tmp_path / "scratch")
    assert left_out(data) == [
        ("vitals/heart_rate", "1 value without a valid time"),
        ("vitals/systolic_bp", "1 value without a number"),
    ]


def test_broken_files(read: Reader, tmp_path: Path) -> None:
    source = tmp_path / "source"

    def refused(rule: str) -> None:
        with pytest.raises(UserError, match=rule) as error:
            clif.read(source, tmp_path / "scratch")
        assert "\n" not in str(error.value)
        assert SECRET not in str(error.value)

    read(system())
    vitals = source / "clif_vitals.parquet"
    whole = vitals.read_bytes()
    vitals.write_bytes(whole[: len(whole) // 2])
    refused(r"clif_vitals\.parquet: file is not readable parquet")
    vitals.write_bytes(b"")
    refused(r"clif_vitals\.parquet: file is not readable parquet")
    vitals.write_bytes(whole)
    pl.read_parquet(vitals).drop("vital_value").write_parquet(vitals)
    refused(r"clif_vitals\.parquet: column 'vital_value' is missing; see clif-icu\.com")
    vitals.unlink()
    pl.read_parquet(source / "clif_labs.parquet").clear().write_parquet(
        source / "clif_labs.parquet"
    )
    refused("no stay with an observation is there; obtain the CLIF tables")
    tables = system()
    tables["hospitalization"].append(tables["hospitalization"][0] | {"discharge_category": "Home2"})
    write(source, tables)
    refused("clif_hospitalization: two rows describe one hospitalization_id differently")
    write(source, system())
    (source / "clif_adt.parquet").unlink()
    refused("clif_adt is missing; obtain the CLIF tables")
    (source / "clif_adt.csv").write_text(
        "hospitalization_id,hospital_id,in_dttm,location_category\nH1,x\n"
    )
    refused(r"clif_adt\.csv:2: the row has fewer fields than the header")
