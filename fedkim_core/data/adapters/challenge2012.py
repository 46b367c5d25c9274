"""PhysioNet Challenge 2012: 12,000 stays of adults in intensive care, the first 48 hours of each.

Silva I, Moody G, Scott DJ, Celi LA, Mark RG. Predicting in-hospital mortality of ICU patients: the
PhysioNet/Computing in Cardiology Challenge 2012. Comput Cardiol 39:245-248 (2012); layout and
units: https://archive.physionet.org/challenge/2012/. The stays are of MIMIC-II, so sites with
MIMIC-III may hold the same patients.

Label: ``mortality`` is "yes" if and only if ``In-hospital_death`` is 1 (died in hospital: 2 <=
Survival <= Length_of_stay, in days). Stays under 48 hours are not in the data set.

- The first 24 hours since admission to intensive care are taken, which is what the task reads.
- A patient is a ``RecordID``: the data set does not say which stays are of the same patient.
- Units and variables: ``conf/source/challenge2012.yaml``. Invasive and non-invasive pressures are
  one variable, and so are the troponins I and T.
- ``Urine`` is in mL; :func:`hourly_rates` says how it becomes mL/h.
- -1 means missing. Faulty values are dropped by the plausible range and never repaired: pressures
  and temperatures of 0, degrees Fahrenheit among degrees Celsius, pH times 10 or 100.
- ``natural`` is ``ICUType``, the kind of intensive care unit, of one hospital.
"""

from pathlib import Path

import polars as pl

from fedkim_core.data.prepare import SourceData
from fedkim_core.data.records import (
    hourly_rates,
    note,
    read_rows,
    refuse,
    single_stays,
    source_variables,
)
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

NAME = "challenge2012"
MODALITIES = ("vitals", "labs", "outputs")
TASKS = ("mortality",)
LICENCE = "ODC-BY 1.0"
OBTAIN = (
    "PhysioNet Challenge 2012 from https://physionet.org/content/challenge-2012/1.0.0/ (set-a with "
    "Outcomes-a.txt, and as you like set-b and set-c with theirs)"
)

_KINDS = {1: "coronary care", 2: "cardiac surgery recovery", 3: "medical", 4: "surgical"}
_DESCRIPTORS = ("RecordID", "Age", "Gender", "Height", "ICUType", "Weight")
_NOT_USED = ("ALP", "AST", "Cholesterol", "HCT", "MechVent", "TropI", "TropT")
_BATCH = 200  # records in memory at a time


