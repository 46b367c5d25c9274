"""Who the patients are: the latent conditions that every modality is drawn from.

Conditions depend on each other as in adult in-patients: hypertension thickens the ventricle,
infarction and hypertrophy lead to heart failure, heart failure enlarges the heart and fills the
pleura, pneumonia leads to sepsis, sepsis to shock and renal failure, and all of these to death.
Base rates are round numbers of the order that the public collections report for their own
patients (RSNA pneumonia 23 % opacity, PTB-XL 44 % normal, CheXpert validation 29-34 % effusion
and atelectasis, MIMIC-III 11-13 % hospital deaths); a severity has a long mild tail.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkim_core.data.simulate.hospitals import Origin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RIGHT, LEFT = 0, 1
"""Sides, the patient's own."""
ANTERIOR, INFERIOR, LATERAL = 0, 1, 2
"""Walls of the left ventricle."""
NO_BLOCK, LEFT_BUNDLE, RIGHT_BUNDLE = 0, 1, 2
NO_ECTOPY, VENTRICULAR, ATRIAL = 0, 1, 2
ENLARGED_RATIO = 0.5
"""Cardiothoracic ratio above which a heart counts as enlarged on a standing film."""


@dataclass(frozen=True)
class Patients:
    """N patients; every field is an array ``[N]``. A severity is 0 (absent) or in (0, 1]."""

    origin: Origin
    age: Floats
    male: Bools
    stature: Floats
    """Build, standard deviations from the mean of the sex."""
    copd: Bools
    hypertension: Bools
    diabetes: Bools
    surgical: Bools
    """Admitted after an operation."""
    # Heart
    heart_failure: Floats
    hypertrophy: Floats
    infarct: Floats
    infarct_wall: Ints
    infarct_acute: Bools
    ischaemia: Floats
    bundle_block: Ints
    fibrillation: Bools
    ectopy: Ints
    heart_ratio: Floats
    """True cardiothoracic ratio."""
    wide_mediastinum: Floats
    # Lung
    pneumonia: Floats
    pneumonia_side: Ints
    pneumonia_zone: Ints
    """0 upper, 1 middle, 2 lower."""
    covid: Floats
    effusion: Floats
    """Severity of the larger side."""
    effusion_right: Floats
    effusion_left: Floats
    atelectasis: Floats
    atelectasis_side: Ints
    # Course in intensive care
    sepsis: Floats
    sepsis_onset: Floats
    """Hours from admission."""
    shock: Floats
    renal: Floats
    respiratory: Floats
    neuro: Floats
    liver: Floats
    death: Bools
    stay: Ints
    """Length of stay, hours; at least 24, as in the usual first-day mortality cohorts."""
    # Which records exist
    has_image: Bools
    has_signal: Bools
    has_icu: Bools

    def __len__(self) -> int:
        return len(self.age)

    def take(self, rows: Ints) -> "Patients":
        """The patients ``rows`` only."""
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays.pop("origin")
        taken = {name: array[rows] for name, array in arrays.items()}
        return Patients(self.origin.take(rows), **taken)

    @property
    def abnormal_ecg(self) -> Bools:
        """Rhythm, conduction, hypertrophy, infarction or repolarisation; ectopic beats count.

        A fast or slow sinus rhythm alone does not.
        """
        conducted = (self.bundle_block != NO_BLOCK) | (self.ectopy != NO_ECTOPY)
        damaged = (self.hypertrophy + self.infarct + self.ischaemia) > 0
        return np.asarray(self.fibrillation | conducted | damaged)

    @property
    def enlarged(self) -> Bools:
        """Enlarged cardiac or mediastinal silhouette."""
        return np.asarray((self.heart_ratio > ENLARGED_RATIO) | (self.wide_mediastinum > 0))

    @property
    def opacity(self) -> Bools:
        """Consolidation or ground glass of an infection (the sense of the RSNA labels)."""
        return np.asarray((self.pneumonia > 0) | (self.covid > 0))


