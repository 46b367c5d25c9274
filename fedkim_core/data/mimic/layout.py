"""Where MIMIC-III and MIMIC-IV differ, and which items of their tables are read."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl
import yaml

from fedkim_core.paths import CONF


@dataclass(frozen=True)
class Layout:
    """Names in one data set; columns in lower case."""

    name: str
    """Of the data file in ``conf/source``, and what patients and stays begin with."""
    obtain: str
    stay: str
    """Column of the number of an ICU stay."""
    patient: tuple[str, ...]
    """Columns of ``patients`` for the age: day of birth, or age and its year."""
    infusions: str
    """The table of infusions with a start and an end."""
    codes: tuple[str, ...]
    """Columns of ``diagnoses_icd``: the code and, unless all are ICD-9, its version."""
    ordered: str
    """Column of ``prescriptions``: when a drug was to begin."""
    ordered_by_day: bool
    """Only the day of that is known."""


def items(name: str, table: str) -> pl.DataFrame:
    """What is read of a table: ``itemid``, ``variable``, ``default`` (unit) and ``sign``."""
    rows = [
        (item, line["variable"], line.get("unit"), line.get("sign", 1))
        for file in ("mimic", name)
        for line in _file(file).get(table, [])
        for item in line["items"]
    ]
    columns = {"itemid": pl.Int64, "variable": pl.String, "default": pl.String, "sign": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def words(name: str) -> list[str]:
    """A list of names of ``conf/source/mimic.yaml``."""
    return [str(word) for word in _file("mimic")[name]]


@cache
def _file(name: str) -> dict[str, Any]:
    path = CONF / "source" / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
