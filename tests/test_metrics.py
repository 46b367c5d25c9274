"""Scores against scikit-learn and against resampling written out patient by patient."""

import json
import math
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fedkim_core.metrics import auroc, score_free_text, score_yes_no
from fedkim_core.tasks import FREE_TEXT_METRICS, YES_NO_METRICS
from fedkim_core.text_metrics import normalise, score_rows

ORACLES = {
    "auroc": lambda y, s: sk.roc_auc_score(y, s),
    "auprc": lambda y, s: sk.average_precision_score(y, s),
    "f1": lambda y, s: sk.f1_score(y, s > 0, zero_division=np.nan),
    "accuracy": lambda y, s: sk.accuracy_score(y, s > 0),
    "precision": lambda y, s: sk.precision_score(y, s > 0, zero_division=np.nan),
    "recall": lambda y, s: sk.recall_score(y, s > 0, zero_division=np.nan),
    "mcc": lambda y, s: sk.matthews_corrcoef(y, s > 0),
}

# Few distinct values, zero among them: ties and logits on the threshold in most draws.
rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([-2.0, -0.5, 0.0, 0.3, 0.5, 0.7, 1.0])),
    min_size=1,
    max_size=40,
)


def _score(labels, logits, patients=None, bootstrap=0, seed=0):
    owners = [str(i) for i in range(len(labels))] if patients is None else patients
    return score_yes_no(
        np.array(labels), np.array(logits, dtype=float), owners, bootstrap=bootstrap, seed=seed
    )


@given(rows)
@settings(max_examples=200, deadline=None)
def test_values_equal_scikit_learn_and_the_rest_has_a_reason(drawn):
    labels = np.array([int(y) for y, _ in drawn])
    logits = np.array([s for _, s in drawn])
    scores = _score(labels, logits)
    assert set(scores.metrics) | set(scores.absent) == set(YES_NO_METRICS)
    assert not set(scores.metrics) & set(scores.absent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, estimate in scores.metrics.items():
            assert estimate["value"] == pytest.approx(ORACLES[name](labels, logits), abs=1e-12)
        for name in set(scores.absent) - {"auroc", "auprc", "mcc"}:
            assert math.isnan(ORACLES[name](labels, logits))
    one_class = len(set(labels)) == 1
    assert ({"auroc", "auprc"} <= set(scores.absent)) == one_class
    assert ("mcc" in scores.absent) == (one_class or len(set(logits > 0)) == 1)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_values_equal_scikit_learn_on_continuous_logits(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(200) % 3 == 0).astype(int)
    logits = rng.normal(size=200) + labels
    scores = _score(labels, logits)
    for name, oracle in ORACLES.items():
        assert scores.metrics[name]["value"] == pytest.approx(oracle(labels, logits), abs=1e-12)


def test_decision_threshold_is_a_logit_of_zero():
    scores = _score([1, 0, 1, 0], [0.2, -0.2, 0.4, 0.0])
    assert scores.metrics["accuracy"]["value"] == 1.0


def test_interval_equals_resampling_written_out_by_patient():
    rng = np.random.default_rng(3)
    patients = [f"p{i // 3}" for i in range(60)]  # three rows each, kept together
    labels = rng.integers(0, 2, 60)
    logits = np.round(rng.normal(size=60) + labels, 1)
    scores = _score(labels, logits, patients, bootstrap=50, seed=9)

    names = sorted(set(patients))
    drawn = np.random.default_rng(9).integers(0, len(names), (50, len(names)))
    owned = [[i for i, p in enumerate(patients) if p == name] for name in names]
    for name, oracle in ORACLES.items():
        values = []
        for resample in drawn:
            chosen = [i for patient in resample for i in owned[patient]]
            values.append(oracle(labels[chosen], logits[chosen]))
        low, high = np.percentile(values, [2.5, 97.5])
        assert scores.metrics[name]["low"] == pytest.approx(low, abs=1e-12)
        assert scores.metrics[name]["high"] == pytest.approx(high, abs=1e-12)


def test_repeated_rows_of_one_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 2, 40), rng.normal(size=40)
    once = _score(labels, noise + labels, bootstrap=200)
    owners = [str(i) for i in range(40)] * 10
    ten = _score(np.tile(labels, 10), np.tile(noise + labels, 10), owners, bootstrap=200)
    assert ten.metrics["auroc"] == pytest.approx(once.metrics["auroc"])


def test_same_seed_same_interval_other_seed_other_interval():
    labels, logits = np.arange(50) % 2, np.sin(np.arange(50.0))
    first = _score(labels, logits, bootstrap=100, seed=1)
    assert first == _score(labels, logits, bootstrap=100, seed=1)
    assert first.metrics["auroc"] != _score(labels, logits, bootstrap=100, seed=2).metrics["auroc"]


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    labels, logits = np.arange(50) % 2, np.sin(np.arange(50.0))
    whole = _score(labels, logits, bootstrap=100)
    monkeypatch.setattr("fedkim_core.statistics.resample._BLOCK", 700)
    assert _score(labels, logits, bootstrap=100).metrics["mcc"] == pytest.approx(
        whole.metrics["mcc"]
    )


