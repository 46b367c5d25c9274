"""Electrocardiograms obey physics and show what the patients have."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkim_core.data.simulate.hospitals import PROFILES, one_hospital
from fedkim_core.data.simulate.patients import (
    ATRIAL,
    LEFT_BUNDLE,
    RIGHT_BUNDLE,
    VENTRICULAR,
    Patients,
    draw_patients,
)
from fedkim_core.data.simulate.recording import ELECTRODES, NOISE_KINDS, record
from fedkim_core.data.simulate.rhythm import Rhythm, draw_rhythm
from fedkim_core.data.simulate.signal import LEADS, SAMPLES, clean_leads

Well = Callable[..., Patients]
Array = NDArray[np.float64]


def leads(patients: Patients) -> Array:
    """``[N, 12, 1000]`` without noise."""
    return clean_leads(patients, np.random.default_rng(0))


def lead(signal: Array, name: str) -> Array:
    return np.asarray(signal[:, LEADS.index(name)])


def rhythm(patients: Patients) -> Rhythm:
    return draw_rhythm(patients, np.random.default_rng(0))


def irregularity(r: Rhythm) -> Array:
    steps = np.diff(r.times, axis=1)
    return np.asarray(steps.std(axis=1) / steps.mean(axis=1))


@given(st.integers(0, 4), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_einthoven_and_goldberger(hospital: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = clean_leads(draw_patients(one_hospital(PROFILES[hospital], 8), rng), rng)
    assert np.isfinite(signal).all()
    assert np.allclose(lead(signal, "I") + lead(signal, "III"), lead(signal, "II"))
    augmented = lead(signal, "aVR") + lead(signal, "aVL") + lead(signal, "aVF")
    assert np.abs(augmented).max() < 1e-9
    assert np.abs(signal).max() < 8


def test_noise_obeys_einthoven_too(well: Well) -> None:
    signal = record(well(30), np.random.default_rng(0)).signal
    assert signal.shape == (30, SAMPLES, len(LEADS))
    assert np.allclose(signal[..., 0] + signal[..., 2], signal[..., 1], atol=1e-9)
    assert np.allclose(ELECTRODES.sum(axis=1), 0)


def test_normal_beat_looks_normal(well: Well) -> None:
    signal = leads(well(60))
    peak = {name: np.median(lead(signal, name).max(axis=1)) for name in LEADS}
    trough = {name: np.median(lead(signal, name).min(axis=1)) for name in LEADS}
    assert 0.5 < peak["II"] < 2.0
    assert peak["V1"] < -trough["V1"]  # rS
    assert peak["V5"] > -trough["V5"]  # qRs
    assert -trough["aVR"] > peak["aVR"]


def test_fibrillation_is_irregular_and_without_p(well: Well) -> None:
    regular, irregular = rhythm(well(60)), rhythm(well(60, fibrillation=True))
    assert irregularity(irregular).min() > np.median(irregularity(regular)) * 2
    assert (irregular.sinus == 0).all()
    assert (regular.sinus == 1).all()


@pytest.mark.parametrize("kind", [VENTRICULAR, ATRIAL])
def test_ectopic_beats_come_early(well: Well, kind: int) -> None:
    r = rhythm(well(60, ectopy=kind))
    ectopic = (r.conducted == 0) if kind == VENTRICULAR else (r.sinus < 0)
    assert (ectopic.sum(axis=1) >= 1).all()
    assert (ectopic.sum(axis=1) <= 3).all()
    assert not (ectopic[:, 1:] & ectopic[:, :-1]).any()
    assert ((r.times > 0) & (r.times < 10))[ectopic].all()
    steps = np.diff(r.times, axis=1)
    before, after = steps[:, :-1][ectopic[:, 1:-1]], steps[:, 1:][ectopic[:, 1:-1]]
    assert (before < after).all()
    if kind == VENTRICULAR:  # the compensatory pause makes two beats last two intervals
        typical = np.repeat(np.median(steps, axis=1), ectopic[:, 1:-1].sum(axis=1))
        assert np.abs((before + after) / (2 * typical) - 1).max() < 0.2


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_beats_ascend_and_cover_the_record(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r = draw_rhythm(draw_patients(one_hospital(PROFILES[3], 30), rng), rng)
    assert (np.diff(r.times, axis=1) > 0.2).all()
    assert (r.times[:, 0] < 0).all()
    assert (r.times[:, -1] > 9.9).all()


def test_no_ectopic_beats_without_ectopy(well: Well) -> None:
    r = rhythm(well(60))
    assert (r.conducted == 1).all()


def slow_share(signal: Array) -> float:
    """Share of QRS power below 12 Hz: more when the complex is wide."""
    power = np.abs(np.fft.rfft(signal, axis=-1)) ** 2
    frequency = np.fft.rfftfreq(SAMPLES, 0.01)
    band = (frequency > 4) & (frequency < 12)
    return float(power[..., band].sum() / power[..., frequency > 4].sum())


@pytest.mark.parametrize("kind", [LEFT_BUNDLE, RIGHT_BUNDLE])
def test_bundle_branch_block_widens_the_complex(well: Well, kind: int) -> None:
    assert slow_share(leads(well(30, bundle_block=kind))) > slow_share(leads(well(30))) + 0.03


def test_right_block_writes_a_late_r_in_v1(well: Well) -> None:
    normal, block = (
        lead(leads(well(40, bundle_block=b)), "V1").max(axis=1).mean() for b in (0, RIGHT_BUNDLE)
    )
    assert block > normal + 0.2


def test_hypertrophy_raises_the_sokolow_index(well: Well) -> None:
    def index(patients: Patients) -> float:
        signal = leads(patients)
        return float((lead(signal, "V5").max(axis=1) - lead(signal, "V1").min(axis=1)).mean())

    assert index(well(40, hypertrophy=0.7)) > 1.3 * index(well(40))


def st_level(patients: Patients, name: str) -> Array:
    """``[N]``: voltage 0.1 s after R, relative to 0.08 s before it."""
    signal, r = lead(leads(patients), name), rhythm(patients)
    found = []
    for row, times in zip(signal, r.times, strict=True):
        at = np.rint(times[(times > 0.5) & (times < 9.5)] * 100).astype(int)
        found.append(np.median(row[at + 10] - row[at - 8]))
    return np.array(found)


def test_acute_infarct_raises_st_over_its_wall(well: Well) -> None:
    anterior = {"infarct": 0.8, "infarct_acute": True, "infarct_wall": 0}
    assert (st_level(well(40, **anterior), "V2") - st_level(well(40), "V2")).mean() > 0.1
    inferior = anterior | {"infarct_wall": 1}
    assert (st_level(well(40, **inferior), "II") - st_level(well(40), "II")).mean() > 0.1


def test_ischaemia_lowers_st(well: Well) -> None:
    assert (st_level(well(40, ischaemia=0.9), "V5") - st_level(well(40), "V5")).mean() < -0.05


def test_noise_is_where_it_is_said_to_be(well: Well) -> None:
    patients = well(300)
    got = record(patients, np.random.default_rng(3))
    noisy = got.noise > 0
    assert set(got.noise) == set(range(len(NOISE_KINDS)))
    assert (got.leads.any(axis=1) == noisy).all()
    rough = np.diff(got.signal, n=2, axis=1).std(axis=1)
    static = got.noise == NOISE_KINDS.index("static noise")
    assert np.median(rough[static][got.leads[static]]) > 1.3 * np.median(
        rough[static][~got.leads[static]]
    )
    slow = np.abs(np.fft.rfft(got.signal, axis=1))[:, 1:5].sum(axis=1)
    drift = got.noise == NOISE_KINDS.index("baseline drift")
    assert np.median(slow[drift][got.leads[drift]]) > 3 * np.median(slow[~noisy])


def test_amplifiers_differ(well: Well) -> None:
    quiet, noisy = (
        np.median(
            np.abs(np.diff(record(well(40, hospital=h), np.random.default_rng(0)).signal, 2, 1))
        )
        for h in (1, 3)
    )
    assert noisy > 1.3 * quiet
