"""Who has sepsis: the Sepsis-3 criteria on hourly tables, or explicit diagnosis codes.

Sepsis-3 is suspected infection with an acute rise of the SOFA score by 2 or more (Singer et al.,
JAMA 2016;315:801-810, doi:10.1001/jama.2016.0287). How it is found in records follows Seymour et
al., JAMA 2016;315:762-774, doi:10.1001/jama.2016.0288: infection is suspected at the earlier of an
antibiotic and a culture, when the antibiotic follows the culture within 72 hours or the culture the
antibiotic within 24; SOFA is looked at from 48 hours before to 24 hours after. The score before
admission is taken as 0, as Singer et al. allow where no chronic organ failure is known, so a score
of 2 or more is the rise.

SOFA (Vincent et al., Intensive Care Med 1996;22:707-710) is computed from the variables of
``conf/modality``, each organ at its worst of the last 24 hours, an organ without observation
counted as 0. Three things are not in those variables, so the score is a lower bound:

- respiration: mechanical ventilation is unknown, so PaO2/FiO2 gives at most 2 points;
- circulation: noradrenaline and the mean pressure only, no dopamine, dobutamine or adrenaline;
- brain: a Glasgow coma score that could not be taken (intubated patients) gives no points.
"""

import polars as pl

BEFORE, AFTER = 48, 24
"""Hours around suspected infection in which the SOFA score must rise."""
CULTURE_FIRST, ANTIBIOTIC_FIRST = 72, 24
"""Hours in which the second of the two must follow."""
RISE = 2
EXPLICIT_CODES = {9: r"^(99591|99592|78552)", 10: r"^(A40|A41|R652)"}
"""Codes that name sepsis, without the point, by ICD version: ICD-9-CM 995.91, 995.92, 785.52 and
ICD-10-CM A40, A41, R65.2."""

_DAY, _FIO2_AGE = 24, 4


