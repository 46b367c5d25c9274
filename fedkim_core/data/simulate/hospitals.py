"""What makes one hospital differ from another: its patients, its devices and its charting.

Five profiles, named after nobody. Two lack whole modalities (an imaging centre without beds, an
intensive care unit without radiology of its own) and a third charts neither fluids nor drugs in
electronic form. More than five hospitals repeat the profiles under a numbered name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Population:
    """Who comes. The odds multiply the usual odds of a condition."""

    mean_age: float
    pneumonia: float = 1.0
    covid: float = 1.0
    cardiac: float = 1.0
    sepsis: float = 1.0


@dataclass(frozen=True)
class Owned:
    """Share of the patients that have each kind of record; 0 means that nobody has."""

    image: float
    signal: float
    icu: float


@dataclass(frozen=True)
class Scanner:
    """The radiography room."""

    dicom: bool
    gamma: float
    """Exponent of the display curve."""
    low: float
    high: float
    """Window: the share of full scale that becomes black and white."""
    blur: float
    """Standard deviation of the detector's point spread, pixels."""
    noise: float
    """Standard deviation of quantum noise in the lung, share of full scale."""
    portable: float
    """Share of bedside (antero-posterior) films."""
    border: float
    """Width of the black collimator border, pixels."""


@dataclass(frozen=True)
class Amplifier:
    """The electrocardiograph."""

    gain: float
    high_pass: float
    """Corner frequency, Hz."""
    noise: float
    """Standard deviation at each electrode, mV."""
    artefacts: float
    """Share of recordings with a visible artefact."""


@dataclass(frozen=True)
class Charting:
    """What the ward writes down, and how often."""

    fluids: bool
    """Inputs (drugs, fluids) and outputs (losses) are charted electronically."""
    labs_every: float
    """Hours between panels on an ordinary day."""
    vitals: float
    """Share of the hours with charted vital signs."""
    labs_missing: tuple[str, ...] = ()
    """Tests that this laboratory does not offer."""


@dataclass(frozen=True)
class Hospital:
    """One profile."""

    name: str
    population: Population
    owned: Owned
    scanner: Scanner
    amplifier: Amplifier
    charting: Charting


PROFILES: tuple[Hospital, ...] = (
    Hospital(
        "harbour-general",
        Population(64.0),
        Owned(image=0.85, signal=0.8, icu=0.8),
        Scanner(False, 1.0, 0.02, 0.98, blur=0.5, noise=0.009, portable=0.35, border=0),
        Amplifier(gain=1.0, high_pass=0.05, noise=0.010, artefacts=0.45),
        Charting(True, labs_every=8, vitals=0.92, labs_missing=("albumin",)),
    ),
    Hospital(
        "northfield-university",
        Population(60.0, pneumonia=0.8, covid=1.5, cardiac=0.9, sepsis=1.3),
        Owned(image=0.85, signal=0.8, icu=0.85),
        Scanner(True, 0.85, 0.05, 1.0, blur=0.3, noise=0.006, portable=0.5, border=2),
        Amplifier(gain=1.01, high_pass=0.05, noise=0.006, artefacts=0.4),
        Charting(True, labs_every=6, vitals=0.97),
    ),
    Hospital(
        "brookside-imaging",
        Population(57.0, pneumonia=1.2, covid=0.7, cardiac=0.8, sepsis=0.5),
        Owned(image=1.0, signal=0.0, icu=0.0),
        Scanner(False, 1.2, 0.0, 0.92, blur=0.8, noise=0.012, portable=0.03, border=4),
        Amplifier(gain=1.0, high_pass=0.05, noise=0.010, artefacts=0.4),
        Charting(False, labs_every=12, vitals=0.0),
    ),
    Hospital(
        "eastgate-intensive",
        Population(66.0, pneumonia=1.3, covid=1.2, cardiac=1.2, sepsis=1.6),
        Owned(image=0.0, signal=0.75, icu=1.0),
        Scanner(False, 1.0, 0.0, 1.0, blur=0.5, noise=0.009, portable=1.0, border=0),
        Amplifier(gain=0.98, high_pass=0.3, noise=0.016, artefacts=0.6),
        Charting(True, labs_every=6, vitals=0.95, labs_missing=("troponin", "magnesium")),
    ),
    Hospital(
        "lakeside-community",
        Population(69.0, pneumonia=1.1, covid=0.6, cardiac=1.5, sepsis=0.8),
        Owned(image=0.85, signal=0.9, icu=0.6),
        Scanner(False, 1.1, 0.04, 0.95, blur=1.0, noise=0.014, portable=0.25, border=0),
        Amplifier(gain=1.03, high_pass=0.15, noise=0.014, artefacts=0.5),
        Charting(
            False,
            labs_every=12,
            vitals=0.8,
            labs_missing=("lactate", "ph", "pao2", "paco2", "troponin"),
        ),
    ),
)


def hospital_names(sites: int) -> tuple[str, ...]:
    """Names of the first ``sites`` hospitals; a profile used again carries a number."""
    turns = [divmod(i, len(PROFILES)) for i in range(sites)]
    return tuple(PROFILES[k].name + (f"-{turn + 1}" if turn else "") for turn, k in turns)


@dataclass(frozen=True)
class Origin:
    """Which profile each of N patients comes from, so that one set may mix hospitals."""

    profiles: tuple[Hospital, ...]
    index: NDArray[np.int64]
    """``[N]`` into ``profiles``."""

    def __len__(self) -> int:
        return len(self.index)

    def each(self, field: str) -> NDArray[Any]:
        """``[N]``: for each patient a value of the hospital, e.g. ``"scanner.gamma"``."""
        return np.array([attrgetter(field)(p) for p in self.profiles])[self.index]

    def take(self, rows: NDArray[np.int64]) -> "Origin":
        """The patients ``rows`` only."""
        return Origin(self.profiles, self.index[rows])


def one_hospital(profile: Hospital, patients: int) -> Origin:
    """All patients from one hospital."""
    return Origin((profile,), np.zeros(patients, np.int64))


def mixture(profiles: Sequence[Hospital], patients: int) -> Origin:
    """The hospitals in turn, so that each gives the same share."""
    return Origin(tuple(profiles), np.arange(patients) % len(profiles))
