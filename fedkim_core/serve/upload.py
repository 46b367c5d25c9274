"""What a request brings, and how it becomes a study."""

import base64
import binascii
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedkim_core.ask import NOTE_LIMIT
from fedkim_core.data.study import StudyError, read_study

Base64 = Annotated[str, Field(description="the content of the file, base64", min_length=4)]
Words = Annotated[str, Field(max_length=NOTE_LIMIT)]
_RECORD = re.compile(r"^\s*([\w-]{1,64})[\s/]", re.ASCII)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageFile(_Part):
    """A radiograph."""

    format: Literal["png", "dcm"]
    data: Base64


class RecordFile(_Part):
    """A WFDB record."""

    header: Base64
    """The ``.hea`` file."""
    data: Base64
    """The ``.dat`` file."""


class TablesFile(_Part):
    """One stay: hour, modality, variable, value, unit, as in docs/site-folder.md."""

    format: Literal["csv", "parquet"]
    data: Base64


class Request(_Part):
    """One question about one patient. No name, no number: nothing here says who it is."""

    task: Annotated[str, Field(max_length=64)]
    image: ImageFile | None = None
    signal: RecordFile | None = None
    tables: TablesFile | None = None
    note: Words | None = None
    question: Words | None = None


def study_of(
    request: Request, readable: Sequence[str], *, hours: int, image_size: int
) -> dict[str, Tensor]:
    """Decode the files of a request; they lie in a temporary folder meanwhile.

    Raises:
        StudyError: a file that the task does not read, or that breaks a rule.
    """
    with tempfile.TemporaryDirectory(prefix="fedkim-") as scratch:
        folder = Path(scratch)
        image = signal = tables = None
        if request.image is not None:
            image = folder / f"image.{request.image.format}"
            image.write_bytes(_decoded("image", request.image.data))
        if request.signal is not None:
            signal = _write_record(folder, request.signal)
        if request.tables is not None:
            tables = folder / f"given.{request.tables.format}"
            tables.write_bytes(_decoded("tables", request.tables.data))
        return read_study(
            readable, image=image, signal=signal, tables=tables, hours=hours, image_size=image_size
        )


def _write_record(folder: Path, given: RecordFile) -> Path:
    """Under the name that its header gives it, since the header names its data file."""
    header = _decoded("signal", given.header)
    lines = header.decode("utf-8", errors="replace").splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    name = _RECORD.match(first)
    if name is None:
        raise StudyError("signal", "the header does not begin with a record's name")
    path = folder / f"{name[1]}.hea"
    path.write_bytes(header)
    path.with_suffix(".dat").write_bytes(_decoded("signal", given.data))
    return path


def _decoded(kind: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StudyError(kind, "its data are not base64") from error
