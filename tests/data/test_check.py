"""Every rule of the site folder, broken one at a time."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from fedkim_core.data.faults import LISTED
from fedkim_core.data.site import Site, SiteError, check_site

EXAMPLES, TABLES = "examples.parquet", "tables.parquet"
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
        (EXAMPLES, {"name": "Secretname-4711"}, "column 14 has an unknown name; known: example_id"),
        (EXAMPLES, {"empty": True}, "holds no row"),
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
        ("name: a\ntasks: [covid19]\nhospital: b\n", "site.yaml: hospital: Extra inputs"),
        (b"name: \xff\xfe", "site.yaml: file cannot be read as UTF-8 text"),
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


def test_link_out_of_the_folder(site_folder: Path, tmp_path: Path, secret: str) -> None:
    image = site_folder / "images" / f"{secret}-a.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    expected = "image: file is a link that leaves the site folder"
    assert check_site(site_folder) == [f"{EXAMPLES}:1: {expected}"]


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
