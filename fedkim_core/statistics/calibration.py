"""Calibration: whether a model that says 80 % is right in 80 of 100 cases.

The probability of yes is the logistic function of the logit. Sources: Brier, Monthly Weather Review
78:1, 1950; expected calibration error, Naeini et al., AAAI 2015; slope and intercept, Cox,
Biometrika 45:562, 1958, as used by Van Calster et al., BMC Medicine 17:230, 2019; interval of a
share, Wilson, JASA 22:209, 1927.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from fedkim_core.statistics.resample import Estimate, Floats, interval, resamples

BINS = 10
_Z = NormalDist().inv_cdf(0.975)


class CurvePoint(TypedDict):
    """One bin of the reliability curve."""

    predicted: float
    """Mean probability of yes."""
    observed: float
    """Share with the answer yes, with its 95 % Wilson interval."""
    low: float
    high: float
    n: int


class Calibration(TypedDict):
    """Calibration of one model on one task."""

    brier: Estimate
    """Mean squared distance of probability and answer; 0 is perfect, 0.25 is always saying 1/2."""
    ece_equal_mass: float
    """Ten bins with as many examples each."""
    ece_equal_width: float
    """Ten bins from 0 to 1 of width 0.1."""
    slope: Estimate | None
    """1 is perfect; below 1 the model is too sure of itself."""
    intercept: Estimate | None
    """0 is perfect; above 0 the model says yes too rarely."""
    absent: dict[str, str]
    """Why slope or intercept could not be computed."""
    curve: list[CurvePoint]


def calibration(
    labels: NDArray[np.generic],
    logits: NDArray[np.generic],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Calibration:
    """Calibration of ``logits [n]`` against ``labels [n]`` (1 yes, 0 no).

    Raises:
        ValueError: no rows, lengths differ, or a logit is not finite.
    """
    truth, scores = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    if not len(truth) == len(scores) == len(patients) or not len(truth):
        raise ValueError("calibration: no rows, or lengths differ")
    if not np.isfinite(scores).all():
        raise ValueError("calibration: a logit is not finite")
    said = probability(scores)
    squares = (said - truth) ** 2
    draws = [np.empty(0)]
    draws += [w @ squares / w.sum(axis=1) for w in resamples(patients, bootstrap, seed)]
    absent: dict[str, str] = {}
    fitted: dict[str, Estimate | None] = {"slope": None, "intercept": None}
    for name, columns, offset in (
        ("slope", np.column_stack([np.ones_like(scores), scores]), np.zeros_like(scores)),
        ("intercept", np.ones((len(scores), 1)), scores),
    ):
        try:
            fitted[name] = _last_coefficient(columns, offset, truth)
        except ValueError as error:
            absent[name] = str(error)
    return {
        "brier": interval(float(squares.mean()), np.concatenate(draws)),
        "ece_equal_mass": ece(truth, said, "mass"),
        "ece_equal_width": ece(truth, said, "width"),
        "slope": fitted["slope"],
        "intercept": fitted["intercept"],
        "absent": absent,
        "curve": reliability(truth, said),
    }


def probability(logits: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def ece(
    labels: NDArray[np.generic],
    said: NDArray[np.generic],
    bins: Literal["mass", "width"],
    count: int = BINS,
) -> float:
    """Mean distance of probability and share of yes over bins, weighed by their size.

    Args:
        labels: ``[n]``.
        said: ``[n]`` probabilities of yes.
        bins: ``mass``: as many examples in each, equal probabilities kept together, so that there
            may be fewer bins; ``width``: of equal width from 0 to 1.
        count: number of bins.
    """
    points = reliability(np.asarray(labels), np.asarray(said), bins, count)
    total = sum(point["n"] for point in points)
    return sum(p["n"] * abs(p["observed"] - p["predicted"]) for p in points) / total


def reliability(
    labels: NDArray[np.generic],
    said: NDArray[np.generic],
    bins: Literal["mass", "width"] = "mass",
    count: int = BINS,
) -> list[CurvePoint]:
    """The reliability curve: bins that hold an example, by rising probability."""
    truth, given = np.asarray(labels, np.float64), np.asarray(said, np.float64)
    inner = np.arange(1, count) / count
    edges = np.quantile(given, inner) if bins == "mass" else inner
    place = np.searchsorted(np.unique(edges), given, side="left")
    points: list[CurvePoint] = []
    for one in np.unique(place):
        own = place == one
        n, share = int(own.sum()), float(truth[own].mean())
        low, high = wilson(share, n)
        predicted = float(given[own].mean())
        points.append({"predicted": predicted, "observed": share, "low": low, "high": high, "n": n})
    return points


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of ``n``."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _last_coefficient(columns: Floats, offset: Floats, truth: Floats) -> Estimate:
    """Last coefficient of a logistic regression, with its 95 % Wald interval; by Newton's method.

    Raises:
        ValueError: there is no finite solution; says why.
    """
    if truth.min() == truth.max():
        raise ValueError("all examples have the same answer")
    if columns.shape[1] == 2:
        logits = columns[:, 1]
        if logits.min() == logits.max():
            raise ValueError("all logits are equal")
        yes, no = logits[truth == 1], logits[truth == 0]
        if yes.min() >= no.max() or yes.max() <= no.min():
            raise ValueError("the logits separate the answers without error")
        # A logit of hundreds and one of tenths alike: Newton's steps want a scale of 1.
        scale = np.array([1.0, logits.std()])
    else:
        scale = np.ones(1)
    design, beta = columns / scale, np.zeros(columns.shape[1])
    for _ in range(100):
        said = probability(design @ beta + offset)
        information = design.T @ (design * (said * (1 - said))[:, None])
        gradient = design.T @ (truth - said)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError as error:
            raise ValueError("the fit did not converge") from error
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    else:
        raise ValueError("the fit did not converge")
    value = float((beta / scale)[-1])
    half = _Z * math.sqrt(float(np.linalg.inv(information)[-1, -1])) / float(scale[-1])
    return {"value": value, "low": value - half, "high": value + half}
