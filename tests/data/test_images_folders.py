"""Sets whose folders or one table hold the label: Kermany, Hannover, COVID-19 Radiography."""

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fedkim_core.data.adapters import covid19_radiography, hannover, kermany
from fedkim_core.data.check import check_site
from fedkim_core.data.prepare import prepare
from fedkim_core.errors import UserError

REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "cxr"
REAL_KERMANY = REAL / "kermany_chest_xray_224"
REAL_HANNOVER = REAL / "hannover_covid-19-image-repository"


def picture(path: Path, seed: int, mode: str = "L") -> None:
    """Every seed another image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def answers(data: Any, task: str) -> Counter[str]:
    return Counter(data.examples.filter(task=task)["answer"])


def assert_sound(out: Path) -> pl.DataFrame:
    """Every folder keeps the contract, no patient is in two; all rows."""
    folders = [*sorted((out / "sites").iterdir()), *(out / n for n in ("public", "test"))]
    folders.append(out / "validation")
    for folder in folders:
        assert check_site(folder) == []
    parts = [pl.read_parquet(folder / "examples.parquet") for folder in folders]
    owners = Counter(p for part in parts for p in part["patient_id"].unique())
    assert set(owners.values()) == {1}
    return pl.concat(parts)


# Kermany

CHILDREN = (
    ("train/NORMAL/IM-0115-0001.jpeg", "normal-0115"),
    ("train/NORMAL/IM-0182-0001-0002.jpeg", "normal-0182"),
    ("train/NORMAL/NORMAL2-IM-0115-0001.jpeg", "normal-0115"),
    ("test/NORMAL/NORMAL2-IM-1436-0001.jpeg", "normal-1436"),
    ("test/NORMAL/NORMAL-1049278-0001.jpeg", "normal-1049278"),
    ("train/PNEUMONIA/person1_bacteria_1.jpeg", "pneumonia-0001"),
    ("train/PNEUMONIA/person1_bacteria_2.jpeg", "pneumonia-0001"),
    ("test/PNEUMONIA/person1_virus_6.jpeg", "pneumonia-0001"),
    ("val/PNEUMONIA/person1946_bacteria_4874.jpeg", "pneumonia-1946"),
    ("train/PNEUMONIA/VIRUS-1980593-0001.jpeg", "pneumonia-1980593"),
)


def test_kermany_patients_come_from_the_names(tmp_path: Path) -> None:
    source = tmp_path / "chest_xray"
    for seed, (file, _) in enumerate(CHILDREN):
        picture(source / file, seed, "RGB")
    (source / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
    (source / "train" / "NORMAL" / "copy of IM-0115-0001.jpeg").write_bytes(b"x")
    data = kermany.read(tmp_path, tmp_path)
    patients = {
        file[7:].partition(".")[0]: patient
        for file, patient in data.examples.select("image", "patient_id").iter_rows()
    }
    assert patients == {
        file.replace("/", "-").replace("_", "-").partition(".")[0]: f"kermany-{patient}"
        for file, patient in CHILDREN
    }
    assert answers(data, "lung_opacity") == {"no": 5, "yes": 5}
    assert data.left_out == [
        ("train/NORMAL/copy of IM-0115-0001.jpeg", "name does not tell the patient")
    ]
    assert data.strata["kermany-pneumonia-0001"] == (("lung_opacity", True), "bacteria", "virus")
    assert kermany.read(source, tmp_path).examples.equals(data.examples)
    more = kermany.read(source, tmp_path, covid19=True)
    assert answers(more, "covid19") == {"no": 10}
    assert answers(more, "lung_opacity") == answers(data, "lung_opacity")


def test_kermany_network(tmp_path: Path) -> None:
    for i in range(60):
        name = f"IM-{i // 2:04d}-{i % 2:04d}" if i < 30 else f"person{i // 2}_virus_{i}"
        picture(
            tmp_path / f"in/chest_xray/train/{'NORMAL' if i < 30 else 'PNEUMONIA'}/{name}.jpeg", i
        )
    prepare(kermany, tmp_path / "in", tmp_path / "out", sites=2, seed=0)
    rows = assert_sound(tmp_path / "out")
    assert Counter(rows["answer"]) == {"no": 30, "yes": 30}


def test_kermany_damaged_and_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable image; obtain chest_xray from"):
        kermany.read(tmp_path, tmp_path)
    for i in range(20):
        picture(tmp_path / f"in/train/NORMAL/IM-{i:04d}-0001.jpeg", i)
    path = tmp_path / "in/train/NORMAL/IM-0003-0001.jpeg"
    path.write_bytes(path.read_bytes()[:-200])
    prepare(kermany, tmp_path / "in", tmp_path / "out", sites=2)
    listed = (tmp_path / "out" / "left_out.csv").read_text()
    assert "IM-0003-0001.png,not a readable image (" in listed


@pytest.mark.skipif(
    not (REAL_KERMANY / "chest_xray").is_dir(),
    reason="needs images of Kermany in $FEDKIM_REALDATA/cxr/kermany_chest_xray_224",
)
def test_real_kermany(tmp_path: Path) -> None:
    """600 and 600 of the images for training, 224 pixels a side."""
    data = kermany.read(REAL_KERMANY, tmp_path)
    assert answers(data, "lung_opacity") == {"yes": 600, "no": 600}
    assert data.left_out == []
    groups = Counter(group for _, *kinds in data.strata.values() for group in kinds)
    assert groups == {"": 511, "bacteria": 316, "virus": 210}  # 42 numbers have both
    assert len(data.strata) == 511 + 484
    for reference in list(data.images)[::100]:
        pixels = data.images[reference]
        assert (pixels.shape, pixels.dtype) == ((224, 224), np.uint8)
        assert pixels.std() > 20


# Hannover


def table_of(rows: list[tuple[str, str, str]], header: str = "patient_id,image_id,modality") -> str:
    return "\n".join([f"{header},crp_val", *(",".join((*row, "5.0")) for row in rows)]) + "\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    rows = [(f"{i // 2:08x}", f"{i + 4096:08x}", "CR" if i % 3 else "DX") for i in range(40)]
    for seed, (_, image, _) in enumerate(rows):
        picture(folder / "png" / f"{image}.png", seed)
    (folder / "data.csv").write_text(table_of(rows))
    return folder


def test_hannover_holds_one_class(repository: Path, tmp_path: Path) -> None:
    data = hannover.read(repository, tmp_path)
    assert answers(data, "covid19") == {"yes": 40}
    assert data.examples["patient_id"].n_unique() == 20
    assert data.left_out == []
    prepare(hannover, repository, tmp_path / "out", sites=2, seed=0)
    assert set(assert_sound(tmp_path / "out")["answer"]) == {"yes"}


def test_hannover_left_out(repository: Path, tmp_path: Path) -> None:
    rows = [("a", "00001001", "CR"), ("a", "00001001", "CR"), ("a", "00001002", "CT")]
    (repository / "data.csv").write_text(table_of([*rows, ("b", "0000ffff", "CR")]))
    data = hannover.read(repository, tmp_path)
    assert dict(data.left_out) == {
        "data.csv:3": "row repeats an earlier image_id",
        "png/00001002.png": "modality is none of: CR, DX",
        "png/0000ffff.png": "image file is missing",
    } | {
        f"png/{i + 4096:08x}.png": "image is not listed in data.csv"
        for i in range(40)
        if i not in (1, 2)
    }


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (table_of([("a", "../x", "CR")]), r"data\.csv:2: image_id is not made of letters"),
        (table_of([("", "x", "CR")]), r"data\.csv:2: patient_id is not made of letters"),
        (table_of([("a", "x", "CR"), ("b", "x", "CR")]), r"data\.csv:3: image_id is another"),
        (table_of([], "patient_id,image_id"), r"data\.csv: column 'modality' is missing"),
        (table_of([]), "no usable image"),
    ],
)
def test_hannover_broken_table(repository: Path, tmp_path: Path, content: str, rule: str) -> None:
    (repository / "data.csv").write_text(content)
    for path in (repository / "png").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rule):
        prepare(hannover, repository, tmp_path / "out", sites=2)


@pytest.mark.skipif(
    not (REAL_HANNOVER / "data.csv").is_file(),
    reason="needs the repository in $FEDKIM_REALDATA/cxr/hannover_covid-19-image-repository",
)
def test_real_hannover(tmp_path: Path) -> None:
    """84 images of 29 patients, 22 of them of one patient."""
    data = hannover.read(REAL_HANNOVER, tmp_path)
    assert answers(data, "covid19") == {"yes": 84}
    assert data.left_out == []
    sizes = Counter(data.examples["patient_id"])
    assert (len(sizes), max(sizes.values())) == (29, 22)
    for reference in list(data.images)[::20]:
        pixels = data.images[reference]
        assert pixels.dtype == np.uint8
        assert max(pixels.shape) == 640


# COVID-19 Radiography Database

COUNTS = {"COVID": 12, "Normal": 24, "Lung_Opacity": 18, "Viral Pneumonia": 6}
XLSX = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def workbook(path: Path, rows: list[list[str]], *, shared: bool = True) -> None:
    """What a spreadsheet program writes: strings in a table of their own, or in the cells."""
    strings: list[str] = []
    lines = []
    for r, row in enumerate(rows, start=1):
        cells = []
        for c, value in enumerate(row):
            place = f'r="{chr(ord("A") + c)}{r}"'
            if value and shared:
                strings.append(f"<si><t>{escape(value)}</t></si>")
                cells.append(f'<c {place} t="s"><v>{len(strings) - 1}</v></c>')
            elif value:
                cells.append(f'<c {place} t="inlineStr"><is><t>{escape(value)}</t></is></c>')
        lines.append(f'<row r="{r}">{"".join(cells)}</row>')
    sheet = f"<worksheet {XLSX}><sheetData>{''.join(lines)}</sheetData></worksheet>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        if shared:
            book.writestr("xl/sharedStrings.xml", f"<sst {XLSX}>{''.join(strings)}</sst>")


def metadata(label: str, count: int) -> list[list[str]]:
    """The official workbook of Normal says NORMAL-1 for Normal-1.png."""
    named = "NORMAL" if label == "Normal" else label
    urls = [f"https://source-{i % 2}.org/{label}?a=1&b=2" for i in range(count)]
    rows = [[f"{named}-{i + 1}", "PNG", "256*256", url] for i, url in enumerate(urls)]
    return [["FILE NAME", "FORMAT", "SIZE", "URL"], *rows]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    seed = 0
    for label, count in COUNTS.items():
        for i in range(count):
            picture(folder / label / "images" / f"{label}-{i + 1}.png", seed)
            picture(folder / label / "masks" / f"{label}-{i + 1}.png", 10_000 + seed)
            seed += 1
        workbook(folder / f"{label}.metadata.xlsx", metadata(label, count), shared=seed % 2 == 0)
    return folder


def test_covid_folders_are_the_labels(database: Path, tmp_path: Path) -> None:
    data = covid19_radiography.read(database, tmp_path)
    assert answers(data, "covid19") == {"yes": 12, "no": 24 + 18 + 6}
    assert answers(data, "lung_opacity") == {"yes": 18, "no": 24}
    assert data.left_out == []
    assert len(data.strata) == len(data.images) == sum(COUNTS.values())
    assert Counter(data.natural.values()) == {
        f"https://source-{i}.org/{label}?a=1&b=2": count // 2
        for label, count in COUNTS.items()
        for i in range(2)
    }
    normal = covid19_radiography.read(database, tmp_path, negatives="normal")
    assert answers(normal, "covid19") == {"yes": 12, "no": 24}
    assert answers(normal, "lung_opacity") == {"yes": 18, "no": 24}
    assert Counter(reason for _, reason in normal.left_out) == {
        "no answer with negatives=normal": 6
    }


def test_covid_network_by_source(database: Path, tmp_path: Path) -> None:
    prepare(covid19_radiography, database, tmp_path / "out", sites=2, seed=0, by="natural")
    rows = assert_sound(tmp_path / "out")
    assert Counter(rows["task"]) == {"covid19": 60, "lung_opacity": 42}


def test_covid_older_layout(tmp_path: Path) -> None:
    picture(tmp_path / "COVID-19" / "COVID-19 (1).png", 1)
    picture(tmp_path / "NORMAL" / "NORMAL (1).png", 2)
    rows = [["FILE NAME", "URL"], ["COVID-19(1)", "https://a.org"], ["COVID-19(2)", ""]]
    workbook(tmp_path / "COVID-19.metadata.xlsx", rows)
    data = covid19_radiography.read(tmp_path, tmp_path)
    assert answers(data, "covid19") == {"yes": 1, "no": 1}
    assert sorted(data.natural.values()) == ["https://a.org", "unknown"]
    assert data.left_out == [("COVID-19.metadata.xlsx", "image is listed but missing")]


def test_covid_left_out(database: Path, tmp_path: Path) -> None:
    images = database / "COVID" / "images"
    (images / "COVID-1.png").unlink()
    (images / "notes.txt").write_text("x")
    (images / "COVID-13.png").write_bytes((images / "COVID-2.png").read_bytes())
    normal = database / "Normal" / "images"
    (normal / "Normal-1.png").write_bytes((images / "COVID-3.png").read_bytes())
    data = covid19_radiography.read(database, tmp_path)
    other = "same image as {}/images/{}.png with another answer"
    assert sorted(data.left_out) == [
        ("COVID.metadata.xlsx", "image is listed but missing"),
        ("COVID/images/COVID-2.png", "same image as COVID/images/COVID-13.png"),
        ("COVID/images/COVID-3.png", other.format("Normal", "Normal-1")),
        ("COVID/images/notes.txt", "not a PNG or JPEG"),
        ("Normal/images/Normal-1.png", other.format("COVID", "COVID-3")),
    ]


def test_covid_broken_workbook(database: Path, tmp_path: Path) -> None:
    def refused(rule: str) -> None:
        with pytest.raises(UserError, match=rule):
            covid19_radiography.read(database, tmp_path)

    path = database / "COVID.metadata.xlsx"
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(r"COVID\.metadata\.xlsx: not a readable workbook")
    for name, content in (
        ("other.xml", "<a/>"),
        ("xl/worksheets/sheet1.xml", "<worksheet"),
        ("xl/worksheets/sheet1.xml", " " * (65 * 2**20)),  # 65 MiB in 64 kB
        ("xl/worksheets/sheet1.xml", f'<w {XLSX}><row><c r="ZZZZ1"><v>1</v></c></row></w>'),
        ("xl/worksheets/sheet1.xml", f'<w {XLSX}><row><c t="s"><v>7</v></c></row></w>'),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
            book.writestr(name, content)
        refused(r"COVID\.metadata\.xlsx: not a readable workbook")
    workbook(path, [["FILE NAME", "FORMAT"]])
    refused("column 'URL' is missing")
    workbook(path, [])
    refused("column 'FILE NAME' is missing")
    with pytest.raises(UserError, match="negatives: must be all or normal"):
        covid19_radiography.read(database, tmp_path, negatives="some")


def test_covid_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable image; obtain COVID-19_Radiography_Dataset"):
        covid19_radiography.read(tmp_path, tmp_path)
