"""The site folder: which files and columns it has, and who it says it is.

::

    site.yaml         SiteCard
    examples.parquet  one question about one patient per row: EXAMPLES_SCHEMA
    images/           *.png or *.dcm, grey
    signals/          WFDB records, *.hea and *.dat
    tables.parquet    one observation per row: TABLES_SCHEMA

Every modality with an encoder has a column of its own name in ``examples.parquet``: the relative
path of an image, the relative path of a WFDB record without extension, or a ``stay_id`` of
``tables.parquet``. ``origin`` says of the server's own patients which hospital's they resemble, so
that results can be told apart by hospital; so can they by ``sex`` and ``age_band``. Columns
outside ``REQUIRED`` may be null or left out.
"""

from typing import Annotated, Final, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

SCHEMA_VERSION: Final = 1
CARD_FILE, EXAMPLES_FILE, TABLES_FILE = "site.yaml", "examples.parquet", "tables.parquet"
SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = (".png", ".dcm")

LAST_HOUR: Final = 366 * 24
"""Hours from admission beyond which an ``hour`` of the tables is a mistake: one year."""

KIND_OF = {name: m.kind for name, m in load_modalities().items() if m.kind != "text"}
"""Kind of every encoded modality, by its name, which is also its column."""
TABLE_MODALITIES = frozenset(name for name, kind in KIND_OF.items() if kind == "table")

REQUIRED = ("example_id", "patient_id", "task", "split", "answer")
GROUPS = ("sex", "age_band")
"""Of the server's own patients: by what results are told apart, besides their origin."""
SEXES = ("female", "male", "other")
AGE_BAND = r"^[0-9]{1,3}(-[0-9]{1,3}|\+)$"
"""``40-59`` or ``80+``: years, never a date of birth."""
EXAMPLES_SCHEMA = pl.Schema(
    {name: pl.String() for name in (*REQUIRED, "question", *KIND_OF, "text", "origin", *GROUPS)}
)
TABLES_SCHEMA = pl.Schema(
    {
        "stay_id": pl.String(),
        "hour": pl.Int32(),
        "modality": pl.String(),
        "variable": pl.String(),
        "value": pl.Float64(),
        "unit": pl.String(),
    }
)


class SiteCard(BaseModel):
    """``site.yaml``."""

    # Strict: YAML can hold bytes, and they are no name.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^\w[\w .-]{0,63}$")]
    schema_version: Literal[1] = SCHEMA_VERSION
    tasks: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
    """The tasks that this site offers; every row's task is one of them."""
    synthetic: bool = False
    """True when the patients are simulated."""
    licence: str = ""
    note: str = ""
    """Governance: who allowed what."""

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice")
        return tasks


class SiteError(UserError):
    """A site folder that breaks its contract.

    ``str()`` is one line; ``faults`` holds them all.
    """

    def __init__(self, folder: object, faults: list[str]) -> None:
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{folder}: {count}; first: {faults[0]}; run `fedkim check-site {folder}`")


def leaves_folder(reference: str) -> bool:
    """True when a reference is empty, absolute or climbs out of the site folder."""
    steps = [step for step in reference.split("/") if step not in ("", ".")]
    return (
        not steps
        or reference.startswith("/")
        or ".." in steps
        or any(mark in reference for mark in "\\:\0")
    )


def files_of(modality: str, reference: str) -> tuple[str, ...]:
    """Relative paths of the files behind a reference; none for a table."""
    kind = KIND_OF[modality]
    if kind == "image":
        return (reference,)
    return (f"{reference}.hea", f"{reference}.dat") if kind == "signal" else ()
