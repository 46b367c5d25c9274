"""Resamples by patient and stratum, and paired differences, against loops written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.metrics import draw_free_text, draw_yes_no
from fedkim_core.statistics.resample import Drawn, paired, resamples


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=2, max_size=30),
    st.integers(0, 2**31 - 1),
)
def test_strata_keep_their_numbers_of_patients(drawn, seed) -> None:
    patients = [f"p{p}" for p, _ in drawn]
    labels = [float(y) for _, y in drawn]
    blocks = list(resamples(patients, 7, seed, strata=labels))
    if len(set(patients)) < 2:
        assert not blocks
        return
    weights = np.concatenate(blocks)
    assert weights.shape == (7, len(drawn))
    stratum = {p: max(y for q, y in zip(patients, labels, strict=True) if q == p) for p in patients}
    first = {p: patients.index(p) for p in stratum}
    for row in weights:
        for i, patient in enumerate(patients):  # all rows of a patient together
            assert row[i] == row[first[patient]]
        for value in set(stratum.values()):
            own = [p for p in stratum if stratum[p] == value]
            assert sum(row[first[p]] for p in own) == len(own)


def test_paired_differences_equal_a_loop_written_out() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i // 2}" for i in range(40)]
    labels = rng.integers(0, 2, 40)
    one, other = rng.normal(size=40) + labels, rng.normal(size=40)
    drawn = [draw_yes_no(labels, logits, patients, bootstrap=99, seed=5) for logits in (one, other)]
    found = paired(*drawn)["accuracy"]
    owned = [np.flatnonzero(np.array(patients) == p) for p in sorted(set(patients))]
    values = []
    for chosen in np.random.default_rng(5).integers(0, 20, (99, 20)):
        rows = np.concatenate([owned[i] for i in chosen])
        right = [((logits[rows] > 0) == labels[rows]).mean() for logits in (one, other)]
        values.append(right[0] - right[1])
    assert found["value"] == pytest.approx(
        ((one > 0) == labels).mean() - ((other > 0) == labels).mean()
    )
    assert (found["low"], found["high"]) == pytest.approx(
        tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12
    )
    tail = min(np.sum(np.array(values) <= 1e-12), np.sum(np.array(values) >= -1e-12))
    assert found["p"] == pytest.approx(min(1, 2 * (tail + 1) / 100))


def test_a_model_against_itself() -> None:
    said = ["left", "right", "no"]
    drawn = draw_free_text(["left", "left", "no"], said, list("abc"), bootstrap=30, seed=0)
    for difference in paired(drawn, drawn).values():
        assert difference == {
            "value": 0.0,
            "low": 0.0,
            "high": 0.0,
            "p": 1.0,
            "method": "bootstrap",
        }


def test_what_one_of_them_lacks_is_left_out() -> None:
    labels = np.array([0, 1, 0, 1])
    fine = draw_yes_no(labels, np.array([-1.0, 1, 2, 3]), list("abcd"), bootstrap=9, seed=0)
    never_yes = draw_yes_no(labels, np.full(4, -1.0), list("abcd"), bootstrap=9, seed=0)
    broken = draw_yes_no(labels, np.full(4, np.nan), list("abcd"), bootstrap=9, seed=0)
    assert {"precision", "mcc"}.isdisjoint(paired(fine, never_yes))
    assert "auroc" in paired(fine, never_yes)
    assert paired(fine, broken) == {}
    with pytest.raises(ValueError, match="same metrics"):
        paired(fine, draw_free_text(["a"], ["a"], ["p"], bootstrap=9, seed=0))
    fewer = Drawn(fine.names, fine.point, fine.draws[:3], {})
    with pytest.raises(ValueError, match="same resamples"):
        paired(fine, fewer)


def test_without_resamples_there_is_no_interval_and_no_p() -> None:
    drawn = draw_yes_no(np.array([0, 1]), np.array([0.0, 1]), ["a", "b"], bootstrap=0, seed=0)
    found = paired(drawn, drawn)["auroc"]
    assert (found["low"], found["high"], found["p"]) == (None, None, None)
