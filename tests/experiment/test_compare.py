"""Paired differences against scikit-learn, and what pairs with what."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedkim_core.experiment.compare import _difference, _pairs, aurocs, table

rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=20
)


@given(rows)
def test_weighted_auroc_is_that_of_repeated_rows(drawn: list[tuple[int, int, int]]) -> None:
    label, logit, times = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    (got,) = aurocs(label, logit, times[None])
    repeated = np.repeat(np.arange(len(label)), times.astype(int))
    if len(set(label[repeated])) < 2:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(roc_auc_score(label[repeated], logit[repeated]))


def answers(seed: int, logits: list[float], labels: list[int], task: str = "t") -> pl.DataFrame:
    n = len(logits)
    return pl.DataFrame(
        {
            "seed": [seed] * n,
            "task": [task] * n,
            "example_id": [f"e{i}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "label": [float(x) for x in labels],
            "logit": [float(x) for x in logits],
        }
    )


def test_only_what_both_answered_is_compared() -> None:
    one = pl.concat([answers(0, [1, 2, 3], [0, 1, 1]), answers(1, [5, 6], [0, 1])])
    other = answers(0, [9, float("nan")], [0, 1])
    pairs = _pairs(one, other)
    assert pairs.select("seed", "example_id", "logit", "other").rows() == [(0, "e0", 1.0, 9.0)]


def test_the_difference_and_its_spreads() -> None:
    rng = np.random.default_rng(0)
    labels = [0, 1] * 40
    made, points = [], []
    for seed in (0, 1, 2):
        good = np.array(labels) + rng.normal(0, 0.7, 80)
        bad = np.array(labels) + rng.normal(0, 2.0, 80)
        made.append(_pairs(answers(seed, list(good), labels), answers(seed, list(bad), labels)))
        points.append(roc_auc_score(labels, good) - roc_auc_score(labels, bad))
    found = _difference(pl.concat(made), 1)
    assert found is not None
    assert found["difference"] == pytest.approx(np.mean(points))
    assert found["sd_seeds"] == pytest.approx(np.std(points, ddof=1))
    assert found["low"] < found["difference"] < found["high"]
    assert found["low"] > 0  # this much noise is seen in forty patients
    one = _difference(made[0], 1)
    assert one is not None
    assert one["sd_seeds"] is None
    # The same model twice differs by nothing, in every resample.
    same = _pairs(answers(0, [1, 2, 3, 4], [0, 1, 0, 1]), answers(0, [1, 2, 3, 4], [0, 1, 0, 1]))
    null = _difference(same, 1)
    assert null is not None
    assert null["low"] == null["difference"] == null["high"] == 0
    assert _difference(_pairs(answers(0, [1, 2], [1, 1]), answers(0, [2, 1], [1, 1])), 1) is None


def test_the_table_has_signs() -> None:
    line = {"row": "a", "task": "t", "seeds": 2, "difference": 0.1, "sd_seeds": 0.02}
    made = table(pl.DataFrame([{**line, "low": -0.05, "high": 0.25, "n": 9}]), "base")
    assert made.rows == [["a", "+0.100 ± 0.020 [-0.050, +0.250]"]]
    assert "base" in made.title
