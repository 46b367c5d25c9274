"""MIMIC-IV: folders in the official format, and the real demo where it is."""

import csv
import datetime as dt
import gzip
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from fedkim_core.data.adapters import available, mimic4
from fedkim_core.data.check import check_site
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.errors import UserError

pytestmark = pytest.mark.usefixtures("private_cache")
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "ehr" / "mimic-iv-clinical-database-demo-2.2"
HEADERS = {
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "hosp/admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,"
    "admit_provider_id,admission_location,discharge_location,insurance,language,marital_status,"
    "race,edregtime,edouttime,hospital_expire_flag",
    "hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "hosp/prescriptions": "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,"
    "starttime,stoptime,drug_type,drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,"
    "dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,doses_per_24_hrs,route",
    "hosp/microbiologyevents": "microevent_id,subject_id,hadm_id,micro_specimen_id,"
    "order_provider_id,chartdate,charttime,spec_itemid,spec_type_desc,test_seq,storedate,"
    "storetime,test_itemid,test_name,org_itemid,org_name,isolate_num,quantity,ab_itemid,ab_name,"
    "dilution_text,dilution_comparison,dilution_value,interpretation,comments",
    "hosp/labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,"
    "charttime,storetime,value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,"
    "comments",
    "icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "icu/chartevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,"
    "valuenum,valueuom,warning",
    "icu/inputevents": "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,"
    "itemid,amount,amountuom,rate,rateuom,orderid,linkorderid,ordercategoryname,"
    "secondaryordercategoryname,ordercomponenttypedescription,ordercategorydescription,"
    "patientweight,totalamount,totalamountuom,isopenbag,continueinnextdept,statusdescription,"
    "originalamount,originalrate",
    "icu/outputevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,"
    "valueuom",
}
START = dt.datetime(2150, 3, 1, 10, 30)
SECRET = "4711.4711"
"""A cell that no message may quote."""
Row = dict[str, object]
Tables = dict[str, list[Row]]


def at(hour: float) -> str:
    """Time of an hour in the ICU."""
    return (START + dt.timedelta(hours=hour)).strftime("%Y-%m-%d %H:%M:%S")


class Hospital:
    """Rows of the tables; patient 7 is subject 7, admission 107, stay 1007."""

    def __init__(self) -> None:
        self.tables: Tables = {name: [] for name in HEADERS}

    def add(self, table: str, **cells: object) -> None:
        self.tables[table].append(dict(cells))

    def patient(
        self,
        number: int,
        *,
        died: bool = False,
        hours: float = 72,
        unit: str = "MICU",
        age: int = 60,
    ) -> None:
        ids = {"subject_id": number, "hadm_id": 100 + number}
        self.add("hosp/patients", subject_id=number, anchor_age=age, anchor_year=2150)
        self.add(
            "hosp/admissions",
            **ids,
            admittime=at(-5),
            deathtime=at(hours) if died else "",
            hospital_expire_flag=int(died),
        )
        self.add(
            "icu/icustays",
            **ids,
            stay_id=1000 + number,
            first_careunit=unit,
            intime=at(0),
            outtime=at(hours),
        )

    def chart(self, number: int, hour: float, item: int, value: object, unit: str = "") -> None:
        self.add(
            "icu/chartevents",
            stay_id=1000 + number,
            charttime=at(hour),
            itemid=item,
            value=value,
            valuenum=value,
            valueuom=unit,
        )

    def lab(
        self, number: int, hour: float, item: int, value: object, unit: str = "", specimen: int = 1
    ) -> None:
        self.add(
            "hosp/labevents",
            subject_id=number,
            specimen_id=specimen,
            itemid=item,
            charttime=at(hour),
            value=value,
            valuenum="" if item == SPECIMEN else value,
            valueuom=unit,
            comments='drawn by "A", late' if hour == 1 else "",
        )

    def infusion(
        self,
        number: int,
        start: float,
        end: float,
        item: int,
        amount: float,
        unit: str,
        **more: object,
    ) -> None:
        order = len(self.tables["icu/inputevents"])
        self.add(
            "icu/inputevents",
            **{
                "stay_id": 1000 + number,
                "starttime": at(start),
                "endtime": at(end),
                "itemid": item,
                "amount": amount,
                "amountuom": unit,
                "orderid": order,
                "patientweight": 80,
                "statusdescription": "FinishedRunning",
                **more,
            },
        )

    def output(self, number: int, hour: float, item: int, volume: object) -> None:
        self.add(
            "icu/outputevents",
            stay_id=1000 + number,
            charttime=at(hour),
            itemid=item,
            value=volume,
            valueuom="mL",
        )

    def suspicion(self, number: int, hour: float) -> None:
        """An antibiotic, and a culture an hour later."""
        self.add(
            "hosp/prescriptions",
            subject_id=number,
            starttime=at(hour),
            drug_type="MAIN",
            drug="Vancomycin",
            route="IV",
        )
        self.add(
            "hosp/microbiologyevents",
            subject_id=number,
            chartdate=at(hour + 1)[:10] + " 00:00:00",
            charttime=at(hour + 1),
            spec_type_desc="BLOOD CULTURE",
        )

    def write(self, folder: Path) -> Path:
        for name in self.tables:
            self.write_table(folder, name)
        return folder

    def write_table(self, folder: Path, name: str, ending: str = ".csv.gz") -> Path:
        path = folder / (name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, HEADERS[name].split(","), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.tables[name])
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data, 1) if ending.endswith("gz") else data)
        return path

    def read(self, tmp_path: Path, **settings: str) -> SourceData:
        return mimic4.read(self.write(tmp_path / "source"), tmp_path / "scratch", **settings)


