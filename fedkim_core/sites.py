"""Results by the hospital whose patients the test patients resemble."""

from typing import Any

import numpy as np

from fedkim_core.answers import Answers
from fedkim_core.metrics import draw_free_text, draw_yes_no
from fedkim_core.statistics.resample import Drawn
from fedkim_core.tasks import TaskCard

MINIMUM = 5
"""Examples of either answer (free text: patients) below which a site's score says nothing."""


def by_site(card: TaskCard, answers: Answers, bootstrap: int, seed: int) -> dict[str, Any] | None:
    """The leading metric by site, the lowest site, and its distance from the highest.

    Returns:
        ``metric``, ``sites`` (``{n, patients, value, low, high}`` each), ``left_out`` (by site,
        why), ``gap`` (null with fewer than two sites), ``lowest`` (null without a gap), ``unknown``
        (rows without a site). None where the data name no site at all.
    """
    named = sorted({site for site in answers.sites if site is not None})
    if not named:
        return None
    metric = card.metrics[0]
    sites: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for site in named:
        rows = [i for i, own in enumerate(answers.sites) if own == site]
        patients = len({answers.patients[i] for i in rows})
        if reason := _too_few(card, answers, rows, patients):
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
        "unknown": answers.sites.count(None),
    }


def _too_few(card: TaskCard, answers: Answers, rows: list[int], patients: int) -> str:
    if card.answer == "free_text":
        return "" if patients >= MINIMUM else f"fewer than {MINIMUM} patients"
    yes = sum(answers.labels[i] for i in rows)
    enough = min(yes, len(rows) - yes) >= MINIMUM
    return "" if enough else f"fewer than {MINIMUM} examples of either answer"


def _draw(card: TaskCard, answers: Answers, rows: list[int], bootstrap: int, seed: int) -> Drawn:
    patients = [answers.patients[i] for i in rows]
    if card.answer == "yes_no":
        labels, logits = np.array(answers.labels)[rows], np.array(answers.logits)[rows]
        return draw_yes_no(labels, logits, patients, bootstrap=bootstrap, seed=seed)
    truth, said = [answers.truth[i] for i in rows], [answers.texts[i] for i in rows]
    return draw_free_text(truth, said, patients, bootstrap=bootstrap, seed=seed)
