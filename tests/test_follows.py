"""Whose opinion answers follow, against scipy and scikit-learn."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from fedkim_core.answers import Answers
from fedkim_core.evidence import task_entries
from fedkim_core.follows import FEWEST, agreement, follows
from fedkim_core.report.parts import Follows
from fedkim_core.tasks import load_tasks
from tests import drawn


def answers(logits: np.ndarray, labels: np.ndarray, first: int = 0) -> Answers:
    """One row a patient; patients are numbered from ``first``."""
    patients = [f"p{first + i}" for i in range(len(logits))]
    return Answers(
        patients=patients,
        example_ids=patients,
        truth=["yes" if label else "no" for label in labels],
        labels=labels.astype(float).tolist(),
        logits=logits.tolist(),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_head_that_ranks_alike_stands_in(rng: np.random.Generator, sign: float) -> None:
    labels = rng.random(90) < 0.4
    opinion = labels + rng.normal(size=90)
    said = answers(opinion + 0.2 * rng.normal(size=90), labels)
    near = answers(sign * opinion[30:], rng.random(60) < 0.5, first=30)
    far = answers(rng.normal(size=90), rng.random(90) < 0.5)
    found = follows(said, {"far": far, "near": near}, bootstrap=50, seed=0)
    assert found is not None
    assert (found["task"], found["n"]) == ("near", 60)
    rank = spearmanr(said.logits[30:], near.logits).statistic
    assert found["correlation"] == pytest.approx(rank, abs=1e-12)
    head, own = (roc_auc_score(labels[30:], x[30:]) for x in (opinion, np.array(said.logits)))
    assert found["auroc"]["value"] == pytest.approx(head, abs=1e-12)
    assert found["difference"]["value"] == pytest.approx(own - head, abs=1e-12)


def test_the_true_answers_take_no_part_in_the_choice(rng: np.random.Generator) -> None:
    """A head that knows the unseen task well is passed over if the answers do not follow it."""
    labels = rng.random(80) < 0.5
    opinion = rng.normal(size=80)
    heads = {"knows": answers(labels + 0.0, labels), "followed": answers(opinion, labels)}
    found = follows(answers(2 * opinion, labels), heads, bootstrap=0, seed=0)
    assert found is not None
    assert found["task"] == "followed"
    assert found["difference"]["value"] == 0


def test_rows_of_one_patient_share_the_heads_mean(rng: np.random.Generator) -> None:
    labels = rng.random(40) < 0.5
    said, head = (
        answers(rng.normal(size=40), labels),
        answers(rng.normal(size=80), labels.repeat(2)),
    )
    head.patients = [said.patients[i // 2] for i in range(80)]
    found = follows(said, {"a": head}, bootstrap=0, seed=0)
    assert found is not None
    means = np.array(head.logits).reshape(40, 2).mean(1)
    assert abs(found["correlation"]) == pytest.approx(abs(spearmanr(said.logits, means).statistic))


def test_too_little_in_common_says_nothing(rng: np.random.Generator) -> None:
    labels = np.arange(60) % 2 == 0
    said = answers(rng.normal(size=60), labels)
    late = answers(rng.normal(size=60), labels, first=61 - FEWEST)
    constant, broken = answers(np.zeros(60), labels), answers(np.full(60, np.nan), labels)
    heads = {"late": late, "constant": constant, "broken": broken}
    assert follows(said, heads, bootstrap=0, seed=0) is None
    assert follows(said, {}, bootstrap=0, seed=0) is None
    alike = answers(rng.normal(size=60), np.ones(60))
    assert follows(alike, {"a": said}, bootstrap=0, seed=0) is None


def test_agreement_is_spearmans(rng: np.random.Generator) -> None:
    labels = rng.random(50) < 0.5
    opinion = rng.integers(0, 9, 50).astype(float)  # with ties
    said, head = answers(opinion + rng.normal(size=50), labels), answers(opinion, labels)
    want = spearmanr(said.logits, head.logits).statistic
    assert agreement(said, head) == pytest.approx(want, abs=1e-12)
    other = answers(opinion, ~labels)
    assert agreement(said, other) == agreement(said, head)  # the true answers take no part
    with pytest.raises(ValueError, match="not the same examples"):
        agreement(said, answers(opinion, labels, first=1))


def test_there_is_no_agreement_to_speak_of(rng: np.random.Generator) -> None:
    labels = np.arange(60) % 2 == 0
    said = answers(rng.normal(size=60), labels)
    assert agreement(said, answers(np.zeros(60), labels)) is None
    assert agreement(said, answers(np.full(60, np.nan), labels)) is None
    few = answers(rng.normal(size=FEWEST - 1), labels[: FEWEST - 1])
    assert agreement(few, few) is None


def test_agreement_stands_in_the_summary_of_tasks_with_a_head() -> None:
    cards = load_tasks()
    columns = drawn.columns()
    found = task_entries(columns, cards, bootstrap=20, seed=0, synthetic=True)
    assert {n for n, entry in found.items() if "agreement" in entry} == set(columns["extractor"])
    for name, head in columns["extractor"].items():
        rank = spearmanr(columns["injected"][name].logits, head.logits).statistic
        assert found[name]["agreement"] == pytest.approx(rank, abs=1e-12)


def test_it_stands_in_the_summary_of_unseen_yes_no_tasks() -> None:
    cards = load_tasks()
    found = task_entries(drawn.columns(), cards, bootstrap=20, seed=0, synthetic=True)
    has = {name for name, entry in found.items() if "follows" in entry}
    unseen = {n for n, card in cards.items() if (card.role, card.answer) == ("unseen", "yes_no")}
    assert has == unseen
    for name in has:
        read = Follows.model_validate_json(json.dumps(found[name]["follows"], allow_nan=False))
        assert cards[read.task].role == "train"
        assert read.n == found[name]["n"]
