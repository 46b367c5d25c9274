"""``mapping.yaml``: how one hospital's export becomes one site folder.

The guide is docs/hospital-data.md.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedkim_core.data.contract import KIND_OF
from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.units import to_card
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks

FIELD = re.compile(r"\{([^{}]*)\}")
"""A column's name in a path such as ``images/{PATNR}_*.dcm``."""

Name = Annotated[str, Field(min_length=1)]
Cells = Literal["filled", "empty", "other"] | Annotated[tuple[str, ...], Field(min_length=1)]
"""Of a column: a list of cells; any cell; no cell; or every cell that the other side omits."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError("must be a path below source, with forward slashes")
    return path


class SiteInfo(_Part):
    """Becomes ``site.yaml``; the tasks are those of ``examples``."""

    name: Annotated[str, Field(pattern=r"^\w[\w .-]{0,63}$")]
    synthetic: bool = False
    licence: str = ""
    note: str = ""


class Source(_Part):
    """A file, or with ``*`` every file of that name, and how it is written."""

    file: Name
    format: Format | None = None
    """Instead of the mapping's own."""

    _below = field_validator("file")(_inside)


class Stays(Source):
    """The table of stays, one row each."""

    stay: Name
    patient: Name
    admitted: str = ""
    """Column of the time from which hours count; not needed when every table gives hours."""
    discharged: str = ""


class Target(_Part):
    """What a column or a name of the export is."""

    variable: str
    unit: str = ""
    """As the export has it. With a unit column: the unit where that is empty."""

    @model_validator(mode="after")
    def _known(self) -> "Target":
        if self.variable not in {v.name for c in load_modalities().values() for v in c.variables}:
            raise ValueError(f"unknown variable {self.variable!r}; docs/site-folder.md lists them")
        if self.unit and to_card(self.variable, self.unit) is None:
            raise ValueError(f"unit {self.unit!r} is no known unit of {self.variable}")
        return self


class Table(Source):
    """Observations: wide files have ``columns``, long ones ``names``."""

    stay: Name
    time: str = ""
    hours: str = ""
    """Instead of ``time``: column with the hours since admission."""
    columns: dict[str, Target] = {}
    name: str = ""
    value: str = ""
    unit: str = ""
    names: dict[str, Target] = {}
    units: dict[str, str] = {}
    """Own spellings in the column ``unit``, and what they are."""

    @model_validator(mode="after")
    def _one_shape(self) -> "Table":
        if bool(self.time) == bool(self.hours):
            raise ValueError("needs either time or hours")
        if bool(self.columns) == bool(self.names):
            raise ValueError("needs either columns (a wide file) or names (a long file)")
        if self.names and not (self.name and self.value):
            raise ValueError("names needs name and value, the columns that hold them")
        if self.columns and (self.name or self.value or self.unit or self.units):
            raise ValueError("columns goes without name, value, unit and units")
        for own, target in (self.columns | self.names).items():
            if not (self.unit or target.unit) and to_card(target.variable, None) is None:
                raise ValueError(f"{own}: unit is missing")
        return self


class Answer(_Part):
    """Which cells of a column mean yes and which no; without both, the answer is the cell."""

    column: Name
    yes: Cells | None = None
    no: Cells | None = None

    @model_validator(mode="after")
    def _distinct(self) -> "Answer":
        sides = (self.yes, self.no)
        if any(side is None for side in sides):
            if sides != (None, None):
                raise ValueError("yes and no go together")
        elif isinstance(self.yes, tuple) and isinstance(self.no, tuple):
            if common := set(self.yes) & set(self.no):
                raise ValueError(f"{min(common)!r} means both yes and no")
        elif not any(isinstance(side, tuple) for side in sides):
            if set(sides) != {"filled", "empty"}:
                raise ValueError("yes and no cannot be told apart")
        elif "filled" in sides:
            raise ValueError("filled goes with empty; beside a list write other")
        return self


class Question(_Part):
    """One task, asked of every row of a file, or of every stay."""

    task: str
    file: str = ""
    """Without one: the table of stays."""
    patient: str = ""
    stay: str = ""
    """The column that says whose row it is: either this or ``patient``."""
    image: str = ""
    """Path below ``source``, with columns in braces and perhaps ``*``; must find one file."""
    signal: str = ""
    """The same for the header of a WFDB record, ``.hea``; the ending may be left out."""
    question: str = ""
    text: str = ""
    answer: Answer
    format: Format | None = None

    _below = field_validator("file", "image", "signal")(_inside)

    @model_validator(mode="after")
    def _fits_task(self) -> "Question":
        card = load_tasks().get(self.task)
        if card is None:
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(load_tasks())}")
        kinds = sorted({KIND_OF[m] for m in card.encoded})
        given = [kind for kind in ("image", "signal") if getattr(self, kind)]
        if kinds == ["table"]:
            if given or self.patient:
                raise ValueError(
                    f"{self.task} is asked of stays; it has no patient, image or signal"
                )
        elif not given or not set(given) <= set(kinds):
            raise ValueError(f"{self.task} needs {' or '.join(kinds)}, and nothing else")
        if bool(self.file) != (bool(self.patient) != bool(self.stay)):
            raise ValueError("file goes with either patient or stay, the column of whose row it is")
        if self.format and not self.file:
            raise ValueError("format goes with file")
        if self.text and "text" not in card.modalities:
            raise ValueError(f"{self.task} reads no text")
        if (card.answer == "yes_no") != (self.answer.yes is not None):
            rule = "needs yes and no" if card.answer == "yes_no" else "goes without yes and no"
            raise ValueError(f"{self.task}: answer {rule}")
        return self


class SplitColumn(Source):
    """A file that says of each patient whether it validates; all others train."""

    patient: Name
    column: Name
    validation: Annotated[tuple[str, ...], Field(min_length=1)]


class Split(_Part):
    """Who validates: a share of the patients by chance, or what a file says."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    by: SplitColumn | None = None


class Pseudonyms(_Part):
    """Ids become keyed hashes, unless ``keep``."""

    keep: bool = False
    key: Name = "fedkim.key"
    """Beside ``mapping.yaml``, made when there is none. The same key gives the same pseudonyms."""


class Mapping(_Part):
    """The whole file."""

    site: SiteInfo
    source: Name = "."
    """Folder of the export, seen from ``mapping.yaml``."""
    format: Format = Format()
    stays: Stays | None = None
    tables: tuple[Table, ...] = ()
    examples: Annotated[tuple[Question, ...], Field(min_length=1)]
    split: Split = Split()
    pseudonyms: Pseudonyms = Pseudonyms()

    @model_validator(mode="after")
    def _whole(self) -> "Mapping":
        of_stays = [q.task for q in self.examples if not q.file or q.stay]
        if self.stays is None and (self.tables or of_stays):
            raise ValueError("stays is missing; tables and questions about stays need it")
        if self.stays and not self.stays.admitted and any(table.time for table in self.tables):
            raise ValueError("stays.admitted is missing; a table with time needs it")
        if not self.tables and any(not (q.image or q.signal) for q in self.examples):
            raise ValueError("tables is missing; a question about stays needs it")
        return self
