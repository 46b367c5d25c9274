"""Answers drawn at random for all task cards: synthetic, with a known amount of knowledge."""

from typing import Any

import numpy as np

from fedkim_core.answers import Answers
from fedkim_core.evidence import task_entries
from fedkim_core.tasks import TaskCard, load_tasks

SITES = ("north", "harbour", "valley", "university", "coast")
_WORDS = ("left", "right", "no", "yes")


def columns(n: int = 120, *, controls: bool = False) -> dict[str, dict[str, Answers]]:
    """By column and task. Yes/no tasks gain by knowledge, free text by wording alone."""
    drawn: dict[str, dict[str, Answers]] = {}
    for place, card in enumerate(load_tasks().values()):
        rng = np.random.default_rng(place)
        own = _yes_no(card, n, rng) if card.answer == "yes_no" else _free_text(n, rng)
        for column, answers in own.items():
            if controls or column in ("before", "extractor", "injected"):
                drawn.setdefault(column, {})[card.name] = answers
    return drawn


def tasks(*, controls: bool = False, bootstrap: int = 60) -> dict[str, Any]:
    """The ``tasks`` part of a summary of them."""
    return task_entries(
        columns(controls=controls), load_tasks(), bootstrap=bootstrap, seed=0, synthetic=True
    )


def _base(n: int) -> dict[str, Any]:
    return {
        "example_ids": [f"e{i}" for i in range(n)],
        "patients": [f"p{i}" for i in range(n)],
        "sites": [SITES[i % len(SITES)] for i in range(n)],
        "groups": {
            "sex": ["female" if i % 2 else "male" for i in range(n)],
            "age_band": [None if i < 20 else "80+" if i < 30 else "40-59" for i in range(n)],
        },
    }


def _yes_no(card: TaskCard, n: int, rng: np.random.Generator) -> dict[str, Answers]:
    labels = (rng.random(n) < 0.35).astype(float)
    noise = rng.normal(size=n)
    strength = 2.0 if card.role == "train" else 1.2
    logits = {
        "before": np.full(n, 0.3),
        "injected": strength * labels + noise - 1,
        "shuffled": rng.normal(size=n) - 1,
        "blanked": np.full(n, -0.4),
    }
    if card.role == "train":
        logits["extractor"] = strength * labels + 0.8 * noise + 0.4 * rng.normal(size=n) - 1
    truth = ["yes" if label else "no" for label in labels]
    return {
        column: Answers(truth=truth, labels=labels.tolist(), logits=values.tolist(), **_base(n))
        for column, values in logits.items()
    }


def _free_text(n: int, rng: np.random.Generator) -> dict[str, Answers]:
    truth = [_WORDS[i % len(_WORDS)] for i in range(n)]
    shares = {"before": 0.0, "injected": 0.5, "shuffled": 0.5, "blanked": 0.45}
    # The same rows are right in each: nothing hangs on the patient.
    luck = rng.random(n)
    return {
        column: Answers(
            truth=truth,
            labels=[0.0] * n,
            texts=[t if luck[i] < share else "the lung is clear" for i, t in enumerate(truth)],
            **_base(n),
        )
        for column, share in shares.items()
    }
