"""Twelve-lead electrocardiograms: a heart dipole, projected to the leads.

The dipole is a sum of Gaussian functions of the time from the R peak, the model of McSharry et
al. (IEEE Trans Biomed Eng 50:289, 2003) in the vectorcardiogram form of Sameni et al. (EURASIP J
Adv Signal Process 2007:043407), solved directly instead of integrated. Axes are Frank's: x to the
patient's left, y down, z to the back. Leads follow by the matrix of Dower et al. (Clin Cardiol
3:87, 1980; its inverse is Edenbrandt & Pahlm, J Electrocardiol 21:361, 1988).

The kernels are our own choice within normal adult durations and amplitudes (P 0.1 s, PR 0.16 s,
QRS 0.09 s, QT by the square root of the RR interval), and each abnormality is the textbook change
of the dipole: late forces for bundle branch block, large forces and strain for hypertrophy, an ST
vector towards an acute infarct or away from an ischaemic endocardium, lost initial forces for an
old infarct.
"""

from dataclasses import dataclass

import numpy as np

from fedkim_core.data.simulate.patients import (
    LEFT_BUNDLE,
    RIGHT_BUNDLE,
    Floats,
    Patients,
)
from fedkim_core.data.simulate.rhythm import BEATS, SECONDS, Rhythm, draw_rhythm

RATE = 100
"""Hz."""
SAMPLES = int(RATE * SECONDS)
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],  # V6
    ]
)
_I, _II = _DOWER[:2]
PROJECTION: Floats = np.vstack(
    [_I, _II, _II - _I, -(_I + _II) / 2, _I - _II / 2, _II - _I / 2, _DOWER[2:]]
)
"""``[12, 3]``: dipole (x, y, z) to leads in the order of :data:`LEADS`."""

# A normal beat: centre and width in seconds, dipole in mV.
_NORMAL = {
    "P1": (-0.175, 0.018, (0.02, 0.06, -0.05)),
    "P2": (-0.145, 0.020, (0.06, 0.06, 0.03)),
    "Q": (-0.024, 0.009, (-0.10, -0.04, -0.28)),
    "R": (0.000, 0.012, (1.05, 0.75, 0.10)),
    "S": (0.025, 0.012, (0.00, -0.12, 0.50)),
    "late": (0.060, 0.017, (0.0, 0.0, 0.0)),
    "ST1": (0.085, 0.025, (0.0, 0.0, 0.0)),
    "ST2": (0.145, 0.040, (0.01, 0.01, -0.02)),
    "T1": (0.230, 0.055, (0.14, 0.08, -0.10)),
    "T2": (0.285, 0.035, (0.18, 0.11, -0.16)),
}
_NAMES = tuple(_NORMAL)
_P = (_NAMES.index("P1"), _NAMES.index("P2"))
_TOWARDS_WALL = np.array([[0.35, 0.10, -0.93], [0.10, 0.98, 0.15], [0.90, -0.35, 0.25]])
"""Unit dipoles towards the anterior, inferior and lateral wall."""
_SUBENDOCARDIUM = np.array([0.80, 0.50, -0.33])


@dataclass
class _Beat:
    """Kernels of N patients' beats: ``centre``, ``width`` ``[N, K]``, ``dipole`` ``[N, K, 3]``."""

    centre: Floats
    width: Floats
    dipole: Floats

    def change(self, names: tuple[str, ...], change: Floats) -> None:
        """Add ``change`` ``[N, 3]`` to the dipoles of the kernels ``names``."""
        for name in names:
            self.dipole[:, _NAMES.index(name)] += change

    def scale(self, names: tuple[str, ...], factor: Floats) -> None:
        """Multiply the dipoles of the kernels ``names`` by ``factor`` ``[N, 3]`` or ``[N, 1]``."""
        for name in names:
            self.dipole[:, _NAMES.index(name)] *= factor


def clean_leads(patients: Patients, rng: np.random.Generator) -> Floats:
    """The recording of a perfect amplifier: ``[N, 12, 1000]`` in mV, at 100 Hz."""
    rhythm = draw_rhythm(patients, rng)
    beat = _normal_beat(patients, rng)
    _apply_conditions(beat, patients)
    times = np.sqrt(np.clip(rhythm.interval, 0.4, 1.4))[:, None]
    repolarisation = beat.centre > 0.2
    beat.centre = np.where(repolarisation, beat.centre * times, beat.centre)
    dipole = _sum_of_gaussians(rhythm, beat, rhythm.sinus, rhythm.conducted)
    ectopic = np.flatnonzero((rhythm.conducted < 1).any(axis=1))
    if len(ectopic):
        dipole[ectopic] += _ventricular_beats(patients.take(ectopic), _rows(rhythm, ectopic), rng)
    dipole += _fibrillation(patients, rng)
    dipole = np.einsum("nij,ntj->nti", _rotations(patients, rng), dipole)
    # The heart moves with each breath, the chest moves the electrodes away from it.
    breath = rng.uniform(0.2, 0.3, (len(patients), 1)) * np.arange(SAMPLES) / RATE
    phase = rng.uniform(0, 1, (len(patients), 1))
    dipole *= (1 + 0.04 * np.sin(2 * np.pi * (breath + phase)))[..., None]
    return np.asarray(np.einsum("ld,ntd->nlt", PROJECTION, dipole))


