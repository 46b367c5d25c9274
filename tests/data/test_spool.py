"""Observations from any source: converted, checked, counted and kept on disk."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fedkim_core.data import spool as module
from fedkim_core.data.check_tables import check_tables
from fedkim_core.data.contract import TABLES_SCHEMA
from fedkim_core.data.spool import Spool
from fedkim_core.errors import UserError


def rows(*values: tuple[object, ...]) -> pl.DataFrame:
    schema = {
        "stay_id": pl.String,
        "hour": pl.Float64,
        "variable": pl.String,
        "value": pl.Float64,
        "unit": pl.String,
    }
    return pl.DataFrame(values, schema=schema, orient="row")


def test_kept_rows_follow_the_contract(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "folder")
    kept = spool.add(
        rows(
            ("a", 0.0, "heart_rate", 80.0, "bpm"),
            ("a", 2.9, "temperature", 98.6, "degF"),
            ("b", 3.0, "creatinine", 88.4, "umol/L"),
            ("b", 0.0, "fio2", 21.0, "%"),  # exactly the lowest
        )
    )
    found = spool.scan().collect()
    assert found.schema == TABLES_SCHEMA
    assert kept.equals(found)
    assert found["hour"].to_list() == [0, 2, 3, 0]
    assert found["modality"].to_list() == ["vitals", "vitals", "labs", "vitals"]
    assert found["unit"].to_list() == ["1/min", "degC", "mg/dL", "fraction"]
    assert found["value"].to_list() == pytest.approx([80.0, 37.0, 1.0, 0.21], abs=1e-3)
    assert spool.stays() == {
        "vitals": {"a", "b"},
        "labs": {"b"},
        "inputs": set(),
        "outputs": set(),
    }
    assert spool.left_out() == []
    found.write_parquet(tmp_path / "tables.parquet")
    assert check_tables(tmp_path, None) == []


def test_dropped_values_are_counted_by_reason(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(
        rows(
            ("a", 0.0, "sodium", 1400.0, "mmol/L"),
            ("a", 1.0, "sodium", 14.0, "mmol/L"),
            ("a", 1.0, "sodium", 140.0, "mmol"),
            ("a", 1.0, "sodium", 140.0, None),
            ("a", -0.1, "sodium", 140.0, "mmol/L"),
            ("a", None, "sodium", 140.0, "mmol/L"),
            ("a", float("nan"), "sodium", 140.0, "mmol/L"),
            ("a", float("inf"), "sodium", 140.0, "mmol/L"),
            ("a", 0.0, "sodium", None, "mmol/L"),
            ("a", 0.0, "sodium", float("nan"), "mmol/L"),
            ("a", 0.0, "sodium", float("-inf"), "mmol/L"),
            ("a", 0.0, "urine", -1.0, "mL/h"),
        )
    )
    spool.add(rows(("b", 0.0, "sodium", 90.0, "mmol/L")))
    spool.leave_out("labs/pao2", "of venous samples", 2)
    spool.leave_out("labs/pao2", "never seen", 0)
    assert spool.left_out() == [
        ("labs/pao2", "2 values of venous samples"),
        ("labs/sodium", "1 value before admission"),
        ("labs/sodium", "2 values in an unknown unit"),
        ("labs/sodium", "3 values outside 100..180 mmol/L"),
        ("labs/sodium", "3 values without a number"),
        ("labs/sodium", "3 values without a valid time"),
        ("outputs/urine", "1 value outside 0..2500 mL/h"),
    ]
    assert spool.scan().collect().is_empty()
    assert not any(spool.stays().values())


def test_an_empty_spool_has_the_columns(tmp_path: Path) -> None:
    assert Spool(tmp_path).scan().collect_schema() == TABLES_SCHEMA


def test_whole_hours_and_order_over_many_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", 10)
    spool = Spool(tmp_path / "a[1]*")  # no pattern
    for start in range(0, 95, 5):
        hours = list(range(start, start + 5))
        part = pl.DataFrame({"hour": hours, "value": [60 + hour for hour in hours]})
        spool.add(
            part.with_columns(
                stay_id=pl.lit("a"), variable=pl.lit("heart_rate"), unit=pl.lit("1/min")
            )
        )
    found = spool.scan().collect()
    assert len(list((tmp_path / "a[1]*").glob("*.parquet"))) == 10
    assert found["hour"].to_list() == list(range(95))
    assert found["value"].to_list() == [60.0 + hour for hour in range(95)]


def test_a_variable_without_a_card_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'sodum': no card in conf/modality"):
        Spool(tmp_path).add(rows(("a", 0.0, "sodum", 140.0, "mmol/L")))


MEMORY = """
import resource, sys
from pathlib import Path
import polars as pl
from fedkim_core.data.spool import Spool

def part(start):
    return pl.DataFrame({"hour": pl.int_range(0, 100_000, eager=True) % 168}).with_columns(
        stay_id=pl.format("stay-{}", pl.int_range(start, start + 100_000) // 1000),
        variable=pl.lit("heart_rate"), value=pl.lit(80.0), unit=pl.lit("bpm"))

spool = Spool(Path(sys.argv[1]))
for i in range(5):
    spool.add(part(i * 100_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(5, 40):
    spool.add(part(i * 100_000))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
assert spool.scan().select(pl.len()).collect().item() == 4_000_000
"""
GROWTH = 120  # MiB; the four million rows take about 300


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < GROWTH
