"""Paired differences: what pairs with what, and that seeds and patients are kept apart."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from fedkim_core.experiment.compare import _corrected, _of_role, _pairs, table, write_csv
from fedkim_core.experiment.summary import MEAN, Compared


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
    made, points = [], {}
    for seed in (0, 1, 2):
        for task in ("t", "u"):
            good = np.array(labels) + rng.normal(0, 0.7, 80)
            bad = np.array(labels) + rng.normal(0, 2.0, 80)
            both = answers(seed, list(good), labels, task), answers(seed, list(bad), labels, task)
            made.append(_pairs(*both))
            points[seed, task] = roc_auc_score(labels, good) - roc_auc_score(labels, bad)
    t, u, mean = _of_role("a", "train", pl.concat(made))
    assert [t.task, u.task, mean.task, mean.tasks] == ["t", "u", MEAN, 2]
    of_t = [points[seed, "t"] for seed in (0, 1, 2)]
    assert t.value == pytest.approx(np.mean(of_t))
    assert t.sd_seeds == pytest.approx(np.std(of_t, ddof=1))
    assert list(t.each.values()) == pytest.approx(of_t)
    assert mean.value == pytest.approx(np.mean(list(points.values())))
    assert mean.each[1] == pytest.approx((points[1, "t"] + points[1, "u"]) / 2)
    # Six questions to the same patients say more than three.
    assert mean.low > t.low > 0
    (lone,) = _of_role("a", "train", made[0])
    assert (lone.task, lone.sd_seeds, list(lone.each)) == ("t", None, [0])
    # The same model twice differs by nothing, for sure.
    same = _pairs(answers(0, [1, 2, 3, 4], [0, 1, 0, 1]), answers(0, [1, 2, 3, 4], [0, 1, 0, 1]))
    (null,) = _of_role("a", "train", same)
    assert null.low == null.value == null.high == 0
    assert _of_role("a", "train", _pairs(answers(0, [1], [1]), answers(0, [2], [1]))) == []


def compared(row: str, p: float | None, **more: object) -> Compared:
    values = {"row": row, "role": "train", "task": "t", "tasks": 1, "value": 0.1, "p": p, "n": 9}
    return Compared.model_validate({**values, "each": {0: 0.1, 1: 0.1}, **more})


def test_means_and_single_tasks_are_corrected_apart() -> None:
    found = _corrected(
        [
            compared("a", 0.01),
            compared("b", 0.02),
            compared("c", None),
            compared("a", 0.04, task=MEAN, tasks=2),
        ]
    )
    assert [one.p_holm for one in found] == [0.02, 0.02, None, 0.04]


def test_clear_is_after_correction_and_with_every_seed() -> None:
    assert compared("a", 0.001, p_holm=0.04).sign == 1
    assert compared("a", 0.001, p_holm=0.06).sign == 0
    assert compared("a", 0.001, p_holm=0.04, each={0: 0.3, 1: -0.1}).sign == 0
    assert compared("a", 0.001, p_holm=0.04, value=-0.1, each={0: -0.1}).sign == -1


def test_the_table_has_signs(tmp_path: Path) -> None:
    one = compared("a", 0.01, p_holm=0.01, low=-0.05, high=0.25, sd_seeds=0.02)
    made = table([one, compared("a", 0.01, task=MEAN, tasks=2, p_holm=0.2)], "base")
    assert made.header == ["", "t", "mean (train)"]
    assert made.rows == [["a", "+0.100 ± 0.020 [-0.050, +0.250] *", "+0.100"]]
    assert "base" in made.title
    write_csv([one], tmp_path / "compare.csv")
    assert pl.read_csv(tmp_path / "compare.csv")["seeds"].to_list() == [2]
