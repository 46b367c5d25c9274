"""Scores of answers, with intervals that say how sure they are.

Every score comes with a 95 % percentile interval from a bootstrap over PATIENTS
(:mod:`fedkim_core.statistics.resample`).

A score that cannot be computed is left out with a reason; it is never 0 and never NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedkim_core.statistics.resample import Drawn, Estimate, Floats, resamples
from fedkim_core.tasks import FREE_TEXT_METRICS, YES_NO_METRICS


@dataclass(frozen=True)
class Scores:
    """What one model reached on one task; every field is ready for JSON."""

    metrics: dict[str, Estimate] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a metric could not be computed."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Resamples in which the metric was undefined (one class only), where there were any."""

    @classmethod
    def of(cls, drawn: Drawn) -> "Scores":
        return cls(drawn.metrics, drawn.absent, drawn.skipped)


def score_yes_no(
    labels: NDArray[np.generic],
    logits: NDArray[np.generic],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Scores:
    """The scores of :func:`draw_yes_no`."""
    return Scores.of(draw_yes_no(labels, logits, patients, bootstrap=bootstrap, seed=seed))


def draw_yes_no(
    labels: NDArray[np.generic],
    logits: NDArray[np.generic],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Drawn:
    """Score yes/no answers.

    Values equal scikit-learn's ``roc_auc_score``, ``average_precision_score``, ``f1_score``,
    ``accuracy_score``, ``precision_score``, ``recall_score`` and ``matthews_corrcoef``, except
    where those fall back to 0 for a zero denominator: here the metric is absent.

    Args:
        labels: ``[n]``, 1 for yes and 0 for no.
        logits: ``[n]``, log odds of yes; an answer is yes when its logit is above 0.
        patients: ``[n]``, who each row belongs to.
        bootstrap: number of resamples; 0 gives no intervals.
        seed: of the resamples.

    Raises:
        ValueError: lengths differ, or a label is neither 0 nor 1.
    """
    truth, scores = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if not len(truth) == len(scores) == len(patients):
        raise ValueError(
            f"lengths differ: {len(truth)} labels, {len(scores)} logits, {len(patients)} patients"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels: must be 0 or 1")
    broken = int(np.count_nonzero(~np.isfinite(scores)))
    if not len(truth) or broken:
        reason = f"{broken} of {len(truth)} logits are not finite" if broken else "no examples"
        return _nothing(YES_NO_METRICS, reason)

    order = np.argsort(scores, kind="stable")
    table = _Sorted(truth[order].astype(np.float64), scores[order])
    point = table.metrics(np.ones((1, len(truth))))[0]
    absent = _reasons(table)
    draws = [np.empty((0, len(YES_NO_METRICS)))]
    draws += [table.metrics(w[:, order]) for w in resamples(patients, bootstrap, seed)]
    return Drawn(YES_NO_METRICS, point, np.concatenate(draws), absent)


def score_free_text(
    answers: Sequence[str],
    predictions: Sequence[str],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Scores:
    """The scores of :func:`draw_free_text`."""
    return Scores.of(draw_free_text(answers, predictions, patients, bootstrap=bootstrap, seed=seed))


def draw_free_text(
    answers: Sequence[str],
    predictions: Sequence[str],
    patients: Sequence[str],
    *,
    bootstrap: int,
    seed: int,
) -> Drawn:
    """Score generated answers: the mean over rows of the scores in ``text_metrics``, each 0..1.

    Raises:
        ValueError: lengths differ.
    """
    from fedkim_core.text_metrics import score_rows  # its packages take a second to import

    if not len(answers) == len(predictions) == len(patients):
        raise ValueError(
            f"lengths differ: {len(answers)} answers, {len(predictions)} predictions, "
            f"{len(patients)} patients"
        )
    if not answers:
        return _nothing(FREE_TEXT_METRICS, "no examples")
    rows = score_rows(answers, predictions)
    return draw_rows(
        np.column_stack([rows[name] for name in FREE_TEXT_METRICS]),
        patients,
        bootstrap=bootstrap,
        seed=seed,
    )


def draw_rows(table: Floats, patients: Sequence[str], *, bootstrap: int, seed: int) -> Drawn:
    """Means over rows of ``table [n, FREE_TEXT_METRICS]``, of the sample and its resamples."""
    draws = [np.empty((0, len(FREE_TEXT_METRICS)))]
    draws += [
        np.einsum("rn,nm->rm", w, table) / w.sum(axis=1, keepdims=True)
        for w in resamples(patients, bootstrap, seed)
    ]
    return Drawn(FREE_TEXT_METRICS, table.mean(axis=0), np.concatenate(draws), {})


def _nothing(names: tuple[str, ...], reason: str) -> Drawn:
    """No metric can be computed, for the one reason."""
    undefined = np.full(len(names), np.nan)
    return Drawn(names, undefined, np.empty((0, len(names))), dict.fromkeys(names, reason))


def auroc(labels: NDArray[np.generic], logits: NDArray[np.generic]) -> float | None:
    """Area under the ROC curve, ties counted half; None when only one class is there.

    Raises:
        ValueError: as :func:`score_yes_no`.
    """
    scores = score_yes_no(labels, logits, [""] * len(labels), bootstrap=0, seed=0)
    return scores.metrics["auroc"]["value"] if "auroc" in scores.metrics else None


class _Sorted:
    """Rows of one task sorted by logit, scored under many weightings at once."""

    def __init__(self, truth: Floats, logits: Floats) -> None:
        self.truth = truth
        self.said_yes = (logits > 0).astype(np.float64)
        # First row of each run of equal logits: rows of one run cannot be told apart.
        self.runs = np.flatnonzero(np.r_[True, logits[1:] != logits[:-1]])

    def metrics(self, weights: Floats) -> Floats:
        """``[resamples, n]`` weights to ``[resamples, YES_NO_METRICS]``; NaN where undefined."""
        positive = np.add.reduceat(weights * self.truth, self.runs, axis=1)
        both = np.add.reduceat(weights, self.runs, axis=1)
        negative = both - positive
        yes, no = positive.sum(axis=1), negative.sum(axis=1)

        lower = np.cumsum(negative, axis=1) - negative
        area = _ratio((positive * (lower + 0.5 * negative)).sum(axis=1), yes * no)

        # Average precision: precision at each threshold, weighed by the recall it adds.
        found = np.cumsum(positive[:, ::-1], axis=1)
        flagged = np.cumsum(both[:, ::-1], axis=1)
        precision_at = found / np.maximum(flagged, 1.0)
        average_precision = _ratio((positive[:, ::-1] * precision_at).sum(axis=1), yes)
        average_precision[no == 0] = np.nan

        tp = np.einsum("rn,n->r", weights, self.truth * self.said_yes)
        fp = np.einsum("rn,n->r", weights, self.said_yes) - tp
        fn, tn = yes - tp, no - fp
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        columns = {
            "auroc": area,
            "auprc": average_precision,
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "accuracy": _ratio(tp + tn, yes + no),
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, yes),
            "mcc": _ratio(tp * tn - fp * fn, spread),
        }
        return np.column_stack([columns[name] for name in YES_NO_METRICS])


def _ratio(top: Floats, bottom: Floats) -> Floats:
    defined = bottom > 0
    return np.where(defined, top / np.where(defined, bottom, 1.0), np.nan)


def _reasons(table: _Sorted) -> dict[str, str]:
    """Why each undefined metric is undefined on these rows."""
    total, yes, said = len(table.truth), int(table.truth.sum()), int(table.said_yes.sum())
    absent = {}
    if yes in (0, total):
        answer = "yes" if yes else "no"
        reason = f"all {total} examples have the answer {answer}; it needs both"
        absent.update(dict.fromkeys(("auroc", "auprc"), reason))
    if not said:
        absent["precision"] = "no example was answered yes"
    if not yes:
        absent["recall"] = "no example has the answer yes"
    if not yes and not said:
        absent["f1"] = "no example has the answer yes or was answered yes"
    if yes in (0, total) or said in (0, total):
        which = "examples have" if yes in (0, total) else "predictions are"
        absent["mcc"] = f"all {which} the same answer"
    return absent
