"""What a site may tell about its folder: counts in tens, no small cell, nothing of one patient.

The disclosure rule, which every count of the summary obeys (:func:`count`):

- A cell that stands on one to nine patients is written ``<10``; zero is written 0.
- Any other count is rounded down to a multiple of ten.

Hiding small cells alone is not enough: one hidden cell is its total less its neighbours. Both
sources below ask for more. Hiding a second cell by hand is what the first gave up for rounding (it
hides 1 to 7 and rounds to fives), which also holds across tables that overlap, as ours do: sums and
differences of multiples of ten are multiples of ten, and a total may hold nine more than it shows.
No table has nine cells that add up: of nine hidden in a total below ten, each would be one.

- NHS Digital, "Disclosure control methodology for HES and ECDS" (2018),
  https://digital.nhs.uk/data-and-information/data-tools-and-services/data-services/hospital-episode-statistics/change-to-disclosure-control-methodology-for-hes-and-ecds-from-september-2018
- CMS, "Cell Size Suppression Policy" (26 January 2024), https://resdac.org/node/1506: no cell of 1
  to 10 is reported, none can be derived from others, and zero is allowed. Ten as the smallest cell
  is our own rule, between the two; as it is rounded, our 10 stands for 10 to 19.

Left out: identifiers, dates, free text, answers in words, values and extremes of single patients.
The summary protects patients, not the hospital: that all its patients answer "no" can be read from
it. Two summaries of a folder that grew in between can be compared; do not send one per patient.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedkim_core.data.contract import LAST_HOUR, SPLITS, TABLE_MODALITIES, TABLES_FILE
from fedkim_core.data.faults import UNREADABLE, scan
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from fedkim_core.modalities import Variable, load_modalities
from fedkim_core.tasks import load_tasks

FORMATS = (".json", ".md")
SMALLEST = 10
"""Patients that a shown cell stands on, at least; also the step of rounding."""
HIDDEN = f"<{SMALLEST}"
HOURS = ((0, 5), (6, 11), (12, 23), (24, 47), (48, 167), (168, LAST_HOUR))
"""Hours from admission, first and last, for which observations are counted."""
BINS = (-2, -1, 0, 1, 2)
"""Edges of the histograms: the modality card's mean and so many of its sd, the same everywhere."""
RULE = (
    f"A cell that stands on 1 to {SMALLEST - 1} patients is {HIDDEN}; "
    f"other counts are rounded down to a multiple of {SMALLEST}."
)

Count = int | str


def count(rows: pl.DataFrame) -> Count:
    """How many rows, by the disclosure rule; the column patient_id says whose they are."""
    patients = rows["patient_id"].n_unique()
    if 0 < patients < SMALLEST:
        return HIDDEN
    return len(rows) // SMALLEST * SMALLEST


def write_summary(site: Site, path: Path) -> None:
    """Write the summary of a site as JSON (``.json``) or Markdown (``.md``).

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    check_suffix(path)
    summary = summarise(site)
    if path.suffix == ".json":
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    else:
        text = "\n".join(_markdown(summary)) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def check_suffix(path: Path) -> None:
    """Refuse a name that says no format.

    Raises:
        UserError: the suffix is neither ``.json`` nor ``.md``.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: a summary ends in {' or '.join(FORMATS)}")


def summarise(site: Site) -> dict[str, Any]:
    """Count a site's examples and observations; everything in it may be shown.

    Memory grows with the number of stays, not with that of the observations.

    Raises:
        UserError: ``tables.parquet`` cannot be read.
    """
    examples = site.examples
    patients = examples.unique("patient_id")
    parts = examples.partition_by("task", "split", as_dict=True)
    order = [(task, split) for task in load_tasks() for split in SPLITS if (task, split) in parts]
    return {
        "schema_version": 1,
        "site": site.card.name,
        "synthetic": site.card.synthetic,
        "rule": RULE,
        "patients": count(patients),
        "patients_by_split": {s: count(patients.filter(pl.col("split") == s)) for s in SPLITS},
        "tasks": [_task(*key, parts[key]) for key in order],
        "tables": list(_tables(site)),
    }


def _task(task: str, split: str, rows: pl.DataFrame) -> dict[str, Any]:
    card = load_tasks()[task]
    answers = {"in words": rows}
    if card.answer == "yes_no":
        answers = {answer: rows.filter(pl.col("answer") == answer) for answer in ("yes", "no")}
    return {
        "task": task,
        "split": split,
        "answers": {
            answer: {"examples": count(part), "patients": count(part.unique("patient_id"))}
            for answer, part in answers.items()
        },
        "modalities": {
            name: {
                "present": count(rows.filter(pl.col(name).is_not_null())),
                "missing": count(rows.filter(pl.col(name).is_null())),
            }
            for name in card.modalities
        },
    }


