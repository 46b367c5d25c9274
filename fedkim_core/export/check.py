"""What an exported folder answers, against the run's model with its live gate."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedkim_core.data.examples import YES, Example, batches
from fedkim_core.export.load import ExportedModel
from fedkim_core.metrics import score_free_text, score_yes_no
from fedkim_core.models.injected import InjectedModel
from fedkim_core.tasks import TaskCard


@dataclass(frozen=True)
class Check:
    """One task on the validation set of the run, in float32."""

    n: int
    metric: str
    run: float | None
    """The metric of the run's model; None where it cannot be computed."""
    export: float | None
    """The same of what was exported."""
    largest_difference: float | None
    """Of the logits, over patients who have exactly the modalities of the export; None for
    answers in words."""
    same_answers: float
    """Share of the same answers: yes or no, or the same words."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def restricted(examples: Sequence[Example], task: str, present: Sequence[str]) -> list[Example]:
    """The examples of a task without the modalities that are not ``present``."""
    cut = [
        replace(e, features={m: v for m, v in e.features.items() if m in present})
        for e in examples
        if e.task == task
    ]
    return [e for e in cut if e.features]


def run_answers(
    model: InjectedModel, card: TaskCard, examples: Sequence[Example], words: int
) -> list[float] | list[str]:
    """Logits of a yes/no task, texts of another, in the order of the examples."""
    model.eval()
    if card.answer == "yes_no":
        return [v for batch in batches(examples, 16) for v in model.score(batch).tolist()]
    return [text for batch in batches(examples, 16) for text in model.generate(batch, words)]


def compare(
    exported: ExportedModel,
    card: TaskCard,
    present: Sequence[str],
    examples: Sequence[Example],
    wanted: Sequence[float] | Sequence[str],
) -> Check:
    """Put ``examples`` to the exported model; ``wanted`` is what the run's model said of them."""
    metric = card.metrics[0]
    inputs = [(e.features, e.question, e.text) for e in examples]
    patients = [e.patient_id for e in examples]
    if card.answer == "yes_no":
        run, got = np.array(wanted, np.float64), np.array([exported.logit(*i) for i in inputs])
        labels = np.array([e.answer == YES for e in examples], np.int64)
        values = [
            score_yes_no(labels, logits, patients, bootstrap=0, seed=0).metrics.get(metric)
            for logits in (run, got)
        ]
        encoded = {m for m in present if m != "text"}
        whole = [i for i, e in enumerate(examples) if e.features.keys() == encoded]
        difference = float(np.abs(run - got)[whole].max()) if whole else None
        same = float(((run > 0) == (got > 0)).mean())
    else:
        texts = [[str(v) for v in wanted], [exported.answer(*i) for i in inputs]]
        truth = [e.answer for e in examples]
        values = [
            score_free_text(truth, said, patients, bootstrap=0, seed=0).metrics.get(metric)
            for said in texts
        ]
        difference = None
        same = float(np.mean([a == b for a, b in zip(*texts, strict=True)]))
    points = [value["value"] if value else None for value in values]
    return Check(len(examples), metric, points[0], points[1], difference, same)
