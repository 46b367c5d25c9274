"""Task cards: what is asked, of which modalities, and how the answer is scored.

A task is one file in ``conf/task``; adding the file adds the task. The texts of a card drive
the gate of the injector (FedKIM, section 3.3): the task description is its key and value, the
descriptions of the modalities present are its query.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.paths import CONF

YES_NO_METRICS = ("auroc", "auprc", "f1", "accuracy", "precision", "recall", "mcc")
FREE_TEXT_METRICS = ("bleu1", "rouge_l", "meteor", "exact_match")


class TaskCard(BaseModel):
    """One task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Literal["train", "unseen"]
    """``train``: sites and the public set hold labels. ``unseen``: nobody trains on it."""
    modalities: tuple[str, ...]
    answer: Literal["yes_no", "free_text"]
    question: str
    """Asked when an example brings no question of its own."""
    description: str
    """One English sentence (T_t in the paper)."""
    hours: int = 0
    """Clinical tables: how many hours from admission may be used; 0 when there are none."""
    source: str
    """The data set of the paper."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores; the first is the one that curves and tables lead with."""
        return YES_NO_METRICS if self.answer == "yes_no" else FREE_TEXT_METRICS

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities that have an encoder (all but text, which the FM reads itself)."""
        return tuple(m for m in self.modalities if load_modalities()[m].kind != "text")

    def modality_description(self, present: Iterable[str] | None = None) -> str:
        """M_t: the sentences of the modalities ``present`` (default: all of the task's)."""
        names = set(self.modalities if present is None else present)
        cards = load_modalities()
        return " ".join(cards[m].description for m in self.modalities if m in names)


@cache
def load_tasks(folder: Path = CONF / "task") -> dict[str, TaskCard]:
    """Read every task card.

    Returns cards by name, trained tasks first, then by name.

    Raises:
        UserError: a card does not parse; names the file and the field.
    """
    known = load_modalities()
    cards = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            card = TaskCard(name=path.stem, **yaml.safe_load(path.read_text()))
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg'].lower()}" for f in error.errors()]
            raise UserError(f"{path}: not a task card: {'; '.join(faults)}") from error
        except (yaml.YAMLError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a task card: {reason}") from error
        unknown = [m for m in card.modalities if m not in known]
        if unknown:
            raise UserError(f"{path}: unknown modality {unknown[0]!r}; known: {', '.join(known)}")
        cards.append(card)
    return {c.name: c for c in sorted(cards, key=lambda c: (c.role != "train", c.name))}
