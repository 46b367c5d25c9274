"""Operating points: how sensitive a model is where it is specific enough, and the reverse.

The threshold is chosen on the same patients, in every resample anew; so the values are what the
ROC curve reaches, a little more than a threshold fixed beforehand would.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkim_core.statistics.resample import Drawn, Floats, resamples

LEVELS = (0.90, 0.95)
OPERATING_POINTS = tuple(
    f"{what}_at_{round(100 * level)}_{given}"
    for what, given in (("sensitivity", "specificity"), ("specificity", "sensitivity"))
    for level in LEVELS
)


def operating_points(
    labels: NDArray[np.generic],
    logits: NDArray[np.generic],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Drawn:
    """The most sensitive threshold with at least 90 and 95 % specificity, and the reverse.

    Args:
        labels: ``[n]``, 1 yes, 0 no.
        logits: ``[n]``; an answer is yes when its logit reaches the threshold.
        patients: ``[n]``.
        bootstrap: resamples over patients, with as many patients of either answer as there are.
        seed: of the resamples.
    """
    truth, scores = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    nothing = np.full(len(OPERATING_POINTS), np.nan)
    if reason := _why_not(truth, scores):
        none = np.empty((0, len(OPERATING_POINTS)))
        return Drawn(OPERATING_POINTS, nothing, none, dict.fromkeys(OPERATING_POINTS, reason))
    order = np.argsort(scores, kind="stable")
    truth, scores = truth[order], scores[order]
    runs = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    point = _reached(np.ones((1, len(truth))), truth, runs)[0]
    draws = [np.empty((0, len(OPERATING_POINTS)))]
    for weights in resamples(patients, bootstrap, seed, strata=np.asarray(labels).tolist()):
        draws.append(_reached(weights[:, order], truth, runs))
    return Drawn(OPERATING_POINTS, point, np.concatenate(draws), {})


def _why_not(truth: Floats, scores: Floats) -> str:
    if not len(truth):
        return "no examples"
    if not np.isfinite(scores).all():
        return "a logit is not finite"
    if truth.min() == truth.max():
        return f"all {len(truth)} examples have the same answer; it needs both"
    return "all logits are equal" if scores.min() == scores.max() else ""


def _reached(weights: Floats, truth: Floats, runs: NDArray[np.int64]) -> Floats:
    """``[resamples, n]`` weights of rows sorted by logit to ``[resamples, OPERATING_POINTS]``."""
    positive = np.add.reduceat(weights * truth, runs, axis=1)
    negative = np.add.reduceat(weights, runs, axis=1) - positive
    none = np.zeros((len(weights), 1))
    # At threshold k the runs k and above are answered yes; the last threshold says yes of none.
    missed = np.concatenate([none, np.cumsum(positive, axis=1)], axis=1)
    cleared = np.concatenate([none, np.cumsum(negative, axis=1)], axis=1)
    yes, no = missed[:, -1:], cleared[:, -1:]
    defined = (yes > 0) & (no > 0)
    sensitivity = np.where(defined, 1 - missed / np.maximum(yes, 1), np.nan)
    specificity = np.where(defined, cleared / np.maximum(no, 1), np.nan)
    columns = [
        np.where(given >= level - 1e-9, what, -np.inf).max(axis=1)
        for what, given in ((sensitivity, specificity), (specificity, sensitivity))
        for level in LEVELS
    ]
    reached: Floats = np.where(defined, np.column_stack(columns), np.nan)
    return reached
