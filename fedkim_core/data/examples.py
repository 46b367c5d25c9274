"""One question about one patient, and batches of such questions.

Absent modalities stay absent: a batch holds, for each modality, only the rows that have it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Example:
    """A question about a patient, with the modalities that this patient has."""

    example_id: str
    patient_id: str
    task: str
    question: str
    answer: str
    text: str | None = None
    """A short clinical note; used only by tasks whose card names the text modality."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """By modality, shapes as in :mod:`fedkim_core.modalities` (one example, no batch axis)."""
    origin: str | None = None
    """Whose patients this one resembles, where the server's own sets say so."""
    groups: dict[str, str] = field(default_factory=dict)
    """Sex and age band of the patient, where the server's own sets say so."""


@dataclass(frozen=True)
class Features:
    """One modality of a batch."""

    rows: Tensor
    """``[b]`` int64: the rows of the batch that have this modality, ascending."""
    values: Tensor
    """``[u, ...]`` float32, u <= b; tables ``[u, hours, variables]``, NaN where not observed."""
    source: Tensor
    """``[b]`` int64: which of the values a row has. Several questions about one patient share one,
    so that it is encoded once."""


@dataclass(frozen=True)
class Batch:
    """Examples of any tasks, with any subset of modalities each."""

    example_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    texts: tuple[str | None, ...]
    labels: Tensor
    """``[B]`` float32: 1 yes, 0 no, NaN for free-text answers."""
    features: dict[str, Features]

    def __len__(self) -> int:
        return len(self.tasks)


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples into one batch; tables are padded with NaN to the longest in the batch."""
    if not examples:
        raise ValueError("collate: no examples")
    labels = [{YES: 1.0, NO: 0.0}.get(example.answer, float("nan")) for example in examples]
    modalities = sorted({name for example in examples for name in example.features})
    features = {}
    for name in modalities:
        rows = [i for i, example in enumerate(examples) if name in example.features]
        distinct: dict[tuple[int, int], int] = {}
        values: list[Tensor] = []
        source: list[int] = []
        for i in rows:
            value = examples[i].features[name]
            key = value.data_ptr(), len(value)
            if key not in distinct:
                distinct[key] = len(values)
                values.append(value)
            source.append(distinct[key])
        if len({tuple(v.shape) for v in values}) > 1:
            hours = max(v.shape[0] for v in values)
            values = [_pad_hours(v, hours) for v in values]
        features[name] = Features(torch.tensor(rows), torch.stack(values), torch.tensor(source))
    return Batch(
        example_ids=tuple(e.example_id for e in examples),
        patient_ids=tuple(e.patient_id for e in examples),
        tasks=tuple(e.task for e in examples),
        questions=tuple(e.question for e in examples),
        answers=tuple(e.answer for e in examples),
        texts=tuple(e.text for e in examples),
        labels=torch.tensor(labels),
        features=features,
    )


def _pad_hours(table: Tensor, hours: int) -> Tensor:
    padding = table.new_full((hours - table.shape[0], *table.shape[1:]), float("nan"))
    return torch.cat([table, padding])


def batches(
    examples: Sequence[Example], size: int, generator: torch.Generator | None = None
) -> Iterator[Batch]:
    """Every example once, in order or, given a generator, with the patients shuffled by it.

    A patient's examples stay together, so that what they share is encoded once.
    """
    ordered = list(examples)
    if generator:
        patients: dict[str, list[Example]] = {}
        for example in examples:
            patients.setdefault(example.patient_id, []).append(example)
        groups = list(patients.values())
        order = torch.randperm(len(groups), generator=generator).tolist()
        ordered = [example for i in order for example in groups[i]]
    for start in range(0, len(ordered), size):
        yield collate(ordered[start : start + size])
