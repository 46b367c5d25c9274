"""A site folder, opened, checked and read.

The contract is in :mod:`fedkim_core.data.contract`. The same kind of folder holds a hospital's
patients, the server's public set and the test sets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from fedkim_core.data.check import check_site, read_site
from fedkim_core.data.contract import (
    EXAMPLES_SCHEMA,
    GROUPS,
    KIND_OF,
    SCHEMA_VERSION,
    SPLITS,
    TABLE_MODALITIES,
    TABLES_SCHEMA,
    SiteCard,
    SiteError,
)
from fedkim_core.data.write import write_site
from fedkim_core.errors import UserError
from fedkim_core.tasks import TaskCard

if TYPE_CHECKING:
    from fedkim_core.data.examples import Example

__all__ = [
    "EXAMPLES_SCHEMA",
    "SCHEMA_VERSION",
    "SPLITS",
    "TABLES_SCHEMA",
    "TABLE_MODALITIES",
    "Site",
    "SiteCard",
    "SiteError",
    "check_site",
    "load_examples",
    "write_site",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """A site folder that keeps the contract."""

    folder: Path
    card: SiteCard
    examples: pl.DataFrame
    """All columns of ``EXAMPLES_SCHEMA``, in the file's order."""

    @classmethod
    def open(cls, folder: Path) -> Site:
        """Check a folder and open it.

        Raises:
            SiteError: it breaks the contract; ``faults`` holds every fault.
        """
        card, examples, faults = read_site(folder)
        if faults or card is None or examples is None:  # which have a fault each
            raise SiteError(folder, faults)
        return cls(folder, card, examples)


def load_examples(
    site: Site, *, split: str | None, cards: Mapping[str, TaskCard], image_size: int
) -> list[Example]:
    """Read the examples of some tasks, in the order of ``examples.parquet``.

    Args:
        site: the opened folder.
        split: ``train``, ``validation`` or ``test``; None for all.
        cards: the tasks wanted; each example keeps the modalities and hours its card allows.
        image_size: pixels a side.

    A file that several examples refer to is read once, and they share its tensor. Rows of which
    nothing is left (no observation within the card's hours) are left out, and counted in the log.

    Raises:
        UserError: a file cannot be decoded; names it and the rule.
    """
    # Here: who checks a folder need not wait for torch.
    from fedkim_core.data.examples import Example
    from fedkim_core.data.tensors import read_tensors

    if split is not None and split not in SPLITS:
        raise UserError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    rows = site.examples.filter(pl.col("task").is_in(list(cards)))
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    references = _references(rows, cards)
    hours = max((card.hours for card in cards.values()), default=0)
    tensors = read_tensors(site.folder, references, hours, image_size)
    index = {m: {name: i for i, name in enumerate(names)} for m, names in references.items()}
    values = {modality: tensor.unbind() for modality, tensor in tensors.values.items()}
    encoded = {name: card.encoded for name, card in cards.items()}
    examples = []
    for row in rows.iter_rows(named=True):
        card = cards[row["task"]]
        features = {}
        for modality in encoded[card.name]:
            if row[modality] is None:
                continue
            i = index[modality][row[modality]]
            if modality not in TABLE_MODALITIES:
                features[modality] = values[modality][i]
            elif tensors.first_hours[modality][i] < card.hours:
                features[modality] = values[modality][i][: card.hours]
        if not features and encoded[card.name]:
            continue
        example = Example(
            example_id=row["example_id"],
            patient_id=row["patient_id"],
            task=card.name,
            question=row["question"] or card.question,
            answer=row["answer"],
            text=row["text"] if "text" in card.modalities else None,
            features=features,
            origin=row["origin"],
            groups={name: row[name] for name in GROUPS if row[name] is not None},
        )
        examples.append(example)
    if left_out := len(rows) - len(examples):
        _log.warning(
            "%s: %d of %d examples left out: nothing observed within the hours of their task",
            site.folder,
            left_out,
            len(rows),
        )
    return examples


def _references(rows: pl.DataFrame, cards: Mapping[str, TaskCard]) -> dict[str, list[str]]:
    """By modality, what the rows refer to, each once and sorted."""
    found = {}
    for modality in KIND_OF:
        tasks = [name for name, card in cards.items() if modality in card.encoded]
        column = rows.filter(pl.col("task").is_in(tasks))[modality].drop_nulls()
        if len(column):
            found[modality] = column.unique().sort().to_list()
    return found
