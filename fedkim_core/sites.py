"""Results by group of test patients: the hospital that they resemble, their sex, their age."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedkim_core.answers import Answers
from fedkim_core.metrics import draw_free_text, draw_yes_no
from fedkim_core.statistics.resample import Drawn
from fedkim_core.tasks import TaskCard

MINIMUM = 5
"""Examples of either answer (free text: patients) below which a site's score says nothing."""
SMALLEST = 10
"""Patients with either answer (free text: patients) below which nothing is told of a group."""


def by_site(card: TaskCard, answers: Answers, bootstrap: int, seed: int) -> dict[str, Any] | None:
    """:func:`by_group` of the sites."""
    return by_group(card, answers, answers.sites, bootstrap, seed)


def by_group(
    card: TaskCard,
    answers: Answers,
    groups: Sequence[str | None],
    bootstrap: int,
    seed: int,
    *,
    people: bool = False,
) -> dict[str, Any] | None:
    """The leading metric by site or group, the lowest, and its distance from the highest.

    Args:
        card: of the task.
        answers: of one model.
        groups: of each row; None where unknown.
        bootstrap: resamples over patients.
        seed: of the resamples.
        people: groups are of people (sex, age), so that no small one is shown
            (:data:`SMALLEST`).

    Returns:
        ``metric``, ``sites`` (``{n, patients, value, low, high}`` each), ``left_out`` (by site,
        why), ``gap`` (null with fewer than two sites), ``lowest`` (null without a gap), ``unknown``
        (rows without a site). None where the data name no site at all.
    """
    named = sorted({group for group in groups if group is not None})
    if not named:
        return None
    metric = card.metrics[0]
    sites: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for site in named:
        rows = [i for i, own in enumerate(groups) if own == site]
        patients = len({answers.patients[i] for i in rows})
        few = _too_few_people if people else _too_few
        if reason := few(card, answers, rows, patients):
            left_out[site] = reason
            continue
        drawn = _draw(card, answers, rows, bootstrap, seed)
        if metric in drawn.absent:
            left_out[site] = drawn.absent[metric]
        else:
            sites[site] = {"n": len(rows), "patients": patients, **drawn.metrics[metric]}
    ranked = sorted(sites, key=lambda site: sites[site]["value"])
    gap = sites[ranked[-1]]["value"] - sites[ranked[0]]["value"] if len(ranked) > 1 else None
    return {
        "metric": metric,
        "sites": sites,
        "left_out": left_out,
        "lowest": ranked[0] if gap else None,
        "gap": gap,
        "unknown": sum(group is None for group in groups),
    }


def _too_few(card: TaskCard, answers: Answers, rows: list[int], patients: int) -> str:
    if card.answer == "free_text":
        return "" if patients >= MINIMUM else f"fewer than {MINIMUM} patients"
    yes = sum(answers.labels[i] for i in rows)
    enough = min(yes, len(rows) - yes) >= MINIMUM
    return "" if enough else f"fewer than {MINIMUM} examples of either answer"


def _too_few_people(card: TaskCard, answers: Answers, rows: list[int], patients: int) -> str:
    if card.answer == "free_text":
        return "" if patients >= SMALLEST else f"fewer than {SMALLEST} patients"
    yes, no = ({answers.patients[i] for i in rows if answers.labels[i] == y} for y in (1, 0))
    enough = min(len(yes), len(no)) >= SMALLEST
    return "" if enough else f"fewer than {SMALLEST} patients with either answer"


def _draw(card: TaskCard, answers: Answers, rows: list[int], bootstrap: int, seed: int) -> Drawn:
    patients = [answers.patients[i] for i in rows]
    if card.answer == "yes_no":
        labels, logits = np.array(answers.labels)[rows], np.array(answers.logits)[rows]
        return draw_yes_no(labels, logits, patients, bootstrap=bootstrap, seed=seed)
    truth, said = [answers.truth[i] for i in rows], [answers.texts[i] for i in rows]
    return draw_free_text(truth, said, patients, bootstrap=bootstrap, seed=seed)
