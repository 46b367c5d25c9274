"""One patient, one question, one answer, with what is known about its worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fedkim_core.answers import ANSWERS, read_frame
from fedkim_core.data.examples import NO, YES, Example, collate
from fedkim_core.errors import UserError
from fedkim_core.models.injected import InjectedModel
from fedkim_core.report.schema import Summary
from fedkim_core.settings import Config

NOTE_LIMIT = 2000
"""Characters of a question or note: a prompt must stay within what the model was trained for."""
FEWEST = 20
"""Test patients below which nothing is said about calibration."""
NEIGHBOURS = 50


@dataclass(frozen=True)
class Reply:
    """What is said of one question, ready for JSON."""

    task: str
    question: str
    answer: str
    probability: float | None
    """Of "yes"; None for answers in words."""
    given: list[str]
    """The modalities that were read."""
    lacking: list[str]
    """Modalities of the task that were not given."""
    calibration: str
    notes: list[str]


class Advisor:
    """A run's model, asked about patients from outside the run.

    Args:
        model: with the last checkpoint loaded.
        summary: of the run, if it has one.
        answers: of the run on its test set: by task, labels ``[n]`` and logits ``[n]``.
    """

    def __init__(
        self,
        model: InjectedModel,
        config: Config,
        summary: Summary | None,
        answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.model, self.config, self.summary = model.eval(), config, summary
        self._answers = answers
        self._asked = Lock()

    def readable(self, task: str) -> list[str]:
        """The modalities of a task that this run has an encoder for.

        Raises:
            UserError: no such task in this run.
        """
        cards = self.model.cards
        if task not in cards:
            raise UserError(f"task {task[:40]}: not one of this run; {', '.join(cards)}")
        return [m for m in cards[task].encoded if m in self.model.extractor.encoders]

    def example(
        self,
        task: str,
        features: Mapping[str, Tensor],
        question: str | None = None,
        note: str | None = None,
    ) -> Example:
        """One question to :meth:`answer`; shapes of ``features`` as in fedkim_core/modalities.py.

        Raises:
            UserError: no such task, nothing that it reads, or something that it does not.
        """
        readable = self.readable(task)
        card = self.model.cards[task]
        if not readable:
            raise UserError(f"{task}: this run has no encoder for {' or '.join(card.encoded)}")
        if odd := [m for m in features if m not in readable]:
            raise UserError(f"{odd[0]}: {task} reads {', '.join(readable)} in this run")
        if not features:
            raise UserError(f"{task}: nothing to read; give at least one of {', '.join(readable)}")
        if note and "text" not in card.modalities:
            raise UserError(f"note: {task} reads none")
        for name, text in (("question", question), ("note", note)):
            if text and len(text) > NOTE_LIMIT:
                raise UserError(f"{name}: longer than {NOTE_LIMIT} characters")
        asked = (question or "").strip() or card.question
        return Example(
            "asked", "asked", task, asked, "", (note or "").strip() or None, dict(features)
        )

    @torch.no_grad()
    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        """Answers in the order of the questions, which may be of different tasks.

        Experts stay merged into the foundation model from one call to the next, as long as all
        questions have the same task and modalities (``evaluation.merge_experts``).

        Raises:
            UserError: the model gives something that is not a number.
        """
        with self._asked:
            keys = {self.model.key(e.task, e.features) for e in examples}
            alike = len(keys) == 1 and self.config.evaluation.merge_experts
            self.model.keep_merged(keys.pop() if alike else None)
            return self._answer(examples)

    def _answer(self, examples: Sequence[Example]) -> list[Reply]:
        logits: dict[int, float] = {}
        texts: dict[int, str] = {}
        cards = self.model.cards
        yes_no = [i for i, e in enumerate(examples) if cards[e.task].answer == "yes_no"]
        words = [i for i in range(len(examples)) if i not in yes_no]
        if yes_no:
            scores = self.model.score(collate([examples[i] for i in yes_no])).tolist()
            logits = dict(zip(yes_no, scores, strict=True))
        if words:
            length = self.config.evaluation.max_new_tokens
            said = self.model.generate(collate([examples[i] for i in words]), length)
            texts = dict(zip(words, said, strict=True))
        if not np.isfinite(list(logits.values())).all():
            raise UserError("the model's answer is not a number; was the run's training stable?")
        return [self._reply(e, logits.get(i), texts.get(i)) for i, e in enumerate(examples)]

    def _reply(self, example: Example, logit: float | None, text: str | None) -> Reply:
        card = self.model.cards[example.task]
        given = [m for m in card.modalities if m in example.features or m == "text"]
        if logit is None:
            answer, probability = text or "", None
        else:
            answer = YES if logit > 0 else NO
            probability = float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))
        return Reply(
            example.task,
            example.question,
            answer,
            probability,
            given,
            [m for m in card.modalities if m not in given],
            self._calibration(example.task, probability),
            self._notes(example),
        )

    def _notes(self, example: Example) -> list[str]:
        card = self.model.cards[example.task]
        notes = ["Research software, not a medical device; do not decide on care by it."]
        entry = self.summary.tasks.get(example.task) if self.summary else None
        if self.summary is None:
            notes.append(
                "The run has no summary: whether it was trained on synthetic patients, "
                "and how good it is, are unknown."
            )
        elif self.summary.synthetic:
            notes.append("Trained on synthetic patients: the answer says nothing about a real one.")
        if card.role == "unseen":
            notes.append("Nobody trained on this task; it is answered zero-shot.")
        score = entry.estimate("injected") if entry else None
        if entry and score:
            span = f" [{score.span[0]:.2f}, {score.span[1]:.2f}]" if score.span else ""
            notes.append(
                f"On the run's test set ({entry.n} examples): {card.metrics[0]} "
                f"{score.value:.2f}{span}."
            )
        if card.answer == "yes_no" and example.question != card.question:
            notes.append("Not the task's own question: it was never tested on this one.")
        return notes

    def _calibration(self, task: str, probability: float | None) -> str:
        """How often "yes" was true among the test patients whom the model rated alike."""
        if probability is None:
            return "Answers in words have no probability."
        labels, logits = self._answers.get(task, (np.empty(0), np.empty(0)))
        if len(labels) < FEWEST:
            have = f"has {len(labels)} test answers" if len(labels) else "keeps no test answers"
            return (
                f"Unknown: the run {have} to this task. The probability is the model's own and may "
                "be far from how often it is right."
            )
        own = 1 / (1 + np.exp(-logits))
        near = np.argsort(np.abs(own - probability), kind="stable")
        near = near[: min(NEIGHBOURS, len(own) // 2)]
        yes = int(labels[near].sum())
        low, high = wilson(yes, len(near))
        inside = own.min() <= probability <= own.max()
        outside = "" if inside else " It lies outside all that the model said there."
        return (
            f"Of the {len(near)} test patients with the nearest probabilities "
            f"({own[near].min():.2f} to {own[near].max():.2f}), {yes / len(near):.0%} were yes "
            f"(95 % interval {low:.0%} to {high:.0%}).{outside}"
        )


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    z = 1.959964
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def read_answers(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a run's injected model said of its test set: by task, labels and logits; may be empty.

    Raises:
        UserError: ``answers.parquet`` is there but is none.
    """
    if not (run / ANSWERS).is_file():
        return {}
    rows = read_frame(run).filter(pl.col("column") == "injected").drop_nulls(["label", "logit"])
    rows = rows.filter(pl.col("logit").is_finite())
    return {
        str(task): (own["label"].to_numpy().astype(np.float64), own["logit"].to_numpy())
        for (task,), own in rows.group_by("task")
    }
