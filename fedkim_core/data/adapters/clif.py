"""CLIF, the Common Longitudinal ICU data Format: the tables of one health system.

Rojas JC, Lyons PG, Chhikara K, et al. A common longitudinal intensive care unit data format (CLIF)
for critical illness research. Intensive Care Med 51(3):556-569 (2025),
doi:10.1007/s00134-025-07848-7; tables, columns and categories:
https://clif-icu.com/data-dictionary (2.1; the tables ``input`` and ``output`` are of 3.0).

A stay is a hospitalization of an adult with a row ``icu`` in ``clif_adt``. Hour 0 is the first such
row's ``in_dttm``; the hours up to the longest that a task reads (168) are taken, also those after
intensive care, and what came before is not.

Labels:

- ``mortality`` is "yes" if and only if ``discharge_category`` is "Expired". Hospice and a transfer
  to another hospital are "no". Still admitted or missing: left out.
- ``sepsis`` is "yes" if and only if ``clif_hospital_diagnosis`` (the final billing codes) has an
  explicit sepsis code, :data:`fedkim_core.data.sepsis.EXPLICIT_CODES`. Codes are specific and miss
  many cases, and the sepsis may be later than the hours read. Hospitalizations without any code
  have no row for this task.

``natural`` is ``hospital_id``, a patient belonging to the hospital of the first stay. Units:
``conf/source/clif.yaml``. Infusions count in the hours in which they are charted; an infusion
charted without body weight (ug/min) has no unit of the card and is dropped and counted. Fluids come
from ``clif_input`` only, as volumes. Antibiotics, red cells and GCS parts are not read.

The tables' own ``patient_id`` and ``hospitalization_id`` go into the site folders, with "clif-" in
front; they must be pseudonyms.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from fedkim_core.data.clif_tables import ID, Kind, find, read_columns, read_observations
from fedkim_core.data.contract import TABLE_MODALITIES
from fedkim_core.data.prepare import SourceData
from fedkim_core.data.records import note, stay_examples
from fedkim_core.data.sepsis import EXPLICIT_CODES
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

NAME = "clif"
MODALITIES = ("vitals", "labs", "inputs", "outputs")
TASKS = ("mortality", "sepsis")
LICENCE = "as the health system that holds the tables lays down"
OBTAIN = (
    "the CLIF tables of your health system, clif_*.parquet, .csv or .csv.gz in one folder: "
    "https://clif-icu.com"
)

_ADULT = 18  # years
_UNKNOWN = ("still admitted", "still_admitted", "missing", "")


def read(source: Path, scratch: Path) -> SourceData:
    """Read the tables ``clif_*``; hospitalization and adt must be there, others may be absent.

    What is left out is counted and not listed by name, because the names are a hospital's own:
    hospitalizations that are no stay, tables that are absent, rows that are there twice, values
    that :class:`Spool` drops.

    Raises:
        UserError: a table is missing or damaged, a column is missing or of the wrong type, or two
            rows describe one hospitalization differently.
    """
    spool, left_out = Spool(scratch), list[tuple[str, str]]()
    stays = _stays(source, left_out)
    hours = max(load_tasks()[task].hours for task in TASKS)
    read_observations(source, stays, hours, spool, left_out)
    answers = {"mortality": dict(stays.select("stay_id", "died").iter_rows())}
    answers["sepsis"] = _sepsis(source, stays, left_out)
    owners = dict(stays.select("stay_id", "patient").iter_rows())
    parts = [
        _examples(task, owners, answers[task], spool.scan(), left_out)
        for task in TASKS
        if answers[task]
    ]
    examples = pl.concat(parts) if parts else pl.DataFrame()
    if examples.is_empty():
        raise UserError(f"{source}: no stay with an observation is there; obtain {OBTAIN}")
    yes = examples.filter(pl.col("answer") == "yes").select("patient_id", "task")
    positive = set(yes.iter_rows())
    patients = examples["patient_id"].unique().to_list()
    hospitals = stays.unique("patient", keep="first", maintain_order=True)
    named = dict(hospitals.select("patient", "hospital").iter_rows())
    return SourceData(
        name=NAME,
        licence=LICENCE,
        note="CLIF, Rojas et al. 2025; real patients",
        examples=examples,
        strata={p: tuple((p, task) in positive for task in TASKS) for p in patients},
        tables=spool.scan(),
        natural={patient: named[patient] for patient in patients},
        left_out=[*left_out, *spool.left_out()],
    )


def _whole(
    source: Path, table: str, kinds: dict[str, Kind], maybe: dict[str, Kind]
) -> pl.DataFrame:
    path = find(source, table)
    if path is None:
        raise UserError(f"{source}: clif_{table} is missing; obtain {OBTAIN}")
    return pl.concat(read_columns(path, kinds, maybe=maybe))


def _stays(source: Path, left_out: list[tuple[str, str]]) -> pl.DataFrame:
    """Columns ``hospitalization_id``, ``stay_id``, ``patient``, ``admission``, ``hospital``,
    ``died``, by time of admission to intensive care."""
    table = "clif_hospitalization"
    rows = _whole(
        source,
        "hospitalization",
        {ID: "text", "patient_id": "text", "discharge_category": "text"},
        {"age_at_admission": "number"},
    )
    once = rows.unique(maintain_order=True)
    if once[ID].drop_nulls().is_duplicated().any():
        raise UserError(f"{source}: {table}: two rows describe one {ID} differently")
    note(left_out, table, "rows that are there twice", len(rows) - len(once))
    outcome = pl.col("discharge_category").str.to_lowercase().fill_null("")
    stays = once.join(_admissions(source), on=ID, how="left")
    rules = {
        f"hospitalizations without {ID} or patient_id": pl.any_horizontal(
            pl.col(name).is_null() | (pl.col(name) == "") for name in (ID, "patient_id")
        ),
        f"hospitalizations of patients under {_ADULT}": pl.col("age_at_admission") < _ADULT,
        "hospitalizations without intensive care in clif_adt": pl.col("admission").is_null(),
        "hospitalizations without a known outcome": outcome.is_in(_UNKNOWN),
    }
    for reason, fault in rules.items():
        left = stays.filter(~fault.fill_null(False))
        note(left_out, table, reason, len(stays) - len(left))
        stays = left
    return stays.sort("admission", ID).select(
        ID,
        "admission",
        "hospital",
        stay_id=f"{NAME}-" + pl.col(ID),
        patient=f"{NAME}-" + pl.col("patient_id"),
        died=outcome == "expired",
    )


def _admissions(source: Path) -> pl.DataFrame:
    """By hospitalization: when and where it first came to intensive care."""
    rows = _whole(
        source,
        "adt",
        {ID: "text", "hospital_id": "text", "in_dttm": "time", "location_category": "text"},
        {},
    )
    return (
        rows.filter(pl.col("location_category").str.to_lowercase() == "icu")
        .drop_nulls("in_dttm")
        .sort("in_dttm", "hospital_id")
        .unique(ID, keep="first", maintain_order=True)
        .select(ID, admission="in_dttm", hospital=pl.col("hospital_id").fill_null("unknown"))
    )


def _sepsis(source: Path, stays: pl.DataFrame, left_out: list[tuple[str, str]]) -> dict[str, bool]:
    """By stay with a diagnosis: an explicit sepsis code among them."""
    path = find(source, "hospital_diagnosis")
    if path is None:
        left_out.append(("clif_hospital_diagnosis", "table is absent, so there is no task sepsis"))
        return {}
    kinds: dict[str, Kind] = {ID: "text", "diagnosis_code": "text", "diagnosis_code_format": "text"}
    code = pl.col("diagnosis_code").str.to_uppercase().str.replace_all(".", "", literal=True)
    version = pl.col("diagnosis_code_format").str.to_uppercase()
    explicit = pl.any_horizontal(
        version.str.contains(f"ICD-?{icd}") & code.str.contains(pattern)
        for icd, pattern in EXPLICIT_CODES.items()
    )
    found = [
        block.join(stays, on=ID)
        .group_by("stay_id")
        .agg(explicit.fill_null(False).any().alias("yes"))
        for block in read_columns(path, kinds)
    ]
    return dict(pl.concat(found).group_by("stay_id").agg(pl.col("yes").any()).iter_rows())


def _examples(
    task: str,
    owners: Mapping[str, str],
    answers: Mapping[str, bool],
    tables: pl.LazyFrame,
    left_out: list[tuple[str, str]],
) -> pl.DataFrame:
    """The rows of one task, of the stays that have an observation in the task's hours."""
    observed: dict[str, set[str]] = {name: set() for name in sorted(TABLE_MODALITIES)}
    within = tables.filter(pl.col("hour") < load_tasks()[task].hours)
    for modality, stay in within.select("modality", "stay_id").unique().collect().iter_rows():
        observed[modality].add(stay)
    stays = {s: (patient, answers[s]) for s, patient in owners.items() if s in answers}
    examples = stay_examples(task, stays, observed)
    note(left_out, task, "stays without a diagnosis", len(owners) - len(stays))
    note(left_out, task, "stays without an observation", len(stays) - len(examples))
    return examples
