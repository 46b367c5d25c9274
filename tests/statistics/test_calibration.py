"""Calibration against scikit-learn, SciPy and loops written out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from fedkim_core.statistics.calibration import calibration, ece, probability, reliability, wilson

rows = st.lists(
    st.tuples(st.integers(0, 1), st.floats(-6, 6).map(lambda x: round(x, 2))),
    min_size=1,
    max_size=60,
)


def _of(labels, logits, bootstrap=0):
    patients = [str(i) for i in range(len(labels))]
    return calibration(
        np.array(labels), np.array(logits, float), patients, bootstrap=bootstrap, seed=0
    )


@given(rows)
def test_brier_and_bins_of_equal_width(drawn) -> None:
    labels, logits = (np.array(column, float) for column in zip(*drawn, strict=True))
    said = 1 / (1 + np.exp(-logits))
    found = _of(labels, logits)
    assert found["brier"]["value"] == pytest.approx(np.mean((said - labels) ** 2), abs=1e-12)
    if 0 < labels.sum() < len(labels):
        oracle = brier_score_loss(labels, said)
        assert found["brier"]["value"] == pytest.approx(oracle, abs=1e-12)
    points = reliability(labels, said, "width")
    observed, predicted = calibration_curve(labels, said, n_bins=10, strategy="uniform")
    assert [p["observed"] for p in points] == pytest.approx(observed.tolist())
    assert [p["predicted"] for p in points] == pytest.approx(predicted.tolist())
    weights = [p["n"] / len(labels) for p in points]
    assert found["ece_equal_width"] == pytest.approx(
        np.sum(weights * np.abs(observed - predicted)), abs=1e-12
    )


@given(rows)
def test_bins_of_equal_mass_hold_all_rows_and_split_no_ties(drawn) -> None:
    labels, logits = (np.array(column, float) for column in zip(*drawn, strict=True))
    said = probability(logits)
    points = reliability(labels, said)
    assert sum(p["n"] for p in points) == len(labels)
    assert len(points) <= 10
    assert [p["predicted"] for p in points] == sorted(p["predicted"] for p in points)
    assert 0 <= ece(labels, said, "mass") <= 1
    if len(set(logits)) == len(logits) and len(logits) % 10 == 0:
        order = np.argsort(said)
        want = [abs(labels[part].mean() - said[part].mean()) for part in np.array_split(order, 10)]
        assert ece(labels, said, "mass") == pytest.approx(np.mean(want), abs=1e-12)
    one_value = reliability(labels, np.full(len(labels), 0.3))
    assert [p["n"] for p in one_value] == [len(labels)]


@given(st.integers(0, 2**31 - 1), st.floats(0.3, 3), st.floats(-1, 1))
def test_slope_and_intercept_equal_other_fits(seed, slope, shift) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=150) * 2
    labels = (rng.random(150) < probability(slope * logits + shift)).astype(float)
    if labels.min() == labels.max():
        return
    found = _of(labels, logits)
    fitted = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    assert found["slope"]["value"] == pytest.approx(fitted.coef_[0, 0], rel=1e-3, abs=1e-3)

    def excess(a):
        return np.sum(probability(logits + a) - labels)

    assert found["intercept"]["value"] == pytest.approx(optimize.brentq(excess, -30, 30), abs=1e-6)
    for name in ("slope", "intercept"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_a_calibrated_model_is_called_calibrated() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000) * 1.5
    labels = (rng.random(4000) < probability(logits)).astype(float)
    found = _of(labels, logits, bootstrap=50)
    assert found["slope"]["low"] < 1 < found["slope"]["high"]
    assert found["intercept"]["low"] < 0 < found["intercept"]["high"]
    assert found["ece_equal_mass"] < 0.03
    assert found["brier"]["low"] < found["brier"]["value"] < found["brier"]["high"]
    too_sure = _of(labels, 3 * logits)
    assert too_sure["slope"]["value"] == pytest.approx(found["slope"]["value"] / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "logits", "reasons"),
    [
        ([1, 1], [0.5, 1], {"slope": "all examples have the same answer"}),
        ([0, 1], [0.5, 0.5], {"slope": "all logits are equal"}),
        ([0, 0, 1], [-1, 0, 2], {"slope": "the logits separate the answers without error"}),
    ],
)
def test_what_cannot_be_fitted_has_a_reason(labels, logits, reasons) -> None:
    found = _of(labels, logits)
    for name, reason in reasons.items():
        assert found[name] is None
        assert found["absent"][name] == reason
    json.dumps(found, allow_nan=False)


def test_large_logits_do_not_overflow() -> None:
    found = _of([0, 1, 0, 1, 1], [-800.0, 700.0, 3.0, -2.0, 1.0])
    json.dumps(found, allow_nan=False)
    with pytest.raises(ValueError, match="not finite"):
        _of([0, 1], [0.0, np.inf])
    with pytest.raises(ValueError, match="no rows"):
        _of([], [])


@given(st.integers(1, 60), st.data())
def test_wilson_equals_scipy(n, data) -> None:
    k = data.draw(st.integers(0, n))
    want = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((want.low, want.high), abs=1e-9)