SPECIMEN, PO2, PCO2 = 52033, 50821, 50818
HEART_RATE, VERBAL, MOTOR, EYE = 220045, 223900, 223901, 220739


@pytest.fixture
def hospital() -> Hospital:
    """Two patients with a heart rate each."""
    made = Hospital()
    for number in (1, 2):
        made.patient(number)
        made.chart(number, 0, HEART_RATE, 80, "bpm")
    return made


def values(data: SourceData, variable: str, number: int = 1) -> list[tuple[int, float]]:
    """Hour and value, as a reader of the site folder would see them."""
    rows = data.tables.filter(
        pl.col("variable") == variable, pl.col("stay_id") == f"mimic4-{1000 + number}"
    )
    found = rows.select("hour", "value").collect().sort("hour", maintain_order=True)
    return [(hour, round(value, 4)) for hour, value in found.rows()]


def answers(data: SourceData, task: str) -> dict[int, str]:
    rows = data.examples.filter(pl.col("task") == task).select("example_id", "answer").rows()
    return {int(name.split("-")[1]) - 1000: answer for name, answer in rows}


def test_adapter_is_found() -> None:
    assert available()["mimic4"].TASKS == ("mortality", "sepsis")


# --- vital signs, laboratory, infusions, outputs


def test_mixed_units_of_a_variable_are_each_converted(hospital: Hospital, tmp_path: Path) -> None:
    hospital.chart(1, 0.2, 223761, 98.6, "°F")
    hospital.chart(1, 1.2, 223762, 37.5, "°C")
    hospital.chart(1, 2.2, 223761, 99.5)  # the item's own unit
    hospital.chart(1, 0, 223835, 50)
    hospital.chart(1, 1, 223835, 0.5)
    hospital.lab(1, 1, 50912, 88.4, "umol/L")
    hospital.lab(1, 2, 50912, 1.5, "mg/dL")
    hospital.lab(1, 3, 50912, 2.5)
    hospital.lab(1, 4, 50912, 2.5, "furlong")
    data = hospital.read(tmp_path)
    assert values(data, "temperature") == [(0, 37.0), (1, 37.5), (2, 37.5)]
    assert values(data, "fio2") == [(0, 0.5), (1, 0.5)]
    assert values(data, "creatinine") == [(1, 1.0), (2, 1.5), (3, 2.5)]
    assert data.left_out == [("labs/creatinine", "1 value in an unknown unit")]


