"""PhysioNet Challenge 2019: 40,336 stays in intensive care of two hospital systems, hour by hour.

Reyna MA, Josef CS, Jeter R, et al. Early prediction of sepsis from clinical data: the
PhysioNet/Computing in Cardiology Challenge 2019. Crit Care Med 48(2):210-217 (2020),
doi:10.1097/CCM.0000000000004145; layout and units:
https://physionet.org/content/challenge-2019/1.0.0/.

Label: ``sepsis`` is "yes" if ``SepsisLabel`` is 1 in any of the first 168 hours in intensive care,
which are the hours that the task reads, and "no" if it is never 1. It is 1 from six hours before
the onset of sepsis after Sepsis-3. Onset is the earlier of two times: suspected infection (the
earlier of antibiotics and cultures, the culture within 24 hours of the antibiotic or the antibiotic
within 72 hours of the culture) and a rise of SOFA by 2 within 24 hours, where the rise comes from
24 hours before to 12 hours after the suspicion. Patients whose label turns 1 only later are left
out: nothing that the task may read shows their sepsis, and "no" would be untrue of their stay.

- All hours up to 168 are kept, those from onset on too. The task asks whether a patient has
  sepsis, not whether it is coming, so the illness itself is no leak. What could be one is the
  length of a record: those of septic patients end about three hours after onset.
- ``hour`` is ``ICULOS`` - 1, the first hour after admission being 1 there.
- A patient is a file.
- Nobody trains on sepsis (``conf/task/sepsis.yaml``), so this data set serves validation and test
  of a federation of several data sets (``data.kind=sources``) and is no network by itself.
- Units and variables: ``conf/source/challenge2019.yaml``.
- ``natural`` is the hospital system: ``training_setA`` or ``training_setB``.
"""

from pathlib import Path

import polars as pl

from fedkim_core.data.prepare import SourceData
from fedkim_core.data.records import read_rows, refuse, single_stays, source_variables
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

NAME = "challenge2019"
MODALITIES = ("vitals", "labs")
TASKS = ("sepsis",)
LICENCE = "CC BY 4.0"
OBTAIN = (
    "PhysioNet Challenge 2019 from https://physionet.org/content/challenge-2019/1.0.0/ "
    "(training_setA, training_setB or both)"
)

_SETS = {"training_setA": "system A", "training_setB": "system B"}
_BATCH = 200  # files in memory at a time


def read(source: Path, scratch: Path) -> SourceData:
    """Read the files ``*.psv`` of one hospital system or both, also below a folder ``training``.

    Left out and listed: patients who get sepsis only after the hours that the task reads, patients
    without an observation in these hours, and values that :class:`Spool` drops.

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    spool, left_out = Spool(scratch), list[tuple[str, str]]()
    septic: dict[str, bool] = {}
    systems: dict[str, str] = {}
    hours = load_tasks()["sepsis"].hours
    for folder in _folders(source):
        paths = sorted(folder.glob("*.psv"))
        if twice := [path for path in paths if path.stem in systems]:
            raise UserError(f"{twice[0]}: the patient is in another set as well")
        for start in range(0, len(paths), _BATCH):
            rows = _rows(paths[start : start + _BATCH])
            onset = rows.group_by("record", maintain_order=True).agg(
                pl.col("hour").filter(pl.col("SepsisLabel") == 1).min()
            )
            late = onset.filter(pl.col("hour") >= hours)["record"].to_list()
            reason = f"sepsis only after the {hours} hours that the task reads"
            left_out += [(f"{folder.name}/{record}.psv", reason) for record in late]
            systems |= dict.fromkeys(onset["record"], _SETS[folder.name])
            septic |= {r: h is not None for r, h in onset.iter_rows() if r not in late}
            spool.add(_observations(rows.filter(pl.col("hour") < hours)))
    return single_stays(
        NAME,
        "sepsis",
        septic,
        systems,
        spool,
        licence=LICENCE,
        note="PhysioNet Challenge 2019, doi:10.13026/v64v-d857; real, de-identified patients",
        left_out=left_out,
        absent=f"{source}: no training_setA or training_setB is there; obtain {OBTAIN}",
    )


def _folders(source: Path) -> list[Path]:
    places = [top / name for top in (source, source / "training") for name in _SETS]
    return [folder for folder in places if folder.is_dir()]


def _rows(paths: list[Path]) -> pl.DataFrame:
    """Some files: columns ``record``, ``hour``, ``SepsisLabel``, the measurements; NaN is null.

    The hours of a file follow one another, so a gap or a step back means that it is damaged.
    """
    measured = list(source_variables(NAME))
    names = [*measured, "ICULOS", "SepsisLabel"]
    rows = pl.concat(
        read_rows(path, names, obtain=OBTAIN, separator="|").with_columns(record=pl.lit(path.stem))
        for path in paths
    )
    numbers = {name: pl.col(name).cast(pl.Float64, strict=False) for name in names}
    hour, label = numbers["ICULOS"], numbers["SepsisLabel"]
    rules = {
        "the row is cut short": pl.col("SepsisLabel").is_null(),
        **{f"{name} is not a number": number.is_null() for name, number in numbers.items()},
        "ICULOS must be a whole number from 1": ~hour.is_finite() | (hour < 1) | (hour % 1 != 0),
        "ICULOS does not go up by 1": hour.diff().over("file") != 1,
        "SepsisLabel must be 0 or 1": ~label.is_in([0.0, 1.0]),
    }
    refuse(rows, rules)
    return rows.select(
        "record",
        hour=hour - 1,
        SepsisLabel=label,
        **{name: numbers[name].fill_nan(None) for name in measured},
    )


def _observations(rows: pl.DataFrame) -> pl.DataFrame:
    """One measurement a row, for :meth:`Spool.add`."""
    table = source_variables(NAME)
    column = pl.col("column")
    return (
        rows.unpivot(list(table), index=["record", "hour"], variable_name="column")
        .drop_nulls("value")
        .select(
            "hour",
            "value",
            stay_id=f"{NAME}-" + pl.col("record"),
            variable=column.replace_strict({own: v for own, (v, _) in table.items()}),
            unit=column.replace_strict({own: u for own, (_, u) in table.items()}),
        )
    )