def suspicions(antibiotics: pl.DataFrame, cultures: pl.DataFrame) -> pl.DataFrame:
    """When infection was suspected.

    Args:
        antibiotics: columns ``stay_id``, ``hour`` (since admission, may be negative), ``day`` (a
            number of the calendar day) and ``dated`` (true when only the day is known).
        cultures: likewise.

    Returns:
        ``stay_id`` and ``hour``. Where only the day of one is known, days are compared: from one
        day before to three days after the culture.
    """
    pairs = antibiotics.unique().join(cultures.unique(), on="stay_id", suffix="_culture")
    later = pl.col("hour") - pl.col("hour_culture")
    days = pl.col("day") - pl.col("day_culture")
    near = (
        pl.when(pl.col("dated") | pl.col("dated_culture"))
        .then(days.is_between(-(ANTIBIOTIC_FIRST // _DAY), CULTURE_FIRST // _DAY))
        .otherwise(later.is_between(-ANTIBIOTIC_FIRST, CULTURE_FIRST))
    )
    earlier = pl.min_horizontal("hour", "hour_culture")
    return pairs.filter(near).select("stay_id", hour=earlier).unique(maintain_order=True)


def sepsis3(observations: pl.DataFrame, suspected: pl.DataFrame) -> set[str]:
    """Stays that meet the criteria at any time.

    Args:
        observations: columns ``stay_id``, ``hour``, ``variable``, ``value`` in the cards' units.
        suspected: of :func:`suspicions`.
    """
    failing = sofa(observations).filter(pl.col("sofa") >= RISE)
    both = failing.join(suspected, on="stay_id", suffix="_suspected")
    near = (pl.col("hour") - pl.col("hour_suspected")).is_between(-BEFORE, AFTER)
    return set(both.filter(near)["stay_id"])


def sofa(observations: pl.DataFrame) -> pl.DataFrame:
    """The SOFA score of every hour: columns ``stay_id``, ``hour``, ``sofa``; see the module.

    Args:
        observations: columns ``stay_id``, ``hour`` (from 0), ``variable``, ``value`` in the cards'
            units; any number of values in an hour.
    """
    rows = observations.select(
        "stay_id", pl.col("hour").cast(pl.Int64), "variable", pl.col("value").cast(pl.Float64)
    )
    points = pl.concat(
        [
            _respiration(rows),
            _points(rows, "platelets", "coagulation", [(20, 4), (50, 3), (100, 2), (150, 1)]),
            _points(rows, "bilirubin", "liver", [(12, 4), (6, 3), (2, 2), (1.2, 1)], high=True),
            _points(rows, "mean_bp", "circulation", [(70, 1)]),
            _noradrenaline(rows),
            _points(rows, "gcs", "brain", [(6, 4), (10, 3), (13, 2), (15, 1)]),
            _points(rows, "creatinine", "kidney", [(5, 4), (3.5, 3), (2, 2), (1.2, 1)], high=True),
            _urine(rows),
        ]
    )
    # A point holds for 24 hours; the score is constant between the hours where one begins or ends.
    grid = rows.group_by("stay_id", maintain_order=True).agg(
        hour=pl.int_range(0, pl.col("hour").max() + _DAY)
    )
    organs = points.filter(pl.col("points") > 0).group_by("stay_id", "hour", "organ").max()
    worst = (
        organs.pivot("organ", index=["stay_id", "hour"], values="points")
        if len(organs)
        else organs.select("stay_id", "hour")
    )
    names = [name for name in worst.columns if name not in ("stay_id", "hour")]
    return (
        grid.explode("hour", empty_as_null=True)
        .join(worst, on=["stay_id", "hour"], how="left", maintain_order="left")
        .with_columns(pl.col(names).rolling_max(_DAY, min_samples=1).over("stay_id").fill_null(0))
        .select("stay_id", "hour", sofa=pl.sum_horizontal(pl.lit(0), *names))
    )


def _points(
    rows: pl.DataFrame,
    variable: str,
    organ: str,
    steps: list[tuple[float, int]],
    *,
    high: bool = False,
) -> pl.DataFrame:
    """Points of single values: below each limit, or with ``high`` from each limit on."""
    value, points = pl.col("value"), pl.lit(0)
    for limit, count in reversed(steps):
        points = pl.when(value >= limit if high else value < limit).then(count).otherwise(points)
    found = rows.filter(pl.col("variable") == variable)
    return found.select("stay_id", "hour", organ=pl.lit(organ), points=points.cast(pl.Int32))


def _noradrenaline(rows: pl.DataFrame) -> pl.DataFrame:
    """ug/kg/min: 3 points, above 0.1 it is 4."""
    given = rows.filter((pl.col("variable") == "noradrenaline") & (pl.col("value") > 0))
    points = pl.when(pl.col("value") > 0.1).then(4).otherwise(3).cast(pl.Int32)
    return given.select("stay_id", "hour", organ=pl.lit("circulation"), points=points)


def _respiration(rows: pl.DataFrame) -> pl.DataFrame:
    """PaO2 in mmHg over the last FiO2 of at most four hours before."""
    oxygen = rows.filter(pl.col("variable") == "pao2").sort("hour", maintain_order=True)
    share = rows.filter(pl.col("variable") == "fio2").sort("hour", maintain_order=True)
    ratio = oxygen.join_asof(
        share, on="hour", by="stay_id", tolerance=_FIO2_AGE, suffix="_fio2", check_sortedness=False
    ).with_columns(variable=pl.lit("ratio"), value=pl.col("value") / pl.col("value_fio2"))
    return _points(ratio.drop_nulls("value"), "ratio", "respiration", [(300, 2), (400, 1)])


def _urine(rows: pl.DataFrame) -> pl.DataFrame:
    """mL of 24 hours, where charting goes back 22 hours: below 500 is 3, below 200 is 4.

    A rate stands for the hours since the one before it, see :func:`hourly_rates`.
    """
    hour = pl.col("hour")
    volumes = (
        rows.filter(pl.col("variable") == "urine")
        .group_by("stay_id", "hour")
        .agg(pl.col("value").sum())
        .sort("stay_id", "hour")
        .with_columns(
            value=pl.col("value") * (hour - hour.shift().over("stay_id").fill_null(-1)),
            since=hour - hour.min().over("stay_id"),
        )
    )
    daily = volumes.rolling("hour", period=f"{_DAY}i", group_by="stay_id").agg(
        pl.col("value").sum(), pl.col("since").last()
    )
    covered = daily.filter(pl.col("since") >= _DAY - 2).with_columns(variable=pl.lit("urine"))
    return _points(covered, "urine", "kidney", [(200, 4), (500, 3)])
