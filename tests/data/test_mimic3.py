"""MIMIC-III: folders in the official format. What MIMIC-IV shares is tested there."""

import csv
import datetime as dt
import gzip
import io
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from fedkim_core.data.adapters import available, mimic3
from fedkim_core.data.check import check_site
from fedkim_core.data.mimic.layout import items
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.data.units import variables
from fedkim_core.errors import UserError

pytestmark = pytest.mark.usefixtures("private_cache")
HEADERS = {
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,"
    "ADMISSION_LOCATION,DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,"
    "EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA",
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,LAST_CAREUNIT,"
    "FIRST_WARDID,LAST_WARDID,INTIME,OUTTIME,LOS",
    "CHARTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,STORETIME,CGID,VALUE,"
    "VALUENUM,VALUEUOM,WARNING,ERROR,RESULTSTATUS,STOPPED",
    "LABEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG",
    "INPUTEVENTS_CV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,AMOUNTUOM,"
    "RATE,RATEUOM,STORETIME,CGID,ORDERID,LINKORDERID,STOPPED,NEWBOTTLE,ORIGINALAMOUNT,"
    "ORIGINALAMOUNTUOM,ORIGINALROUTE,ORIGINALRATE,ORIGINALRATEUOM,ORIGINALSITE",
    "INPUTEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,AMOUNT,"
    "AMOUNTUOM,RATE,RATEUOM,STORETIME,CGID,ORDERID,LINKORDERID,ORDERCATEGORYNAME,"
    "SECONDARYORDERCATEGORYNAME,ORDERCOMPONENTTYPEDESCRIPTION,ORDERCATEGORYDESCRIPTION,"
    "PATIENTWEIGHT,TOTALAMOUNT,TOTALAMOUNTUOM,ISOPENBAG,CONTINUEINNEXTDEPT,CANCELREASON,"
    "STATUSDESCRIPTION,COMMENTS_EDITEDBY,COMMENTS_CANCELEDBY,COMMENTS_DATE,ORIGINALAMOUNT,"
    "ORIGINALRATE",
    "OUTPUTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,VALUE,VALUEUOM,"
    "STORETIME,CGID,STOPPED,NEWBOTTLE,ISERROR",
    "DIAGNOSES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
    "PRESCRIPTIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTDATE,ENDDATE,DRUG_TYPE,DRUG,"
    "DRUG_NAME_POE,DRUG_NAME_GENERIC,FORMULARY_DRUG_CD,GSN,NDC,PROD_STRENGTH,DOSE_VAL_RX,"
    "DOSE_UNIT_RX,FORM_VAL_DISP,FORM_UNIT_DISP,ROUTE",
    "MICROBIOLOGYEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,SPEC_ITEMID,"
    "SPEC_TYPE_DESC,ORG_ITEMID,ORG_NAME,ISOLATE_NUM,AB_ITEMID,AB_NAME,DILUTION_TEXT,"
    "DILUTION_COMPARISON,DILUTION_VALUE,INTERPRETATION",
}
START = dt.datetime(2180, 7, 23, 14, 0)


def at(hour: float) -> str:
    return (START + dt.timedelta(hours=hour)).strftime("%Y-%m-%d %H:%M:%S")


def midnight(day: int) -> str:
    return (START + dt.timedelta(days=day)).strftime("%Y-%m-%d 00:00:00")


