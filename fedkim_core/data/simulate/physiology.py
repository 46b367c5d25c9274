"""What a monitor, a laboratory and a bedside chart would show, before anybody writes it down.

Values are ``[N, 168]`` in the units of the modality cards. Typical values and the direction and
size of each change are those of adult intensive care textbooks; every patient also has a level of
their own and a slow drift, so that no single value tells a diagnosis.
"""

import numpy as np

from fedkim_core.data.simulate.course import HOURS, Course, wander
from fedkim_core.data.simulate.patients import Bools, Floats, Patients

Values = dict[str, Floats]


def _own(patients: Patients, sd: float, rng: np.random.Generator) -> Floats:
    """``[N, 1]``: each patient's own level, as a deviation."""
    return rng.normal(0, sd, (len(patients), 1))


def vitals(patients: Patients, course: Course, rng: np.random.Generator) -> Values:
    """Vital signs of every hour."""
    n = len(patients)
    drift = wander(n, 7, 5.0, rng)
    hour = np.arange(HOURS)
    daytime = np.sin(2 * np.pi * (hour + rng.uniform(0, 24, (n, 1))) / 24)
    fever = np.where(rng.random(n) < 0.15, -0.8, rng.uniform(0.5, 2.0, n))[:, None]
    pressor = _pressor(course)
    # Noradrenaline brings the pressure back in part.
    low = course.shock - 0.6 * pressor
    systolic = (
        122
        + _own(patients, 13, rng)
        + 8 * patients.hypertension[:, None]
        - 40 * low
        - 10 * course.septic
        + 8 * drift[0]
    )
    diastolic = 63 + _own(patients, 7, rng) - 16 * low - 6 * course.septic + 5 * drift[1]
    oxygen = 0.21 + 0.5 * course.respiratory + np.where(course.sedated, 0.15, 0.0)
    gcs = 15 - 11 * course.drowsy - np.where(course.sedated, 4.5, 0.0) + 0.4 * drift[2]
    return {
        "heart_rate": 80
        + _own(patients, 10, rng)
        + 16 * course.inflamed
        + 24 * course.shock
        + 12 * patients.fibrillation[:, None]
        - np.where(course.sedated, 4.0, 0.0)
        + 3 * daytime
        + 5 * drift[3],
        "systolic_bp": systolic,
        "diastolic_bp": diastolic,
        "mean_bp": (systolic + 2 * diastolic) / 3 + rng.normal(0, 2, (n, HOURS)),
        "respiratory_rate": 17
        + _own(patients, 2, rng)
        + 8 * course.respiratory
        + 4 * course.inflamed
        + 4 * course.shock
        - np.where(course.sedated, 3.0, 0.0)
        + 2.5 * drift[4],
        "temperature": 36.85
        + _own(patients, 0.2, rng)
        + fever * course.inflamed
        + 0.15 * daytime
        + 0.25 * drift[5],
        "spo2": 97.4
        + _own(patients, 0.8, rng)
        - 4.5 * course.respiratory
        - 1.5 * patients.copd[:, None]
        + 1.3 * drift[6],
        "fio2": np.round(oxygen * 20) / 20,
        "gcs": np.round(gcs),
    }


def _pressor(course: Course) -> Floats:
    """Noradrenaline, as a share of the patient's need: none in slight shock."""
    return np.asarray(np.clip(course.shock - 0.25, 0, None))


