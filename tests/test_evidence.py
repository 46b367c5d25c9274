"""From answers to the tasks of the summary: what is there, what is absent, and what is flagged."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedkim_core.answers import Answers
from fedkim_core.evidence import compare, draw, task_entries
from fedkim_core.prior import language_prior, permuted_labels
from fedkim_core.sites import by_group, by_site
from fedkim_core.tasks import load_tasks
from tests import drawn

CARDS = load_tasks()


@pytest.fixture(scope="module")
def tasks() -> dict:
    return drawn.tasks(controls=True)


def test_every_task_is_whole_and_strict_json(tasks) -> None:
    text = json.dumps(tasks, allow_nan=False)
    assert json.loads(text).keys() == CARDS.keys()
    for name, entry in tasks.items():
        card, lead = CARDS[name], CARDS[name].metrics[0]
        assert entry["n"] == 120
        assert ("positives" in entry) == (card.answer == "yes_no")
        pairs = {"injected-before", "injected-shuffled", "injected-blanked", "shuffled-before"}
        if card.role == "train":
            pairs.add("injected-extractor")
        else:
            assert entry["extractor"] is None
        assert entry["paired"].keys() == pairs
        difference = entry["paired"]["injected-before"][lead]
        values = [entry[column][lead]["value"] for column in ("injected", "before")]
        assert difference["value"] == pytest.approx(values[0] - values[1], abs=1e-12)
        assert difference["method"] == ("DeLong" if lead == "auroc" else "bootstrap")
        assert difference["p"] <= difference["p_holm"] <= 1
        assert ("calibration" in entry) == (card.answer == "yes_no")


def test_the_model_alone_says_one_thing_and_has_no_operating_point(tasks) -> None:
    entry = tasks["covid19"]
    assert entry["operating"].keys() == {"extractor", "injected"}
    assert entry["undetermined"] == {"operating.before": "all logits are equal"}
    assert entry["calibration"]["before"]["absent"]["slope"] == "all logits are equal"


def test_controls_tell_knowledge_from_wording(tasks) -> None:
    """What was drawn: yes/no tasks know something of the patient, free text only of the words."""
    for name, entry in tasks.items():
        verdict = entry["language_prior"]
        if CARDS[name].answer == "yes_no":
            assert verdict["verdict"] == "knowledge"
            assert verdict["share"] < 0.4
            assert entry["controls"]["blanked"]["auroc"]["value"] == 0.5
            chance = entry["controls"]["labels_permuted"]["auroc"]
            assert chance["low"] < 0.5 < chance["high"]
            assert chance["value"] == pytest.approx(0.5, abs=0.02)
        else:
            assert verdict == {"verdict": "language prior", "share": 1.0}


def _difference(low: float, high: float) -> dict:
    return {"value": (low + high) / 2, "low": low, "high": high, "p": None, "method": ""}


@pytest.mark.parametrize(
    ("gain", "kept", "lost", "verdict", "share"),
    [
        ((0.1, 0.3), (-0.1, 0.1), (0.1, 0.3), "knowledge", 0.0),
        ((0.1, 0.3), (0.05, 0.15), (0.05, 0.15), "partly language prior", 0.5),
        ((0.1, 0.3), (0.1, 0.3), (-0.1, 0.1), "language prior", 1.0),
        ((0.1, 0.3), (-0.1, 0.3), (-0.1, 0.3), "undecided", 0.5),
        ((-0.1, 0.3), (0.1, 0.3), (0.1, 0.3), "no gain", None),
        ((-0.3, -0.1), (-0.3, -0.1), (-0.1, 0.1), "no gain", None),
    ],
)
def test_verdicts(gain, kept, lost, verdict, share) -> None:
    found = language_prior(*(_difference(*ends) for ends in (gain, kept, lost)))
    assert found["verdict"] == verdict
    assert found["share"] == (None if share is None else pytest.approx(share))


def test_sites_are_scored_apart_and_the_lowest_is_named(tasks) -> None:
    given = drawn.columns()["injected"]["mortality"]
    found = tasks["mortality"]["sites"]
    assert found["sites"].keys() | found["left_out"].keys() == set(drawn.SITES)
    values = {}
    for site, score in found["sites"].items():
        rows = [i for i, own in enumerate(given.sites) if own == site]
        labels, logits = np.array(given.labels)[rows], np.array(given.logits)[rows]
        values[site] = roc_auc_score(labels, logits)
        assert score["value"] == pytest.approx(values[site])
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] == score["patients"] == len(rows)
    assert found["lowest"] == min(values, key=values.get)
    assert found["gap"] == pytest.approx(max(values.values()) - min(values.values()))


def test_groups_are_scored_apart_and_small_ones_are_not_shown(tasks) -> None:
    given = drawn.columns()["injected"]["mortality"]
    found = tasks["mortality"]["groups"]
    assert found.keys() == {"sex", "age_band"}
    for sex, score in found["sex"]["sites"].items():
        rows = [i for i, own in enumerate(given.groups["sex"]) if own == sex]
        labels, logits = np.array(given.labels)[rows], np.array(given.logits)[rows]
        assert score["value"] == pytest.approx(roc_auc_score(labels, logits))
    ages = found["age_band"]
    assert list(ages["sites"]) == ["40-59"]
    assert ages["left_out"] == {"80+": "fewer than 10 patients with either answer"}
    assert (ages["gap"], ages["lowest"], ages["unknown"]) == (None, None, 20)
    # Twenty rows of a patient are one patient.
    twice = Answers(**{**vars(given), "patients": [f"p{i // 20}" for i in range(120)]})
    none = by_group(CARDS["mortality"], twice, given.groups["sex"], 5, 0, people=True)
    assert none["sites"] == {}
    words = drawn.columns()["injected"]["med_vqa_rad"]
    few = [None if i > 8 else "female" for i in range(120)]
    left = by_group(CARDS["med_vqa_rad"], words, few, 5, 0, people=True)["left_out"]
    assert left == {"female": "fewer than 10 patients"}


def test_sites_with_few_answers_or_without_a_name() -> None:
    given = drawn.columns()["injected"]["mortality"]
    few = Answers(**{**vars(given), "sites": ["north" if i < 6 else None for i in range(120)]})
    found = by_site(CARDS["mortality"], few, 10, 0)
    assert found["sites"] == {}
    assert found["left_out"] == {"north": "fewer than 5 examples of either answer"}
    assert (found["lowest"], found["gap"], found["unknown"]) == (None, None, 114)
    nobody = Answers(**{**vars(given), "sites": [None] * 120})
    assert by_site(CARDS["mortality"], nobody, 10, 0) is None


def test_broken_logits_have_reasons_and_no_numbers() -> None:
    columns = drawn.columns()
    columns["injected"]["covid19"].logits[3] = math.nan
    entry = task_entries(columns, CARDS, bootstrap=10, seed=0, synthetic=True)["covid19"]
    assert entry["injected"] == {}
    assert entry["absent"]["injected.auroc"] == "1 of 120 logits are not finite"
    assert entry["paired"]["injected-before"] == {}
    assert entry["undetermined"]["calibration.injected"] == "a logit is not finite"
    json.dumps(entry, allow_nan=False)


def test_broken_logits_of_one_column_leave_no_verdict() -> None:
    columns = drawn.columns(controls=True)
    columns["injected"]["covid19"].logits[3] = math.inf
    entry = task_entries(columns, CARDS, bootstrap=10, seed=0, synthetic=True)["covid19"]
    assert "language_prior" not in entry
    assert entry["controls"].keys() == {"shuffled", "blanked"}
    json.dumps(entry, allow_nan=False)


def test_a_task_without_examples() -> None:
    entry = task_entries({}, CARDS, bootstrap=10, seed=0, synthetic=True)["sepsis"]
    assert (entry["n"], entry["injected"], entry["paired"]) == (0, None, {})


def test_answers_in_another_order_are_not_compared() -> None:
    columns = drawn.columns()
    one, other = columns["injected"]["covid19"], columns["before"]["covid19"]
    other.example_ids.reverse()
    both = tuple(draw(CARDS["covid19"], a, bootstrap=5, seed=0) for a in (one, other))
    with pytest.raises(ValueError, match="not the same examples"):
        compare(CARDS["covid19"], one, other, both)


def test_permuted_answers_of_one_kind_say_nothing() -> None:
    given = Answers(["a", "b"], ["yes", "yes"], [1.0, 1.0], [0.1, 0.2])
    assert permuted_labels(CARDS["covid19"], given, 0) is None
    assert permuted_labels(CARDS["med_vqa_rad"], Answers(), 0) is None