def read(source: Path, scratch: Path) -> SourceData:
    """Read the sets A, B and C, as far as they are there.

    Left out and listed: records without an outcome, outcomes without a record, records without an
    observation in the first 24 hours, rows without a parameter (sets B and C have a few), rows
    that are there twice, and values that :class:`Spool` drops.

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    spool, left_out = Spool(scratch), list[tuple[str, str]]()
    died: dict[str, bool] = {}
    kinds: dict[str, str] = {}
    for folder in sorted(source.glob("set-[abc]")):
        outcomes = _outcomes(source / f"Outcomes-{folder.name[-1]}.txt")
        files = {path.stem: path for path in sorted(folder.glob("*.txt"))}
        for record in sorted(files.keys() ^ outcomes.keys()):
            absent = "an outcome" if record in files else "a record"
            left_out.append((f"{folder.name}/{record}.txt", f"without {absent}"))
        known = sorted(files.keys() & outcomes.keys())
        if twice := sorted(died.keys() & known):
            raise UserError(f"{files[twice[0]]}: the record is in another set as well")
        for start in range(0, len(known), _BATCH):
            batch = known[start : start + _BATCH]
            rows = _rows([files[record] for record in batch], left_out)
            spool.add(_observations(rows))
            died |= {record: outcomes[record] for record in batch}
            kinds |= dict.fromkeys(batch, "unknown") | _kinds(rows)
    return single_stays(
        NAME,
        "mortality",
        died,
        kinds,
        spool,
        licence=LICENCE,
        note="PhysioNet Challenge 2012, Silva et al. 2012; real, de-identified patients",
        left_out=left_out,
        absent=f"{source}: no record with an outcome is there; obtain {OBTAIN}",
    )


def _outcomes(path: Path) -> dict[str, bool]:
    """By RecordID: died in hospital."""
    record, death = pl.col("RecordID"), pl.col("In-hospital_death")
    rows = read_rows(path, ("RecordID", "In-hospital_death"), obtain=OBTAIN)
    rules = {
        "RecordID is not a whole number": ~record.str.contains(r"^\d+$") | record.is_null(),
        "RecordID is not unique": ~record.is_first_distinct(),
        "In-hospital_death must be 0 or 1": ~death.is_in(["0", "1"]) | death.is_null(),
    }
    refuse(rows, rules)
    return {name: death == "1" for name, death in rows.select(record, death).iter_rows()}


def _rows(paths: list[Path], left_out: list[tuple[str, str]]) -> pl.DataFrame:
    """Some records: columns ``record``, ``hour``, ``Parameter`` and ``value``."""
    columns = ("Time", "Parameter", "Value")
    rows = pl.concat(
        read_rows(path, columns, obtain=OBTAIN).with_columns(
            record=pl.lit(path.stem), name=pl.lit(f"{path.parent.name}/{path.name}")
        )
        for path in paths
    )
    time, parameter, text = pl.col("Time"), pl.col("Parameter"), pl.col("Value")
    clock = time.str.extract_groups(r"^(\d{2,3}):([0-5]\d)$").struct
    hour = clock.field("1").cast(pl.Float64) + clock.field("2").cast(pl.Float64) / 60
    value = text.cast(pl.Float64, strict=False)
    known = [*_DESCRIPTORS, *_NOT_USED, *source_variables(NAME)]
    rules = {
        "the row is cut short": text.is_null(),
        "Time must be hours:minutes since admission": hour.is_null(),
        "Time goes backwards": hour < hour.shift().over("file"),
        "Parameter is not one of the data set's": ~parameter.is_in(known),
        "Value is not a number": value.is_null(),
        "RecordID is not the file's name": (parameter == "RecordID") & (text != pl.col("record")),
    }
    refuse(rows, rules)
    faults = {
        "rows without a parameter": parameter.is_null(),
        "rows that are there twice": ~pl.struct("record", *columns).is_first_distinct(),
    }
    for reason, fault in faults.items():
        for name, count in rows.filter(fault).group_by("name").len().sort("name").iter_rows():
            note(left_out, name, reason, count)
        rows = rows.filter(~fault)
    return rows.select("record", "Parameter", hour=hour, value=value)


def _kinds(rows: pl.DataFrame) -> dict[str, str]:
    """By record: the kind of intensive care unit."""
    kinds = rows.filter(pl.col("Parameter") == "ICUType").select("record", "value")
    return {record: _KINDS.get(kind, "unknown") for record, kind in kinds.iter_rows()}


def _observations(rows: pl.DataFrame) -> pl.DataFrame:
    """What the task reads, for :meth:`Spool.add`."""
    table = source_variables(NAME)
    rows = rows.filter(pl.col("Parameter").is_in(list(table)) & (pl.col("value") != -1)).select(
        "hour",
        "value",
        stay_id=f"{NAME}-" + pl.col("record"),
        variable=pl.col("Parameter").replace_strict({own: v for own, (v, _) in table.items()}),
        unit=pl.col("Parameter").replace_strict({own: u for own, (_, u) in table.items()}),
    )
    urine = pl.col("variable") == "urine"
    rates = hourly_rates(rows.filter(urine)).with_columns(unit=pl.lit(table["Urine"][1]))
    both = pl.concat([rows.filter(~urine), rates.select(rows.columns)])
    return both.filter(pl.col("hour") < load_tasks()["mortality"].hours)
