"""Clinical tables are plausible and show what the patients have."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.simulate.course import HOURS, draw_course, wander
from fedkim_core.data.simulate.hospitals import PROFILES, mixture
from fedkim_core.data.simulate.patients import Patients, draw_patients
from fedkim_core.data.simulate.tables import TABLES, draw_tables
from fedkim_core.modalities import load_modalities

Well = Callable[..., Patients]


def chart(patients: Patients, seed: int = 0) -> pl.DataFrame:
    ids = [f"stay-{i:04d}" for i in range(len(patients))]
    return draw_tables(patients, ids, np.random.default_rng(seed))


def mean(table: pl.DataFrame, variable: str, first: int = 0, last: int = HOURS) -> float:
    rows = table.filter(pl.col("variable") == variable, pl.col("hour").is_between(first, last))
    return float(np.mean(rows["value"].to_numpy()))


def count(table: pl.DataFrame, variable: str) -> int:
    return len(table.filter(pl.col("variable") == variable))


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_every_value_is_known_plausible_and_within_the_stay(seed: int) -> None:
    patients = draw_patients(mixture(PROFILES, 25), np.random.default_rng(seed))
    table = chart(patients, seed)
    cards = pl.DataFrame(
        [
            {"modality": m, "variable": v.name, "card": v.unit, "low": v.low, "high": v.high}
            for m in TABLES
            for v in load_modalities()[m].variables
        ]
    )
    joined = table.join(cards, on=["modality", "variable"], how="left")
    assert joined["card"].null_count() == 0
    assert (joined["unit"] == joined["card"]).all()
    assert joined["value"].is_finite().all()
    assert joined["value"].is_between(joined["low"], joined["high"]).all()
    last = table.group_by("stay_id").agg(pl.col("hour").max()).sort("stay_id")
    row = last["stay_id"].str.slice(5).cast(pl.Int64).to_numpy()
    assert (last["hour"].to_numpy() < np.minimum(patients.stay, HOURS)[row]).all()
    assert table["hour"].min() == 0
    once = ["stay_id", "hour", "variable"]
    assert table.select(once).is_unique().all()
    assert table["stay_id"].is_sorted()


def test_tables_are_repeatable_and_may_be_empty(well: Well) -> None:
    assert chart(well(8)).equals(chart(well(8)))
    assert len(chart(well(8).take(np.arange(0)))) == 0


def test_row_count_stays_reasonable() -> None:
    patients = draw_patients(mixture(PROFILES, 200), np.random.default_rng(0))
    assert 200 < len(chart(patients)) / 200 < 1500


@pytest.mark.parametrize(
    ("condition", "variable", "least"),
    [
        ({"sepsis": 0.8, "sepsis_onset": 2.0}, "lactate", 0.25),
        ({"sepsis": 0.8, "sepsis_onset": 2.0}, "leucocytes", 2.0),
        ({"sepsis": 0.8, "sepsis_onset": 2.0}, "heart_rate", 5.0),
        ({"sepsis": 0.8, "sepsis_onset": 2.0}, "temperature", 0.3),
        ({"shock": 0.8}, "lactate", 1.0),
        ({"renal": 0.9}, "creatinine", 1.0),
        ({"renal": 0.9}, "potassium", 0.2),
        ({"respiratory": 0.9}, "fio2", 0.0),
        ({"liver": 0.9}, "bilirubin", 1.0),
        ({"neuro": 0.9}, "gcs", -99.0),
    ],
)
def test_disease_moves_the_values(
    well: Well, condition: dict[str, float], variable: str, least: float
) -> None:
    ill, fit = chart(well(60, hospital=1, **condition)), chart(well(60, hospital=1))
    if variable == "fio2":  # nobody well is on oxygen
        assert count(ill, "fio2") > 10 * count(fit, "fio2")
    elif variable == "gcs":
        assert mean(ill, "gcs") < mean(fit, "gcs") - 2
    else:
        assert mean(ill, variable) > mean(fit, variable) + least


def test_shock_lowers_pressure_and_brings_noradrenaline(well: Well) -> None:
    ill, fit = chart(well(60, hospital=1, shock=0.9)), chart(well(60, hospital=1))
    assert mean(ill, "mean_bp", last=24) < mean(fit, "mean_bp", last=24) - 5
    assert count(fit, "noradrenaline") == 0
    assert count(ill, "noradrenaline") > 60
    assert mean(ill, "urine", last=24) < 0.7 * mean(fit, "urine", last=24)


def test_sepsis_unfolds_during_the_week(well: Well) -> None:
    table = chart(well(80, hospital=1, sepsis=0.9, sepsis_onset=48.0, stay=168))
    assert mean(table, "leucocytes", 54, 90) > mean(table, "leucocytes", 0, 36) + 2
    antibiotics = table.filter(pl.col("variable") == "antibiotic")["hour"]
    assert (antibiotics > 48).mean() > 0.7


def test_the_dying_are_sicker_on_their_first_day() -> None:
    patients = draw_patients(mixture(PROFILES, 1500), np.random.default_rng(0))
    patients = patients.take(np.flatnonzero(patients.has_icu))
    died, survived = (
        chart(patients.take(np.flatnonzero(patients.death == dead))) for dead in (True, False)
    )
    assert mean(died, "lactate", last=23) > mean(survived, "lactate", last=23) + 0.4
    assert mean(died, "gcs", last=23) < mean(survived, "gcs", last=23) - 0.8
    assert mean(died, "mean_bp", last=23) < mean(survived, "mean_bp", last=23) - 2


@pytest.mark.parametrize("hospital", range(len(PROFILES)))
def test_a_hospital_reports_what_it_charts(well: Well, hospital: int) -> None:
    table = chart(well(60, hospital=hospital, respiratory=0.8))
    charting = PROFILES[hospital].charting
    reported = set(table["variable"])
    assert reported.isdisjoint(charting.labs_missing)
    assert "sodium" in reported
    assert {"inputs", "outputs"}.isdisjoint(set(table["modality"])) != charting.fluids


def test_the_worrying_are_bled_more_often(well: Well) -> None:
    ill = chart(well(60, hospital=1, shock=0.9, respiratory=0.9))
    assert count(ill, "lactate") > 3 * count(chart(well(60, hospital=1)), "lactate")


def test_course_follows_onset_and_outcome(well: Well) -> None:
    patients = well(40, sepsis=1.0, sepsis_onset=48.0, stay=168)
    course = draw_course(patients, np.random.default_rng(0))
    assert course.septic[:, :24].max() < 0.01
    assert (course.septic[:, 56] > 0.8).all()
    assert (course.septic[:, 160] < course.septic[:, 60]).all()
    dying = draw_course(well(40, death=True, stay=100), np.random.default_rng(0))
    assert (dying.shock[:, 99] > dying.shock[:, 40]).all()
    assert (dying.present.sum(axis=1) == 100).all()


def test_wander_is_stationary_and_remembers() -> None:
    noise = wander(300, 2, 5.0, np.random.default_rng(0))
    assert noise.shape == (2, 300, HOURS)
    assert np.allclose(noise.std(axis=1), 1, atol=0.2)
    neighbours = np.corrcoef(noise[0, :, 80], noise[0, :, 81])[0, 1]
    assert abs(neighbours - np.exp(-1 / 5)) < 0.1
