"""Clinical tables: what was charted of a stay, in long format."""

import numpy as np
import polars as pl

from fedkim_core.data.simulate.course import HOURS, Course, draw_course
from fedkim_core.data.simulate.patients import Bools, Floats, Patients
from fedkim_core.data.simulate.physiology import drawn, inputs, labs, outputs, vitals
from fedkim_core.modalities import load_modalities

TABLES = ("vitals", "labs", "inputs", "outputs")
_PANELS = {
    "liver": ("inr", "bilirubin", "alt", "albumin"),
    "gas": ("lactate", "ph", "pao2", "paco2"),
    "heart": ("troponin",),
}
"""Every other test belongs to the routine panel."""
_WHOLE = (
    *("heart_rate", "systolic_bp", "diastolic_bp", "mean_bp", "respiratory_rate", "spo2", "gcs"),
    *("sodium", "chloride", "bicarbonate", "urea_nitrogen", "glucose", "platelets", "alt"),
    *("pao2", "paco2", "antibiotic"),
)
_DECIMALS = dict.fromkeys(_WHOLE, 0) | {
    "fio2": 2,
    "ph": 2,
    "creatinine": 2,
    "noradrenaline": 3,
    "troponin": 3,
}
"""As monitors and laboratories print them; one decimal for every other variable."""


def draw_tables(patients: Patients, stay_ids: list[str], rng: np.random.Generator) -> pl.DataFrame:
    """Chart N stays.

    Args:
        patients: those with a stay.
        stay_ids: their names, in the same order.
        rng: source of chance.

    Returns the columns of the site contract's tables, sorted by stay and hour. Hours without a
    record are absent, and more often so where nobody worried; values are rounded as monitors and
    laboratories print them and lie within the plausible range of the modality card.
    """
    cards = load_modalities()
    course = draw_course(patients, rng)
    charted = _chart(patients, course, rng)
    parts = []
    for modality, columns in charted.items():
        known = {variable.name: variable for variable in cards[modality].variables}
        for name, (values, mask) in columns.items():
            stay, hour = np.nonzero(mask & course.present)
            value = np.round(values[stay, hour], _DECIMALS.get(name, 1))
            value = np.clip(value, known[name].low, known[name].high)
            parts.append((modality, known[name], stay, hour, value))
    code = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    stay, hour, value = (np.concatenate([part[i] for part in parts]) for i in (2, 3, 4))
    order = np.lexsort((code, hour, stay))
    code, stay = code[order], stay[order]
    return pl.DataFrame(
        {
            "stay_id": pl.Series(stay_ids, dtype=pl.String).gather(stay),
            "hour": hour[order].astype(np.int32),
            "modality": pl.Series([part[0] for part in parts]).gather(code),
            "variable": pl.Series([part[1].name for part in parts]).gather(code),
            "value": value[order],
            "unit": pl.Series([part[1].unit for part in parts]).gather(code),
        }
    )


def _chart(
    patients: Patients, course: Course, rng: np.random.Generator
) -> dict[str, dict[str, tuple[Floats, Bools]]]:
    """By modality and variable: values and where they are written down, ``[N, 168]`` each."""
    n = len(patients)
    shape = (n, HOURS)
    hour = np.arange(HOURS)
    rate = patients.origin.each("charting.vitals")[:, None]
    visited = rng.random(shape) < rate
    every_four = (hour + rng.integers(0, 4, (n, 1))) % 4 == 0
    supported = course.sedated | (course.respiratory > 0.1)
    charted: dict[str, dict[str, tuple[Floats, Bools]]] = {table: {} for table in TABLES}
    for name, values in vitals(patients, course, rng).items():
        seldom = {"temperature": every_four, "gcs": every_four, "fio2": every_four & supported}
        kept = rng.random(shape) < 0.96
        charted["vitals"][name] = (values, visited & kept & seldom.get(name, True))

    panel_of = {test: panel for panel, tests in _PANELS.items() for test in tests}
    panels = drawn(patients, course, rng)
    for name, values in labs(patients, course, rng).items():
        lacking = [name in profile.charting.labs_missing for profile in patients.origin.profiles]
        offered = ~np.array(lacking)[patients.origin.index][:, None]
        kept = rng.random(shape) < 0.97
        where = panels[panel_of.get(name, "routine")]
        charted["labs"][name] = (values, where & offered & kept)

    fluids = patients.origin.each("charting.fluids")[:, None]
    for table, draw in (("inputs", inputs), ("outputs", outputs)):
        rates, chances = draw(patients, course, rng)
        for name, values in rates.items():
            charted[table][name] = (values, fluids & (rng.random(shape) < chances[name]))
    return charted
