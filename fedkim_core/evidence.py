"""From the answers of the test set to the ``tasks`` part of ``summary.json``.

Everything here follows from ``answers.parquet`` and the seed alone; docs/evaluation.md has the
formulas and docs/summary.md the fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedkim_core.answers import Answers, Columns
from fedkim_core.follows import agreement, follows
from fedkim_core.metrics import draw_free_text, draw_yes_no
from fedkim_core.prior import LABELS_PERMUTED, SHUFFLED, language_prior, permuted_labels
from fedkim_core.seeds import derive
from fedkim_core.sites import by_group, by_site
from fedkim_core.statistics.calibration import calibration
from fedkim_core.statistics.delong import delong
from fedkim_core.statistics.multiple import holm
from fedkim_core.statistics.operating import operating_points
from fedkim_core.statistics.resample import Difference, Drawn, paired
from fedkim_core.tasks import TaskCard

COLUMNS = ("before", "extractor", "injected")
FURTHER = ("extractor_after",)
"""Columns that only some runs have: heads on the encoders that injection trained."""
COMPARED = (("injected", "before"), ("injected", "extractor"))


def task_entries(
    answers: Columns,
    cards: Mapping[str, TaskCard],
    *,
    bootstrap: int,
    seed: int,
    synthetic: bool,
) -> dict[str, Any]:
    """Scores of every task, and what they are worth: ``tasks`` of ``summary.json``.

    Args:
        answers: by column and task.
        cards: of the run's tasks.
        bootstrap: resamples over patients; the same for every column of a task.
        seed: of the run.
        synthetic: whether the patients are simulated.
    """
    entries = {}
    for name, card in cards.items():
        own = {column: tasks[name] for column, tasks in answers.items() if name in tasks}
        own_seed = derive(seed, "bootstrap", name) % 2**32
        entries[name] = _entry(card, own, bootstrap, own_seed) | {"synthetic": synthetic}
        if card.role == "unseen" and card.answer == "yes_no" and "injected" in own:
            heads = answers.get("extractor", {})
            if found := follows(own["injected"], heads, bootstrap=bootstrap, seed=own_seed):
                entries[name]["follows"] = found
    for one, other in COMPARED:
        _adjust(entries, cards, f"{one}-{other}")
    return entries


def draw(card: TaskCard, answers: Answers, *, bootstrap: int, seed: int) -> Drawn:
    """The metrics of one column of a task, and of its resamples."""
    if card.answer == "yes_no":
        return draw_yes_no(
            np.array(answers.labels),
            np.array(answers.logits),
            answers.patients,
            bootstrap=bootstrap,
            seed=seed,
        )
    return draw_free_text(
        answers.truth, answers.texts, answers.patients, bootstrap=bootstrap, seed=seed
    )


def compare(
    card: TaskCard, one: Answers, other: Answers, drawn: tuple[Drawn, Drawn]
) -> dict[str, Difference]:
    """One model minus another by metric: AUROC by DeLong's test, the others by the bootstrap.

    Raises:
        ValueError: the two were not asked about the same examples in the same order.
    """
    if one.example_ids != other.example_ids:
        raise ValueError("compare: not the same examples")
    differences = paired(*drawn)
    if card.answer == "yes_no" and "auroc" in differences:
        exact = delong(
            np.array(one.labels), np.array(one.logits), np.array(other.logits), one.patients
        )
        if exact["p"] is not None:
            differences["auroc"] = exact
    return differences


def _entry(card: TaskCard, own: Mapping[str, Answers], bootstrap: int, seed: int) -> dict[str, Any]:
    drawn = {c: draw(card, given, bootstrap=bootstrap, seed=seed) for c, given in own.items()}
    some = next(iter(own.values()), Answers())
    entry: dict[str, Any] = {"role": card.role, "answer": card.answer, "n": len(some.patients)}
    if card.answer == "yes_no":
        entry["positives"] = int(sum(some.labels))
    absent: dict[str, str] = {}
    for column in (*COLUMNS, *(c for c in FURTHER if c in own)):
        entry[column] = drawn[column].metrics if column in own else None
        if column in own:
            absent |= {f"{column}.{metric}": why for metric, why in drawn[column].absent.items()}
    entry["absent"] = absent
    entry["paired"] = {
        f"{one}-{other}": compare(card, own[one], own[other], (drawn[one], drawn[other]))
        for one, other in COMPARED
        if one in own and other in own
    }
    if card.answer == "yes_no":
        entry |= _yes_no_entry(own, bootstrap, seed)
        if "injected" in own and "extractor" in own:
            entry["agreement"] = agreement(own["injected"], own["extractor"])
    if "injected" in own and (sites := by_site(card, own["injected"], bootstrap, seed)):
        entry["sites"] = sites
    if "injected" in own and (groups := _by_groups(card, own["injected"], bootstrap, seed)):
        entry["groups"] = groups
    if controls := [column for column in own if column not in (*COLUMNS, *FURTHER)]:
        _add_controls(entry, card, own, drawn, controls, seed)
    return entry


def _by_groups(card: TaskCard, injected: Answers, bootstrap: int, seed: int) -> dict[str, Any]:
    """By sex and by age band, where the test set names them."""
    found = {
        name: by_group(card, injected, groups, bootstrap, seed, people=True)
        for name, groups in injected.groups.items()
    }
    return {name: by_one for name, by_one in found.items() if by_one is not None}


def _add_controls(
    entry: dict[str, Any],
    card: TaskCard,
    own: Mapping[str, Answers],
    drawn: Mapping[str, Drawn],
    controls: Sequence[str],
    seed: int,
) -> None:
    """``controls`` with their differences from the injected model, and ``language_prior``."""
    metric = card.metrics[0]
    entry["controls"] = {name: drawn[name].metrics for name in controls}
    if permuted := permuted_labels(card, own["injected"], seed):
        entry["controls"][LABELS_PERMUTED] = {metric: permuted}
    differences = entry["paired"]
    pairs = [("injected", name) for name in controls]
    if SHUFFLED in controls:
        pairs.append((SHUFFLED, "before"))
    for one, other in pairs:
        found = compare(card, own[one], own[other], (drawn[one], drawn[other]))
        differences[f"{one}-{other}"] = found
    needed = ("injected-before", f"{SHUFFLED}-before", f"injected-{SHUFFLED}")
    if all(metric in differences.get(pair, {}) for pair in needed):
        entry["language_prior"] = language_prior(*(differences[pair][metric] for pair in needed))


def _yes_no_entry(own: Mapping[str, Answers], bootstrap: int, seed: int) -> dict[str, Any]:
    """Calibration and operating points of each column; why not, where there are none."""
    found: dict[str, Any] = {"calibration": {}, "operating": {}, "undetermined": {}}
    for column in COLUMNS:
        if column not in own:
            continue
        given = own[column]
        labels, logits = np.array(given.labels), np.array(given.logits)
        points = operating_points(labels, logits, given.patients, bootstrap=bootstrap, seed=seed)
        if points.metrics:
            found["operating"][column] = points.metrics
        else:
            found["undetermined"][f"operating.{column}"] = next(iter(points.absent.values()))
        if len(labels) and np.isfinite(logits).all():
            found["calibration"][column] = calibration(
                labels, logits, given.patients, bootstrap=bootstrap, seed=seed
            )
        else:
            reason = "a logit is not finite" if len(labels) else "no examples"
            found["undetermined"][f"calibration.{column}"] = reason
    return found


def _adjust(entries: Mapping[str, Any], cards: Mapping[str, TaskCard], pair: str) -> None:
    """Holm's correction over tasks of each comparison's leading metric."""
    leading = {}
    for name, entry in entries.items():
        difference = entry["paired"].get(pair, {}).get(cards[name].metrics[0])
        if difference and difference["p"] is not None:
            leading[name] = difference
    adjusted = holm({name: difference["p"] for name, difference in leading.items()})
    for name, difference in leading.items():
        difference["p_holm"] = adjusted[name]
