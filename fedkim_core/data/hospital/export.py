"""A hospital's export while it is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

import polars as pl

from fedkim_core.data.blocks import blocks
from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.hospital.left_out import LeftOut, Unusable
from fedkim_core.data.hospital.mapping import Mapping, Source
from fedkim_core.data.hospital.pseudonyms import Pseudonym
from fedkim_core.errors import UserError


@dataclass(frozen=True)
class Export:
    """Where the export is, what the mapping says of it, and what could not be used of it."""

    folder: Path
    mapping: Mapping
    scratch: Path
    name_of: Pseudonym
    left_out: LeftOut
    copies: dict[Path, str | Unusable] = field(default_factory=dict)
    """By image or signal of the export: its place in the site folder, or why it has none."""

    def style(self, source: Source) -> Format:
        return source.format or self.mapping.format

    def blocks(self, source: Source, columns: Sequence[str]) -> Iterator[tuple[str, pl.DataFrame]]:
        """Every block of every file of a source, with the file's name; see :func:`blocks`.

        Raises:
            UserError: a file is missing or broken.
        """
        style = self.style(source)
        for path in self._files(source.file):
            name = path.relative_to(self.folder).as_posix()
            for block in blocks(path, columns, delimiter=style.delimiter, encoding=style.encoding):
                yield name, block

    def _files(self, file: str) -> list[Path]:
        if "*" not in file:
            return [self.folder / file]
        found = sorted(self.folder.glob("*".join(map(escape, file.split("*")))))
        if not found:
            raise UserError(f"{self.folder / file}: no file of such a name")
        return found