def _normal_beat(patients: Patients, rng: np.random.Generator) -> _Beat:
    n, k = len(patients), len(_NAMES)
    centre = np.tile([v[0] for v in _NORMAL.values()], (n, 1))
    width = np.tile([v[1] for v in _NORMAL.values()], (n, 1))
    dipole = np.tile([v[2] for v in _NORMAL.values()], (n, 1, 1))
    centre[:, _P] += rng.normal(0, 0.014, (n, 1))
    qrs = slice(_NAMES.index("Q"), _NAMES.index("late") + 1)
    slower = rng.lognormal(0, 0.07, (n, 1))
    centre[:, qrs] *= slower
    width[:, qrs] *= slower
    width *= rng.lognormal(0, 0.05, (n, k))
    dipole[:, [_NAMES.index("ST1"), _NAMES.index("ST2")]] += rng.normal(0, 0.02, (n, 1, 3))
    build = np.exp(0.06 * patients.male - 0.08 * patients.stature + rng.normal(0, 0.2, n))
    dipole *= build[:, None, None] * rng.lognormal(0, 0.18, (n, k, 1))
    # T waves differ most between healthy people.
    dipole[:, [_NAMES.index("T1"), _NAMES.index("T2")]] *= rng.lognormal(0, 0.3, (n, 1, 1))
    return _Beat(centre, width, dipole)


def _apply_conditions(beat: _Beat, patients: Patients) -> None:
    """Change the normal beat by what each patient has."""
    t_waves, st, forces = ("T1", "T2"), ("ST1", "ST2"), ("R", "S")
    thick = patients.hypertrophy[:, None]
    beat.scale(forces, 1 + (thick > 0) * 0.3 + 0.6 * thick)
    strain = np.clip(thick - 0.3, 0, None)
    beat.scale(t_waves, 1 - 2.2 * strain * np.array([1.0, 0.5, 0.2]))
    beat.change(st, -0.22 * strain * np.array([1.0, 0.3, -0.3]))

    wall = _TOWARDS_WALL[patients.infarct_wall]
    size = patients.infarct[:, None] * wall
    some = (patients.infarct > 0)[:, None] * wall
    acute = patients.infarct_acute[:, None]
    beat.change(st, acute * (0.06 * some + 0.25 * size))
    beat.change(("T1",), acute * 0.15 * size)
    beat.change(("Q",), -np.where(acute, 0.2, 1.0) * (0.12 * some + 0.5 * size))
    beat.change(t_waves, -np.where(acute, 0.0, 1.0) * (0.06 * some + 0.2 * size))

    poor = patients.ischaemia[:, None]
    beat.change(st, -((poor > 0) * 0.03 + 0.13 * poor) * _SUBENDOCARDIUM)
    beat.scale(t_waves, 1 - 1.3 * poor)

    right = np.flatnonzero(patients.bundle_block == RIGHT_BUNDLE)
    beat.dipole[right, _NAMES.index("late")] = (-0.55, 0.0, -0.50)
    beat.dipole[right[:, None], [_NAMES.index(t) for t in t_waves], 2] *= -0.2

    left = np.flatnonzero(patients.bundle_block == LEFT_BUNDLE)
    for name, centre, width, dipole in (
        ("Q", -0.024, 0.012, (0.02, 0.0, 0.0)),
        ("R", -0.008, 0.020, (0.60, 0.35, 0.30)),
        ("S", 0.040, 0.022, (0.60, 0.15, 0.70)),
        ("late", 0.075, 0.018, (0.30, 0.05, 0.25)),
    ):
        k = _NAMES.index(name)
        size_of_heart = np.linalg.norm(beat.dipole[left, _NAMES.index("T2")], axis=1) / 0.265
        beat.centre[left, k], beat.width[left, k] = centre, width
        beat.dipole[left, k] = np.array(dipole) * np.clip(size_of_heart, 0.6, 1.6)[:, None]
    for name in t_waves:
        beat.dipole[left, _NAMES.index(name)] *= (-0.8, -0.6, 1.3)
    beat.dipole[left[:, None], [_NAMES.index(s) for s in st]] += (-0.08, -0.04, -0.14)