def test_resamples_with_one_class_are_skipped_and_counted():
    scores = _score([1, 0, 0, 0], [2.0, -1.0, 1.0, -2.0], bootstrap=400)
    assert 60 < scores.skipped["auroc"] < 200  # (3/4)^4 of 400 miss the only yes: about 127
    assert scores.skipped["auroc"] == scores.skipped["auprc"]
    assert scores.metrics["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_ranking_score(label):
    scores = _score([label] * 6, [1.0, -1.0, 2.0, 0.5, -0.5, 3.0], bootstrap=20)
    assert "auroc" not in scores.metrics
    answer = "yes" if label else "no"
    assert scores.absent["auroc"] == f"all 6 examples have the answer {answer}; it needs both"
    assert scores.metrics["accuracy"]["value"] == pytest.approx(4 / 6 if label else 2 / 6)


def test_absent_is_never_zero_or_nan():
    scores = _score([0, 0], [-1.0, -2.0], bootstrap=10)
    assert set(scores.absent) == {"auroc", "auprc", "precision", "recall", "f1", "mcc"}
    assert _score([], []).absent == dict.fromkeys(YES_NO_METRICS, "no examples")
    broken = _score([0, 1, 1], [0.1, float("nan"), float("inf")], bootstrap=10)
    assert broken.absent == dict.fromkeys(YES_NO_METRICS, "2 of 3 logits are not finite")
    assert broken.metrics == {}


def test_no_interval_without_resamples_or_with_one_patient():
    for scores in (
        _score([0, 1], [0.1, 0.2], bootstrap=0),
        _score([0, 1], [0.1, 0.2], ["a", "a"], bootstrap=50),
    ):
        assert scores.metrics["auroc"] == {"value": 1.0, "low": None, "high": None}


def test_scores_are_strict_json():
    text = json.dumps(asdict(_score([0, 0], [-1.0, 1.0], bootstrap=10)), allow_nan=False)
    assert json.loads(text)["metrics"]["accuracy"]["value"] == 0.5


@pytest.mark.parametrize(
    ("labels", "logits", "patients"),
    [([0, 1], [1.0], ["a", "b"]), ([0, 1], [1.0, 2.0], ["a"]), ([0, 2], [1.0, 2.0], ["a", "b"])],
)
def test_wrong_input_is_refused(labels, logits, patients):
    with pytest.raises(ValueError, match=r"lengths differ|must be 0 or 1"):
        _score(labels, logits, patients)


def test_auroc_alone():
    labels, logits = np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.1, 0.9, 0.4, 0.4])
    assert auroc(labels, logits) == pytest.approx(sk.roc_auc_score(labels, logits))
    assert auroc(np.zeros(3), np.arange(3)) is None


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  left lung.", "left lung"), ("X-ray", "xray"), ("an «A» theory", "theory"), ("…", "")],
)
def test_normalised_text(text, normal):
    assert normalise(text) == normal


def test_text_scores_of_known_pairs():
    answers = ["the left lower lobe", "yes", "noise in lead V1", "no"]
    said = ["left lower lobe", "Yes.", "lead V1 noise", ""]
    rows = score_rows(answers, said)
    assert list(rows) == list(FREE_TEXT_METRICS)
    # 3 of 3 words right, one short of 4: brevity penalty exp(1 - 4/3).
    assert rows["bleu1"][0] == pytest.approx(math.exp(-1 / 3))
    # Longest common subsequence 3: precision 1, recall 3/4.
    assert rows["rouge_l"][0] == pytest.approx(6 / 7)
    # Precision 1, recall 3/4, one chunk of three matches: F (1 - 0.5 (1/3)^3).
    f = 0.75 / (0.9 * 1 + 0.1 * 0.75)
    assert rows["meteor"][0] == pytest.approx(f * (1 - 0.5 / 27))
    assert rows["exact_match"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert rows["rouge_l"][2] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert [rows[name][3] for name in FREE_TEXT_METRICS] == [0.0] * 4


def test_meteor_matches_stems_and_knows_no_synonyms():
    rows = score_rows(["lung opacities", "physician"], ["lung opacity", "doctor"])
    assert rows["meteor"].tolist() == pytest.approx([1 - 0.5 / 8, 0.0])


def test_free_text_is_the_mean_over_rows_with_interval_by_patient():
    answers, said = ["left", "right", "left", "no"], ["left", "left", "left", "no"]
    scores = score_free_text(answers, said, ["a", "a", "b", "c"], bootstrap=300, seed=0)
    estimate = scores.metrics["exact_match"]
    assert estimate["value"] == 0.75
    assert (estimate["low"], estimate["high"]) == (
        0.5,
        1.0,
    )  # patient a alone is right half the time
    again = score_free_text(answers, said, ["a", "a", "b", "c"], bootstrap=300, seed=0)
    assert again == scores


def test_free_text_without_rows_and_with_unequal_rows():
    empty = score_free_text([], [], [], bootstrap=10, seed=0)
    assert empty.absent == dict.fromkeys(FREE_TEXT_METRICS, "no examples")
    with pytest.raises(ValueError, match="lengths differ"):
        score_free_text(["a"], [], ["p"], bootstrap=10, seed=0)
