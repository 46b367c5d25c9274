"""A first ``mapping.yaml`` for an export: what can be told from names, units and ranges.

Read is the beginning of each file. The proposal holds names of files and columns, and names of
laboratory values and answers where at least ``SHOWN`` rows share them; no other cell. What cannot
be told is marked TODO, and such a mapping is refused until somebody has looked at it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from os.path import commonprefix
from pathlib import Path
from typing import cast

import polars as pl

from fedkim_core.data.hospital.cells import Format
from fedkim_core.data.hospital.proposal.examples import death, questions
from fedkim_core.data.hospital.proposal.lines import (
    FORMAT,
    SHOWN,
    SeenExport,
    columns,
    format_of,
    quoted,
)
from fedkim_core.data.hospital.proposal.sniff import Seen, look_at, tables_in
from fedkim_core.data.hospital.proposal.synonyms import unit_in, units_to_try, variable_of
from fedkim_core.data.units import to_card, variables
from fedkim_core.errors import UserError

_LISTED = 50


def propose(source: Path, out: Path) -> int:
    """Look at an export and write a commented ``mapping.yaml``.

    Returns:
        How many lines are left to do.

    Raises:
        UserError: the folder is missing or holds no table that can be read, ``out`` exists.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; remove it or choose another name")
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    files, broken = [], []
    for name in tables_in(source):
        try:
            files.append(look_at(source, name))
        except UserError as error:
            broken.append(f"# cannot be read: {error}")
    if not files:
        raise UserError(
            f"{source}: holds no csv, csv.gz, tsv, txt or parquet file that can be read"
        )
    export = _with_common_format(source, files)
    lines = [*_lines(export, os.path.relpath(source, out.parent)), *broken]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum("TODO" in line for line in lines)


def _with_common_format(folder: Path, files: Sequence[Seen]) -> SeenExport:
    """What a file does not show of its format, it takes from the others."""
    shown: dict[str, str] = {}
    for key in FORMAT:
        values = [getattr(file.format, key) for file in files if key in file.evident]
        if values:
            shown[key] = max(values, key=values.count)
    styled = []
    for file in files:
        missing = {key: value for key, value in shown.items() if key not in file.evident}
        if file.name.endswith(".parquet"):
            missing = {}
        styled.append(replace(file, format=file.format.model_copy(update=missing)))
    return SeenExport(folder, tuple(styled), Format.model_validate(shown))


def _lines(export: SeenExport, below: str) -> Iterator[str]:
    yield "# Proposed from the beginning of each file: names and units are guesses, check each."
    yield "# Lines that are marked in capitals are refused until they are completed or deleted."
    yield "site:"
    yield "  name: TODO  # a name for the site; the server sees it"
    yield '  note: ""  # who allowed the use'
    yield f"source: {quoted(below)}"
    yield f"format: {format_of(export.common)}"
    yield ""
    stays = next((file for file in export.files if file.is_stays), None)
    if stays:
        yield "stays:"
        yield from columns(export, stays, "  ", "  ", "stay", "patient", "admitted", "discharged")
    else:
        yield "# TODO: no table of stays was found (stay, patient, time of admission)"
    tables = [file for file in export.files if file.shape]
    others = [file for file in export.files if file is not stays and file not in tables]
    if tables:
        yield from ("", "tables:")
        yield from (line for file in _merged(export, tables) for line in _table(export, file))
    yield from ("", "examples:")
    asked = list(death(stays)) if stays and tables else []
    unused = []
    for file in others:
        found = list(questions(export, file))
        asked += found
        unused += [] if found else [file.name]
    yield from asked or ["  # TODO: no answers were found; see docs/hospital-data.md"]
    yield from ("", "split:", "  validation: 0.1  # share of the patients")
    yield from (f"# not used: {quoted(name)}" for name in unused)


def _merged(export: SeenExport, tables: Sequence[Seen]) -> Iterator[Seen]:
    """Files of the same columns and format, such as one for each month, become one with ``*``."""
    groups: dict[tuple[object, ...], list[Seen]] = {}
    for file in tables:
        groups.setdefault((tuple(file.columns), file.format), []).append(file)
    for alike in groups.values():
        names = [file.name for file in alike]
        begin = commonprefix(names)  # noqa: RUF071 - signs, not folders
        end = commonprefix([name[len(begin) :][::-1] for name in names])[::-1]  # noqa: RUF071
        pattern = f"{begin}*{end}"
        fits = [file.name for file in export.files if fnmatch(file.name, pattern)]
        if len(alike) > 1 and fits == names and len({name.count("/") for name in names}) == 1:
            yield replace(alike[0], name=pattern, rows=pl.concat(file.rows for file in alike))
        else:
            yield from alike


def _table(export: SeenExport, file: Seen) -> Iterator[str]:
    when = "time" if file.column("time") else "hours"
    if file.shape == "wide":
        yield from columns(export, file, "  - ", "    ", "stay", when)
        yield "    columns:"
        for own in file.variables():
            yield f"      {quoted(own)}: {_target(own, file.numbers(own))}"
        return
    yield from columns(export, file, "  - ", "    ", "stay", when, "name", "value", "unit")
    yield "    names:"
    unit = file.column("unit")
    frame = pl.DataFrame(
        {
            "own": file.texts(str(file.column("name"))),
            "value": file.numbers(str(file.column("value"))),
            "unit": file.texts(unit)
            if unit
            else pl.Series([None] * len(file.rows), dtype=pl.String),
        }
    )
    unknown = []
    for part in frame.drop_nulls("own").sort("own").partition_by("own"):
        own = str(part["own"][0])
        if variable_of(own):
            target = _target(own, part["value"], part["unit"] if unit else None)
            yield f"      {quoted(own)}: {target}"
        elif len(part) >= SHOWN:
            unknown.append(quoted(own))
    if not any(variable_of(own) for own in frame["own"].drop_nulls().unique()):
        yield "      # TODO: no name was recognised"
    yield from (f"      # not recognised: {own}" for own in unknown[:_LISTED])
    if len(unknown) > _LISTED:
        yield f"      # and {len(unknown) - _LISTED} more"


def _target(own: str, values: pl.Series, units: pl.Series | None = None) -> str:
    """Variable and unit; where no unit is named, the one that fits the range.

    With a column of units, the mapping needs one only for the rows that leave it empty.
    """
    variable = str(variable_of(own))
    given = [] if units is None else units.drop_nulls().unique().to_list()
    if to_card(variable, None) is not None or (units is not None and not units.has_nulls()):
        return f"{{variable: {variable}}}"
    for word in (given[0] if len(given) == 1 else None, unit_in(own, variable)):
        if word is not None and to_card(variable, word) is not None:
            return f"{{variable: {variable}, unit: {quoted(word)}}}"
    candidates = units_to_try(variable)
    fitting = [word for word in candidates if _fits(values, variable, word)]
    if len(fitting) == 1:
        return (
            f"{{variable: {variable}, unit: {quoted(fitting[0])}}}  # unit guessed from the range"
        )
    return f"{{variable: {variable}, unit: TODO}}  # {' or '.join(fitting or candidates)}?"


def _fits(values: pl.Series, variable: str, unit: str) -> bool:
    """Whether the median is usual for adults in intensive care, by the card of the variable."""
    card, factors = variables()[variable][1], to_card(variable, unit)
    median = cast(float | None, values.median())
    if median is None or factors is None:
        return False
    usual = median * factors[0] + factors[1]
    return card.low <= usual <= card.high and abs(usual - card.mean) < 3 * card.sd
