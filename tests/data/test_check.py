"""Every rule of the site folder, broken one at a time."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.data.contract import LAST_HOUR, leaves_folder
from fedkim_core.data.faults import LISTED
from fedkim_core.data.site import Site, SiteError, check_site
from fedkim_core.paths import APP

EXAMPLES, TABLES = "examples.parquet", "tables.parquet"
NAMES = ["yes", "no", "the left lung", "Secretname-4711"]
Rewrite = Callable[..., None]


def at(row: int, column: str, value: str | int | float | None) -> pl.Expr:
    """The column with one row (from 1) changed."""
    here = pl.int_range(pl.len()) == row - 1
    return pl.when(here).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


def test_good_folder_has_no_fault(site_folder: Path) -> None:
    assert check_site(site_folder) == []


@pytest.mark.parametrize(
    ("row", "column", "value", "fault"),
    [
        (2, "example_id", None, ":2: example_id is empty"),
        (2, "patient_id", " ", ":2: patient_id is empty"),
        (3, "task", None, ":3: task is empty"),
        (3, "split", "", ":3: split is empty"),
        (7, "answer", "  ", ":7: answer is empty"),
        (7, "question", " ", ":7: question is blank; leave it null when there is none"),
        (1, "image", "", ":1: image is blank; leave it null when there is none"),
        (3, "task", "lung opacity", ":3: task is none of: "),
        (3, "task", "ectopic_beats", ":3: task is not offered in site.yaml"),
        (3, "split", "dev", ":3: split is none of: train, validation, test"),
        (3, "sex", "Woman", ":3: sex is none of: female, male, other"),
        (3, "age_band", "1950-01-31", ":3: age_band is not like 40-59 or 80+"),
        (1, "answer", "Yes", ":1: answer must be yes or no (lower case) for this task"),
        (1, "answer", "1", ":1: answer must be yes or no (lower case) for this task"),
        (2, "split", "test", ":2: patient_id has rows in another split"),
        (3, "signal", None, ":3: task needs at least one of: signal"),
        (4, "image", None, ":4: task needs at least one of: image"),
        (4, "image", "/etc/hostname.png", ":4: image: path must be relative"),
        (4, "image", "images/../../x.png", ":4: image: path must be relative"),
        (4, "image", "C:\\images\\x.png", ":4: image: path must be relative"),
        (4, "image", "images/none.png", ":4: image: file is missing"),
        (4, "image", "images/x.jpg", ":4: image: image must end in .png or .dcm"),
        (3, "signal", "signals/none", ":3: signal: .hea file is missing"),
        (3, "signal", "signals/none", ":3: signal: .dat file is missing"),
        (5, "vitals", "other", ":5: vitals: the stay has no row of this modality in tables"),
        (5, "outputs", "other", ":5: outputs: the stay has no row of this modality in tables"),
    ],
)
def test_broken_example_row(
    site_folder: Path,
    rewrite: Rewrite,
    secret: str,
    row: int,
    column: str,
    value: str | None,
    fault: str,
) -> None:
    rewrite(EXAMPLES, at(row, column, value))
    faults = check_site(site_folder)
    assert any(found.startswith(EXAMPLES + fault) for found in faults), faults
    assert secret not in " ".join(faults)
    assert not value or len(value) < 5 or value not in " ".join(faults)


def test_duplicate_example_id(site_folder: Path, rewrite: Rewrite, secret: str) -> None:
    rewrite(EXAMPLES, at(5, "example_id", f"{secret}-1"))
    assert check_site(site_folder) == [f"{EXAMPLES}:5: example_id is not unique"]


@pytest.mark.parametrize(
    ("row", "column", "value", "fault"),
    [
        (2, "stay_id", None, ":2: stay_id is empty"),
        (2, "hour", None, ":2: hour must be 0 or more, counted from admission"),
        (2, "hour", -1, ":2: hour must be 0 or more, counted from admission"),
        (2, "hour", LAST_HOUR + 1, ":2: hour is more than a year (8784) after admission"),
        (2, "modality", "image", ":2: no such variable of this modality"),
        (2, "modality", None, ":2: no such variable of this modality"),
        (2, "variable", "sodium", ":2: no such variable of this modality"),
        (2, "unit", "Hz", ":2: unit is not the variable's unit"),
        (2, "unit", None, ":2: unit is not the variable's unit"),
        (2, "value", None, ":2: value is not a finite number"),
        (2, "value", float("nan"), ":2: value is not a finite number"),
        (2, "value", float("inf"), ":2: value is not a finite number"),
        (2, "value", 12345.0, ":2: value is implausible"),
        (2, "value", -5.0, ":2: value is implausible"),
    ],
)
def test_broken_table_row(
    site_folder: Path,
    rewrite: Rewrite,
    secret: str,
    row: int,
    column: str,
    value: str | int | float | None,
    fault: str,
) -> None:
    rewrite(TABLES, at(row, column, value))
    faults = check_site(site_folder)
    assert len(faults) == 1
    assert faults[0].startswith(TABLES + fault)
    assert secret not in faults[0]
    assert "12345" not in faults[0]


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_bounds_of_the_plausible_range_are_plausible(
    site_folder: Path, rewrite: Rewrite, secret: str, dtype: pl.DataType
) -> None:
    """7.9 and 0.21 are rounded outwards in float32."""
    rows = [
        (f"{secret}-stay-1", 0, "labs", "ph", 7.9, "pH"),
        (f"{secret}-stay-1", 0, "vitals", "fio2", 0.21, "fraction"),
    ]
    frame = pl.DataFrame(rows, schema=pl.read_parquet_schema(site_folder / TABLES), orient="row")
    rewrite(TABLES, pl.col("value").cast(dtype), rows=frame)
    assert check_site(site_folder) == []


def test_whole_numbers_are_accepted_as_values(site_folder: Path, rewrite: Rewrite) -> None:
    rewrite(TABLES, pl.col("value").round().cast(pl.Int64), pl.col("hour").cast(pl.Int64))
    assert check_site(site_folder) == []


@pytest.mark.parametrize(
    ("file", "columns", "fault"),
    [
        (EXAMPLES, {"drop": "answer"}, "column answer is missing"),
        (EXAMPLES, {"cast": ("patient_id", pl.Binary)}, "column patient_id must be string"),
        (EXAMPLES, {"name": "Secretname-4711"}, "column 17 has an unknown name; known: example_id"),
        (EXAMPLES, {"empty": True}, "holds no row"),
        (EXAMPLES, {"cast": ("answer", pl.Enum(NAMES))}, "column answer must be string, not Enum"),
        (EXAMPLES, {"nest": "patient_id"}, "column patient_id must be string, not List"),
        (TABLES, {"nest": "value"}, "column value must be number, not List"),
        (TABLES, {"struct": "stay_id"}, "column stay_id must be string, not Struct"),
        (TABLES, {"cast": ("value", pl.Decimal(9, 3))}, "column value must be number, not Decimal"),
        (TABLES, {"drop": "unit"}, "column unit is missing"),
        (TABLES, {"cast": ("hour", pl.Float64)}, "column hour must be integer, not Float64"),
        (TABLES, {"cast": ("value", pl.String)}, "column value must be number, not String"),
        (TABLES, {"name": "Secretname-4711"}, "column 7 has an unknown name; known: stay_id"),
    ],
)
def test_broken_columns(
    site_folder: Path, secret: str, file: str, columns: dict[str, object], fault: str
) -> None:
    frame = pl.read_parquet(site_folder / file)
    match columns:
        case {"drop": str(name)}:
            frame = frame.drop(name)
        case {"cast": (str(name), dtype)}:
            frame = frame.with_columns(pl.col(name).cast(dtype))
        case {"name": str(name)}:
            frame = frame.with_columns(pl.lit("x").alias(name))
        case {"nest": str(name)}:
            frame = frame.with_columns(pl.concat_list(name))
        case {"struct": str(name)}:
            frame = frame.with_columns(pl.struct(pl.col(name).alias(secret)).alias(name))
        case _:
            frame = frame.clear()
    frame.write_parquet(site_folder / file)
    faults = check_site(site_folder)
    assert any(found.startswith(f"{file}: {fault}") for found in faults), faults
    assert secret not in " ".join(faults)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "site.yaml: file is missing"),
        ("name: [north", "site.yaml:1: not YAML"),
        ("- north\n", "site.yaml:1: must be a mapping with name and tasks"),
        ("", "site.yaml:1: must be a mapping with name and tasks"),
        ("name: north\n", "site.yaml: tasks: Field required"),
        ("name: north\ntasks: []\n", "site.yaml: tasks: "),
        ("name: north\ntasks: [covid19, covid19]\n", "site.yaml: tasks: Value error, a task is"),
        ("name: north\ntasks: [flu]\n", "site.yaml: tasks: unknown task 'flu'; known: "),
        ("name: a/b\ntasks: [covid19]\n", "site.yaml: name: String should match pattern"),
        ("name: a\nschema_version: 2\ntasks: [covid19]\n", "site.yaml: schema_version: Input"),
        ("name: a\ntasks: [covid19]\nhospital: b\n", "site.yaml: key 3 has an unknown name; known"),
        ("name: a\nnote: !!bool maybe\n", "site.yaml:1: not YAML"),
        (b"name: \xff\xfe", "site.yaml: file cannot be read as UTF-8 text"),
        ("name: a\ntasks: [covid19]\nname: b\n", "site.yaml:3: a key is given twice"),
        ("name: a\ntasks: [{b: 1, b: 2}]\n", "site.yaml:2: a key is given twice"),
        ("name: a\nnote: 2020-13-45\n", "site.yaml:1: not YAML"),
        ("name: " + "[" * 1000, "site.yaml:1: not YAML"),
        ("? [a]\n: b\n", "site.yaml:1: not YAML"),
        ("note: " + "x" * 2**20, "site.yaml: file is larger than 1 MiB"),
    ],
)
def test_broken_card(site_folder: Path, text: str | bytes | None, fault: str) -> None:
    card = site_folder / "site.yaml"
    if text is None:
        card.unlink()
    else:
        card.write_bytes(text if isinstance(text, bytes) else text.encode())
    faults = check_site(site_folder)
    assert any(found.startswith(fault) for found in faults), faults


@pytest.mark.parametrize("file", [EXAMPLES, TABLES])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_truncated_parquet(site_folder: Path, file: str, keep: float) -> None:
    data = (site_folder / file).read_bytes()
    (site_folder / file).write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    assert f"{file}: file is not readable parquet" in check_site(site_folder)


def test_missing_tables_are_a_fault_only_when_referred_to(
    site_folder: Path, rewrite: Rewrite
) -> None:
    (site_folder / TABLES).unlink()
    assert check_site(site_folder) == [f"{TABLES}: file is missing"]
    rows = pl.read_parquet(site_folder / EXAMPLES).filter(pl.col("vitals").is_null())
    rewrite(EXAMPLES, rows=rows.drop("vitals", "labs"))
    assert check_site(site_folder) == []


def test_damage_inside_a_parquet_file(site_folder: Path, rewrite: Rewrite) -> None:
    """The footer is whole: the damage shows only when the rows are read."""
    noise = np.random.default_rng(0).uniform(60, 100, 5000)
    row = pl.read_parquet(site_folder / TABLES)[:1].drop("value")
    rewrite(TABLES, rows=row.join(pl.DataFrame({"value": noise}), how="cross"))
    data = bytearray((site_folder / TABLES).read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    (site_folder / TABLES).write_bytes(data)
    assert check_site(site_folder) == [f"{TABLES}: file is not readable parquet"]


@pytest.mark.parametrize("file", [EXAMPLES, TABLES])
def test_more_rows_than_a_file_can_hold(site_folder: Path, file: str) -> None:
    """A few kilobytes that would be gigabytes in memory."""
    row = pl.read_parquet(site_folder / file)[:1]
    row.select(pl.all().repeat_by(2_000_000).explode()).write_parquet(site_folder / file)
    assert (site_folder / file).stat().st_size < 100_000
    assert f"{file}: claims more rows than a file of its size can hold" in check_site(site_folder)


@pytest.mark.parametrize("file", ["site.yaml", EXAMPLES, TABLES])
def test_table_that_is_a_link_out_of_the_folder(
    site_folder: Path, tmp_path: Path, file: str
) -> None:
    (site_folder / file).rename(tmp_path / file)
    (site_folder / file).symlink_to(tmp_path / file)
    assert check_site(site_folder) == [f"{file}: file is a link that leaves the site folder"]


def test_link_out_of_the_folder(site_folder: Path, tmp_path: Path, secret: str) -> None:
    image = site_folder / "images" / f"{secret}-a.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    expected = "image: file is a link that leaves the site folder"
    assert check_site(site_folder, decode=True) == [f"{EXAMPLES}:1: {expected}"]


@pytest.mark.parametrize("way", ["path", "detour", "link"])
def test_file_of_two_patients(site_folder: Path, rewrite: Rewrite, secret: str, way: str) -> None:
    image = f"images/{secret}-a.png"
    if way == "link":
        (site_folder / "images" / "link.png").symlink_to(site_folder / image)
    path = {"path": image, "detour": f"./images//{secret}-a.png", "link": "images/link.png"}[way]
    rewrite(EXAMPLES, at(7, "image", path))
    assert check_site(site_folder) == [f"{EXAMPLES}:7: image: the file is another patient's too"]


def test_signal_of_two_patients(site_folder: Path, rewrite: Rewrite, secret: str) -> None:
    rewrite(EXAMPLES, at(4, "signal", f"signals/{secret}-a"))
    assert check_site(site_folder) == [f"{EXAMPLES}:4: signal: the file is another patient's too"]


def test_stay_of_two_patients(site_folder: Path, rewrite: Rewrite, secret: str) -> None:
    """In whichever of the four columns; reported once."""
    rewrite(EXAMPLES, at(6, "patient_id", "other"), at(6, "vitals", None))
    assert check_site(site_folder) == [f"{EXAMPLES}:6: labs: the stay is another patient's too"]


def test_empty_file(site_folder: Path, secret: str) -> None:
    (site_folder / "signals" / f"{secret}-a.dat").write_bytes(b"")
    assert check_site(site_folder) == [f"{EXAMPLES}:3: signal: .dat file is empty"]


def test_all_faults_at_once_and_many_rows_counted(site_folder: Path, rewrite: Rewrite) -> None:
    rewrite(EXAMPLES, at(1, "answer", "maybe"), at(3, "signal", None))
    table = pl.concat([pl.read_parquet(site_folder / TABLES)] * 20)
    rewrite(TABLES, pl.lit("?").alias("unit"), rows=table)
    faults = check_site(site_folder)
    assert len(faults) == 2 + LISTED + 1
    assert faults[-1] == (
        f"{TABLES}: {80 - LISTED} more rows: unit is not the variable's unit; see conf/modality"
    )


def test_open_refuses_a_broken_folder_in_one_line(site_folder: Path, rewrite: Rewrite) -> None:
    rewrite(EXAMPLES, at(1, "answer", "maybe"), at(3, "signal", None))
    with pytest.raises(SiteError) as error:
        Site.open(site_folder)
    assert error.value.faults == check_site(site_folder)
    message = str(error.value)
    assert message.startswith(f"{site_folder}: 2 faults; first: {EXAMPLES}:1: answer must be")
    assert message.endswith(f"run `fedkim check-site {site_folder}`")
    assert "\n" not in message


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no such folder"):
        Site.open(tmp_path / "nowhere")


def test_card_defaults(site_folder: Path) -> None:
    (site_folder / "site.yaml").write_text(
        yaml.safe_dump({"name": "north", "tasks": sorted(set(Site.open(site_folder).card.tasks))})
    )
    card = Site.open(site_folder).card
    assert (card.schema_version, card.synthetic, card.licence, card.note) == (1, False, "", "")


def test_same_rows_twice_are_no_fault(site_folder: Path, rewrite: Rewrite) -> None:
    """A monitor gives the same heart rate several times an hour; the mean is not changed."""
    rewrite(TABLES, rows=pl.concat([pl.read_parquet(site_folder / TABLES)] * 2))
    assert check_site(site_folder) == []


def test_memory_stays_flat_in_the_rows_of_the_table(site_folder: Path, rewrite: Rewrite) -> None:
    """12 million rows, 100 MB on disk and 900 MB in memory, the very last one at fault."""
    rows = 500_000
    noise = np.random.default_rng(0).uniform(60, 100, rows)
    row = pl.read_parquet(site_folder / TABLES)[:1].drop("value")
    part, last = site_folder / "part.parquet", site_folder / "last.parquet"
    columns = list(pl.read_parquet_schema(site_folder / TABLES))
    row.join(pl.DataFrame({"value": noise}), how="cross").select(columns).write_parquet(part)
    pl.read_parquet(site_folder / TABLES).with_columns(at(4, "hour", -1)).write_parquet(last)
    pl.scan_parquet([*[part] * 24, last]).sink_parquet(
        site_folder / TABLES, compression="uncompressed"
    )
    assert (site_folder / TABLES).stat().st_size > 80_000_000
    script = f"""
import resource
from pathlib import Path
from fedkim_core.data.site import check_site
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(check_site(Path({str(site_folder)!r})))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=APP,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    faults, megabytes = done.stdout.splitlines()
    rule = "hour must be 0 or more, counted from admission"
    assert faults == str([f"{TABLES}:{24 * rows + 4}: {rule}"])
    assert int(megabytes) < 400


@given(st.text(st.sampled_from("ab./\\:\0"), max_size=8))
def test_references_that_leave_the_folder(reference: str) -> None:
    path = PurePosixPath(reference)
    leaves = not path.name or path.is_absolute() or ".." in path.parts
    assert leaves_folder(reference) == (leaves or bool(set(reference) & set("\\:\0")))
