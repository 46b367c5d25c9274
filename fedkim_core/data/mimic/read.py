"""From the files of MIMIC to examples and tables: what both adapters do."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from fedkim_core.data.mimic import events as ev
from fedkim_core.data.mimic.files import find, needed, read_blocks, whole
from fedkim_core.data.mimic.hourly import observations, tidy
from fedkim_core.data.mimic.layout import Layout
from fedkim_core.data.mimic.stays import read_stays
from fedkim_core.data.mimic.store import Events
from fedkim_core.data.prepare import SourceData
from fedkim_core.data.sepsis import EXPLICIT_CODES, sepsis3, suspicions
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError

FIRST_DAY = 24
"""Hours that a stay must last to ask about mortality; see the adapters."""
MODALITIES = ("vitals", "labs", "inputs", "outputs")
TASKS = ("mortality", "sepsis")
Reader = Callable[[Path, Layout, pl.DataFrame, Events], None]


def read_mimic(
    layout: Layout, source: Path, scratch: Path, *, sepsis: str, licence: str, note: str
) -> SourceData:
    """Read one data set; see the adapters for labels and choices.

    Args:
        layout: of the data set.
        source: its folder.
        scratch: for the tables, which stay there.
        sepsis: ``sepsis3`` or ``icd``.
        licence: of the data set.
        note: of the data set.

    Raises:
        UserError: a file that is needed is missing, or one is broken.
    """
    if sepsis not in ("sepsis3", "icd"):
        raise UserError("--set sepsis: must be sepsis3 or icd")
    stays, left_out = read_stays(source, layout)
    events = Events(scratch / "events", stays)
    left_out += _read_tables(source, layout, stays, events)
    if sepsis == "icd":
        septic, coded = _coded(source, layout, stays)
    else:
        _read_suspicion(source, layout, stays, events)
        septic, coded = set(), set(stays["stay"])
    spool = Spool(scratch / "tables")
    for group in events.groups():
        septic |= _read_group(group, layout, stays, spool, judge=sepsis == "sepsis3")
    left_out += spool.left_out()
    examples, strata = _examples(layout, stays, septic, coded, spool.stays(), left_out)
    return SourceData(
        name=layout.name,
        licence=licence,
        note=note,
        examples=examples,
        strata=strata,
        tables=spool.scan(),
        natural=_first_units(layout, stays, strata),
        left_out=left_out,
    )


def _read_tables(
    source: Path, layout: Layout, stays: pl.DataFrame, events: Events
) -> list[tuple[str, str]]:
    """The long tables that are there; the others are noted."""
    readers: dict[str, tuple[Reader, str]] = {
        "chartevents": (ev.read_chart, "vital signs, no charted body weight"),
        "labevents": (ev.read_labs, "laboratory results"),
        layout.infusions: (ev.read_infusions, "infusions"),
        "outputevents": (ev.read_outputs, "outputs"),
    }
    if layout.infusions != "inputevents":
        readers["inputevents_cv"] = (ev.read_carevue_inputs, "infusions of the CareVue system")
    missing = []
    for table, (read, what) in readers.items():
        path = find(source, table)
        if path is None:
            missing.append((f"{table}.csv.gz", f"file is missing; no {what}"))
        else:
            read(path, layout, stays, events)
    if len(missing) == len(readers):
        raise UserError(
            f"{source}: {missing[0][0]} and all others like it are missing; obtain {layout.obtain}"
        )
    return missing


def _read_suspicion(source: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    for table, read in (
        ("prescriptions", ev.read_orders),
        ("microbiologyevents", ev.read_cultures),
    ):
        path = find(source, table)
        if path is None:
            raise UserError(
                f"{source}: {table}.csv.gz is missing; without it take --set sepsis=icd,"
                f" or obtain {layout.obtain}"
            )
        read(path, layout, stays, events)


def _coded(source: Path, layout: Layout, stays: pl.DataFrame) -> tuple[set[int], set[int]]:
    """Stays whose admission has an explicit code of sepsis, and those that have any code."""
    path = needed(source, "diagnoses_icd", layout.obtain)
    code = (
        pl.col(layout.codes[0])
        .str.strip_chars()
        .str.to_uppercase()
        .str.replace(".", "", literal=True)
    )
    version = whole(layout.codes[1]) if len(layout.codes) > 1 else pl.lit(9)
    named = pl.any_horizontal(
        (version == number) & code.str.contains(pattern)
        for number, pattern in EXPLICIT_CODES.items()
    )
    septic: set[int] = set()
    coded: set[int] = set()
    for block in read_blocks(path, ("hadm_id", *layout.codes)):
        found = (
            block.filter(code.is_not_null())
            .select(whole("hadm_id").alias("admission"), named=named)
            .join(stays.select("stay", "admission"), on="admission")
        )
        coded |= set(found["stay"])
        septic |= set(found.filter("named")["stay"])
    return septic, coded


def _read_group(
    group: pl.DataFrame,
    layout: Layout,
    stays: pl.DataFrame,
    spool: Spool,
    *,
    judge: bool,
) -> set[int]:
    """Write the observations of some stays; which of them have sepsis by the Sepsis-3 criteria."""
    group = tidy(group, spool)
    rows = observations(group, stays.select("stay", "limit"), spool)
    name = pl.format("{}-{}", pl.lit(layout.name), "stay_number").alias("stay_id")
    names = stays.select("stay", name)
    kept = spool.add(rows.join(names, on="stay", maintain_order="left"))
    if not judge:
        return set()
    signs = group.with_columns(dated=pl.col("note").eq("day").fill_null(False)).rename(
        {"key": "day"}
    )
    signs = signs.join(names, on="stay")
    for what in ("antibiotic order", "culture"):
        timeless = signs.filter(pl.col("variable") == what)["hour"].null_count()
        spool.leave_out(f"sepsis/{what}", "without a valid time", timeless)
    signs = signs.drop_nulls("hour")
    columns = ["stay_id", "hour", "day", "dated"]
    suspected = suspicions(
        signs.filter(pl.col("variable") == "antibiotic order").select(columns),
        signs.filter(pl.col("variable") == "culture").select(columns),
    )
    found = sepsis3(kept, suspected)
    return set(names.filter(pl.col("stay_id").is_in(sorted(found)))["stay"])


def _examples(
    layout: Layout,
    stays: pl.DataFrame,
    septic: set[int],
    coded: set[int],
    held: dict[str, set[str]],
    left_out: list[tuple[str, str]],
) -> tuple[pl.DataFrame, dict[str, tuple[bool, bool]]]:
    """Two questions about every stay, as far as they can be asked, and the strata of patients."""
    rows: list[dict[str, str | None]] = []
    strata: dict[str, tuple[bool, bool]] = {}
    refused: Counter[str] = Counter()
    for stay in stays.iter_rows(named=True):
        stay_id, owner = f"{layout.name}-{stay['stay_number']}", f"{layout.name}-{stay['patient']}"
        tables = {name: stay_id if stay_id in held[name] else None for name in MODALITIES}
        if not any(tables.values()):
            refused["without any observation"] += 1
            continue
        answers = {"mortality": stay["died"], "sepsis": stay["stay"] in septic}
        if stay["hours"] < FIRST_DAY:
            del answers["mortality"]
            refused[f"shorter than {FIRST_DAY} hours, for mortality"] += 1
        if stay["stay"] not in coded:
            del answers["sepsis"]
            refused["of an admission without diagnosis code, for sepsis"] += 1
        for task, answer in answers.items():
            rows.append(
                {
                    "example_id": f"{stay_id}-{task}",
                    "patient_id": owner,
                    "task": task,
                    "answer": "yes" if answer else "no",
                    **tables,
                }
            )
        if answers:
            died, sick = strata.get(owner, (False, False))
            strata[owner] = (
                died or answers.get("mortality", False),
                sick or answers.get("sepsis", False),
            )
    for what, count in refused.items():
        left_out.append(("icustays.csv.gz", f"{count} {'stay' if count == 1 else 'stays'} {what}"))
    if not rows:
        raise UserError(f"{layout.name}: no ICU stay has an observation; obtain {layout.obtain}")
    return pl.DataFrame(rows, infer_schema_length=None), strata


def _first_units(
    layout: Layout, stays: pl.DataFrame, strata: dict[str, tuple[bool, bool]]
) -> dict[str, str]:
    """By patient the unit of the first stay: where a hospital would have met the patient."""
    first = stays.unique("patient", keep="first", maintain_order=True)
    units = {
        f"{layout.name}-{p}": u or "unknown" for p, u in first.select("patient", "unit").rows()
    }
    return {patient: units[patient] for patient in strata}