def labs(patients: Patients, course: Course, rng: np.random.Generator) -> Values:
    """Laboratory results, were blood drawn every hour."""
    n = len(patients)
    drift = wander(n, 22, 18.0, rng)
    diabetic, failing = patients.diabetes[:, None], patients.heart_failure[:, None]
    kidney_disease = rng.lognormal(0, 0.28, (n, 1)) * (1 + 0.5 * diabetic * rng.random((n, 1)))
    creatinine = 0.9 * kidney_disease * np.exp(1.6 * course.renal + 0.08 * drift[0])
    lactate = (
        1.2
        * rng.lognormal(0, 0.2, (n, 1))
        * np.exp(1.5 * course.shock + 0.55 * course.septic + 0.3 * course.liver + 0.18 * drift[1])
    )
    acid = 2.2 * (lactate - 1.4) * 0.5 + 5 * course.renal
    bicarbonate = 24.5 + _own(patients, 2, rng) + 3 * patients.copd[:, None] - acid + 1.5 * drift[2]
    paco2 = 39.5 + 8 * patients.copd[:, None] + 7 * course.respiratory - 0.5 * acid + 3.5 * drift[3]
    infarct = (patients.infarct * patients.infarct_acute)[:, None]
    damage = np.exp(-np.arange(HOURS) / 60)
    return {
        "sodium": 138.5 + _own(patients, 3, rng) - 2 * failing + 2.2 * drift[4],
        "potassium": 4.05 + _own(patients, 0.25, rng) + 0.7 * course.renal + 0.35 * drift[5],
        "chloride": 103.5 + _own(patients, 3, rng) + 0.3 * acid + 2.5 * drift[6],
        "bicarbonate": bicarbonate,
        "creatinine": creatinine,
        "urea_nitrogen": 17
        * kidney_disease
        * np.exp(1.2 * course.renal + 0.3 * failing + 0.2 * course.septic + 0.12 * drift[7]),
        "glucose": 118 * np.exp(0.25 * diabetic + 0.2 * course.inflamed + 0.2 * drift[8]),
        "calcium": 8.6 + _own(patients, 0.4, rng) - 0.5 * course.septic + 0.3 * drift[9],
        "magnesium": 2.0 + _own(patients, 0.2, rng) + 0.25 * course.renal + 0.18 * drift[10],
        "phosphate": 3.3 + _own(patients, 0.6, rng) + 2.0 * course.renal + 0.5 * drift[11],
        "haemoglobin": 11.4
        + _own(patients, 1.5, rng)
        - 1.2 * patients.surgical[:, None]
        - 0.8 * course.septic
        + 0.4 * drift[12],
        "platelets": 220
        * rng.lognormal(0, 0.3, (n, 1))
        * np.exp(-0.6 * course.septic - 0.5 * course.liver + 0.1 * drift[13]),
        "leucocytes": 8.8
        * rng.lognormal(0, 0.22, (n, 1))
        * np.exp(0.75 * course.inflamed * rng.choice([1, -0.8], (n, 1), p=[0.9, 0.1]))
        * np.exp(0.12 * drift[14]),
        "inr": 1.12
        * rng.lognormal(0, 0.08, (n, 1))
        * np.exp(0.6 * course.liver + 0.2 * course.septic + 0.3 * patients.fibrillation[:, None])
        * np.exp(0.06 * drift[15]),
        "bilirubin": 0.65
        * rng.lognormal(0, 0.4, (n, 1))
        * np.exp(2.2 * course.liver + 0.5 * course.septic + 0.12 * drift[16]),
        "alt": 26
        * rng.lognormal(0, 0.5, (n, 1))
        * np.exp(2.3 * course.liver + 0.8 * course.shock + 0.2 * drift[17]),
        "albumin": 3.4
        + _own(patients, 0.35, rng)
        - 0.6 * course.septic
        - 0.3 * course.inflamed
        + 0.12 * drift[18],
        "lactate": lactate,
        # Henderson-Hasselbalch.
        "ph": 6.1 + np.log10(np.clip(bicarbonate, 4, None) / (0.03 * np.clip(paco2, 15, None))),
        "pao2": (95 - 45 * course.respiratory)
        * np.exp(0.6 * (0.3 + 0.5 * course.respiratory) + 0.22 * drift[20]),
        "paco2": paco2,
        "troponin": 0.02
        * rng.lognormal(0, 0.9, (n, 1))
        * np.exp(5.5 * infarct * damage + (infarct > 0) * 1.5 + course.shock + 0.7 * failing)
        * np.exp(0.25 * drift[21]),
    }


