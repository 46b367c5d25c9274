"""What ``summary.json`` and ``metrics.jsonl`` hold (docs/summary.md), and how they are read.

Fields that a newer version adds are ignored; fields that are missing or of the wrong type are
named in one line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from fedkim_core.errors import UserError
from fedkim_core.report.parts import (
    CONFIG,
    BySite,
    Calibration,
    Count,
    Difference,
    Estimate,
    Follows,
    LanguagePrior,
)
from fedkim_core.tasks import FREE_TEXT_METRICS, YES_NO_METRICS

Column = Literal["before", "extractor", "injected"]
COLUMNS: tuple[Column, ...] = ("before", "extractor", "injected")


class _Part(BaseModel):
    model_config = CONFIG


class Task(_Part):
    """Results of one task on the test set."""

    role: Literal["train", "unseen"]
    answer: Literal["yes_no", "free_text"]
    n: Count
    positives: Count | None = None
    synthetic: bool
    before: dict[str, Estimate] | None
    """The foundation model alone, which sees text only."""
    extractor: dict[str, Estimate] | None
    """The heads of the federated extractor; null where there is none."""
    injected: dict[str, Estimate] | None
    extractor_after: dict[str, Estimate] | None = None
    """The heads on the encoders that injection trained; null where it trains none."""
    absent: dict[str, str] = {}
    """``column.metric`` to the reason why it could not be computed."""
    paired: dict[str, dict[str, Difference]] = {}
    """By ``injected-before`` and the like, and metric."""
    calibration: dict[str, Calibration] = {}
    operating: dict[str, dict[str, Estimate]] = {}
    sites: BySite | None = None
    groups: dict[str, BySite] = {}
    """By sex and by age band."""
    controls: dict[str, dict[str, Estimate]] = {}
    language_prior: LanguagePrior | None = None
    agreement: float | None = None
    """Rank correlation of the injected model's answers with those of the task's own head."""
    follows: Follows | None = None
    """Of an unseen task with answers of yes and no."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return YES_NO_METRICS if self.answer == "yes_no" else FREE_TEXT_METRICS

    def estimate(self, column: Column, metric: str | None = None) -> Estimate | None:
        """A score; ``metric`` defaults to the one that tables lead with."""
        scores: dict[str, Estimate] | None = getattr(self, column)
        return (scores or {}).get(metric or self.metrics[0])

    def difference(self, other: str) -> Difference | None:
        """Injected minus ``other``, of the leading metric, on the same patients."""
        return self.paired.get(f"injected-{other}", {}).get(self.metrics[0])

    def control(self, name: str) -> Estimate | None:
        """The leading metric of a control."""
        return self.controls.get(name, {}).get(self.metrics[0])

    def reason(self, column: Column, metric: str | None = None) -> str:
        """Why :meth:`estimate` is None."""
        if column == "extractor" and self.extractor is None:
            return "the extractor has no head for this task"
        if getattr(self, column) is None:
            return "the foundation model was not asked about this task"
        return self.absent.get(f"{column}.{metric or self.metrics[0]}", "not in summary.json")


class Gate(_Part):
    """Expert weights per task: ``alpha[task][expert]``, each row summing to 1."""

    tasks: list[str]
    alpha: list[list[float]]
    bits: float
    bits_trained: float | None = None

    @model_validator(mode="after")
    def _rectangular(self) -> "Gate":
        widths = {len(row) for row in self.alpha}
        if len(self.alpha) != len(self.tasks) or len(widths) != 1 or widths == {0}:
            raise ValueError("alpha needs one row per task, all of the same length")
        return self


class Model(_Part):
    name: str
    parameters: Count
    dtype: str = ""


class SiteData(_Part):
    modalities: list[str]
    examples: dict[str, Count]


class Data(_Part):
    name: str
    sites: dict[str, SiteData]
    public: dict[str, Count] = {}
    validation: dict[str, Count] = {}
    test: dict[str, Count] = {}


class Transfer(_Part):
    round: Count
    site: str
    bytes_down: Count
    bytes_up: Count


class LeftOut(_Part):
    round: Count
    site: str
    kind: str = ""
    """gone, late, error, invalid or quarantined; absent in older summaries."""
    reason: str


class Summary(_Part):
    """``summary.json``."""

    schema_version: Literal[1]
    fedkim: str
    synthetic: bool
    seed: int
    rounds: Count
    strategy: str
    injector: str
    foundation: Model
    extractor: Model
    data: Data
    tasks: dict[str, Task]
    gate: Gate | None = None
    communication: list[Transfer] = []
    left_out: list[LeftOut] = []
    seconds: dict[str, float] = {}
    peak_memory_bytes: Count | None = None

    def group(self, role: str) -> dict[str, Task]:
        return {name: task for name, task in self.tasks.items() if task.role == role}


class SiteRound(_Part):
    examples: Count
    loss: float | None = None
    auroc: float | None = None


class Row(_Part):
    """One line of ``metrics.jsonl``: one task after one round, on the validation set."""

    round: Count
    task: str
    role: Literal["train", "unseen"]
    extractor: dict[str, float] | None = None
    injected: dict[str, float] | None = None
    agreement: float | None = None
    """As of :class:`Task`, on the validation set; older runs lack it."""
    sites: dict[str, SiteRound] = {}


def parse_summary(values: Mapping[str, Any], name: str = "summary") -> Summary:
    """Check the content of a ``summary.json``.

    Raises:
        UserError: names the first field at fault.
    """
    try:
        return Summary.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {first_fault(error)}") from error


def read_summary(folder: Path) -> Summary:
    """Read ``summary.json`` of a run folder.

    Raises:
        UserError: missing, not JSON, or a field at fault.
    """
    path = folder / "summary.json"
    try:
        values = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run the federation again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; run the federation again")
    return parse_summary(values, str(path))


def read_rows(folder: Path) -> tuple[list[Row], list[str]]:
    """Read ``metrics.jsonl`` of a run folder, in the order of rounds.

    A round that was run again replaces its earlier lines. A last line that was cut off (the run
    was stopped while writing) is left out, with a note.

    Returns:
        The rows, and notes for the reader.

    Raises:
        UserError: missing, or a line that cannot be read; names file and line.
    """
    path = folder / "metrics.jsonl"
    lines = [(n, text) for n, text in enumerate(_read(path).splitlines(), 1) if text.strip()]
    rows: dict[tuple[int, str], Row] = {}
    notes = []
    for number, text in lines:
        try:
            row = Row.model_validate(json.loads(text))
        except ValidationError as error:
            raise UserError(f"{path}:{number}: {first_fault(error)}") from error
        except ValueError as error:
            if number != lines[-1][0]:
                raise UserError(f"{path}:{number}: not JSON ({error})") from error
            notes.append(f"The last line of metrics.jsonl (line {number}) is cut off; left out.")
            continue
        rows[row.round, row.task] = row
    return sorted(rows.values(), key=lambda row: row.round), notes


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; is {path.parent} the folder of a finished run?"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def first_fault(error: ValidationError) -> str:
    """The first of what is wrong, with its field, in one line."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}".lstrip(": ")
