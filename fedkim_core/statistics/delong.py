"""The test of DeLong for two AUROCs on the same patients.

The areas are means of placement values; their covariance follows from those (DeLong, DeLong &
Clarke-Pearson, Biometrics 44:837, 1988), which mid-ranks give in O(n log n) (Sun & Xu, IEEE Signal
Processing Letters 21:1389, 2014). Rows of one patient are not independent: they are added up by
patient first (Obuchowski, Biometrics 53:567, 1997). With one row per patient the two are the same.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedkim_core.statistics.resample import Difference, Floats

METHOD = "DeLong"


def delong(
    labels: NDArray[np.generic],
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    patients: Sequence[str],
) -> Difference:
    """AUROC of ``one`` minus AUROC of ``other``, with 95 % interval and two-sided p.

    Args:
        labels: ``[n]``, 1 yes, 0 no; both must occur.
        one: ``[n]`` logits of the first model.
        other: ``[n]`` logits of the second model, of the same rows.
        patients: ``[n]``, who each row belongs to.

    Interval and p are null when fewer than two patients have either answer, or when no variance is
    left (both models separate the answers perfectly, say) though the areas differ.

    Raises:
        ValueError: lengths differ, or one answer is missing.
    """
    areas, covariance = auroc_covariance(labels, np.stack([one, other]), patients)
    difference = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
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
    truth, scores = np.asarray(labels) == 1, np.asarray(logits, dtype=np.float64)
    if scores.shape[1] != len(truth) or len(patients) != len(truth):
        raise ValueError("delong: lengths differ")
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        raise ValueError("delong: both answers must occur")
    models = len(scores)
    placed = np.zeros((models, len(truth)))
    for row, values in zip(placed, scores, strict=True):
        ranks = _midranks(values)
        row[truth] = (ranks[truth] - _midranks(values[truth])) / n
        row[~truth] = 1 - (ranks[~truth] - _midranks(values[~truth])) / m
    areas = placed[:, truth].mean(axis=1)
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    centred = placed - areas[:, None]
    # By patient: sums over its rows with yes, and over its rows with no.
    yes, no = (
        np.stack([np.bincount(owner, np.where(which, row, 0.0)) for row in centred])
        for which in (truth, ~truth)
    )
    with_yes, with_no = (len(np.unique(owner[which])) for which in (truth, ~truth))
    if with_yes < 2 or with_no < 2:
        return areas, np.full((models, models), np.nan)
    everybody = yes.shape[1]
    mixed = everybody / (everybody - 1) * (yes @ no.T)
    covariance = (
        with_yes / (with_yes - 1) * (yes @ yes.T) / m**2
        + with_no / (with_no - 1) * (no @ no.T) / n**2
        + (mixed + mixed.T) / (m * n)
    )
    return areas, covariance


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, the mean of them where values are equal."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[where]
    return ranks
