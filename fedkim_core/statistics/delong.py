"""The test of DeLong for two AUROCs on the same patients.

The areas are means of placement values; their covariance follows from those (DeLong, DeLong &
Clarke-Pearson, Biometrics 44:837, 1988), which mid-ranks give in O(n log n) (Sun & Xu, IEEE Signal
Processing Letters 21:1389, 2014). Rows of one patient are not independent: they are added up by
patient first (Obuchowski, Biometrics 53:567, 1997). With one row per patient the two are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedkim_core.statistics.resample import Difference, Floats

METHOD = "DeLong"


@dataclass(frozen=True)
class Pair:
    """Two models that were asked the same yes/no questions."""

    labels: NDArray[np.generic]
    """``[n]``, 1 yes, 0 no; both must occur."""
    one: NDArray[np.generic]
    """``[n]`` logits of the first model."""
    other: NDArray[np.generic]
    """``[n]`` logits of the second model, of the same rows."""
    patients: Sequence[str]
    """``[n]``, who each row belongs to."""


def delong(
    labels: NDArray[np.generic],
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    patients: Sequence[str],
) -> Difference:
    """AUROC of ``one`` minus AUROC of ``other``; see :class:`Pair` and :func:`mean_difference`."""
    return mean_difference([Pair(labels, one, other, patients)])


def mean_difference(pairs: Sequence[Pair]) -> Difference:
    """Mean over pairs of models of the difference in AUROC, with 95 % interval and two-sided p.

    Pairs may be of several tasks or runs. A patient who is asked in several of them is one
    patient: placement values are added up by patient over all pairs, as they are over rows.

    Interval and p are null when in a pair fewer than two patients have either answer, or when no
    variance is left (both models separate the answers perfectly, say) though the areas differ.

    Raises:
        ValueError: no pair, lengths differ, or in a pair one answer is missing.
    """
    parts = [_placed(p.labels, np.stack([p.one, p.other]), p.patients) for p in pairs]
    if not parts:
        raise ValueError("delong: nothing to compare")
    difference = float(np.mean([part.areas[0] - part.areas[1] for part in parts]))
    everybody = np.unique(np.concatenate([part.patients for part in parts]))
    # Rows: yes and no, each scaled by the square root of its correction; then by that of both.
    sums = np.zeros((4, len(everybody)))
    for part in parts:
        yes, no = part.yes[0] - part.yes[1], part.no[0] - part.no[1]
        scales = np.sqrt([*part.corrections, part.corrections[2]])[:, None]
        sums[:, np.searchsorted(everybody, part.patients)] += scales * [yes, no, yes, no]
    variance = (sums[0] @ sums[0] + sums[1] @ sums[1] + 2 * sums[2] @ sums[3]) / len(parts) ** 2
    if np.isnan(variance) or (variance < 1e-15 and difference):
        return {"value": difference, "low": None, "high": None, "p": None, "method": METHOD}
    error = math.sqrt(max(float(variance), 0.0))
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error and difference else 1.0
    half = NormalDist().inv_cdf(0.975) * error
    return {
        "value": difference,
        "low": difference - half,
        "high": difference + half,
        "p": p,
        "method": METHOD,
    }


def auroc_covariance(
    labels: NDArray[np.generic], logits: NDArray[np.generic], patients: Sequence[str]
) -> tuple[Floats, Floats]:
    """AUROC of each model, and their covariance over patients.

    Args:
        labels: ``[n]``.
        logits: ``[models, n]``.
        patients: ``[n]``.

    Returns:
        Areas ``[models]`` and covariance ``[models, models]``, NaN with fewer than two patients of
        either answer.

    Raises:
        ValueError: lengths differ, or one answer is missing.
    """
    part = _placed(labels, logits, patients)
    of_yes, of_no, of_both = part.corrections
    mixed = of_both * (part.yes @ part.no.T)
    covariance = of_yes * (part.yes @ part.yes.T) + of_no * (part.no @ part.no.T)
    return part.areas, covariance + mixed + mixed.T


@dataclass(frozen=True)
class _Placed:
    """Placement values of the rows, less their mean, added up by patient."""

    areas: Floats
    """``[models]``."""
    patients: NDArray[np.str_]
    """``[patients]``, sorted."""
    yes: Floats
    """``[models, patients]``: of a patient's rows with yes, divided by the number of all such."""
    no: Floats
    corrections: tuple[float, float, float]
    """n / (n - 1) of the patients with a yes, with a no, and of all; NaN with fewer than two."""


def _placed(
    labels: NDArray[np.generic], logits: NDArray[np.generic], patients: Sequence[str]
) -> _Placed:
    truth, scores = np.asarray(labels) == 1, np.asarray(logits, dtype=np.float64)
    if scores.shape[1] != len(truth) or len(patients) != len(truth):
        raise ValueError("delong: lengths differ")
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        raise ValueError("delong: both answers must occur")
    placed = np.zeros(scores.shape)
    for row, values in zip(placed, scores, strict=True):
        ranks = _midranks(values)
        row[truth] = (ranks[truth] - _midranks(values[truth])) / n
        row[~truth] = 1 - (ranks[~truth] - _midranks(values[~truth])) / m
    areas = placed[:, truth].mean(axis=1)
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    centred = placed - areas[:, None]
    yes, no = (
        np.stack([np.bincount(owner, np.where(which, row, 0.0)) for row in centred])
        for which in (truth, ~truth)
    )
    counts = (len(np.unique(owner[truth])), len(np.unique(owner[~truth])), len(names))
    few = min(counts) < 2
    of_yes, of_no, of_all = (math.nan if few else count / (count - 1) for count in counts)
    return _Placed(areas, names, yes / m, no / n, (of_yes, of_no, of_all))


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, the mean of them where values are equal."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[where]
    return ranks