def test_coma_score_is_the_sum_of_three_parts(hospital: Hospital, tmp_path: Path) -> None:
    for hour, verbal in ((0, 5), (1, 4)):
        for item, value in ((EYE, 4), (MOTOR, 6), (VERBAL, verbal)):
            hospital.chart(1, hour, item, value)
    hospital.chart(1, 2, EYE, 4)  # two parts are missing
    for item, value in ((EYE, 1), (MOTOR, 4), (VERBAL, 1)):
        hospital.chart(1, 3, item, value)
    hospital.tables["icu/chartevents"][-1]["value"] = "No Response-ETT"
    data = hospital.read(tmp_path)
    assert values(data, "gcs") == [(0, 15.0), (1, 14.0)]
    assert data.left_out == [
        ("vitals/gcs", "1 value of which a part is missing"),
        ("vitals/gcs", "1 value whose verbal part could not be taken"),
    ]


def test_gases_only_of_arterial_samples(hospital: Hospital, tmp_path: Path) -> None:
    for hour, kind in ((1, "ART."), (2, "VEN."), (3, None)):
        hospital.lab(1, hour, PO2, 90, "mm Hg", specimen=hour)
        hospital.lab(1, hour, PCO2, 40, "mm Hg", specimen=hour)
        if kind:
            hospital.lab(1, hour, SPECIMEN, kind, specimen=hour)
    data = hospital.read(tmp_path)
    assert values(data, "pao2") == [(1, 90.0)]
    assert values(data, "paco2") == [(1, 40.0)]
    assert ("labs/pao2", "2 values of samples not known to be arterial") in data.left_out


def test_infusions_are_spread_and_add_up(hospital: Hospital, tmp_path: Path) -> None:
    hospital.infusion(1, 0.5, 2.5, 225158, 200, "ml", rate=100, rateuom="mL/hour")
    hospital.infusion(1, 1.25, 1.25, 225828, 500, "ml")  # a bolus, no duration
    hospital.infusion(1, -2, 1, 225168, 300, "ml")  # began before the ICU
    hospital.infusion(1, 70, 80, 220949, 1, "L")  # goes on after the ICU
    data = hospital.read(tmp_path)
    assert values(data, "crystalloid") == [
        (0, 50.0),
        (1, 600.0),
        (2, 50.0),
        (70, 100.0),
        (71, 100.0),
    ]
    assert values(data, "red_cells") == [(0, 100.0)]
    assert data.left_out == []


def test_drugs_by_weight_and_doses(hospital: Hospital, tmp_path: Path) -> None:
    hospital.infusion(1, 0, 2, 221906, 1.2, "mg", rate=0.125, rateuom="mcg/kg/min")
    hospital.infusion(1, 0, 1, 222168, 240, "mg", rate=50, rateuom="mcg/kg/min")
    hospital.infusion(1, 1, 1.1, 222168, 40, "mg")  # a push: 40 mg of 80 kg
    hospital.infusion(2, 1, 1.1, 222168, 40, "mg", patientweight=0)
    hospital.infusion(1, 0, 2, 222315, 4.8, "units")
    hospital.infusion(1, 0, 1 / 60, 221794, 20, "mg")
    for hour in (0, 0.5, 8):
        hospital.infusion(1, hour, hour + 1 / 60, 225798, 1, "dose")
    hospital.infusion(1, 0.6, 0.7, 225798, 750, "mg")
    data = hospital.read(tmp_path)
    assert values(data, "noradrenaline") == [(0, 0.125), (1, 0.125)]
    assert values(data, "propofol") == [(0, 3.0), (1, 0.5)]
    assert values(data, "propofol", 2) == []
    assert values(data, "vasopressin") == [(0, 2.4), (1, 2.4)]
    assert values(data, "furosemide") == [(0, 20.0)]
    assert values(data, "antibiotic") == [(0, 3.0), (8, 1.0)]
    assert data.left_out == [("inputs/propofol", "1 value without a body weight")]


