"""Latent conditions: they depend on each other as they should, and on nothing else."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.simulate.hospitals import (
    PROFILES,
    Origin,
    hospital_names,
    mixture,
    one_hospital,
)
from fedkim_core.data.simulate.patients import ENLARGED_RATIO, Patients, draw_patients

SEVERITIES = (
    *("heart_failure", "hypertrophy", "infarct", "ischaemia", "pneumonia", "covid", "effusion"),
    *("atelectasis", "sepsis", "shock", "renal", "respiratory", "neuro", "liver"),
)


@pytest.fixture(scope="module")
def many() -> Patients:
    return draw_patients(mixture(PROFILES, 6000), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        ("heart_failure", "effusion"),
        ("hypertrophy", "heart_failure"),
        ("infarct", "heart_failure"),
        ("pneumonia", "sepsis"),
        ("pneumonia", "effusion"),
        ("sepsis", "shock"),
        ("sepsis", "renal"),
        ("sepsis", "death"),
        ("shock", "death"),
        ("effusion", "atelectasis"),
    ],
)
def test_causes_raise_effects(many: Patients, cause: str, effect: str) -> None:
    ill = getattr(many, cause) > 0
    outcome = getattr(many, effect) > 0
    assert outcome[ill].mean() > 1.5 * outcome[~ill].mean()


def test_heart_failure_enlarges_the_heart(many: Patients) -> None:
    failing = many.heart_failure > 0
    assert many.heart_ratio[failing].mean() > many.heart_ratio[~failing].mean() + 0.05


@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_hospital_any_size(n: int, hospital: int, seed: int) -> None:
    patients = draw_patients(one_hospital(PROFILES[hospital], n), np.random.default_rng(seed))
    assert len(patients) == n
    for name in SEVERITIES:
        severity = getattr(patients, name)
        assert ((severity == 0) | ((severity >= 0.1) & (severity <= 1))).all()
    owned = PROFILES[hospital].owned
    for kind in ("image", "signal", "icu"):
        has = getattr(patients, f"has_{kind}")
        assert getattr(owned, kind) > 0 or not has.any()
    assert (patients.has_image | patients.has_signal | patients.has_icu).all()
    assert (patients.stay >= 24).all()
    assert (np.maximum(patients.effusion_left, patients.effusion_right) == patients.effusion).all()
    assert (patients.enlarged >= (patients.heart_ratio > ENLARGED_RATIO)).all()
    assert (patients.opacity == ((patients.pneumonia > 0) | (patients.covid > 0))).all()


def test_abnormal_ecg_is_any_of_its_parts(many: Patients) -> None:
    parts = [many.fibrillation, many.bundle_block > 0, many.ectopy > 0]
    parts += [many.hypertrophy > 0, many.infarct > 0, many.ischaemia > 0]
    assert (many.abnormal_ecg == np.any(parts, axis=0)).all()


def test_take_keeps_every_field_aligned(many: Patients) -> None:
    rows = np.array([5, 3, 700])
    taken = many.take(rows)
    for field in fields(many):
        if field.name != "origin":
            assert (getattr(taken, field.name) == getattr(many, field.name)[rows]).all()
    assert (taken.origin.each("name") == many.origin.each("name")[rows]).all()


def test_hospitals_differ_and_some_lack_whole_modalities(many: Patients) -> None:
    hospital = many.origin.index
    sepsis = [(many.sepsis[hospital == i] > 0).mean() for i in range(len(PROFILES))]
    assert max(sepsis) > 1.4 * min(sepsis)
    lacking = [p.name for p in PROFILES if 0 in (p.owned.image, p.owned.signal, p.owned.icu)]
    assert len(lacking) >= 2
    for kind in ("image", "signal", "icu"):
        assert sum(getattr(p.owned, kind) > 0 for p in PROFILES) >= 3


@pytest.mark.parametrize("sites", [1, 5, 12])
def test_hospital_names_are_unique(sites: int) -> None:
    names = hospital_names(sites)
    assert len(set(names)) == len(names) == sites
    assert names[: min(sites, 5)] == tuple(p.name for p in PROFILES)[:sites]


def test_origin_gives_each_patient_the_value_of_its_hospital() -> None:
    origin = Origin(PROFILES, np.array([0, 3, 3]))
    assert origin.each("amplifier.gain").tolist() == [1.0, 0.98, 0.98]
    assert origin.take(np.array([2])).each("name").tolist() == ["eastgate-intensive"]