def inputs(patients: Patients, course: Course, rng: np.random.Generator) -> tuple[Values, Values]:
    """Rates of fluids and drugs, and for each where it runs (0 or 1)."""
    n = len(patients)
    shape = (n, HOURS)
    drift = wander(n, 4, 8.0, rng)
    hour = np.arange(HOURS)
    pressor = _pressor(course)
    diabetic, failing = patients.diabetes[:, None], patients.heart_failure[:, None]
    bolus = rng.random(shape) < 0.02 + 0.25 * course.shock + 0.1 * course.septic
    anaemic = rng.random(shape) < 0.002 + 0.012 * patients.surgical[:, None] * (hour < 48)
    # Doctors treat what they suspect: infection with and without sepsis, and operations for a day.
    treated = (
        (course.septic > 0.12)
        | ((np.maximum(patients.pneumonia, 0.7 * patients.covid) > 0.25)[:, None] & (hour < 120))
        | (rng.random((n, 1)) < 0.12)
    )
    prophylaxis = patients.surgical[:, None] & (hour < 24) & (rng.random((n, 1)) < 0.8)
    every = np.where(prophylaxis & ~treated, 8, rng.choice([6, 8, 12], (n, 1)))
    due = (hour + rng.integers(0, 8, (n, 1))) % every == 0
    fed = course.sedated & (hour > rng.uniform(18, 60, (n, 1)))
    diuretic = rng.random(shape) < 0.004 + 0.10 * failing
    rates = {
        "crystalloid": np.where(bolus, rng.uniform(250, 800, shape), 70 * np.exp(0.5 * drift[0])),
        "colloid": rng.uniform(100, 400, shape),
        "red_cells": rng.uniform(120, 320, shape),
        "enteral_feed": 45 * np.exp(0.25 * drift[1]),
        "noradrenaline": 0.45 * pressor * np.exp(0.35 * drift[2]) + 0.01,
        "vasopressin": 1.2 + 1.2 * pressor,
        "propofol": 1.9 * np.exp(0.35 * drift[3]),
        "insulin": rng.gamma(2.0, 1.3, shape),
        "furosemide": rng.choice([10.0, 20.0, 40.0], shape),
        "antibiotic": np.ones(shape),
    }
    runs = {
        "crystalloid": bolus | (rng.random(shape) < 0.45 * (drift[0] > -0.8)),
        "colloid": rng.random(shape) < 0.03 * course.shock,
        "red_cells": anaemic,
        "enteral_feed": fed,
        "noradrenaline": pressor > 0.02,
        "vasopressin": pressor > 0.35,
        "propofol": course.sedated,
        "insulin": rng.random(shape) < 0.01 + 0.2 * diabetic,
        "furosemide": diuretic,
        "antibiotic": due & (treated | prophylaxis),
    }
    return rates, {name: np.asarray(where, np.float64) for name, where in runs.items()}


def outputs(patients: Patients, course: Course, rng: np.random.Generator) -> tuple[Values, Values]:
    """Rates of losses, and for each how likely it is charted in an hour."""
    n = len(patients)
    shape = (n, HOURS)
    drift = wander(n, 3, 6.0, rng)
    hour = np.arange(HOURS)
    kidney = np.exp(-2.2 * course.renal - 1.0 * course.shock)
    operated = patients.surgical[:, None]
    chest = operated & (rng.random((n, 1)) < 0.3) | (patients.effusion[:, None] > 0.6)
    filtered = (patients.renal[:, None] > 0.65) & (hour > rng.uniform(8, 48, (n, 1)))
    rates = {
        "urine": 85 * np.exp(0.25 * _own(patients, 1, rng) + 0.4 * drift[0]) * kidney,
        "gastric": rng.gamma(1.2, 70, shape),
        "chest_drain": 25 * np.exp(-hour / 40) * np.exp(0.5 * drift[1]) + 3,
        "wound_drain": 18 * np.exp(-hour / 30) * np.exp(0.5 * drift[2]) + 2,
        "stool": rng.gamma(1.5, 110, shape),
        "ultrafiltrate": rng.uniform(60, 200, shape),
        "blood_loss": rng.gamma(1.2, 60, shape),
    }
    catheter = (course.sedated | (course.shock > 0.15)) * 0.45 + 0.35
    charted = {
        "urine": catheter * (1 - 0.3 * course.renal.clip(0, 1)),
        "gastric": 0.02 + 0.08 * course.sedated,
        "chest_drain": 0.3 * chest,
        "wound_drain": 0.2 * operated * (hour < 96),
        "stool": np.full(shape, 0.025),
        "ultrafiltrate": 0.9 * filtered,
        "blood_loss": 0.06 * operated * (hour < 24) + 0.002,
    }
    return rates, {
        name: np.broadcast_to(p, shape).astype(np.float64) for name, p in charted.items()
    }


def drawn(patients: Patients, course: Course, rng: np.random.Generator) -> dict[str, Bools]:
    """``[N, 168]`` per laboratory panel: where blood is drawn, more often from the sicker."""
    n = len(patients)
    every = patients.origin.each("charting.labs_every")[:, None]
    worry = 1 + 0.8 * np.clip(course.shock + 0.5 * course.septic + 0.5 * course.renal, 0, 1)
    cardiac = (patients.infarct * patients.infarct_acute + 0.4 * patients.heart_failure)[:, None]
    breathing = course.sedated | (course.respiratory > 0.25) | (course.shock > 0.15)
    first = np.arange(HOURS) == rng.integers(0, 3, (n, 1))
    chance = {
        "routine": worry / every,
        "liver": worry / (3.0 * every),
        "gas": np.where(breathing, 1.2, 0.15) * worry / every,
        "heart": (0.04 + np.clip(cardiac, 0, 0.6)) / every,
    }
    panels = {name: rng.random((n, HOURS)) < p for name, p in chance.items()}
    panels["routine"] |= first
    panels["liver"] |= first & (rng.random((n, 1)) < 0.8)
    panels["gas"] |= first & (breathing | (rng.random((n, 1)) < 0.3))
    return panels
