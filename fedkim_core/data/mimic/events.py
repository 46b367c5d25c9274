"""The long tables of MIMIC become events of stays.

They are read in blocks; only rows of items and stays that are wanted are kept.
"""

from pathlib import Path

import polars as pl

from fedkim_core.data.mimic.files import number, read_blocks, time, whole
from fedkim_core.data.mimic.layout import Layout, items, words
from fedkim_core.data.mimic.store import Events
from fedkim_core.data.sepsis import AFTER

LOOK_BACK = AFTER
"""Hours before ICU admission from which a suspicion of infection reaches into the stay."""
FLUIDS = ("crystalloid", "colloid", "red_cells", "enteral_feed")
BY_WEIGHT = ("noradrenaline", "propofol")
"""Their cards count per kg."""
POUND = 0.45359237


def read_chart(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``chartevents``: vital signs, coma score, body weight. Rows marked as errors are void."""
    known = items(layout.name, "chartevents")
    columns = (layout.stay, "itemid", "charttime", "value", "valuenum", "valueuom")
    for block in read_blocks(path, columns, maybe=("error",)):
        rows = _of_stays(_of_items(block, known), layout.stay, stays, "charttime")
        value = number("valuenum")
        unit = pl.coalesce(_unit("valueuom"), "default")
        share = pl.when(value <= 1).then(pl.lit("fraction")).otherwise(pl.lit("%"))
        unit = pl.when(pl.col("variable") == "fio2").then(share).otherwise(unit)
        pounds = (pl.col("variable") == "weight") & (pl.col("default") == "lb")
        untestable = pl.col("value").str.strip_chars().is_in(words("gcs_untestable"))
        events.add(
            rows.with_columns(
                value=pl.when(pounds).then(value * POUND).otherwise(value),
                unit=unit,
                note=pl.when(untestable).then(pl.lit("untestable")),
                void=pl.when(whole("error") == 1).then(pl.lit("marked as errors")),
            )
        )


def read_labs(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``labevents``: they name a patient and a time, no ICU stay."""
    known = items(layout.name, "labevents")
    columns = ("subject_id", "itemid", "charttime", "value", "valuenum", "valueuom")
    for block in read_blocks(path, columns, maybe=("specimen_id",)):
        rows = _of_stays(_of_items(block, known), "subject_id", stays, "charttime")
        specimen = pl.col("variable") == "specimen"
        events.add(
            rows.with_columns(
                value=number("valuenum"),
                unit=pl.coalesce(_unit("valueuom"), "default"),
                key=whole("specimen_id"),
                note=pl.when(specimen).then(pl.col("value").str.strip_chars()),
            )
        )


def read_infusions(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``inputevents`` (``inputevents_mv`` in MIMIC-III): amounts and rates from start to end.

    The value is a rate in ``unit``: the row's own for drugs dosed by weight, otherwise the amount
    over the duration, which is a minute when start and end are the same. An antibiotic counts as
    one dose. Orders that were rewritten are void.
    """
    known = items(layout.name, "inputevents")
    times, amounts = ("starttime", "endtime"), ("amount", "amountuom", "rate", "rateuom")
    others = ("patientweight", "statusdescription", "orderid")
    columns = (layout.stay, "itemid", *times, *amounts, *others)
    for block in read_blocks(path, columns):
        rows = _of_stays(_of_items(block, known), layout.stay, stays, "starttime", until="endtime")
        hours = pl.col("end") - pl.col("hour")
        rate = number("rate").is_not_null() & pl.col("variable").is_in(BY_WEIGHT)
        dose = pl.col("variable") == "antibiotic"
        events.add(
            rows.with_columns(
                value=pl.when(dose)
                .then(1.0)
                .when(rate)
                .then(number("rate"))
                .otherwise(number("amount") / pl.max_horizontal(hours, 1 / 60)),
                unit=pl.when(dose)
                .then(pl.lit("dose"))
                .when(rate)
                .then(_unit("rateuom"))
                .otherwise(_unit("amountuom") + "/hour"),
                end=pl.when(hours.is_between(0, 1 / 60))
                .then(pl.col("hour") + 1 / 60)
                .otherwise("end"),
                weight=number("patientweight"),
                key=whole("orderid"),
                void=pl.when(pl.col("statusdescription") == "Rewritten")
                .then(pl.lit("of rewritten orders"))
                .when(hours.is_null())
                .then(pl.lit("without a valid time"))
                .when(hours < 0)
                .then(pl.lit("with an end before the start")),
            )
        )


def read_carevue_inputs(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``inputevents_cv``: an amount was given by its time, a rate was set at its time.

    So says https://mimic.mit.edu/docs/iii/tables/inputevents_cv. Amounts are spread over the hour
    before; a rate holds until the next row of its item, at most an hour. Fluids have amounts and
    drugs have rates: the volume of a drug's carrier is not read.
    """
    known = items(layout.name, "inputevents_cv")
    columns = (layout.stay, "itemid", "charttime", "amount", "amountuom", "rate", "rateuom")
    for block in read_blocks(path, (*columns, "stopped", "orderid")):
        rows = _of_stays(_of_items(block, known), layout.stay, stays, "charttime")
        amount = pl.col("variable").is_in(FLUIDS)
        stopped = pl.col("stopped").str.contains("^(Stopped|D/C)")
        # CareVue writes mcgkgmin, mcgmin and Uhr.
        slashed = _unit("rateuom").str.replace(r"^(\w+?)(kg)?(min|hr)$", "$1/$2/$3")
        slashed = slashed.str.replace("//", "/", literal=True)
        rate = _unit("rate").is_not_null() | stopped.fill_null(False)
        rows = rows.filter(pl.when(amount).then(_unit("amount").is_not_null()).otherwise(rate))
        events.add(
            rows.with_columns(
                hour=pl.when(amount).then(pl.col("hour") - 1).otherwise("hour"),
                end=pl.when(amount).then("hour"),
                value=pl.when(amount)
                .then(number("amount"))
                .when(stopped)
                .then(0.0)
                .otherwise(number("rate")),
                unit=pl.when(amount)
                .then(_unit("amountuom") + "/hour")
                .otherwise(pl.coalesce(slashed, "default")),
                key=whole("orderid"),
            )
        )


def read_outputs(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``outputevents``: volumes, each in mL since the one charted before."""
    known = items(layout.name, "outputevents")
    columns = (layout.stay, "itemid", "charttime", "value", "valueuom")
    for block in read_blocks(path, columns, maybe=("iserror",)):
        rows = _of_stays(_of_items(block, known), layout.stay, stays, "charttime")
        void = pl.when(whole("iserror") == 1).then(pl.lit("marked as errors"))
        events.add(
            rows.with_columns(
                value=number("value") * pl.col("sign"),
                unit=pl.coalesce(_unit("valueuom"), pl.lit("mL")) + "/hour",
                void=void,
            )
        )


def read_orders(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``prescriptions``: systemic antibacterial drugs, one row for each start."""
    drug, route = pl.col("drug").str.to_lowercase(), pl.col("route").str.strip_chars()
    wanted = drug.str.contains_any(words("antibiotics"))
    wanted &= ~drug.str.contains_any(words("local_forms"))
    wanted &= ~route.str.to_uppercase().is_in(words("local_routes")).fill_null(False)
    wanted &= (pl.col("drug_type") != "BASE").fill_null(True)
    for block in read_blocks(path, ("subject_id", layout.ordered, "drug", "drug_type", "route")):
        rows = block.filter(wanted).with_columns(variable=pl.lit("antibiotic order"))
        dated = pl.lit("day" if layout.ordered_by_day else None, pl.String)
        events.add(
            _of_stays(rows, "subject_id", stays, layout.ordered, back=LOOK_BACK).with_columns(
                key=_day(layout.ordered), note=dated
            )
        )


def read_cultures(path: Path, layout: Layout, stays: pl.DataFrame, events: Events) -> None:
    """``microbiologyevents``: when a specimen was taken for culture, or only on which day."""
    screening = pl.col("spec_type_desc").str.to_lowercase().str.contains_any(words("not_cultures"))
    for block in read_blocks(path, ("subject_id", "chartdate", "charttime", "spec_type_desc")):
        timed = time("charttime").is_not_null()
        rows = block.filter(~screening.fill_null(False)).with_columns(
            variable=pl.lit("culture"),
            taken=pl.when(timed).then("charttime").otherwise("chartdate"),
            note=pl.when(~timed).then(pl.lit("day")),
        )
        events.add(
            _of_stays(rows, "subject_id", stays, "taken", back=LOOK_BACK).with_columns(
                key=_day("taken")
            )
        )


def _of_items(block: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    return block.with_columns(item=whole("itemid")).join(
        known, left_on="item", right_on="itemid", maintain_order="left"
    )


def _of_stays(
    rows: pl.DataFrame,
    column: str,
    stays: pl.DataFrame,
    since: str,
    *,
    until: str | None = None,
    back: float = 0,
) -> pl.DataFrame:
    """The rows of wanted stays from ``back`` hours before them to the last hour that is read.

    Rows whose time is missing stay in, to be counted.
    """
    owner = "patient" if column == "subject_id" else "stay_number"
    found = (
        rows.with_columns(whole(column).alias(owner))
        .join(stays.select("stay", owner, "start", "limit"), on=owner, maintain_order="left")
        .with_columns(
            hour=(time(since) - pl.col("start")).dt.total_seconds() / 3600,
            end=(time(until) - pl.col("start")).dt.total_seconds() / 3600 if until else None,
        )
    )
    begins = pl.col("hour") < pl.col("limit")
    inside = begins & (pl.coalesce("end", "hour") >= -back)
    return found.filter(inside.fill_null(True))


def _unit(column: str) -> pl.Expr:
    """The cell, null when it is blank."""
    word = pl.col(column).str.strip_chars()
    return pl.when(word != "").then(word)


def _day(column: str) -> pl.Expr:
    return time(column).dt.epoch("d")