def test_a_charted_weight_helps(hospital: Hospital, tmp_path: Path) -> None:
    hospital.chart(1, 5, 226531, 220.46)  # pounds
    hospital.chart(1, 0, 224639, 1000, "kg")
    hospital.infusion(1, 0, 1, 222168, 100, "mg", patientweight="")
    data = hospital.read(tmp_path)
    assert values(data, "propofol") == [(0, 1.0)]
    assert data.left_out == [("vitals/weight", "1 value outside 20..400 kg")]


def test_outputs_become_rates_since_the_last_note(hospital: Hospital, tmp_path: Path) -> None:
    for hour, item, volume in ((2.5, 226559, 300), (8, 226559, 600), (8.9, 226560, 60)):
        hospital.output(1, hour, item, volume)
    data = hospital.read(tmp_path)
    assert values(data, "urine") == [(2, 100.0), (8, 110.0)]


def test_outputs_of_an_hour_add_up(hospital: Hospital, tmp_path: Path) -> None:
    for hour, item, volume in ((0.1, 226559, 60), (0.9, 226560, 40), (1, 227489, 500)):
        hospital.output(1, hour, item, volume)
    hospital.output(1, 1.5, 227488, 300)  # irrigation that went in
    hospital.output(1, 2, 226559, -50)
    data = hospital.read(tmp_path)
    assert values(data, "urine") == [(0, 100.0), (1, 200.0)]
    assert data.left_out == [("outputs/urine", "1 value outside 0..2500 mL/h")]


def test_only_the_stay_and_its_first_week(hospital: Hospital, tmp_path: Path) -> None:
    hospital.patient(3, hours=400)
    for hour in (-1, 0, 167.9, 168, 300):
        hospital.chart(3, hour, HEART_RATE, 90, "bpm")
    for hour in (-3, 71, 73):
        hospital.lab(1, hour, 50983, 140, "mEq/L")
    data = hospital.read(tmp_path)
    assert values(data, "heart_rate", 3) == [(0, 90.0), (167, 90.0)]
    assert values(data, "sodium") == [(71, 140.0)]


# --- who becomes an example


def test_mortality_and_strata(hospital: Hospital, tmp_path: Path) -> None:
    hospital.patient(3, died=True, unit="CCU")
    hospital.patient(4, died=True, hours=23)
    hospital.patient(5, age=17)
    hospital.patient(6)  # nothing was observed
    for number in (3, 4, 5):
        hospital.chart(number, 0, HEART_RATE, 90, "bpm")
    data = hospital.read(tmp_path)
    assert answers(data, "mortality") == {1: "no", 2: "no", 3: "yes"}
    assert answers(data, "sepsis") == {1: "no", 2: "no", 3: "no", 4: "no"}
    assert data.strata == {
        "mimic4-1": (False, False),
        "mimic4-2": (False, False),
        "mimic4-3": (True, False),
        "mimic4-4": (False, False),
    }
    assert data.natural["mimic4-3"] == "CCU"
    assert data.left_out == [
        ("icustays.csv.gz", "1 row: younger than 18; first at row 6"),
        ("icustays.csv.gz", "1 stay shorter than 24 hours, for mortality"),
        ("icustays.csv.gz", "1 stay without any observation"),
    ]
    assert set(data.examples["vitals"]) == {f"mimic4-{1000 + n}" for n in (1, 2, 3, 4)}
    assert data.examples["labs"].null_count() == len(data.examples)


def test_first_stay_of_each_admission(hospital: Hospital, tmp_path: Path) -> None:
    ids = {"subject_id": 1, "first_careunit": "SICU", "last_careunit": "SICU"}
    again = {"intime": at(90), "outtime": at(200)}
    hospital.add("icu/icustays", **ids, hadm_id=101, stay_id=5000, **again)
    hospital.add(
        "hosp/admissions", subject_id=1, hadm_id=900, admittime=at(300), hospital_expire_flag=0
    )
    later = {"intime": at(300), "outtime": at(400)}
    hospital.add("icu/icustays", **ids, hadm_id=900, stay_id=5001, **later)
    hospital.add("icu/chartevents", stay_id=5000, charttime=at(91), itemid=HEART_RATE, valuenum=70)
    hospital.add("icu/chartevents", stay_id=5001, charttime=at(301), itemid=HEART_RATE, valuenum=71)
    data = hospital.read(tmp_path)
    assert sorted(answers(data, "mortality")) == [1, 2, 4001]
    assert set(data.examples["patient_id"]) == {"mimic4-1", "mimic4-2"}
    assert data.natural["mimic4-1"] == "MICU"
    assert data.left_out == [
        ("icustays.csv.gz", "1 row: not the first ICU stay of the admission; first at row 4")
    ]


