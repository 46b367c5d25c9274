"""Pieces of a proposed ``mapping.yaml``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.hospital.proposal.sniff import Seen

SHOWN = 10
"""Rows that must share a cell before it is written into the proposal."""
FORMAT = ("delimiter", "decimal", "encoding", "datetime")
"""What a proposal says of how files are written."""


@dataclass(frozen=True)
class SeenExport:
    folder: Path
    files: tuple[Seen, ...]
    common: Format
    """As most files are written."""


def columns(export: SeenExport, file: Seen, first: str, pad: str, *roles: str) -> Iterator[str]:
    yield f"{first}file: {quoted(file.name)}"
    if file.format != export.common:
        yield f"{pad}format: {format_of(file.format)}"
    for role in roles:
        if column := file.column(role):
            yield f"{pad}{role}: {quoted(column)}"


def format_of(style: Format) -> str:
    return "{" + ", ".join(f"{key}: {quoted(getattr(style, key))}" for key in FORMAT) + "}"


def listed(words: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, words))}]"


def quoted(word: str) -> str:
    """Quoted for YAML, whatever is in it."""
    return json.dumps(word, ensure_ascii=False)
