"""The tensors behind the references of a site folder: from the cache, or decoded into it.

A cached file is named by the content of everything that its tensors depend on, so a copy of a site
folder finds the tensors of the original. Reading that content anew at every start would take as
long as the disk needs for it. Therefore the file gets a second name, made of the place, size, inode
and times of each file, which takes one ``stat`` per file. The time of the last *change* (ctime) is
among them: writing, replacing or renaming a file sets it to the clock, and no program can set it
back, as it can the time of modification. Files that changed a moment ago get no second name, as
they could change once more within one tick of the clock.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedkim_core.data.cache import Put, Shapes, cache_path, link_tensors, load_tensors, make_tensors
from fedkim_core.data.contract import KIND_OF, TABLES_FILE, files_of
from fedkim_core.data.decode import read_image, read_signal, read_tables
from fedkim_core.data.threads import in_threads
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

DECODER_VERSION = 1
"""Raise it when a decoder gives other values: cached tensors are then made anew."""

References = Mapping[str, Sequence[str]]
"""By modality, what the rows refer to, each once."""

_FIRST = ":first hour"
_SETTLED = 3.0
"""Seconds since the last change after which a file's times can be relied on; file systems count
in steps of up to 2 s."""
_BLOCK = 16
"""Files per task of a thread."""
_BLOCK_BYTES = 2**26
"""Of table tensors made at once."""


class Decoded(NamedTuple):
    """What the references of a site folder stand for."""

    values: dict[str, Tensor]
    """By modality, first axis as the references; mapped to a file, and read when used."""
    first_hours: dict[str, list[float]]
    """By table modality and reference, the first hour with an observation; infinite without any.
    With it a table's values need not be read to know that none lies within a task's hours."""


class _Stamp(NamedTuple):
    digest: str
    changed: float
    """When the youngest file last changed, in seconds since 1970."""


def read_tensors(folder: Path, references: References, hours: int, image_size: int) -> Decoded:
    """Read what rows refer to; tables cover ``hours`` from admission, images ``image_size`` pixels.

    Raises:
        UserError: a file is gone, cannot be decoded or changes meanwhile; names it and the rule.
    """
    shapes = _shapes(references, hours, image_size)
    if not shapes:
        return Decoded({}, {})
    cards = [load_modalities()[modality].model_dump_json() for modality in references]
    recipe = f"{DECODER_VERSION} {shapes} {cards} {dict(references)}"
    files = [f for m, names in references.items() for name in names for f in files_of(m, name)]
    if any(KIND_OF[modality] == "table" for modality in references):
        files.append(TABLES_FILE)

    def stamp() -> _Stamp:
        try:
            return _stamp(folder, files)
        except OSError as error:
            raise UserError(f"{folder}: a file is gone or cannot be read any more") from error

    before = stamp()
    second_name = cache_path(_digest(recipe, str(folder.resolve()), before.digest))
    if tensors := load_tensors(second_name, shapes):
        return _decoded(tensors)
    settled = before.changed + _SETTLED < time.time()
    path = cache_path(_digest(recipe, *_contents(folder, files)))

    def fill(put: Put) -> None:
        _decode(folder, references, hours, image_size, put)
        if stamp() != before:
            raise UserError(f"{folder}: a file changed while it was read")

    tensors = load_tensors(path, shapes) or make_tensors(path, shapes, fill)
    if settled:
        link_tensors(second_name, path)
    return _decoded(tensors)


def _decoded(tensors: dict[str, Tensor]) -> Decoded:
    hours = {m: tensors[m + _FIRST].tolist() for m in tensors if m + _FIRST in tensors}
    return Decoded({m: t for m, t in tensors.items() if not m.endswith(_FIRST)}, hours)


def _shapes(references: References, hours: int, image_size: int) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for modality, names in references.items():
        card = load_modalities()[modality]
        shape = {
            "image": (1, image_size, image_size),
            "signal": (len(card.leads), card.samples),
            "table": (hours, len(card.variables)),
        }[card.kind]
        shapes[modality] = (len(names), *shape)
        if card.kind == "table":
            shapes[modality + _FIRST] = (len(names),)
    return shapes


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _stamp(folder: Path, files: Sequence[str]) -> _Stamp:
    root, changed, lines = str(folder), 0, []
    for file in files:
        stat = os.stat(f"{root}/{file}")
        changed = max(changed, stat.st_ctime_ns)
        place, times = (stat.st_dev, stat.st_ino), (stat.st_mtime_ns, stat.st_ctime_ns)
        lines.append(f"{place} {stat.st_size} {times}")
    return _Stamp(_digest(*lines), changed / 1e9)


def _contents(folder: Path, files: Sequence[str]) -> list[str]:
    """A digest of each file."""
    digests = [""] * len(files)

    def digest(rows: range) -> None:
        for row in rows:
            path = folder / files[row]
            try:
                with path.open("rb") as file:
                    digests[row] = hashlib.file_digest(file, "blake2b").hexdigest()
            except OSError as error:
                raise UserError(f"{path}: the file cannot be read") from error

    in_threads(digest, _blocks(len(files), _BLOCK))
    return digests


def _decode(folder: Path, references: References, hours: int, image_size: int, put: Put) -> None:
    for modality, names in references.items():
        card = load_modalities()[modality]
        if card.kind == "table":
            size = max(1, _BLOCK_BYTES // (4 * hours * len(card.variables)))
            for rows in _blocks(len(names), size):
                stays = {modality: names[rows.start : rows.stop]}
                values = read_tables(folder / TABLES_FILE, stays, hours)[modality]
                observed = np.where(np.isnan(values), np.inf, np.arange(hours)[:, None])
                put(modality, rows.start, values)
                put(modality + _FIRST, rows.start, observed.min(axis=(1, 2)).astype(np.float32))
        else:
            read = partial(read_image, size=image_size)
            if card.kind == "signal":
                read = partial(read_signal, card=card)
            _decode_files([folder / name for name in names], read, partial(put, modality))


def _decode_files(
    paths: Sequence[Path],
    read: Callable[[Path], NDArray[np.float32]],
    put: Callable[[int, NDArray[np.float32]], None],
) -> None:
    def block(rows: range) -> None:
        for row in rows:
            put(row, read(paths[row])[None])

    with warnings.catch_warnings():
        # Threads share the filters: the ones a decoder sets could be undone by another thread.
        warnings.simplefilter("ignore")
        in_threads(block, _blocks(len(paths), _BLOCK))


def _blocks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
