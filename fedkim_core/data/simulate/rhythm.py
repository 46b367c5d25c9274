"""When the heart beats, and which kind of beat it is."""

from dataclasses import dataclass

import numpy as np

from fedkim_core.data.simulate.patients import ATRIAL, NO_ECTOPY, VENTRICULAR, Floats, Patients

BEATS = 40
"""Beats simulated per patient: enough for 10 s at 180 per minute and a margin on both sides."""
SECONDS = 10.0


@dataclass(frozen=True)
class Rhythm:
    """Beats of N patients, ``[N, BEATS]`` each; times in seconds from the start of the record."""

    times: Floats
    """The R peaks, ascending."""
    sinus: Floats
    """Scale of the P wave: 1, 0 without, negative when an ectopic atrial focus fires."""
    conducted: Floats
    """1 where the ventricles are excited through the bundle, 0 for a ventricular ectopic beat."""
    interval: Floats
    """``[N]``: the mean RR interval, s."""


def draw_rhythm(patients: Patients, rng: np.random.Generator) -> Rhythm:
    """Draw the beats of every patient.

    Sinus rhythm carries respiratory arrhythmia that fades with age. In atrial fibrillation
    successive intervals are independent. A ventricular beat leaves the sinus node alone, so a full
    compensatory pause follows; an atrial one resets it.
    """
    n = len(patients)
    fibrillating = patients.fibrillation
    infection = np.maximum(patients.pneumonia, patients.covid)
    stress = (
        15 * patients.sepsis + 18 * patients.shock + 10 * infection + 6 * patients.heart_failure
    )
    rate = rng.normal(70, 10, n) + stress + np.where(fibrillating, rng.normal(20, 15, n), 0)
    interval = 60 / np.clip(rate, 45, 160)

    beat = np.arange(BEATS) * interval[:, None]
    breathing = rng.uniform(0.2, 0.32, (n, 1)) * 2 * np.pi
    depth = 0.06 * np.exp(-(patients.age - 20) / 40) * rng.lognormal(0, 0.5, n)
    sway = np.clip(depth, 0, 0.15)[:, None] * np.sin(
        breathing * beat + rng.uniform(0, 2 * np.pi, (n, 1))
    )
    regular = 1 + sway + rng.normal(0, 0.012, (n, BEATS))
    spread = rng.uniform(0.14, 0.26, (n, 1))
    irregular = np.exp(spread * rng.normal(0, 1, (n, BEATS)) - spread**2 / 2)
    steps = interval[:, None] * np.where(fibrillating[:, None], irregular, regular)
    steps = np.maximum(steps, 0.3)
    times = np.cumsum(steps, axis=1) - steps[:, :1] - (1 + rng.random((n, 1))) * interval[:, None]

    ectopic = _ectopic_beats(patients, times, rng)
    early = steps * (1 - rng.uniform(0.55, 0.75, (n, BEATS))) * ectopic
    early = np.minimum(early, np.maximum(steps - 0.28, 0))
    atrial = (patients.ectopy == ATRIAL)[:, None]
    shift = np.where(atrial, np.cumsum(early, axis=1), early)
    ventricular = ectopic & (patients.ectopy == VENTRICULAR)[:, None]
    sinus = np.where(ectopic & atrial, -0.5, 1.0) * ~ventricular * ~fibrillating[:, None]
    return Rhythm(times - shift, sinus, (~ventricular).astype(np.float64), interval)


def _ectopic_beats(
    patients: Patients, times: Floats, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """``[N, BEATS]``: one to three ectopic beats, never two in a row, well inside the record."""
    n = len(patients)
    allowed = (times > 1.5) & (times < SECONDS - 1.0) & (np.arange(BEATS) % 2 == 0)
    wanted = np.minimum(1 + rng.poisson(0.8, n), 3) * (patients.ectopy != NO_ECTOPY)
    lottery = np.where(allowed, rng.random((n, BEATS)), -1.0)
    rank = np.argsort(np.argsort(-lottery, axis=1), axis=1)
    return np.asarray(allowed & (rank < wanted[:, None]))