class Hospital:
    """Rows of the tables; patient 7 has the admission 107 and the stay 1007."""

    def __init__(self, patients: int = 1, hours: float = 72) -> None:
        self.tables: dict[str, list[dict[str, object]]] = {name: [] for name in HEADERS}
        for number in range(1, patients + 1):
            ids = {"SUBJECT_ID": number, "HADM_ID": 100 + number}
            # Above 89 years MIMIC-III moves the day of birth 300 years away.
            self.add("PATIENTS", SUBJECT_ID=number, DOB="1880-01-01 00:00:00")
            times = {"ADMITTIME": at(-8), "DEATHTIME": at(60) if number % 4 == 0 else ""}
            self.add("ADMISSIONS", **ids, **times, HOSPITAL_EXPIRE_FLAG=int(number % 4 == 0))
            unit = {"ICUSTAY_ID": 1000 + number, "FIRST_CAREUNIT": ("MICU", "SICU")[number % 2]}
            self.add("ICUSTAYS", **ids, **unit, INTIME=at(0), OUTTIME=at(hours))

    def add(self, table: str, **cells: object) -> None:
        self.tables[table].append({"ROW_ID": len(self.tables[table]) + 1, **cells})

    def chart(self, hour: float, item: int, value: object, unit: str = "", **more: object) -> None:
        cells = {"ICUSTAY_ID": 1001, "CHARTTIME": at(hour), "ITEMID": item, "VALUEUOM": unit}
        self.add("CHARTEVENTS", **{**cells, "VALUE": value, "VALUENUM": value, **more})

    def lab(self, hour: float, item: int, value: object, unit: str = "") -> None:
        number = "" if item == 50800 else value
        cells = {"SUBJECT_ID": 1, "CHARTTIME": at(hour), "ITEMID": item}
        self.add("LABEVENTS", **cells, VALUE=value, VALUENUM=number, VALUEUOM=unit)

    def carevue(self, hour: float, item: int, **cells: object) -> None:
        self.add("INPUTEVENTS_CV", ICUSTAY_ID=1001, CHARTTIME=at(hour), ITEMID=item, **cells)

    def write(self, folder: Path, *, lower: bool = False) -> Path:
        """The demo has lower-case columns in files of upper-case names."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            text = io.StringIO()
            columns = HEADERS[name].split(",")
            text.write((HEADERS[name].lower() if lower else HEADERS[name]) + "\n")
            quoted = csv.QUOTE_NONNUMERIC
            csv.DictWriter(text, columns, "", quoting=quoted, lineterminator="\n").writerows(rows)
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 1))
        return folder

    def read(self, tmp_path: Path, *, lower: bool = False, **settings: str) -> SourceData:
        source = self.write(tmp_path / "source", lower=lower)
        return mimic3.read(source, tmp_path / "scratch", **settings)


@pytest.fixture
def hospital() -> Hospital:
    """One patient with a heart rate."""
    made = Hospital()
    made.chart(0, 211, 80, "BPM")
    return made


def values(data: SourceData, variable: str) -> list[tuple[int, float]]:
    found = data.tables.filter(pl.col("variable") == variable).select("hour", "value").collect()
    return [(hour, round(value, 4)) for hour, value in found.sort("hour").rows()]


def answer(data: SourceData, task: str) -> str:
    return str(data.examples.filter(pl.col("task") == task)["answer"].item())


def test_adapter_is_found() -> None:
    assert available()["mimic3"].TASKS == ("mortality", "sepsis")


@pytest.mark.parametrize("name", ["mimic3", "mimic4"])
def test_items_are_listed_once_and_have_cards(name: str) -> None:
    extra = {"weight", "specimen", "gcs eye", "gcs verbal", "gcs motor"}
    for table in ("chartevents", "labevents", "inputevents", "inputevents_cv", "outputevents"):
        found = items(name, table)
        assert found["itemid"].is_unique().all(), table
        assert set(found["variable"]) <= set(variables()) | extra, table


@pytest.mark.parametrize("lower", [False, True])
def test_both_systems_and_both_cases(hospital: Hospital, tmp_path: Path, lower: bool) -> None:
    hospital.chart(0, 678, 98.6, "Deg. F")
    hospital.chart(1, 676, 37.5, "Deg. C")
    hospital.chart(0, 220277, 97, "%")
    for item, value in ((184, 4), (454, 6), (723, 4)):
        hospital.chart(0, item, value)
    for item, value in ((184, 1), (454, 4), (723, 1)):
        hospital.chart(5, item, value, VALUE="1.0 ET/Trach" if item == 723 else value)
    hospital.chart(1, 190, 0.4)
    hospital.chart(2, 3420, 40)
    hospital.chart(2, 211, 85, "BPM", ERROR=1)
    data = hospital.read(tmp_path, lower=lower)
    assert values(data, "temperature") == [(0, 37.0), (1, 37.5)]
    assert values(data, "spo2") == [(0, 97.0)]
    assert values(data, "gcs") == [(0, 14.0)]
    assert values(data, "fio2") == [(1, 0.4), (2, 0.4)]
    assert data.left_out == [
        ("vitals/gcs", "1 value whose verbal part could not be taken"),
        ("vitals/heart_rate", "1 value marked as errors"),
    ]


def test_gases_of_one_time_and_arterial(hospital: Hospital, tmp_path: Path) -> None:
    """Samples have no number: two kinds at one time cannot be told apart."""
    for hour, kinds in ((1, ["ART"]), (2, ["VEN"]), (3, []), (4, ["ART", "VEN"])):
        hospital.lab(hour, 50821, 90 + hour, "mm Hg")
        for kind in kinds:
            hospital.lab(hour, 50800, kind)
    assert values(hospital.read(tmp_path), "pao2") == [(1, 91.0)]


def test_carevue_amounts_lie_before_and_rates_after(hospital: Hospital, tmp_path: Path) -> None:
    hospital.carevue(2, 30018, AMOUNT=100, AMOUNTUOM="ml")
    hospital.carevue(3.5, 30018, AMOUNT=60, AMOUNTUOM="ml")
    hospital.carevue(0, 30120, RATE=0.1, RATEUOM="mcgkgmin", AMOUNT=12, AMOUNTUOM="ml")
    hospital.carevue(0.5, 30120, RATE=0.2, RATEUOM="mcgkgmin")
    hospital.carevue(0.75, 30120, STOPPED="D/C'd")
    hospital.carevue(5, 30120, RATE=0.3)  # held for an hour at most
    hospital.carevue(9, 30120, RATE=0.3, RATEUOM="mcgkgmin")
    hospital.carevue(9.5, 30120, AMOUNT=5, AMOUNTUOM="ml")  # of the carrier
    hospital.carevue(10, 30045, RATE=4, RATEUOM="Uhr")
    data = hospital.read(tmp_path)
    assert values(data, "crystalloid") == [(1, 100.0), (2, 30.0), (3, 30.0)]
    assert values(data, "noradrenaline") == [(0, 0.1), (1, 0.0), (5, 0.3), (9, 0.3)]
    assert values(data, "insulin") == [(10, 4.0)]
    assert data.left_out == []


def test_carevue_dose_in_ug_per_min_needs_a_weight(hospital: Hospital, tmp_path: Path) -> None:
    hospital.carevue(1, 30047, RATE=8, RATEUOM="mcgmin")
    hospital.carevue(2, 30047, RATE=8)
    data = hospital.read(tmp_path)
    assert values(data, "noradrenaline") == []
    assert data.left_out == [("inputs/noradrenaline", "2 values without a body weight")]
    hospital.chart(40, 763, 80, "kg")
    assert values(hospital.read(tmp_path), "noradrenaline") == [(1, 0.1), (2, 0.1)]


def test_metavision_and_outputs(hospital: Hospital, tmp_path: Path) -> None:
    cells = {"ICUSTAY_ID": 1001, "STARTTIME": at(0), "ENDTIME": at(2), "ITEMID": 225158}
    cells |= {"AMOUNT": 200, "AMOUNTUOM": "ml", "PATIENTWEIGHT": 80}
    hospital.add("INPUTEVENTS_MV", **cells, ORDERID=1, STATUSDESCRIPTION="FinishedRunning")
    hospital.add("INPUTEVENTS_MV", **cells, ORDERID=2, STATUSDESCRIPTION="Rewritten")
    for item, volume, wrong in ((40055, 70, ""), (226559, 30, ""), (40069, 500, 1)):
        time = {"ICUSTAY_ID": 1001, "CHARTTIME": at(3)}
        hospital.add(
            "OUTPUTEVENTS", **time, ITEMID=item, VALUE=volume, VALUEUOM="ml", ISERROR=wrong
        )
    data = hospital.read(tmp_path)
    assert values(data, "crystalloid") == [(0, 100.0), (1, 100.0)]
    assert values(data, "urine") == [(3, 25.0)]  # 100 mL in the four hours since admission
    assert data.left_out == [
        ("inputs/crystalloid", "1 value of rewritten orders"),
        ("outputs/urine", "1 value marked as errors"),
    ]


@pytest.mark.parametrize(("day", "expected"), [(-2, "no"), (0, "yes"), (2, "yes"), (3, "yes")])
def test_antibiotics_have_days(hospital: Hospital, tmp_path: Path, day: int, expected: str) -> None:
    """The culture is of the first day, hour 2, and the creatinine rises at hour 6."""
    hospital.lab(6, 50912, 2.5, "mg/dL")
    drug = {"STARTDATE": midnight(day), "DRUG": "Piperacillin-Tazobactam Na", "ROUTE": "IV"}
    hospital.add("PRESCRIPTIONS", SUBJECT_ID=1, DRUG_TYPE="MAIN", **drug)
    taken = {"CHARTDATE": midnight(0), "CHARTTIME": at(2), "SPEC_TYPE_DESC": "BLOOD CULTURE"}
    hospital.add("MICROBIOLOGYEVENTS", SUBJECT_ID=1, **taken)
    data = hospital.read(tmp_path)
    assert answer(data, "sepsis") == expected
    assert answer(data, "mortality") == "no"


@pytest.mark.parametrize(
    ("code", "expected"), [("99591", "yes"), ("78552", "yes"), ("0389", "no"), ("A419", "no")]
)
def test_sepsis_from_codes(hospital: Hospital, tmp_path: Path, code: str, expected: str) -> None:
    hospital.add("DIAGNOSES_ICD", SUBJECT_ID=1, HADM_ID=101, SEQ_NUM=1, ICD9_CODE=code)
    assert answer(hospital.read(tmp_path, sepsis="icd"), "sepsis") == expected


def test_time_going_backwards(tmp_path: Path) -> None:
    hospital = Hospital(patients=4)
    for row in hospital.tables["ICUSTAYS"]:
        hospital.add("CHARTEVENTS", ICUSTAY_ID=row["ICUSTAY_ID"], CHARTTIME=at(1), ITEMID=211,
                     VALUENUM=80, VALUEUOM="BPM")  # fmt: skip
    hospital.tables["ICUSTAYS"][0]["OUTTIME"] = at(-2)
    hospital.tables["ADMISSIONS"][3]["DEATHTIME"] = at(-9)
    data = hospital.read(tmp_path)
    assert set(data.examples["patient_id"]) == {"mimic3-2", "mimic3-3"}
    assert data.left_out == [
        ("ADMISSIONS.csv.gz", "1 row: deathtime is before admittime; first at row 5"),
        ("ICUSTAYS.csv.gz", "1 row: outtime is not after intime; first at row 2"),
        ("ICUSTAYS.csv.gz", "1 row: the admission is missing or was left out; first at row 5"),
    ]


def test_missing_and_damaged_files(hospital: Hospital, tmp_path: Path) -> None:
    source = hospital.write(tmp_path / "source")

    def refused(rule: str) -> None:
        with pytest.raises(UserError, match=rule):
            mimic3.read(source, tmp_path / "scratch")

    chart = source / "CHARTEVENTS.csv.gz"
    whole = chart.read_bytes()
    chart.write_bytes(whole[:-12])
    refused(r"CHARTEVENTS\.csv\.gz: the gzip file is damaged or cut off")
    chart.write_bytes(whole)
    (source / "ADMISSIONS.csv.gz").rename(source / "kept")
    refused(r"admissions\.csv\.gz is missing; obtain MIMIC-III 1\.4")
    (source / "kept").rename(source / "ADMISSIONS.csv.gz")
    (source / "INPUTEVENTS_CV.csv.gz").unlink()
    data = mimic3.read(source, tmp_path / "scratch")
    lost = "file is missing; no infusions of the CareVue system"
    assert data.left_out == [("inputevents_cv.csv.gz", lost)]


def test_a_network_of_hospitals(tmp_path: Path) -> None:
    hospital = Hospital(patients=60)
    for number in range(1, 61):
        for hour in range(0, 72, 6):
            time = {"ICUSTAY_ID": 1000 + number, "CHARTTIME": at(hour)}
            hospital.add("CHARTEVENTS", **time, ITEMID=211, VALUENUM=70 + hour / 6, VALUEUOM="BPM")
    out = tmp_path / "out"
    prepare(mimic3, hospital.write(tmp_path / "source"), out, sites=2, by="natural")
    found: Counter[tuple[str, str]] = Counter()
    for name in ("sites/site-1", "sites/site-2", "public", "validation", "test"):
        assert check_site(out / name) == []
        rows = pl.read_parquet(out / name / "examples.parquet")
        found.update(rows.filter(pl.col("task") == "mortality").select("task", "answer").rows())
    assert found == {("mortality", "no"): 45, ("mortality", "yes"): 15}
