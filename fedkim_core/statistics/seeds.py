"""Runs with several seeds on the same test patients: two kinds of error, kept apart."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class OverSeeds(TypedDict):
    """One metric over S runs that differ in their seed only."""

    mean: float
    seeds: int
    seed_sd: float | None
    """Standard deviation between the runs: luck of initialisation and order. Null of one run."""
    sampling_se: float | None
    """Standard error of the mean over other patients: luck of the test set. Null without draws."""


def over_seeds(values: NDArray[np.floating], draws: NDArray[np.floating]) -> OverSeeds:
    """Mean of a metric over seeds, its spread between seeds and its sampling error.

    All runs are tested on the same patients, so their sampling errors move together: more seeds do
    not make them smaller. The error of the mean is therefore the standard deviation, over
    resamples, of the mean over seeds on the same resample.

    Args:
        values: ``[S]``.
        draws: ``[S, B]``, the metric on the same B resamples for every run; NaN where undefined.

    Raises:
        ValueError: no run, or not as many rows of draws as values.
    """
    point, drawn = np.asarray(values, np.float64), np.asarray(draws, np.float64)
    if not len(point) or drawn.ndim != 2 or len(drawn) != len(point):
        raise ValueError(f"over_seeds: {point.shape} values, {drawn.shape} draws")
    means = drawn.mean(axis=0)
    means = means[~np.isnan(means)]
    return {
        "mean": float(point.mean()),
        "seeds": len(point),
        "seed_sd": float(point.std(ddof=1)) if len(point) > 1 else None,
        "sampling_se": float(means.std(ddof=1)) if len(means) > 1 else None,
    }
