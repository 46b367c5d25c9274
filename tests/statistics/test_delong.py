"""DeLong's test against its definition, published data, and the bootstrap over patients."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedkim_core.statistics.delong import Pair, auroc_covariance, delong, mean_difference

# Albumin, total protein, 10 minus the K-G score, and whether surgery helped: 43 complete cases of
# the 49 patients with ovarian cancer of DeLong, DeLong & Clarke-Pearson (1988), as printed in
# SAS/STAT User's Guide, The LOGISTIC Procedure, Example "Comparing Receiver Operating
# Characteristic Curves".
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def _singles(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_published_comparison_of_three_tests() -> None:
    """The overall chi-square of that example is 2.5340 with 2 degrees of freedom, p 0.2817."""
    table = np.array(OVARIAN.split(), float).reshape(-1, 4)
    albumin, protein, score, labels = table.T
    tests = np.stack([albumin, 10 - score, protein])
    areas, covariance = auroc_covariance(labels, tests, _singles(43))
    contrast = np.array([[1, -1, 0], [0, -1, 1]])
    estimate = contrast @ areas
    chi_square = estimate @ np.linalg.solve(contrast @ covariance @ contrast.T, estimate)
    assert chi_square == pytest.approx(2.5340, abs=5e-5)
    assert stats.chi2.sf(chi_square, 2) == pytest.approx(0.2817, abs=5e-5)


def _written_out(labels, one, other):
    """Placement values of every pair, as the paper defines them."""
    components = []
    for scores in (one, other):
        yes, no = scores[labels == 1], scores[labels == 0]
        psi = np.array([[1.0 * (x > y) + 0.5 * (x == y) for y in no] for x in yes])
        components.append((psi.mean(), psi.mean(axis=1), psi.mean(axis=0)))
    (a, v10, v01), (b, w10, w01) = components
    variance = np.var(v10 - w10, ddof=1) / len(v10) + np.var(v01 - w01, ddof=1) / len(v01)
    return a - b, math.sqrt(variance)


rows = st.lists(
    st.tuples(st.booleans(), st.integers(-3, 3), st.integers(-3, 3)), min_size=4, max_size=30
).filter(lambda drawn: 2 <= sum(y for y, _, _ in drawn) <= len(drawn) - 2)


@given(rows)
def test_equals_its_definition_with_ties(drawn) -> None:
    labels, one, other = (np.array(column, float) for column in zip(*drawn, strict=True))
    difference, error = _written_out(labels, one, other)
    found = delong(labels, one, other, _singles(len(labels)))
    assert found["value"] == pytest.approx(difference, abs=1e-12)
    areas = [roc_auc_score(labels, scores) for scores in (one, other)]
    assert found["value"] == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if error > 1e-6:
        assert found["high"] - found["value"] == pytest.approx(1.959964 * error, rel=1e-5)
        assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(difference) / error), abs=1e-9)
    elif abs(difference) > 1e-9:
        assert found["p"] is None


@given(rows)
def test_the_other_way_round_is_the_negative(drawn) -> None:
    labels, one, other = (np.array(column, float) for column in zip(*drawn, strict=True))
    patients = _singles(len(labels))
    forth, back = delong(labels, one, other, patients), delong(labels, other, one, patients)
    assert forth["value"] == pytest.approx(-back["value"], abs=1e-12)
    assert forth["p"] == (None if back["p"] is None else pytest.approx(back["p"], abs=1e-9))


def _example(seed: int, patients: int, rows_each: int):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rows_each)
    labels = (rng.random(len(owner)) < 0.4).astype(float)
    own = rng.normal(size=patients)[owner]  # what a patient's rows share
    one = 1.2 * labels + own + 0.5 * rng.normal(size=len(owner))
    other = 0.6 * labels + own + 0.5 * rng.normal(size=len(owner))
    return labels, one, other, [str(i) for i in owner]


def test_rows_of_a_patient_repeated_add_nothing() -> None:
    labels, one, other, patients = _example(0, 60, 1)
    once = delong(labels, one, other, patients)
    four = delong(*(np.tile(x, 4) for x in (labels, one, other)), patients * 4)
    for key in ("value", "low", "high", "p"):
        assert four[key] == pytest.approx(once[key], rel=1e-9)


def test_error_by_patient_agrees_with_the_bootstrap_over_patients() -> None:
    labels, one, other, patients = _example(1, 80, 4)
    found = delong(labels, one, other, patients)
    error = (found["high"] - found["low"]) / 2 / 1.959964
    rng = np.random.default_rng(2)
    owned = {p: np.flatnonzero(np.array(patients) == p) for p in set(patients)}
    names = sorted(owned)
    draws = []
    for _ in range(400):
        rows = np.concatenate([owned[names[i]] for i in rng.integers(0, 80, 80)])
        draws.append(
            roc_auc_score(labels[rows], one[rows]) - roc_auc_score(labels[rows], other[rows])
        )
    assert error == pytest.approx(np.std(draws, ddof=1), rel=0.15)
    independent = delong(labels, one, other, _singles(len(labels)))
    assert independent["value"] == found["value"]


def test_a_model_that_says_one_thing_of_all() -> None:
    labels, one, _, patients = _example(3, 50, 1)
    found = delong(labels, one, np.zeros(50), patients)
    assert found["value"] == pytest.approx(roc_auc_score(labels, one) - 0.5)
    assert 0 < found["p"] < 1
    same = delong(labels, one, one, patients)
    assert (same["value"], same["p"]) == (0.0, 1.0)


def test_what_cannot_be_tested_has_no_p() -> None:
    labels = np.array([1.0, 1, 0, 0])
    perfect = delong(labels, np.array([2.0, 3, 0, 1]), np.zeros(4), _singles(4))
    assert perfect["value"] == 0.5
    assert (perfect["low"], perfect["p"]) == (None, None)
    lonely = delong(np.array([1.0, 0, 0]), np.array([1.0, 2, 0]), np.zeros(3), _singles(3))
    assert lonely["p"] is None
    with pytest.raises(ValueError, match="both answers"):
        delong(np.ones(3), np.zeros(3), np.zeros(3), _singles(3))
    with pytest.raises(ValueError, match="lengths differ"):
        delong(labels, np.zeros(4), np.zeros(4), _singles(3))


def test_mean_over_strangers_adds_variances() -> None:
    """Pairs without a patient in common are independent."""
    examples = [_example(seed, 50, 2) for seed in (4, 5, 6)]
    pairs = [
        Pair(labels, one, other, [f"{i}-{p}" for p in patients])
        for i, (labels, one, other, patients) in enumerate(examples)
    ]
    each = [delong(*example) for example in examples]
    found = mean_difference(pairs)
    assert found["value"] == pytest.approx(np.mean([d["value"] for d in each]))
    halves = np.array([d["high"] - d["value"] for d in each])
    assert found["high"] - found["value"] == pytest.approx(np.sqrt((halves**2).sum()) / 3)


def test_mean_over_the_same_patients_agrees_with_the_bootstrap() -> None:
    """Two tasks, two seeds: a patient is drawn for all of them."""
    rng = np.random.default_rng(7)
    own, pairs = rng.normal(size=80), []
    for _ in range(4):
        labels = (rng.random(80) < 0.4).astype(float)
        one = 1.2 * labels + own + 0.3 * rng.normal(size=80)
        other = 0.5 * labels - own + 0.3 * rng.normal(size=80)
        pairs.append(Pair(labels, one, other, _singles(80)))

    def mean(rows) -> float:
        return np.mean(
            [
                roc_auc_score(p.labels[rows], p.one[rows])
                - roc_auc_score(p.labels[rows], p.other[rows])
                for p in pairs
            ]
        )

    found = mean_difference(pairs)
    assert found["value"] == pytest.approx(mean(np.arange(80)))
    draws = [mean(rng.integers(0, 80, 80)) for _ in range(300)]
    assert (found["high"] - found["value"]) / 1.959964 == pytest.approx(
        np.std(draws, ddof=1), rel=0.2
    )


def test_the_same_comparison_twice_says_no_more_than_once() -> None:
    labels, one, other, patients = _example(8, 60, 1)
    pair = Pair(labels, one, other, patients)
    once, twice = delong(labels, one, other, patients), mean_difference([pair, pair])
    for key in ("value", "low", "high", "p"):
        assert twice[key] == pytest.approx(once[key])
    with pytest.raises(ValueError, match="nothing to compare"):
        mean_difference([])
