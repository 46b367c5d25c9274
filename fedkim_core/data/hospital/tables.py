"""Stays and observations of a hospital's export, as ``mapping.yaml`` describes them."""

import polars as pl

from fedkim_core.data.blocks import ROW
from fedkim_core.data.hospital import cells
from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.hospital.export import Export
from fedkim_core.data.hospital.left_out import LeftOut
from fedkim_core.data.hospital.mapping import Stays, Table
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError

_STAYS = pl.Schema(
    {
        "stay": pl.String(),
        "stay_id": pl.String(),
        "patient_id": pl.String(),
        "admitted": pl.Datetime("us"),
        "discharged": pl.Datetime("us"),
    }
)


def read_stays(export: Export) -> pl.DataFrame:
    """The table of stays: the export's id, ours, the patient, admission and discharge.

    A row that is given twice counts once. A stay with two patients or two admissions belongs to
    nobody for certain, and is left out.

    Raises:
        UserError: a file is missing or broken, or no stay can be used.
    """
    stays, left_out = export.mapping.stays, export.left_out
    if stays is None:
        return pl.DataFrame(schema=_STAYS)
    names = [stays.stay, stays.patient, stays.admitted, stays.discharged]
    parts = []
    for file, block in export.blocks(stays, [name for name in names if name]):
        rows = _stay_rows(block, stays, export.style(stays))
        parts.append(_keep(rows, _stay_faults(stays), file, left_out))
    rows = pl.concat(parts) if parts else pl.DataFrame()
    if rows.is_empty():
        raise UserError(
            f"{export.folder / stays.file}: no stay can be used: {left_out.most_often('')}"
        )
    again = ~pl.struct("stay", "patient", "admitted", "discharged").is_first_distinct()
    rows = _keep(rows, [(again, "that repeat an earlier row")], stays.file, left_out)
    unclear = pl.col("stay").is_duplicated()
    rule = "of a stay that is listed again with another patient or time"
    rows = _keep(rows, [(unclear, rule)], stays.file, left_out)
    ids = [export.name_of("stay", stay) for stay in rows["stay"]]
    owners = [export.name_of("patient", patient) for patient in rows["patient"]]
    return rows.with_columns(
        stay_id=pl.Series(ids, dtype=pl.String), patient_id=pl.Series(owners, dtype=pl.String)
    ).select(_STAYS.names())


def _stay_rows(block: pl.DataFrame, stays: Stays, style: Format) -> pl.DataFrame:
    never = pl.lit(None, pl.Datetime("us"))
    times = {
        name: cells.time(block, column, style) if column else never
        for name, column in (("admitted", stays.admitted), ("discharged", stays.discharged))
    }
    return block.select(
        ROW,
        cells.text(block, stays.stay, style).alias("stay"),
        cells.text(block, stays.patient, style).alias("patient"),
        **times,
        ended=cells.text(block, stays.discharged, style).is_not_null()
        if stays.discharged
        else pl.lit(False),
    )


def _stay_faults(stays: Stays) -> list[tuple[pl.Expr, str]]:
    faults = [
        (pl.col("stay").is_null(), "without a stay"),
        (pl.col("patient").is_null(), "without a patient"),
    ]
    if stays.admitted:
        rule = "whose admission is empty or not a time in the stated format"
        faults.append((pl.col("admitted").is_null(), rule))
        faults.append((pl.col("discharged") < pl.col("admitted"), "discharged before admission"))
    rule = "whose discharge is not a time in the stated format"
    faults.append((pl.col("ended") & pl.col("discharged").is_null(), rule))
    return faults


def read_table(
    export: Export, table: Table, stays: pl.DataFrame, spool: Spool, *, hours: int
) -> None:
    """Hand the observations of the first hours to the spool.

    Exact repetitions are dropped where they stand in one block; a repetition far away counts
    twice in the mean of its hour.

    Raises:
        UserError: a file is missing or broken, or nothing in it can be used.
    """
    left_out, style = export.left_out, export.style(table)
    targets = table.columns or table.names
    columns = [table.stay, table.time or table.hours]
    columns += list(table.columns) or [table.name, table.value, *filter(None, [table.unit])]
    seen: set[str] = set()
    used: dict[str, int] = {}
    for file, block in export.blocks(table, columns):
        rows = _wide(block, table, style) if table.columns else _long(block, table, style)
        seen |= set(rows["own"].unique().drop_nulls().to_list())
        rows = rows.join(stays, on="stay", how="left", maintain_order="left")
        rows = rows.with_columns(hour=_hour(table))
        kept = _keep(rows, _faults(table, hours), file, left_out, by="variable")
        used[file] = used.get(file, 0) + len(kept)
        spool.add(kept.select("stay_id", "hour", "variable", "value", "unit"))
    if not used:
        raise UserError(f"{export.folder / table.file}: holds no row")
    for file, number in used.items():
        if not number:
            reason = left_out.most_often(file)
            raise UserError(
                f"{export.folder / file}: no value can be used; most are values {reason}"
            )
    for own in sorted(set(targets) - seen):
        left_out.add(table.file, f"{own!r} of the mapping has no value")


