"""The events of a group of stays become values per hour.

Infusions of one hour add up, so that two bags running at once are not averaged; volumes that came
out become rates as :func:`hourly_rates` has it; the other variables keep every value.
"""

import polars as pl

from fedkim_core.data.mimic.events import BY_WEIGHT
from fedkim_core.data.records import hourly_rates
from fedkim_core.data.spool import Spool
from fedkim_core.data.units import convert, variables

GCS = ("gcs eye", "gcs motor", "gcs verbal")
WEIGHT = (20, 400)
"""kg, plausible for an adult."""
_COLUMNS = ["stay", "hour", "variable", "value", "unit"]


def tidy(events: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """Without void rows and exact copies; they are counted in ``spool``."""
    void = pl.col("void").is_not_null()
    _count(events.filter(void), pl.col("void"), spool)
    events = events.filter(~void)
    single = events.unique(maintain_order=True)
    copies = (
        events.group_by("variable")
        .len()
        .join(single.group_by("variable").len(), on="variable", suffix="_once")
    )
    for variable, before, after in copies.iter_rows():
        if variable in _KINDS or variable in GCS:
            spool.leave_out(_name(variable), "repeating another row", before - after)
    return single


def observations(events: pl.DataFrame, limits: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """Everything that a table can hold.

    Args:
        events: of :func:`tidy`.
        limits: columns ``stay`` and ``limit``, the hours that are read.
        spool: counts what is left out.

    Returns:
        ``stay``, ``hour``, ``variable``, ``value``, ``unit``: as :meth:`Spool.add` wants them.
    """
    kind = pl.col("variable").replace_strict(_KINDS, default=None, return_dtype=pl.String)
    parts = [
        _arterial(events.filter(kind == "labs"), events, spool),
        events.filter(kind == "vitals"),
        _coma(events, spool),
        _inputs(events.filter(kind == "inputs"), _weights(events, spool), limits, spool),
        _outputs(events.filter(kind == "outputs")),
    ]
    return pl.concat([part.select(_COLUMNS) for part in parts])


def _arterial(labs: pl.DataFrame, events: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """Oxygen and carbon dioxide only of samples that the laboratory calls arterial."""
    gas = pl.col("variable").is_in(["pao2", "paco2"])
    sample = events.filter(pl.col("variable") == "specimen").select(
        "stay", "hour", "key", arterial=pl.col("note").str.to_uppercase().str.starts_with("ART")
    )
    # Two kinds of sample at one time cannot be told apart where samples have no number.
    sample = sample.group_by("stay", "hour", "key").agg(pl.col("arterial").all())
    found = labs.filter(gas).join(
        sample, on=["stay", "hour", "key"], how="left", nulls_equal=True, maintain_order="left"
    )
    arterial = pl.col("arterial").fill_null(False)
    _count(found.filter(~arterial), pl.lit("of samples not known to be arterial"), spool)
    return pl.concat([labs.filter(~gas), found.filter(arterial).select(labs.columns)])


def _coma(events: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """The sum of the three parts of the Glasgow coma score where all were charted at one time."""
    parts = events.filter(pl.col("variable").is_in(GCS))
    times = parts.group_by("stay", "hour", maintain_order=True).agg(
        *(pl.col("value").filter(pl.col("variable") == name).mean().alias(name) for name in GCS),
        tube=(pl.col("note") == "untestable").any(),
    )
    spool.leave_out(
        "vitals/gcs",
        "whose verbal part could not be taken",
        int(times["tube"].fill_null(False).sum()),
    )
    whole = times.filter(~pl.col("tube").fill_null(False))
    absent = pl.any_horizontal(pl.col(name).is_null() for name in GCS)
    lacking = int(whole.select(absent.sum()).item())
    spool.leave_out("vitals/gcs", "of which a part is missing", lacking)
    return whole.filter(~absent).select(
        "stay",
        "hour",
        variable=pl.lit("gcs"),
        value=pl.sum_horizontal(GCS),
        unit=pl.lit("points"),
    )


def _weights(events: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """kg: the first plausible one that was charted in a stay."""
    charted = events.filter(pl.col("variable") == "weight")
    plausible = pl.col("value").is_between(*WEIGHT).fill_null(False)
    _count(charted.filter(~plausible), pl.lit(f"outside {WEIGHT[0]}..{WEIGHT[1]} kg"), spool)
    return (
        charted.filter(plausible)
        .sort("stay", "hour", maintain_order=True)
        .group_by("stay", maintain_order=True)
        .agg(charted=pl.col("value").first())
    )


def _inputs(
    rows: pl.DataFrame, weights: pl.DataFrame, limits: pl.DataFrame, spool: Spool
) -> pl.DataFrame:
    """The mean rate of every hour, the sum of all that ran; what cannot be added stays as it is."""
    rates = _rates(rows, weights, spool).join(limits, on="stay", maintain_order="left")
    negative = (pl.col("value") < 0).fill_null(False)
    _count(rates.filter(negative), pl.lit("below zero"), spool)
    rates = rates.filter(~negative)
    converted, good = _converted(rates)
    dose = pl.col("variable") == "antibiotic"
    doses = converted.filter(good & dose & (pl.col("hour") >= 0))
    hourly = [_spread(converted.filter(good & ~dose)), doses.with_columns(pl.col("hour").floor())]
    sums = _sums(pl.concat([part.select(_COLUMNS) for part in hourly]))
    return pl.concat([sums, rates.filter(~good).select(_COLUMNS)])


def _outputs(rows: pl.DataFrame) -> pl.DataFrame:
    """Volumes as rates; what cannot be added stays as it is."""
    converted, good = _converted(rows)
    good &= (rows["hour"] >= 0).fill_null(False)
    units = {name: card.unit for name, (_, card) in variables().items()}
    rates = hourly_rates(converted.filter(good).rename({"stay": "stay_id"}))
    rates = rates.rename({"stay_id": "stay"}).with_columns(
        unit=pl.col("variable").replace_strict(units, return_dtype=pl.String)
    )
    return pl.concat([rates.select(_COLUMNS), rows.filter(~good).select(_COLUMNS)])


def _rates(rows: pl.DataFrame, weights: pl.DataFrame, spool: Spool) -> pl.DataFrame:
    """Every infusion with an end, and per kg where its card is."""
    following = pl.col("hour").shift(-1).over("stay", "item", order_by="hour")
    until = pl.min_horizontal(following, pl.col("hour") + 1)
    weight = pl.coalesce(pl.when(pl.col("weight").is_between(*WEIGHT)).then("weight"), "charted")
    absolute = pl.col("variable").is_in(BY_WEIGHT) & ~pl.col("unit").str.contains("kg")
    rates = rows.join(weights, on="stay", how="left", maintain_order="left").with_columns(
        end=pl.coalesce("end", until),
        unweighed=(absolute & weight.is_null()).fill_null(False),
        value=pl.when(absolute).then(pl.col("value") / weight).otherwise("value"),
        unit=pl.when(absolute)
        .then(pl.col("unit").str.replace("/", "/kg/", literal=True))
        .otherwise("unit"),
    )
    _count(rates.filter("unweighed"), pl.lit("without a body weight"), spool)
    return rates.filter(~pl.col("unweighed"))


def _spread(rates: pl.DataFrame) -> pl.DataFrame:
    """Each infusion over the hours in which it ran; ``value`` becomes its part of that hour."""
    running = rates.with_columns(
        start=pl.max_horizontal("hour", pl.lit(0.0)), stop=pl.min_horizontal("end", "limit")
    ).filter(pl.col("stop") > pl.col("start"))
    first, last = pl.col("start").floor(), pl.col("stop").ceil()
    hours = pl.int_ranges(first.cast(pl.Int64), last.cast(pl.Int64))
    running = running.with_columns(hour=hours).explode("hour", empty_as_null=True)
    part = pl.min_horizontal("stop", pl.col("hour") + 1) - pl.max_horizontal("start", "hour")
    return running.with_columns(pl.col("hour").cast(pl.Float64), value=pl.col("value") * part)


def _converted(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """Rows in the units of the cards, and which of them can be added up."""
    rows_in_units = convert(rows)
    number = rows_in_units["value"].is_finite().fill_null(False)
    known = rows_in_units["unit"].is_not_null() & rows_in_units["hour"].is_not_null()
    return rows_in_units, number & known


def _sums(rows: pl.DataFrame) -> pl.DataFrame:
    """One value per stay, hour and variable."""
    keys = ("stay", "hour", "variable", "unit")
    sums = rows.group_by(keys, maintain_order=True).agg(pl.col("value").sum())
    return sums.select(_COLUMNS)


def _count(rows: pl.DataFrame, reason: pl.Expr, spool: Spool) -> None:
    for variable, why, count in rows.group_by("variable", why=reason).len().iter_rows():
        spool.leave_out(_name(variable), why, count)


_KINDS = {name: modality for name, (modality, _) in variables().items()}


def _name(variable: str) -> str:
    """As in ``labs/sodium``; parts of the coma score and body weight are vital signs."""
    return f"{_KINDS.get(variable, 'vitals')}/{variable}"
