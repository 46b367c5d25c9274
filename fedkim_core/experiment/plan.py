"""An experiment's file (``conf/matrix/<name>.yaml``) as a list of runs to make.

A *cell* is a named list of overrides; with each seed it is one run. Cells of one *method* share
lines of the tables: FEDMEKI's single-task baselines are a cell per task and one method.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedkim_core import guard
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.paths import CONF
from fedkim_core.settings import Config

MATRICES = CONF / "matrix"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Of a cell; a folder is named after it."""
Column = Literal[
    "before",
    "extractor",
    "extractor_after",
    "injected",
    # Controls, of runs with evaluation.controls=true:
    "blanked",
    "shuffled",
    "other_description",
    "random_gate",
    "no_experts",
    "labels_permuted",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CellFile(_Part):
    """A cell as it stands in the file; a list of overrides is short for one with ``set`` only."""

    set: list[str] = []
    method: str = ""
    """What the tables call it; default: the cell's name."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        return {"set": value} if isinstance(value, list) else value


class RowFile(_Part):
    """A line of the tables: one column of a method's results."""

    method: str
    column: Column


class ExperimentFile(_Part):
    """What ``conf/matrix/<name>.yaml`` may hold."""

    title: str
    about: str = ""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] = [0]
    set: list[str] = []
    """Overrides of every cell; a cell's own come after them."""
    cells: Annotated[dict[Name, CellFile], Field(min_length=1)]
    rows: dict[str, RowFile] = {}
    """Default: every method's injected model, or its extractor where nothing is injected."""
    compare: str = ""
    """The row that every other one is compared with, on the same patients."""
    axis: str = ""
    """What the figure's horizontal axis is: a setting (``injector.experts``), ``bytes`` or
    ``seconds``; default: the rows themselves."""

    @model_validator(mode="after")
    def _rows_exist(self) -> "ExperimentFile":
        methods = {cell.method or name for name, cell in self.cells.items()}
        for label, row in self.rows.items():
            if row.method not in methods:
                raise ValueError(f"rows.{label}: no cell has the method {row.method!r}")
        known = set(self.rows) or methods
        if self.compare and self.compare not in known:
            raise ValueError(f"compare: no row {self.compare!r}; one of {', '.join(sorted(known))}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run: a cell of the file with one seed."""

    name: str
    method: str
    seed: int
    overrides: tuple[str, ...]
    config: Config | None
    """None: the overrides do not make a configuration."""
    fault: str = ""
    """Why they do not."""

    @property
    def label(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """Identity of what is computed: the resolved configuration and the code's version."""
        return f"{self.settings_key}-{guard.code_digest()[:12]}"

    @cached_property
    def settings_key(self) -> str:
        """The half of :attr:`key` that the settings make."""
        if self.config is None:
            return _digest(list(self.overrides))
        settings = self.config.model_dump(mode="json", exclude={"output", "tracking"})
        del settings["federation"]["record"], settings["federation"]["replay"]
        return _digest(settings)

    @cached_property
    def federation_key(self) -> str | None:
        """Equal in cells whose sites learn the same; None where injection feeds back to them."""
        if self.config is None or self.config.injector.train_encoders:
            return None
        return f"{_digest(self.config.site_settings())}-{guard.code_digest()[:12]}"


@dataclass(frozen=True)
class Experiment:
    name: str
    file: ExperimentFile
    cells: tuple[Cell, ...]


def available() -> list[str]:
    return sorted(path.stem for path in MATRICES.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of an experiment: of conf/matrix by name, or any file by its path.

    Raises:
        UserError: there is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else MATRICES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"experiment {name}: no such file; known: {', '.join(available())}")
    return path


def read(path: Path) -> ExperimentFile:
    """Raises UserError: not an experiment; names the file and the field."""
    try:
        return ExperimentFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, f['loc']))}: {f['msg'].removeprefix('Value error, ')}".lstrip(": ")
            for f in error.errors()
        ]
        raise UserError(f"{path}: {'; '.join(dict.fromkeys(faults))}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def plan(
    name: str,
    *,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    more: Sequence[str] = (),
) -> Experiment:
    """The runs of an experiment, seed by seed, so that early results are about whole seeds.

    Args:
        name: of a file in conf/matrix, or a path.
        seeds: instead of the file's.
        only: names of cells; default all.
        more: overrides of every cell, after its own.

    Raises:
        UserError: no such experiment or cell, or the file is wrong. Overrides that do not make a
            configuration raise nothing: that cell has failed, the others have not.
    """
    path = find(name)
    file = read(path)
    for wanted in only:
        if wanted not in file.cells:
            raise UserError(f"--only {wanted}: no such cell; one of {', '.join(file.cells)}")
    chosen = {n: cell for n, cell in file.cells.items() if not only or n in only}
    firsts = [
        _cell(cell_name, cell, (*file.set, *cell.set, *more)) for cell_name, cell in chosen.items()
    ]
    cells = [_seeded(cell, seed) for seed in dict.fromkeys(seeds or file.seeds) for cell in firsts]
    return Experiment(path.stem, file, tuple(cells))


def _cell(name: str, cell: CellFile, words: tuple[str, ...]) -> Cell:
    made = Cell(name, cell.method or name, 0, words, None)
    try:
        return replace(made, config=compose(words))
    except UserError as error:
        return replace(made, fault=str(error))


def _seeded(cell: Cell, seed: int) -> Cell:
    config = cell.config and cell.config.model_copy(update={"seed": seed})
    return replace(cell, seed=seed, overrides=(*cell.overrides, f"seed={seed}"), config=config)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
