"""Whose opinion an answer follows: the task's own head, or that of another trained task.

Of a trained task :func:`agreement` says how nearly the model ranks patients as the federated head
does that it learned from; the true answers take no part, so it moves less by chance than a score.

Nobody trained the model on an unseen task, so what it says must come from what other tasks taught
it. If its answers rank the patients as the head of a trained task does, they pass that head's
opinion on, and their score is that of the head as a stand-in: it shows that the two tasks go
together in these patients, not that the model knows the task.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import polars as pl

from fedkim_core.answers import Answers
from fedkim_core.metrics import draw_yes_no
from fedkim_core.statistics.delong import delong
from fedkim_core.statistics.resample import Difference, Estimate, Floats

FEWEST = 20
"""Patients in common from which on a rank correlation is looked at."""


class Follows(TypedDict):
    """``tasks.<task>.follows`` of ``summary.json``."""

    task: str
    """The trained task."""
    correlation: float
    """Spearman's, between the logits of the answers and those of that task's head."""
    n: int
    """Questions of patients for whom that head was asked as well."""
    auroc: Estimate
    """Of that head for the unseen task; turned round where the correlation is negative."""
    difference: Difference
    """AUROC of the answers minus that, on the same questions."""


def follows(
    said: Answers, heads: Mapping[str, Answers], *, bootstrap: int, seed: int
) -> Follows | None:
    """The trained task whose head ranks patients most nearly as ``said`` does.

    It is chosen by the correlation, in which the true answers take no part.

    Args:
        said: answers to a yes/no task.
        heads: what the extractor said of trained tasks, by task.
        bootstrap: resamples over patients.
        seed: of the resamples.

    Returns:
        None where no head was asked about enough of the same patients, or all their true answers
        are alike.
    """
    closest: tuple[float, str, list[int], Floats] | None = None
    for task, head in heads.items():
        rows, logits = _of_same_patients(said, head)
        if len({said.patients[i] for i in rows}) < FEWEST:
            continue
        correlation = _spearman(np.array(said.logits)[rows], logits)
        if np.isfinite(correlation) and (closest is None or abs(correlation) > abs(closest[0])):
            closest = correlation, task, rows, logits
    if closest is None:
        return None
    correlation, task, rows, logits = closest
    labels = np.array(said.labels)[rows]
    patients = [said.patients[i] for i in rows]
    stand_in = np.copysign(1.0, correlation) * logits
    drawn = draw_yes_no(labels, stand_in, patients, bootstrap=bootstrap, seed=seed)
    if "auroc" not in drawn.metrics:
        return None
    return {
        "task": task,
        "correlation": correlation,
        "n": len(rows),
        "auroc": drawn.metrics["auroc"],
        "difference": delong(labels, np.array(said.logits)[rows], stand_in, patients),
    }


def agreement(said: Answers, head: Answers) -> float | None:
    """Spearman's correlation between the model's logits and those of the task's own head.

    None with fewer than :data:`FEWEST` patients, or where one of them says the same of all.

    Raises:
        ValueError: the two were not asked about the same examples in the same order.
    """
    if said.example_ids != head.example_ids:
        raise ValueError("agreement: not the same examples")
    if len(set(said.patients)) < FEWEST:
        return None
    found = _spearman(np.array(said.logits), np.array(head.logits))
    return found if np.isfinite(found) else None


def _of_same_patients(said: Answers, head: Answers) -> tuple[list[int], Floats]:
    """Rows of ``said`` whose patient the head was asked about, and its mean logit of each."""
    by_patient: dict[str, list[float]] = {}
    for patient, logit in zip(head.patients, head.logits, strict=True):
        by_patient.setdefault(patient, []).append(logit)
    rows = [i for i, patient in enumerate(said.patients) if patient in by_patient]
    return rows, np.array([np.mean(by_patient[said.patients[i]]) for i in rows])


def _spearman(one: Floats, two: Floats) -> float:
    """NaN where one of them is constant or not finite."""
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return float("nan")
    return float(pl.select(pl.corr(pl.Series(one), pl.Series(two), method="spearman")).item())