def draw_patients(origin: Origin, rng: np.random.Generator) -> Patients:
    """Draw one patient per entry of ``origin``."""
    n = len(origin)
    odds = {k: origin.each(f"population.{k}") for k in ("pneumonia", "covid", "cardiac", "sepsis")}

    def arises(base: float, *factors: NDArray[np.float64]) -> Bools:
        """Bernoulli with odds = base odds times every factor."""
        chance = np.full(n, base / (1 - base))
        for factor in factors:
            chance = chance * factor
        return np.asarray(rng.random(n) < chance / (1 + chance))

    def severity(present: Bools) -> Floats:
        return np.where(present, 0.1 + 0.9 * rng.beta(1.6, 1.6, n), 0.0)

    def times(present: Bools | Floats, factor: float) -> Floats:
        return np.asarray(factor ** np.asarray(present, np.float64))

    age = np.clip(origin.each("population.mean_age") + rng.normal(0, 16, n), 18, 95)
    older = (age - 60) / 15
    male = rng.random(n) < 0.55
    copd = arises(0.11, np.exp(0.5 * older))
    hypertension = arises(0.42, np.exp(0.6 * older))
    diabetes = arises(0.2, np.exp(0.3 * older))
    surgical = rng.random(n) < 0.25

    hypertrophy = severity(arises(0.06, times(hypertension, 2.5), odds["cardiac"]))
    infarct = severity(
        arises(0.08, np.exp(0.4 * older), times(male, 1.5), times(diabetes, 1.5), odds["cardiac"])
    )
    ischaemia = severity(
        arises(0.1, np.exp(0.3 * older), times(hypertension, 1.4), odds["cardiac"])
    )
    heart_failure = severity(
        arises(
            0.09,
            np.exp(0.5 * older),
            times(infarct > 0, 3.0),
            times(hypertrophy > 0, 2.0),
            odds["cardiac"],
        )
    )
    fibrillation = arises(0.045, np.exp(0.8 * older), times(heart_failure > 0, 3.0))
    bundle = arises(0.06, np.exp(0.5 * older), times(heart_failure > 0, 2.5))
    left = rng.random(n) < np.where(heart_failure > 0, 0.6, 0.35)
    ectopic = arises(0.08, np.exp(0.3 * older), times(heart_failure > 0, 2.0))
    ventricular = rng.random(n) < 0.6
    heart_ratio = (
        rng.normal(0.45, 0.027, n)
        + np.where(heart_failure > 0, 0.03 + 0.1 * heart_failure, 0)
        + 0.03 * hypertrophy
        + 0.008 * np.clip(older, -2, 2)
    )

    covid = severity(arises(0.17, odds["covid"]))
    pneumonia = severity(
        arises(
            0.19, odds["pneumonia"], times(copd, 2.0), times(covid > 0, 0.4), np.exp(0.2 * older)
        )
    )
    pneumonia_side = np.asarray(rng.random(n) < 0.42, np.int64)
    effused = arises(
        0.1, times(heart_failure > 0, 5.0), times(pneumonia > 0, 2.5), times(surgical, 1.8)
    )
    effusion = severity(effused)
    both = rng.random(n) < np.where(heart_failure > 0, 0.6, 0.2)
    side = np.where(
        (pneumonia > 0) & (rng.random(n) < 0.85), pneumonia_side, rng.random(n) < 0.42
    ).astype(np.int64)
    other = effusion * rng.uniform(0.4, 1.0, n) * both
    atelectasis = severity(
        arises(0.14, times(surgical, 2.5), times(effused, 2.5), np.exp(0.2 * older))
    )
    atelectasis_side = np.where(effused & (rng.random(n) < 0.8), side, rng.random(n) < 0.5).astype(
        np.int64
    )

    infection = np.maximum(pneumonia, covid)
    sepsis = severity(
        arises(
            0.14,
            times(pneumonia, 6.0),
            times(covid, 2.5),
            times(diabetes, 1.4),
            times(surgical, 1.4),
            odds["sepsis"],
        )
    )
    acute = (infarct > 0) & (rng.random(n) < 0.4)
    shock = severity(
        arises(0.06, times(sepsis, 25.0), times(heart_failure, 5.0), times(acute, 2.5))
    )
    renal = severity(arises(0.1, times(sepsis, 6.0), times(shock, 8.0), times(diabetes, 1.8)))
    respiratory = severity(
        arises(0.12, times(infection, 12.0), times(heart_failure, 6.0), times(copd, 2.0))
    )
    neuro = severity(arises(0.16, np.exp(0.1 * older)))
    liver = severity(arises(0.06, times(sepsis, 4.0), times(shock, 3.0)))
    # With these weights the latent state itself ranks deaths with AUROC 0.91; a first day of
    # records shows it only in part (strong models on MIMIC-III: 0.87, Harutyunyan et al. 2019).
    risk = (
        -4.9
        + 0.8 * older
        + 1.6 * sepsis
        + 3.6 * shock
        + 2.0 * renal
        + 2.4 * respiratory
        + 4.0 * neuro
        + 1.8 * liver
        + 1.0 * heart_failure
    )
    death = rng.random(n) < 1 / (1 + np.exp(-risk))
    burden = risk - risk.mean()
    stay = np.exp(rng.normal(4.15, 0.6, n) + 0.12 * burden - 0.15 * death)
    in_hospital = (sepsis > 0) & (rng.random(n) < np.where(infection > 0, 0.1, 0.45))
    onset = np.where(in_hospital, rng.uniform(12, 96, n), rng.uniform(-12, 6, n))
    stay = np.clip(np.where(in_hospital, np.maximum(stay, onset + 24), stay), 24, 24 * 30)

    owned = {k: origin.each(f"owned.{k}") for k in ("image", "signal", "icu")}
    draws = {k: rng.random(n) for k in owned}
    # Sicker patients reach intensive care more often; the exponent keeps rates 0 and 1 as they are.
    scale = burden.std() or 1.0
    has = {
        "image": draws["image"] < owned["image"],
        "signal": draws["signal"] < owned["signal"],
        "icu": draws["icu"] < owned["icu"] ** np.exp(-0.5 * burden / scale),
    }
    nothing = ~(has["image"] | has["signal"] | has["icu"])
    commonest = np.argmax(np.stack([owned[k] for k in has]), axis=0)
    for position, kind in enumerate(has):
        has[kind] = has[kind] | (nothing & (commonest == position))

    return Patients(
        origin=origin,
        age=age,
        male=male,
        stature=rng.normal(0, 1, n),
        copd=copd,
        hypertension=hypertension,
        diabetes=diabetes,
        surgical=surgical,
        heart_failure=heart_failure,
        hypertrophy=hypertrophy,
        infarct=infarct,
        infarct_wall=rng.choice(3, n, p=[0.4, 0.4, 0.2]),
        infarct_acute=acute,
        ischaemia=ischaemia,
        bundle_block=np.where(bundle, np.where(left, LEFT_BUNDLE, RIGHT_BUNDLE), NO_BLOCK),
        fibrillation=fibrillation,
        ectopy=np.where(ectopic, np.where(ventricular, VENTRICULAR, ATRIAL), NO_ECTOPY),
        heart_ratio=np.clip(heart_ratio, 0.36, 0.68),
        wide_mediastinum=severity(rng.random(n) < 0.04),
        pneumonia=pneumonia,
        pneumonia_side=pneumonia_side,
        pneumonia_zone=rng.choice(3, n, p=[0.2, 0.3, 0.5]),
        covid=covid,
        effusion=effusion,
        effusion_right=np.where(side == RIGHT, effusion, other),
        effusion_left=np.where(side == LEFT, effusion, other),
        atelectasis=atelectasis,
        atelectasis_side=atelectasis_side,
        sepsis=sepsis,
        sepsis_onset=onset,
        shock=shock,
        renal=renal,
        respiratory=respiratory,
        neuro=neuro,
        liver=liver,
        death=death,
        stay=np.asarray(stay, np.int64),
        has_image=has["image"],
        has_signal=has["signal"],
        has_icu=has["icu"],
    )