def _sum_of_gaussians(rhythm: Rhythm, beat: _Beat, sinus: Floats, conducted: Floats) -> Floats:
    """``[N, 1000, 3]``: every sample hears the two beats before it and the one after."""
    n = len(rhythm.times)
    clock = np.arange(SAMPLES) / RATE
    after = np.zeros((n, SAMPLES), np.int64)
    for row in range(n):
        after[row] = np.searchsorted(rhythm.times[row], clock)
    dipole = np.zeros((n, SAMPLES, 3))
    for neighbour in (-2, -1, 0):
        index = np.clip(after + neighbour, 0, BEATS - 1)
        since = clock - np.take_along_axis(rhythm.times, index, axis=1)
        scale = np.take_along_axis(conducted, index, axis=1)
        scale_p = np.take_along_axis(sinus, index, axis=1)
        for k in range(beat.centre.shape[1]):
            reach = (since - beat.centre[:, k, None]) / beat.width[:, k, None]
            wave = np.exp(-0.5 * reach**2) * (scale_p if k in _P else scale)
            dipole += wave[..., None] * beat.dipole[:, None, k]
    return dipole


def _ventricular_beats(patients: Patients, rhythm: Rhythm, rng: np.random.Generator) -> Floats:
    """Wide beats from one ventricular focus per patient, with a discordant T wave."""
    n = len(patients)
    direction = rng.normal(0, 1, (n, 3)) * (1.0, 0.8, 1.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    turned = direction + 0.5 * rng.normal(0, 1, (n, 3))
    size = rng.uniform(0.9, 1.7, (n, 1))
    centre = np.tile([-0.02, 0.0, 0.05, 0.27], (n, 1))
    width = np.tile([0.01, 0.028, 0.026, 0.06], (n, 1)) * rng.lognormal(0, 0.08, (n, 1))
    shares = (np.zeros((n, 3)), direction, 0.5 * turned, -0.35 * direction)
    dipole = np.stack([size * share for share in shares], axis=1)
    # The first two kernels stand where P waves stand, which a ventricular beat has not.
    padded = _Beat(
        np.concatenate([centre[:, :1], centre[:, :1], centre], axis=1),
        np.concatenate([width[:, :1], width[:, :1], width], axis=1),
        np.concatenate([np.zeros((n, 2, 3)), dipole], axis=1),
    )
    return _sum_of_gaussians(rhythm, padded, rhythm.sinus, 1 - rhythm.conducted)


def _fibrillation(patients: Patients, rng: np.random.Generator) -> Floats:
    """Fibrillatory waves of 5 to 8 Hz, largest towards V1; zero for everybody else."""
    n = len(patients)
    clock = np.arange(SAMPLES) / RATE
    pitch = rng.uniform(5, 8, (n, 1))
    wobble = rng.uniform(0.3, 1.2, (n, 1)) * np.sin(
        2 * np.pi * (rng.uniform(0.1, 0.5, (n, 1)) * clock + rng.random((n, 1)))
    )
    phase = 2 * np.pi * (pitch * clock + rng.random((n, 1))) + wobble
    wave = np.sin(phase) + 0.3 * np.sin(2 * phase)
    size = rng.uniform(0.02, 0.09, n) * patients.fibrillation
    towards = np.array([-0.35, 0.45, -0.80])
    return np.asarray(size[:, None, None] * wave[..., None] * towards)


def _rotations(patients: Patients, rng: np.random.Generator) -> Floats:
    """``[N, 3, 3]``: how each heart lies; stout and old people's hearts lie more horizontally."""
    n = len(patients)
    lean = np.deg2rad(-4 * patients.stature - 5 * (patients.age - 60) / 15)
    angles = rng.normal(0, np.deg2rad([10, 10, 13]), (n, 3)) + lean[:, None] * (0, 0, 1)
    matrices = np.tile(np.eye(3), (n, 1, 1))
    for axis in range(3):
        a, b = [i for i in range(3) if i != axis]
        turn = np.tile(np.eye(3), (n, 1, 1))
        turn[:, a, a] = turn[:, b, b] = np.cos(angles[:, axis])
        turn[:, a, b], turn[:, b, a] = -np.sin(angles[:, axis]), np.sin(angles[:, axis])
        matrices = turn @ matrices
    return matrices


def _rows(rhythm: Rhythm, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Rhythm:
    return Rhythm(
        rhythm.times[rows], rhythm.sinus[rows], rhythm.conducted[rows], rhythm.interval[rows]
    )