def failing(hospital: Hospital, number: int, hour: float) -> None:
    """Two SOFA points."""
    hospital.lab(number, hour, 50912, 2.5, "mg/dL")


def test_sepsis_needs_infection_and_failure_close_in_time(
    hospital: Hospital, tmp_path: Path
) -> None:
    for number in range(3, 12):
        hospital.patient(number, hours=160)
        hospital.chart(number, 0, HEART_RATE, 90, "bpm")
    for number in (3, 5, 6, 7, 8, 9):
        failing(hospital, number, 20)
    for number in (3, 4):  # 4: infection without failure; 5: failure without infection
        hospital.suspicion(number, 10)
    hospital.suspicion(6, 95)  # the failure has passed
    for number, change in ((7, {"route": "BOTH EYES"}), (8, {"drug": "Vancomycin Ophth Oint"})):
        hospital.suspicion(number, 10)
        hospital.tables["hosp/prescriptions"][-1].update(change)
    hospital.suspicion(9, 10)
    hospital.tables["hosp/microbiologyevents"][-1]["spec_type_desc"] = "MRSA SCREEN"
    failing(hospital, 10, 12)
    hospital.suspicion(10, 10)  # only the day of the culture is known: suspected since midnight
    hospital.tables["hosp/microbiologyevents"][-1]["charttime"] = ""
    hospital.suspicion(11, -23)  # noradrenaline on arrival
    hospital.infusion(11, -1, 1, 221906, 1, "mg", rate=0.2, rateuom="mcg/kg/min")
    data = hospital.read(tmp_path)
    septic = {number for number, answer in answers(data, "sepsis").items() if answer == "yes"}
    assert septic == {3, 10, 11}
    assert data.strata["mimic4-3"] == (False, True)


def test_sepsis_from_codes(hospital: Hospital, tmp_path: Path) -> None:
    codes = {1: ("A41.9", 10), 2: ("J189", 10), 3: ("99592 ", 9), 4: ("99592", 10)}
    for number in (3, 4, 5):
        hospital.patient(number)
        hospital.chart(number, 0, HEART_RATE, 90, "bpm")
    for number, (code, version) in codes.items():
        cells = {"icd_code": code, "icd_version": version}
        hospital.add("hosp/diagnoses_icd", subject_id=number, hadm_id=100 + number, **cells)
    data = hospital.read(tmp_path, sepsis="icd")
    assert answers(data, "sepsis") == {1: "yes", 2: "no", 3: "yes", 4: "no"}
    assert len(answers(data, "mortality")) == 5
    assert data.left_out == [
        ("icustays.csv.gz", "1 stay of an admission without diagnosis code, for sepsis")
    ]


# --- what is wrong in a source