def _tables(site: Site) -> Iterator[dict[str, Any]]:
    """Every variable of the modalities that examples refer to, observed or not."""
    stays = _stays(site.examples)
    if stays.is_empty():
        return
    try:
        observed = _observed(site.folder / TABLES_FILE, stays)
    except UNREADABLE as error:
        raise UserError(f"{site.folder / TABLES_FILE}: cannot be read any more") from error
    parts = observed.partition_by("modality", "variable", as_dict=True)
    for modality in sorted(TABLE_MODALITIES):
        referred = stays.filter(pl.col("modality") == modality)
        if referred.is_empty():
            continue
        for variable in load_modalities()[modality].variables:
            seen = parts.get((modality, variable.name), observed.clear())
            edges = _edges(variable)
            bins = np.searchsorted(edges, seen["mean"].to_numpy(), side="right")
            yield {
                "modality": modality,
                "variable": variable.name,
                "unit": variable.unit,
                "stays": count(referred),
                "stays_with_value": count(seen),
                "stays_with_value_by_hours": {
                    _name(hours): count(seen.filter(pl.col(_name(hours)))) for hours in HOURS
                },
                "mean_of_stay": {
                    "edges": edges,
                    "stays": [count(seen.filter(bins == i)) for i in range(len(edges) + 1)],
                },
            }


def _stays(examples: pl.DataFrame) -> pl.DataFrame:
    """Columns modality, stay_id, patient_id: the stays that examples refer to, each once."""
    long = examples.unpivot(
        sorted(TABLE_MODALITIES), index="patient_id", variable_name="modality", value_name="stay_id"
    )
    return long.drop_nulls("stay_id").unique(["modality", "stay_id"])


def _observed(path: Path, stays: pl.DataFrame) -> pl.DataFrame:
    """One row for each stay and variable observed: the mean, and in which hours it was seen."""
    return (
        scan(path)
        .join(stays.lazy(), on=["modality", "stay_id"])
        .group_by("modality", "variable", "stay_id", "patient_id")
        .agg(
            pl.col("value").mean().alias("mean"),
            *(pl.col("hour").is_between(*hours).any().alias(_name(hours)) for hours in HOURS),
        )
        .collect(engine="streaming")
    )


def _name(hours: tuple[int, int]) -> str:
    return f"{hours[0]}-{hours[1]}"


def _edges(variable: Variable) -> list[float]:
    """Inside the plausible range, to four digits; a bin holds its lower edge."""
    edges = (variable.mean + k * variable.sd for k in BINS)
    return [float(f"{edge:.4g}") for edge in edges if variable.low < edge < variable.high]


def _markdown(summary: dict[str, Any]) -> Iterator[str]:
    kind = "synthetic" if summary["synthetic"] else "not synthetic"
    yield f"# {summary['site']}\n\n{kind}. {RULE}\n"
    yield from _head("patients", *SPLITS)
    yield _row(summary["patients"], *summary["patients_by_split"].values())
    yield "\n## Answers\n"
    yield from _head("task", "split", "answer", "examples", "patients")
    for task in summary["tasks"]:
        for answer, cells in task["answers"].items():
            yield _row(task["task"], task["split"], answer, *cells.values())
    yield "\n## Modalities of the examples\n"
    yield from _head("task", "split", "modality", "present", "missing")
    for task in summary["tasks"]:
        for modality, cells in task["modalities"].items():
            yield _row(task["task"], task["split"], modality, *cells.values())
    if not summary["tables"]:
        return
    yield "\n## Stays with a value, in all and by hours from admission\n"
    yield from _head("variable", "unit", "stays", "with a value", *map(_name, HOURS))
    for v in summary["tables"]:
        hours = v["stays_with_value_by_hours"].values()
        name = f"{v['modality']} {v['variable']}"
        yield _row(name, v["unit"], v["stays"], v["stays_with_value"], *hours)
    yield "\n## Stays by the mean of their values\n"
    yield from _head("variable", "unit", "stays below, between and above the edges")
    for v in summary["tables"]:
        first, *rest = v["mean_of_stay"]["stays"]
        between = (f" [{e:g}] {n}" for e, n in zip(v["mean_of_stay"]["edges"], rest, strict=True))
        yield _row(f"{v['modality']} {v['variable']}", v["unit"], f"{first}{''.join(between)}")


def _head(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield _row(*["---"] * len(titles))


def _row(*cells: Count) -> str:
    return f"| {' | '.join(map(str, cells))} |"
