"""Controls: the injected model asked again with one thing spoilt.

None of them changes the model for good, and all are seeded. ``fedkim_core.prior`` says what they
prove; docs/evaluation.md what each is for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkim_core.answers import Answers
from fedkim_core.data.examples import Batch, Example
from fedkim_core.models.injected import InjectedModel
from fedkim_core.prior import SHUFFLED
from fedkim_core.seeds import derive
from fedkim_core.settings import EvaluationConfig
from server_app.evaluation import ask, unanswered

BLANKED, OTHER_DESCRIPTION, RANDOM_GATE = "blanked", "other_description", "random_gate"
NO_EXPERTS = "no_experts"


def ask_controls(
    model: InjectedModel, examples: Sequence[Example], config: EvaluationConfig, seed: int
) -> dict[str, dict[str, Answers]]:
    """The answers of every control, by control and task.

    ``blanked``: no feature token at all. ``shuffled``: each patient with the features of another
    patient of the same task. With a gate also ``other_description``: the gate reads another
    task's description, ``random_gate``: expert weights drawn at random for each task, and
    ``no_experts``: all weights 0.
    A task with one patient only has no ``shuffled``, a run of one task no ``other_description``.
    """
    answers = {BLANKED: _blanked(model, examples, config)}
    shuffled = [e for task in _tasks(examples) for e in shuffle(_of(task, examples), seed)]
    if shuffled:
        answers[SHUFFLED] = ask(model, shuffled, config)
    if model.gate is not None and len(model.cards) > 1:
        with _replaced(model, "cards", _other_descriptions(model)):
            answers[OTHER_DESCRIPTION] = ask(model, examples, config)
    if model.gate is not None:
        answers[RANDOM_GATE] = {}
        for task in _tasks(examples):
            rng = np.random.default_rng(derive(seed, RANDOM_GATE, task))
            alpha = torch.tensor(rng.dirichlet(np.ones(_experts(model))), dtype=torch.float32)
            with _fixed(model, alpha):
                answers[RANDOM_GATE] |= ask(model, _of(task, examples), config)
        with _fixed(model, torch.zeros(_experts(model))):
            answers[NO_EXPERTS] = ask(model, examples, config)
    return answers


def shuffle(examples: Sequence[Example], seed: int) -> list[Example]:
    """Examples of one task, each patient with the features of another; nobody keeps their own.

    A patient's note and question stay: they are language, not features. One patient gives nothing.
    """
    by_patient: dict[str, list[Example]] = {}
    for example in examples:
        by_patient.setdefault(example.patient_id, []).append(example)
    patients = sorted(by_patient)
    if len(patients) < 2:
        return []
    rng = np.random.default_rng(derive(seed, SHUFFLED, examples[0].task))
    order = rng.permutation(len(patients)).tolist()
    # One circle through all patients, so that each has another's.
    donor = {
        patients[one]: patients[other]
        for one, other in zip(order, order[1:] + order[:1], strict=True)
    }
    turn = dict.fromkeys(patients, 0)
    mixed = []
    for example in examples:
        given = by_patient[donor[example.patient_id]]
        mixed.append(
            replace(example, features=given[turn[example.patient_id] % len(given)].features)
        )
        turn[example.patient_id] += 1
    return mixed


def _blanked(
    model: InjectedModel, examples: Sequence[Example], config: EvaluationConfig
) -> dict[str, Answers]:
    """Without tokens a question that many examples share has one answer, so it is put once."""

    def key(example: Example) -> tuple[object, ...]:
        return example.task, example.question, example.text, tuple(sorted(example.features))

    distinct = list({key(e): e for e in examples}.values())
    with _replaced(model, "extractor", _NoTokens()):
        asked = ask(model, distinct, config)
    answers = {}
    for task in _tasks(examples):
        own, given = _of(task, examples), asked[task]
        place = {key(e): i for i, e in enumerate(_of(task, distinct))}
        rows = [place[key(e)] for e in own]
        answers[task] = unanswered(own)
        answers[task].logits = [given.logits[i] for i in rows if given.logits]
        answers[task].texts = [given.texts[i] for i in rows if given.texts]
    return answers


def _tasks(examples: Sequence[Example]) -> list[str]:
    return sorted({example.task for example in examples})


def _of(task: str, examples: Sequence[Example]) -> list[Example]:
    return [example for example in examples if example.task == task]


def _experts(model: InjectedModel) -> int:
    return int(model.task_alphas(list(model.cards)[:1]).shape[1])


def _other_descriptions(model: InjectedModel) -> dict[str, Any]:
    """Every task card with the description of the next task."""
    names = sorted(model.cards)
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    return {
        name: card.model_copy(update={"description": model.cards[following[name]].description})
        for name, card in model.cards.items()
    }


@contextmanager
def _replaced(model: InjectedModel, name: str, value: object) -> Iterator[None]:
    """Within this context one part of the model is another."""
    own = getattr(model, name)
    setattr(model, name, value)
    try:
        yield
    finally:
        setattr(model, name, own)


def _fixed(model: InjectedModel, alpha: Tensor) -> AbstractContextManager[None]:
    """Within this context every question has the expert weights ``alpha [P]``."""
    return _replaced(model, "gate", _FixedGate(alpha.to(model.foundation.device)))


class _NoTokens(nn.Module):
    """An extractor that sees nothing; the gate still knows which modalities there are."""

    def tokens(self, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        return {}


class _FixedGate(nn.Module):
    """A gate that gives every question the same expert weights ``alpha [P]``."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, task: Tensor, *rest: Tensor) -> Tensor:
        return self.alpha.expand(len(task), -1)