def test_cells_that_are_no_numbers_or_times(hospital: Hospital, tmp_path: Path) -> None:
    hospital.chart(1, 1, HEART_RATE, SECRET + "x", "bpm")
    hospital.chart(1, 1, HEART_RATE, 900, "bpm")
    hospital.lab(1, 1, 50813, "<0.5", "mmol/L")
    hospital.lab(1, 1, 50813, 2, "mmol/L")
    hospital.tables["hosp/labevents"][-1]["charttime"] = "yesterday"
    hospital.infusion(1, 1, 2, 225158, 100, "ml")
    hospital.tables["icu/inputevents"][-1]["amount"] = "much"
    hospital.infusion(1, 3, 2, 225158, 100, "ml")
    hospital.infusion(1, 3, 4, 225158, 100, "ml", endtime="later")
    hospital.infusion(1, 3, 4, 225158, -100, "ml")
    hospital.infusion(1, 3, 9, 225158, 100, "furlong")
    hospital.infusion(1, 5, 6, 225158, 100, "ml", statusdescription="Rewritten")
    hospital.output(1, 1, 226559, "many")
    for _ in range(2):
        hospital.output(1, 2, 226559, 70)
    data = hospital.read(tmp_path)
    assert values(data, "urine") == [(2, 23.3333)]  # 70 mL in three hours
    assert values(data, "crystalloid") == []
    assert sorted(data.left_out) == [
        ("inputs/crystalloid", "1 value below zero"),
        ("inputs/crystalloid", "1 value in an unknown unit"),
        ("inputs/crystalloid", "1 value of rewritten orders"),
        ("inputs/crystalloid", "1 value with an end before the start"),
        ("inputs/crystalloid", "1 value without a number"),
        ("inputs/crystalloid", "1 value without a valid time"),
        ("labs/lactate", "1 value without a number"),
        ("labs/lactate", "1 value without a valid time"),
        ("outputs/urine", "1 value repeating another row"),
        ("outputs/urine", "1 value without a number"),
        ("vitals/heart_rate", "1 value outside 20..260 1/min"),
        ("vitals/heart_rate", "1 value without a number"),
    ]
    assert SECRET not in str(data.left_out)


@pytest.mark.parametrize(
    ("table", "column", "cell", "file", "reason"),
    [
        ("icu/icustays", "outtime", at(-1), "icustays", "outtime is not after intime"),
        ("icu/icustays", "outtime", "", "icustays", "intime or outtime is no time"),
        ("icu/icustays", "hadm_id", "", "icustays",
         "stay_id, subject_id or hadm_id is no whole number"),
        ("icu/icustays", "hadm_id", 999, "icustays", "the admission is missing or was left out"),
        ("hosp/admissions", "deathtime", at(-6), "admissions", "deathtime is before admittime"),
        ("hosp/admissions", "admittime", SECRET, "admissions", "admittime is no time"),
        ("hosp/admissions", "hospital_expire_flag", "", "admissions",
         "hospital_expire_flag is neither 0 nor 1"),
        ("hosp/patients", "anchor_age", SECRET + "x", "icustays", "the patient's age is not known"),
    ],
)  # fmt: skip
def test_a_stay_that_cannot_be_used(
    hospital: Hospital,
    tmp_path: Path,
    table: str,
    column: str,
    cell: object,
    file: str,
    reason: str,
) -> None:
    hospital.tables[table][1][column] = cell
    data = hospital.read(tmp_path)
    assert list(answers(data, "mortality")) == [1]
    assert data.left_out[0] == (f"{file}.csv.gz", f"1 row: {reason}; first at row 3")
    assert SECRET not in str(data.left_out)


def test_copies_are_removed_and_conflicts_refused(hospital: Hospital, tmp_path: Path) -> None:
    stays = hospital.tables["icu/icustays"]
    stays.append(dict(stays[0]))
    data = hospital.read(tmp_path)
    assert list(answers(data, "mortality")) == [1, 2]
    assert data.left_out == [("icustays.csv.gz", "1 row that repeats another row")]
    stays[-1]["outtime"] = at(99)
    with pytest.raises(UserError, match=r"icustays\.csv\.gz:4: stay_id is not unique"):
        hospital.read(tmp_path)


Break = Callable[[Path], object]


def cut(table: str) -> Break:
    def shorten(source: Path) -> None:
        path = source / f"{table}.csv.gz"
        path.write_bytes(path.read_bytes()[:-20])

    return shorten


def rewrite(table: str, old: str, new: str) -> Break:
    def change(source: Path) -> None:
        path = source / f"{table}.csv.gz"
        text = gzip.decompress(path.read_bytes()).decode()
        assert old in text
        path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))

    return change


def remove(*tables: str) -> Break:
    return lambda source: [(source / f"{table}.csv.gz").unlink() for table in tables]


