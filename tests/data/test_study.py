"""One patient's files outside a site folder: the same tensors, the same rules, no names told."""

from pathlib import Path

import polars as pl
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedkim_core.data.network import Network
from fedkim_core.data.site import Site, load_examples
from fedkim_core.data.study import StudyError, read_study
from fedkim_core.tasks import load_tasks

TABLES = ("vitals", "labs", "inputs", "outputs")
SECRET = "mueller-1947"


def of_test_set(network: Path, task: str) -> tuple[Path, dict, dict[str, torch.Tensor]]:
    """Folder, row and features of a test example that has everything its task reads."""
    site = Site.open(Network(network).server_set("test"))
    card = load_tasks()[task]
    examples = load_examples(site, split="test", cards={task: card}, image_size=32)
    full = next(e for e in examples if len(e.features) == len(card.encoded))
    row = site.examples.row(by_predicate=pl.col("example_id") == full.example_id, named=True)
    return site.folder, row, full.features


def read(readable: tuple[str, ...], hours: int = 24, **files: Path) -> dict[str, torch.Tensor]:
    return read_study(readable, hours=hours, image_size=32, **files)


def test_an_image_is_read_as_in_a_site_folder(network: Path) -> None:
    folder, row, want = of_test_set(network, "covid19")
    got = read(("image",), image=folder / row["image"])
    assert torch.equal(got["image"], want["image"])


def test_a_signal_is_read_as_in_a_site_folder(network: Path) -> None:
    folder, row, want = of_test_set(network, "ecg_abnormal")
    got = read(("signal",), signal=folder / f"{row['signal']}.hea")
    assert torch.equal(got["signal"], want["signal"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_read_as_in_a_site_folder(kind: str, network: Path, tmp_path: Path) -> None:
    folder, row, want = of_test_set(network, "mortality")
    stay = pl.read_parquet(folder / "tables.parquet").filter(pl.col("stay_id") == row["vitals"])
    path = tmp_path / f"{SECRET}.{kind}"
    if kind == "csv":
        stay.drop("stay_id").write_csv(path)
    else:
        stay.write_parquet(path)
    got = read(TABLES, tables=path)
    assert got.keys() == want.keys()
    for name in got:
        torch.testing.assert_close(got[name], want[name], equal_nan=True)
    assert read(("labs",), tables=path).keys() == {"labs"}


def rows(**columns: object) -> pl.DataFrame:
    plain = {"hour": 0, "modality": "vitals", "variable": "heart_rate", "value": 80.0}
    return pl.DataFrame([plain | {"unit": "1/min"} | columns])


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        (rows(value=999.5), "row 1: value is implausible"),
        (rows(unit="bpm"), "row 1: unit is not the variable's unit"),
        (rows(variable=SECRET), "row 1: no such variable"),
        (rows(hour=-1), "row 1: hour must be 0 or more"),
        (rows(value=SECRET), "column value must be number"),
        (rows().drop("unit"), "column unit is missing"),
        (rows(name=SECRET), "column 6 has an unknown name"),
        (rows().head(0), "holds no row"),
        (rows(hour=24), "nothing of vitals, labs was observed within the first 24 hours"),
        (pl.concat([rows(stay_id="a"), rows(stay_id="b")]), "holds more than one stay"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_that_break_a_rule(
    table: pl.DataFrame, rule: str, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{SECRET}.{kind}"
    table.write_csv(path) if kind == "csv" else table.write_parquet(path)
    with pytest.raises(StudyError) as caught:
        read(("vitals", "labs"), tables=path)
    assert str(caught.value).startswith(f"tables: {rule}")
    assert SECRET not in str(caught.value)
    assert "999.5" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "blank.png")
    for name in ("image.png", "image.dcm", "image.jpg", "t.csv", "t.parquet", "r.hea", "only.hea"):
        (tmp_path / name).write_bytes(f"{SECRET}\0\xff not a file of this kind".encode())
    (tmp_path / "r.dat").write_bytes(b"\0" * 100)
    cases = {
        "image: not a PNG file": {"image": "image.png"},
        "image: not a readable image": {"image": "image.dcm"},
        "image: must end in .png or .dcm": {"image": "image.jpg"},
        "image: no such file": {"image": "gone.png"},
        "image: the image holds a single grey value": {"image": "blank.png"},
        "tables: ": {"tables": "t.csv"},
        "tables: file is not readable parquet": {"tables": "t.parquet"},
        "tables: must end in .csv or .parquet": {"tables": "image.png"},
        "tables: no such file": {"tables": "gone.csv"},
        "signal: ": {"signal": "r.hea"},
        "signal: the record's .dat file is missing": {"signal": "only.hea"},
        "signal: give the header of a WFDB record": {"signal": "r.dat"},
    }
    for message, files in cases.items():
        paths = {kind: tmp_path / name for kind, name in files.items()}
        with pytest.raises(StudyError) as caught:
            read(("image", "signal", *TABLES), **paths)
        assert str(caught.value).startswith(message), (files, str(caught.value))
        for secret in (SECRET, str(tmp_path)):
            assert secret not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_the_task_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^tables: this task reads image$"):
        read(("image",), tables=tmp_path / "x.csv")
    with pytest.raises(StudyError, match=r"^image: this task reads tables$"):
        read(TABLES, image=tmp_path / "x.png")


def test_what_swells_when_unpacked_is_not_unpacked(tmp_path: Path) -> None:
    """A deflated DICOM and a table of a thousand times its size in rows."""
    ds = pydicom.Dataset()
    ds.SOPClassUID = ds.SOPInstanceUID = "1.2.3"
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = b"\0" * 1000
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(StudyError, match="deflated"):
        read(("image",), image=tmp_path / "x.dcm")
    many = pl.select(
        hour=pl.repeat(0, 1_200_000, dtype=pl.Int32),
        modality=pl.lit("vitals"),
        variable=pl.lit("heart_rate"),
        value=pl.lit(80.0),
        unit=pl.lit("1/min"),
    )
    many.write_parquet(tmp_path / "x.parquet", row_group_size=100_000)
    with pytest.raises(StudyError, match="rows"):
        read(("vitals",), tables=tmp_path / "x.parquet")