def _whose(block: pl.DataFrame, table: Table, style: Format) -> dict[str, pl.Expr]:
    column = table.time or table.hours
    read = cells.time if table.time else cells.number
    return {
        "stay": cells.text(block, table.stay, style),
        "when": read(block, column, style),
    }


def _wide(block: pl.DataFrame, table: Table, style: Format) -> pl.DataFrame:
    whose = block.select(ROW, **_whose(block, table, style))
    parts = []
    for own, target in table.columns.items():
        observed = block.select(
            own=pl.lit(own),
            variable=pl.lit(target.variable),
            filled=cells.text(block, own, style).is_not_null(),
            limit=cells.limit(block, own, style),
            value=cells.number(block, own, style),
            unit=pl.lit(target.unit or None, pl.String),
        )
        parts.append(pl.concat([whose, observed], how="horizontal").filter("filled"))
    return pl.concat(parts)


def _long(block: pl.DataFrame, table: Table, style: Format) -> pl.DataFrame:
    own = cells.text(block, table.name, style)
    variables = {name: target.variable for name, target in table.names.items()}
    units = {name: target.unit or None for name, target in table.names.items()}
    unit = own.replace_strict(units, default=None, return_dtype=pl.String)
    if table.unit:
        given = cells.text(block, table.unit, style)
        unit = pl.coalesce(given.replace(table.units) if table.units else given, unit)
    return block.select(
        ROW,
        **_whose(block, table, style),
        own=own,
        variable=own.replace_strict(variables, default=None, return_dtype=pl.String),
        filled=cells.text(block, table.value, style).is_not_null(),
        limit=cells.limit(block, table.value, style),
        value=cells.number(block, table.value, style),
        unit=unit,
    )


def _hour(table: Table) -> pl.Expr:
    if table.hours:
        return pl.col("when")
    return (pl.col("when") - pl.col("admitted")).dt.total_seconds() / 3600


def _faults(table: Table, hours: int) -> list[tuple[pl.Expr, str]]:
    """Why an observation is left out; the first that holds is told."""
    faults = [
        (pl.col("variable").is_null(), "of a name that the mapping does not list"),
        (~pl.col("filled"), "that are empty"),
        (pl.col("stay_id").is_null(), "of no stay that could be used"),
        (pl.col("limit"), "that are a limit such as <5 (format.limits: keep would take it)"),
        (pl.col("value").is_null(), "that are not a number in the stated style"),
        (pl.col("when").is_null(), "whose time is empty or not in the stated format"),
        (pl.col("hour") < 0, "before admission"),
        (pl.col("hour") >= hours, f"after the first {hours} hours, which is all that tasks read"),
    ]
    if table.time:
        faults.append((pl.col("when") > pl.col("discharged"), "after the discharge"))
    same = pl.struct("stay", "when", "own", "value", "unit")
    faults.append((~same.is_first_distinct(), "that repeat an earlier row"))
    return faults


def _keep(
    rows: pl.DataFrame,
    faults: list[tuple[pl.Expr, str]],
    file: str,
    left_out: LeftOut,
    *,
    by: str = "",
) -> pl.DataFrame:
    """The rows without fault; the others are counted, each under its first fault."""
    reason = pl.lit(None, pl.String)
    for broken, rule in reversed(faults):
        reason = pl.when(broken.fill_null(False)).then(pl.lit(rule)).otherwise(reason)
    rows = rows.with_columns(reason=reason)
    dropped = rows.filter(pl.col("reason").is_not_null())
    keys = [by, "reason"] if by else ["reason"]
    for key, part in dropped.group_by(keys, maintain_order=True):
        record = f"{file} {key[0]}" if by and key[0] else file
        left_out.count(record, str(key[-1]), part[ROW])
    return rows.filter(pl.col("reason").is_null()).drop("reason")
