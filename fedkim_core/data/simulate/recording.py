"""What electrodes and amplifier add to an electrocardiogram.

Noise arises at one of the nine electrodes and reaches the leads by their definition, so Einthoven's
law holds for noisy recordings too, and a bad arm electrode shows in the leads that use it.
"""

from dataclasses import dataclass

import numpy as np

from fedkim_core.data.simulate.patients import Bools, Floats, Ints, Patients
from fedkim_core.data.simulate.signal import LEADS, RATE, SAMPLES, clean_leads

NOISE_KINDS = ("none", "baseline drift", "static noise", "burst noise", "electrode problem")
"""What may be asked for; the words of the PTB-XL signal quality annotation."""

NOISY_SHARE, NOISY_SIZE = 0.3, 0.1
"""A lead counts as noisy when it shows this share of the worst lead's artefact, or this many mV.

An arm electrode is a third of Wilson's terminal, so when it is bad the chest leads are noisy too.
"""
_RA, _LA, _LL = 0, 1, 2


def _electrodes_to_leads() -> Floats:
    matrix = np.zeros((len(LEADS), 9))
    matrix[0, [_LA, _RA]] = 1, -1
    matrix[1, [_LL, _RA]] = 1, -1
    matrix[2] = matrix[1] - matrix[0]
    matrix[3] = -(matrix[0] + matrix[1]) / 2
    matrix[4] = matrix[0] - matrix[1] / 2
    matrix[5] = matrix[1] - matrix[0] / 2
    matrix[6:, :3] = -1 / 3
    matrix[6:, 3:] = np.eye(6)
    return matrix


ELECTRODES: Floats = _electrodes_to_leads()
"""``[12, 9]``: potentials at RA, LA, LL, V1..V6 to leads."""


@dataclass(frozen=True)
class Recording:
    """Electrocardiograms of N patients."""

    signal: Floats
    """``[N, 1000, 12]`` mV at 100 Hz."""
    noise: Ints
    """``[N]`` into :data:`NOISE_KINDS`."""
    leads: Bools
    """``[N, 12]``: the leads that show the noise."""


def record(patients: Patients, rng: np.random.Generator) -> Recording:
    """Record N patients with their hospital's electrocardiograph."""
    clean = clean_leads(patients, rng)
    n = len(patients)
    origin = patients.origin
    kind = 1 + rng.choice(len(NOISE_KINDS) - 1, n, p=[0.4, 0.3, 0.15, 0.15])
    kind = np.where(rng.random(n) < origin.each("amplifier.artefacts"), kind, 0)
    bad = _bad_electrodes(n, rng) & (kind > 0)[:, None]

    potentials = rng.normal(0, 1, (n, 9, SAMPLES)) * origin.each("amplifier.noise")[:, None, None]
    potentials += 0.02 * _drift(n, rng)
    artefact = np.einsum("le,net->nlt", ELECTRODES, _artefacts(kind, bad, rng))
    size = artefact.std(axis=2)
    plain = np.minimum(NOISY_SHARE * size.max(axis=1, keepdims=True), NOISY_SIZE)
    shown = (size >= plain) & (kind > 0)[:, None]
    leads = clean + artefact + np.einsum("le,net->nlt", ELECTRODES, potentials)
    leads = _amplify(leads, patients, rng)
    return Recording(np.ascontiguousarray(leads.transpose(0, 2, 1)), kind, np.asarray(shown))


def _bad_electrodes(n: int, rng: np.random.Generator) -> Bools:
    """``[N, 9]``: mostly one electrode, sometimes two or three."""
    wanted = rng.choice([1, 2, 3], n, p=[0.6, 0.25, 0.15])
    rank = np.argsort(np.argsort(rng.random((n, 9)), axis=1), axis=1)
    return np.asarray(rank < wanted[:, None])


def _drift(n: int, rng: np.random.Generator) -> Floats:
    """``[N, 9, 1000]``: slow waves of unit size, 0.08 to 0.4 Hz."""
    clock = np.arange(SAMPLES) / RATE
    waves = np.zeros((n, 9, SAMPLES))
    for low, high, size in ((0.08, 0.2, 1.0), (0.2, 0.4, 0.5)):
        cycles = rng.uniform(low, high, (n, 9, 1)) * clock + rng.random((n, 9, 1))
        waves += size * np.sin(2 * np.pi * cycles)
    return waves


def _artefacts(kind: Ints, bad: Bools, rng: np.random.Generator) -> Floats:
    """``[N, 9, 1000]`` mV: the visible artefact at the bad electrodes, zero elsewhere."""
    n = len(kind)
    clock = np.arange(SAMPLES) / RATE
    added = np.zeros((n, 9, SAMPLES))
    rows = np.flatnonzero(kind == 1)
    added[rows] = rng.uniform(0.2, 0.6, (len(rows), 1, 1)) * _drift(len(rows), rng)
    rows = np.flatnonzero(kind == 2)
    added[rows] = rng.uniform(0.05, 0.15, (len(rows), 1, 1)) * rng.normal(
        0, 1, (len(rows), 9, SAMPLES)
    )
    rows = np.flatnonzero(kind == 3)
    middle = rng.uniform(1, 9, (len(rows), 1, 1))
    burst = np.exp(-0.5 * ((clock - middle) / rng.uniform(0.2, 0.5, (len(rows), 1, 1))) ** 2)
    added[rows] = 0.35 * burst * rng.normal(0, 1, (len(rows), 9, SAMPLES))
    rows = np.flatnonzero(kind == 4)
    loose = rng.random((len(rows), 9, SAMPLES)) < 4 / SAMPLES
    loose[np.arange(len(rows)), :, rng.integers(100, 900, len(rows))] = True
    added[rows] = np.cumsum(loose * rng.normal(0, 0.8, loose.shape), axis=2)
    return added * bad[:, :, None]


def _amplify(leads: Floats, patients: Patients, rng: np.random.Generator) -> Floats:
    """Gain and first-order high-pass of the hospital's amplifier, applied to ``[N, 12, T]``."""
    frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    corner = patients.origin.each("amplifier.high_pass")[:, None]
    response = 1j * frequency / (1j * frequency + corner)
    gain = patients.origin.each("amplifier.gain") * rng.normal(1, 0.005, len(patients))
    spectrum = np.fft.rfft(leads, axis=2) * (gain[:, None] * response)[:, None]
    return np.asarray(np.fft.irfft(spectrum, SAMPLES, axis=2))
