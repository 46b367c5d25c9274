"""Operating points against scikit-learn's ROC curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from fedkim_core.statistics.operating import OPERATING_POINTS, operating_points

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=50).filter(
    lambda drawn: len({y for y, _ in drawn}) == 2 and len({s for _, s in drawn}) > 1
)


def _of(labels, logits, bootstrap=0, patients=None):
    owners = patients or [str(i) for i in range(len(labels))]
    return operating_points(
        np.array(labels), np.array(logits, float), owners, bootstrap=bootstrap, seed=1
    )


def _oracle(labels, logits):
    wrong, found, _ = roc_curve(labels, logits, drop_intermediate=False)
    cleared = 1 - wrong
    return [
        *(found[cleared >= level - 1e-9].max() for level in (0.9, 0.95)),
        *(cleared[found >= level - 1e-9].max() for level in (0.9, 0.95)),
    ]


@given(rows)
def test_equals_the_roc_curve(drawn) -> None:
    labels, logits = (np.array(column) for column in zip(*drawn, strict=True))
    drawn_points = _of(labels, logits)
    assert drawn_points.names == OPERATING_POINTS
    assert drawn_points.point.tolist() == pytest.approx(_oracle(labels, logits), abs=1e-9)


def test_interval_equals_resampling_within_each_answer() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 3 == 0).astype(int)
    logits = np.round(rng.normal(size=60) + labels, 1)
    found = _of(labels, logits, bootstrap=40)
    # Patients are in the order of their names, strata in the order of their values.
    names = sorted(str(i) for i in range(60))
    groups = [[n for n in names if labels[int(n)] == value] for value in (0, 1)]
    again = np.random.default_rng(1)
    drawn = [again.integers(0, len(group), (40, len(group))) for group in groups]
    values = []
    for r in range(40):
        chosen = [int(g[i]) for g, d in zip(groups, drawn, strict=True) for i in d[r]]
        values.append(_oracle(labels[chosen], logits[chosen]))
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    for i, name in enumerate(OPERATING_POINTS):
        assert found.metrics[name]["low"] == pytest.approx(low[i], abs=1e-9)
        assert found.metrics[name]["high"] == pytest.approx(high[i], abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "logits", "reason"),
    [
        ([], [], "no examples"),
        ([1, 0], [np.nan, 1], "a logit is not finite"),
        ([1, 1], [0, 1], "all 2 examples have the same answer; it needs both"),
        ([0, 1], [1, 1], "all logits are equal"),
    ],
)
def test_what_cannot_be_computed_has_a_reason(labels, logits, reason) -> None:
    found = _of(labels, logits, bootstrap=5)
    assert found.metrics == {}
    assert found.absent == dict.fromkeys(OPERATING_POINTS, reason)
