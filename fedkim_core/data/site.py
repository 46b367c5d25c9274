"""A site folder, opened, checked and read.

The contract is in :mod:`fedkim_core.data.contract`. The same kind of folder holds a hospital's
patients, the server's public set and the test sets.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fedkim_core.data.cache import cache_path, load_tensors, store_tensors
from fedkim_core.data.check import check_site, read_card, read_examples
from fedkim_core.data.contract import (
    EXAMPLES_SCHEMA,
    KIND_OF,
    SCHEMA_VERSION,
    SPLITS,
    TABLE_MODALITIES,
    TABLES_FILE,
    TABLES_SCHEMA,
    SiteCard,
    SiteError,
    files_of,
)
from fedkim_core.data.decode import read_image, read_signal, read_tables
from fedkim_core.data.examples import Example, crop_to_card
from fedkim_core.data.write import write_site
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import TaskCard

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

DECODER_VERSION = 1
"""Raise it when a decoder gives other values: cached tensors are then made anew."""

_log = logging.getLogger(__name__)
_References = dict[str, list[str]]


@dataclass(frozen=True)
class Site:
    """A site folder that keeps the contract."""

    folder: Path
    card: SiteCard
    examples: pl.DataFrame
    """All columns of ``EXAMPLES_SCHEMA``, in the file's order."""

    @classmethod
    def open(cls, folder: Path) -> "Site":
        """Check a folder and open it.

        Raises:
            SiteError: it breaks the contract; ``faults`` holds every fault.
        """
        faults = check_site(folder)
        card, _ = read_card(folder)
        examples, _ = read_examples(folder)
        if faults or card is None or examples is None:
            raise SiteError(folder, faults or ["the folder changed while it was read"])
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
    if split is not None and split not in SPLITS:
        raise UserError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    rows = site.examples.filter(pl.col("task").is_in(list(cards)))
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    references = _references(rows, cards)
    hours = max((card.hours for card in cards.values()), default=0)
    tensors = _tensors(site.folder, references, hours, image_size)
    index = {m: {name: i for i, name in enumerate(names)} for m, names in references.items()}
    examples = []
    for row in rows.iter_rows(named=True):
        card = cards[row["task"]]
        features = {m: tensors[m][index[m][row[m]]] for m in card.encoded if row[m] is not None}
        example = Example(
            example_id=row["example_id"],
            patient_id=row["patient_id"],
            task=card.name,
            question=row["question"] or card.question,
            answer=row["answer"],
            text=row["text"],
            features=features,
        )
        example = crop_to_card(example, card, TABLE_MODALITIES)
        if example.features or not card.encoded:
            examples.append(example)
    if left_out := len(rows) - len(examples):
        _log.warning(
            "%s: %d of %d examples left out: nothing observed within the hours of their task",
            site.folder,
            left_out,
            len(rows),
        )
    return examples


def _references(rows: pl.DataFrame, cards: Mapping[str, TaskCard]) -> _References:
    """By modality, what the rows refer to, each once and sorted."""
    found = {}
    for modality in KIND_OF:
        tasks = [name for name, card in cards.items() if modality in card.encoded]
        column = rows.filter(pl.col("task").is_in(tasks))[modality].drop_nulls()
        if len(column):
            found[modality] = column.unique().sort().to_list()
    return found


def _tensors(
    folder: Path, references: _References, hours: int, image_size: int
) -> dict[str, Tensor]:
    """One tensor per modality, first axis as in ``references``; from the cache when possible."""
    cards = load_modalities()
    shapes: dict[str, tuple[int, ...]] = {}
    for modality, names in references.items():
        card = cards[modality]
        shape = {
            "image": (1, image_size, image_size),
            "signal": (len(card.leads), card.samples),
            "table": (hours, len(card.variables)),
        }[card.kind]
        shapes[modality] = (len(names), *shape)
    try:
        path = cache_path(_digest(folder, references, shapes))
    except OSError as error:
        raise UserError(f"{folder}: a file is gone or cannot be read any more") from error
    tensors = load_tensors(path, shapes)
    if tensors is None:
        tensors = _decode(folder, references, hours, image_size)
        if tensors:
            store_tensors(path, tensors)
    return tensors


def _digest(folder: Path, references: _References, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of everything that the tensors depend on."""
    digest = hashlib.blake2b(digest_size=16)
    cards = load_modalities()
    digest.update(f"{DECODER_VERSION} {folder.resolve()} {sorted(shapes.items())}".encode())
    for modality, names in references.items():
        digest.update(cards[modality].model_dump_json().encode())
        for name in names:
            digest.update(f"{len(name)} {name}".encode())
            for file in files_of(modality, name):
                stat = (folder / file).stat()
                digest.update(f" {stat.st_size} {stat.st_mtime_ns}".encode())
    if TABLE_MODALITIES & set(references):
        with (folder / TABLES_FILE).open("rb") as tables:
            digest.update(hashlib.file_digest(tables, "blake2b").digest())
    return digest.hexdigest()


def _decode(
    folder: Path, references: _References, hours: int, image_size: int
) -> dict[str, Tensor]:
    cards = load_modalities()
    arrays = {}
    for modality, names in references.items():
        if KIND_OF[modality] == "image":
            arrays[modality] = np.stack([read_image(folder / n, image_size) for n in names])
        elif KIND_OF[modality] == "signal":
            arrays[modality] = np.stack([read_signal(folder / n, cards[modality]) for n in names])
    stays = {m: names for m, names in references.items() if m in TABLE_MODALITIES}
    if stays:
        arrays |= read_tables(folder / TABLES_FILE, stays, hours)
    return {modality: torch.from_numpy(array) for modality, array in arrays.items()}
