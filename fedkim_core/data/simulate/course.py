"""How an intensive care stay unfolds: organ dysfunction by the hour."""

from dataclasses import dataclass

import numpy as np

from fedkim_core.data.simulate.patients import Bools, Floats, Patients

HOURS = 168
"""A week; longer stays are cut."""


@dataclass(frozen=True)
class Course:
    """``[N, 168]`` each, roughly 0 (well) to 1 (as bad as the patient's worst)."""

    septic: Floats
    shock: Floats
    renal: Floats
    respiratory: Floats
    drowsy: Floats
    liver: Floats
    inflamed: Floats
    """Sepsis, other infection, and the stress of an operation, which looks alike."""
    sedated: Bools
    """Ventilated under sedation."""
    present: Bools
    """The patient is still on the ward."""


def draw_course(patients: Patients, rng: np.random.Generator) -> Course:
    """Organ dysfunction of every hour.

    Survivors recover with time constants of one to four days; those who die get worse in their last
    day and a half. Sepsis starts at its own onset, shock follows it by a few hours.
    """
    n = len(patients)
    hour = np.arange(HOURS, dtype=np.float64)
    survives = ~patients.death[:, None]
    to_the_end = patients.stay[:, None] - hour
    dying = patients.death[:, None] * np.exp(-np.clip(to_the_end, 0, None) / 18)

    def since(start: Floats, rise: float, recovery: Floats) -> Floats:
        after = hour - start[:, None]
        risen = 1 / (1 + np.exp(-np.clip(4 * after / rise, -40, 40)))
        fading = np.exp(-np.clip(after - rise, 0, None) / recovery[:, None])
        return np.asarray(risen * np.where(survives, fading, np.maximum(fading, 0.6)))

    def days(low: float, high: float) -> Floats:
        return 24 * rng.uniform(low, high, n)

    before = np.full(n, -12.0)
    onset = patients.sepsis_onset
    from_sepsis = (patients.sepsis > 0) & (rng.random(n) < 0.8)
    shock_onset = np.where(from_sepsis, onset + rng.uniform(0, 8, n), before)
    septic = patients.sepsis[:, None] * since(onset, 8, days(2, 5))
    shock = patients.shock[:, None] * since(shock_onset, 5, days(1, 3)) + 0.5 * dying
    renal_onset = np.where(from_sepsis, onset, before)
    renal = patients.renal[:, None] * since(renal_onset, 24, days(3, 7)) + 0.15 * dying
    respiratory = patients.respiratory[:, None] * since(before, 6, days(2, 6)) + 0.3 * dying
    neuro = patients.neuro[:, None] * since(before, 4, days(3, 10)) + 0.3 * dying
    liver = patients.liver[:, None] * since(renal_onset, 24, days(4, 9))
    infection = np.maximum(patients.pneumonia, patients.covid)[:, None] * since(
        before, 6, days(2, 5)
    )
    stress = patients.surgical[:, None] * rng.uniform(0.1, 0.6, (n, 1)) * np.exp(-hour / 30)
    ventilated = (
        0.9 * patients.respiratory
        + 0.6 * patients.neuro
        + 0.2 * patients.surgical
        + rng.normal(0, 0.12, n)
    ) > 0.5
    weaned = np.minimum(patients.stay - 6.0, 24 * rng.uniform(0.5, 6, n))
    return Course(
        septic=septic,
        shock=shock,
        renal=renal,
        respiratory=respiratory,
        drowsy=neuro + 0.15 * septic + 0.1 * shock,
        liver=liver,
        inflamed=np.maximum(septic, np.maximum(0.4 * infection, stress)),
        sedated=ventilated[:, None] & (hour < weaned[:, None]),
        present=hour < patients.stay[:, None],
    )


def wander(n: int, count: int, memory: float, rng: np.random.Generator) -> Floats:
    """``[count, N, 168]``: stationary noise of unit variance that forgets over ``memory`` hours."""
    keep = np.exp(-1 / memory)
    steps = rng.standard_normal((HOURS, count, n))
    steps[1:] *= np.sqrt(1 - keep**2)
    for hour in range(1, HOURS):
        steps[hour] += keep * steps[hour - 1]
    return np.ascontiguousarray(steps.transpose(1, 2, 0))