EVENTS = ("icu/chartevents", "hosp/labevents", "icu/inputevents", "icu/outputevents")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (cut("icu/icustays"), r"icustays\.csv\.gz: the gzip file is damaged or cut off"),
        (cut("icu/chartevents"), r"chartevents\.csv\.gz: the gzip file is damaged or cut off"),
        (cut("hosp/microbiologyevents"), "microbiologyevents.*damaged or cut off"),
        (remove("icu/icustays"), r"icustays\.csv\.gz is missing; obtain MIMIC-IV"),
        (remove("hosp/patients"), r"patients\.csv\.gz is missing; obtain MIMIC-IV"),
        (remove("hosp/prescriptions"), "prescriptions.*missing; without it take --set sepsis=icd"),
        (remove(*EVENTS), "chartevents.csv.gz and all others like it are missing"),
        (rewrite("icu/chartevents", "valuenum", "value2"), "column 'valuenum' is missing"),
        (rewrite("hosp/admissions", "deathtime", "death"), "column 'deathtime' is missing"),
        (rewrite("icu/chartevents", ",80,", f",{SECRET},{SECRET},"), "events.*:2: the row has"),
        (rewrite("icu/icustays", "\n1,", "\n"), r"icustays\.csv\.gz:2: the row has fewer fields"),
    ],
)  # fmt: skip
def test_broken_files(hospital: Hospital, tmp_path: Path, spoil: Break, rule: str) -> None:
    source = hospital.write(tmp_path / "source")
    spoil(source)
    with pytest.raises(UserError, match=rule) as error:
        prepare(mimic4, source, tmp_path / "out", sites=1)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_settings_and_empty_sources(hospital: Hospital, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be sepsis3 or icd"):
        hospital.read(tmp_path, sepsis="angus")
    hospital.tables["icu/chartevents"].clear()
    with pytest.raises(UserError, match="no ICU stay has an observation"):
        hospital.read(tmp_path)
    hospital.tables["icu/icustays"].clear()
    with pytest.raises(UserError, match=r"icustays\.csv\.gz: the file has a header and no row"):
        hospital.read(tmp_path)


def test_plain_files_of_any_case_in_one_folder(hospital: Hospital, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    for number, name in enumerate(HEADERS):
        path = hospital.write_table(folder, name, ".csv")
        target = path.stem.upper() if number % 2 else path.stem
        path.rename(folder / f"{target}.csv")
    for name in ("hosp", "icu"):
        (folder / name).rmdir()
    data = mimic4.read(folder, tmp_path / "scratch")
    assert answers(data, "mortality") == {1: "no", 2: "no"}


def test_a_network_of_hospitals(tmp_path: Path) -> None:
    """From the official layout to folders that pass the check of a site."""
    made = Hospital()
    for number in range(1, 81):
        made.patient(number, died=number % 4 == 0, unit=("MICU", "SICU")[number % 2])
        for hour in range(0, 72, 4):
            made.chart(number, hour, HEART_RATE, 70 + number % 30, "bpm")
        made.lab(number, 3, 50912, 2.5 if number % 3 == 0 else 0.9, "mg/dL")
        made.suspicion(number, 2)
        made.infusion(number, 1, 5, 225158, 400, "ml")
        made.output(number, 6, 226559, 80)
    out = tmp_path / "out"
    prepare(mimic4, made.write(tmp_path / "source"), out, sites=2, by="natural")
    folders = [out / "sites" / "site-1", out / "sites" / "site-2"]
    folders += [out / name for name in ("public", "validation", "test")]
    owners: Counter[str] = Counter()
    for folder in folders:
        assert check_site(folder) == []
        rows = pl.read_parquet(folder / "examples.parquet")
        owners.update(rows["patient_id"].unique())
        assert set(rows["task"]) == (
            {"mortality", "sepsis"} if folder.name in ("validation", "test") else {"mortality"}
        )
    assert set(owners.values()) == {1}
    assert len(owners) == 80
    held = pl.concat(pl.read_parquet(folder / "tables.parquet") for folder in folders)
    assert Counter(held["modality"]) == {"vitals": 1440, "labs": 80, "inputs": 320, "outputs": 80}
    assert not list(out.parent.glob(".fedkim-*"))


# --- size


MEMORY = """
import resource, sys
from pathlib import Path
from fedkim_core.data.adapters import mimic4
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
data = mimic4.read(Path(sys.argv[1]), Path(sys.argv[2]))
kept = data.tables.collect().height
copies = [int(why.split()[0]) for _, why in data.left_out if "repeating" in why]
print(peak() - before, kept + sum(copies))
"""
PEAK = 300
"""MiB above the imports: blocks of 8 Mi characters and groups of half a million events."""


def test_memory_of_a_large_file(hospital: Hospital, tmp_path: Path) -> None:
    """200 MB of chartevents; every fourth row is a heart rate, half of these are of the stay."""
    source = hospital.write(tmp_path / "source")
    line = "{0},{1},{2},1,2150-03-{3:02d} {4:02d}:15:00,2150-03-01 12:00:00,{5},{6},{6},bpm,0\n"
    block = "".join(
        line.format(
            1 + i % 2, 101 + i % 2, 1001 + i % 2, 1 + i % 4, i % 24,
            HEART_RATE if i % 4 == 0 else 226000 + i % 4, 60 + i % 50
        )
        for i in range(20_000)
    )  # fmt: skip
    packed = gzip.compress(block.encode(), 1)  # members of a gzip file follow each other
    copies = 200 * 10**6 // len(block)
    path = source / "icu" / "chartevents.csv.gz"
    header = gzip.compress((HEADERS["icu/chartevents"] + "\n").encode())
    with path.open("wb") as file:
        file.write(header)
        for _ in range(copies):
            file.write(packed)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "scratch")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    growth, rows = map(int, done.stdout.split())
    assert growth < PEAK
    assert rows == copies * sum(i % 24 in (12, 16, 20) for i in range(20_000))  # none is lost


# --- the real demo


@pytest.mark.skipif(
    not (REAL / "icu" / "icustays.csv.gz").is_file(),
    reason="needs the MIMIC-IV demo in $FEDKIM_REALDATA/ehr/mimic-iv-clinical-database-demo-2.2",
)
def test_real_demo(tmp_path: Path) -> None:
    """100 patients, 140 ICU stays of 128 admissions; without chartevents and outputevents."""
    data = mimic4.read(REAL, tmp_path / "a")
    found = Counter(data.examples.select("task", "answer").rows())
    assert found == {
        ("mortality", "no"): 96,
        ("mortality", "yes"): 11,
        ("sepsis", "no"): 92,
        ("sepsis", "yes"): 36,
    }
    assert data.examples["patient_id"].n_unique() == 100
    held = {name: data.examples[name].drop_nulls().n_unique() for name in mimic4.MODALITIES}
    assert held == {"vitals": 0, "labs": 128, "inputs": 124, "outputs": 0}
    assert data.tables.select(pl.len()).collect().item() == 26_977
    assert len(set(data.natural.values())) == 8
    assert data.left_out[:3] == [
        ("icustays.csv.gz", "12 rows: not the first ICU stay of the admission; first at row 15"),
        ("chartevents.csv.gz", "file is missing; no vital signs, no charted body weight"),
        ("outputevents.csv.gz", "file is missing; no outputs"),
    ]
    assert ("labs/pao2", "112 values of samples not known to be arterial") in data.left_out
    coded = mimic4.read(REAL, tmp_path / "b", sepsis="icd")
    assert Counter(answers(coded, "sepsis").values()) == {"no": 108, "yes": 20}


@pytest.mark.skipif(
    not (REAL / "icu" / "icustays.csv.gz").is_file(),
    reason="needs the MIMIC-IV demo in $FEDKIM_REALDATA/ehr/mimic-iv-clinical-database-demo-2.2",
)
def test_real_network(tmp_path: Path) -> None:
    prepare(mimic4, REAL, tmp_path / "out", sites=2, settings={"sepsis": "icd"})
    header = yaml.safe_load((tmp_path / "out" / "network.yaml").read_text())
    assert header["parameters"]["patients"] == 100
    for name in ("sites/site-1", "sites/site-2", "public", "validation", "test"):
        assert check_site(tmp_path / "out" / name) == []
