"""The bootstrap over patients: metrics of resamples, their intervals, and paired differences.

A patient's rows are drawn together, because they are not independent (Efron & Tibshirani, An
Introduction to the Bootstrap, 1993, ch. 8 and 13). The resamples depend on the seed and the set of
patients only, so two models asked about the same patients see the same resamples, and the
difference of their metrics resample by resample is a paired one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1_000_000  # entries of one block of resamples: bounds memory at some tens of MB
_TAILS = (0.025, 0.975)


class Estimate(TypedDict):
    """One score. ``low`` and ``high`` are null when no interval could be computed."""

    value: float
    low: float | None
    high: float | None


class Difference(TypedDict):
    """How much one model is above another on the same patients."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, of no difference; null when it could not be computed."""
    method: str


@dataclass(frozen=True)
class Drawn:
    """The metrics of one model on one task, and what they are on each resample."""

    names: tuple[str, ...]
    point: Floats
    """``[metrics]``; NaN where a metric is undefined, with its reason in ``absent``."""
    draws: Floats
    """``[resamples, metrics]``; NaN where a resample leaves a metric undefined."""
    absent: dict[str, str]
    """Why a metric could not be computed."""

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Values with their 95 % percentile intervals."""
        return {
            name: interval(float(self.point[i]), self.draws[:, i])
            for i, name in enumerate(self.names)
            if name not in self.absent
        }

    @property
    def skipped(self) -> dict[str, int]:
        """Resamples in which a metric was undefined (one class only), where there were any."""
        missed = np.isnan(self.draws).sum(axis=0)
        return {
            name: int(missed[i])
            for i, name in enumerate(self.names)
            if name not in self.absent and missed[i]
        }


def resamples(
    patients: Sequence[str],
    bootstrap: int,
    seed: int,
    strata: Sequence[float] | None = None,
) -> Iterator[Floats]:
    """Yield blocks ``[resamples, n]``: how often each row was drawn. One patient yields none.

    Args:
        patients: ``[n]``, who each row belongs to.
        bootstrap: how many resamples.
        seed: of the draws.
        strata: ``[n]``, such as the labels. Patients are then drawn within their stratum, the
            largest value among their rows, so that every resample has as many of each.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    count = len(names)
    if count < 2:
        return
    groups = [np.arange(count)]
    if strata is not None:
        stratum = np.full(count, -np.inf)
        np.maximum.at(stratum, owner, np.asarray(strata, dtype=np.float64))
        groups = [np.flatnonzero(stratum == value) for value in np.unique(stratum)]
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK // len(owner))
    for start in range(0, bootstrap, size):
        block = min(size, bootstrap - start)
        drawn = [group[rng.integers(0, len(group), (block, len(group)))] for group in groups]
        places = np.concatenate(drawn, axis=1) + count * np.arange(block)[:, None]
        times = np.bincount(places.ravel(), minlength=block * count).reshape(block, count)
        yield times.astype(np.float64)[:, owner]


def interval(value: float, draws: Floats) -> Estimate:
    """``value`` with the 95 % percentile interval of the draws that are defined."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(defined, _TAILS)
    return {"value": value, "low": float(low), "high": float(high)}


def paired(one: Drawn, other: Drawn) -> dict[str, Difference]:
    """``one - other`` of every metric that both have, resample by resample.

    The p-value is the share of resamples on the far side of 0, twice, counting one more for the
    sample itself (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.2).

    Raises:
        ValueError: the two were not drawn from the same metrics and resamples.
    """
    if one.names != other.names:
        raise ValueError("paired: not the same metrics")
    differences: dict[str, Difference] = {}
    for i, name in enumerate(one.names):
        if name in one.absent or name in other.absent:
            continue
        if len(one.draws) != len(other.draws):
            raise ValueError("paired: not the same resamples")
        draws = one.draws[:, i] - other.draws[:, i]
        defined = draws[~np.isnan(draws)]
        p = None
        if len(defined):
            tail = min((defined <= 0).sum(), (defined >= 0).sum())
            p = min(1.0, 2 * (float(tail) + 1) / (len(defined) + 1))
        estimate = interval(float(one.point[i] - other.point[i]), draws)
        differences[name] = {**estimate, "p": p, "method": "bootstrap"}
    return differences
