"""A small export and its mapping, to be bent by a test."""

import csv
from collections.abc import Callable
from pathlib import Path

import polars as pl

from fedkim_core.data.hospital import Prepared

SECRET = "Geheim4711"
"""Part of every cell that a test makes: must never be seen in a message."""
STAYS = """stay,patient,in,out,died
s1,p1,2021-01-01 08:00,2021-01-03 08:00,1
s2,p2,2021-01-01 08:00,2021-01-03 08:00,0
s3,p3,2021-01-01 08:00,2021-01-03 08:00,0
"""
WIDE = """stay,time,hr,temp
s1,2021-01-01 08:30,80,98.6
s2,2021-01-01 09:30,81,99.5
s3,2021-01-01 10:30,82,
"""
LONG = """stay,time,what,result,uom
s1,2021-01-01 08:30,HR,80,bpm
s2,2021-01-01 09:30,HR,81,bpm
s3,2021-01-01 10:30,HR,82,bpm
"""
HEAD = LONG.splitlines()[0]
SITE = "site: {name: north}\nsource: export\n"
OF_STAYS = "stays: {file: stays.csv, stay: stay, patient: patient, admitted: in, discharged: out}\n"
OF_WIDE = """tables:
  - file: wide.csv
    stay: stay
    time: time
    columns:
      hr: {variable: heart_rate, unit: bpm}
      temp: {variable: temperature, unit: degF}
"""
OF_LONG = """tables:
  - file: long.csv
    stay: stay
    time: time
    name: what
    value: result
    unit: uom
    names:
      HR: {variable: heart_rate}
      Na: {variable: sodium}
      Crea: {variable: creatinine}
"""
DEATHS = "examples:\n  - {task: mortality, answer: {column: died, yes: [1], no: [0]}}\n"
WHOLE = SITE + OF_STAYS + OF_LONG + DEATHS
Make = Callable[..., Prepared]


def left_out(prepared: Prepared) -> list[tuple[str, str]]:
    with prepared.listed.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["record", "reason"]
    assert len(rows) == prepared.left_out
    return [(record, reason) for record, reason in rows]


def values(tmp_path: Path, variable: str) -> list[tuple[int, float]]:
    tables = pl.read_parquet(tmp_path / "site" / "tables.parquet")
    rows = tables.filter(variable=variable).select("hour", pl.col("value").round(6))
    return sorted(rows.iter_rows())
