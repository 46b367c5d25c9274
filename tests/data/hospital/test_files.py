"""Images and signals of an export: found, copied, and left out when they cannot be used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedkim_core.data.check import check_site
from fedkim_core.data.hospital import Prepared, prepare_site
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from tests.data.hospital.exports import SECRET, SITE, Make, left_out
from tests.data.hospital.german import MAPPING, write_dicom, write_export

pytestmark = pytest.mark.usefixtures("private_cache")

FILMS = "patient,file,opacity\np1,a.png,1\np2,b.dcm,0\np3,c.jpg,0\n"
OF_FILMS = """examples:
  - task: lung_opacity
    file: films.csv
    patient: patient
    image: "img/{file}"
    answer: {column: opacity, yes: [1], no: [0]}
"""


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three pictures, in the export."""
    folder = tmp_path / "export" / "img"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / "a.png")
    write_dicom(folder / "b.dcm", rng.integers(0, 4096, (20, 30)), "p2")
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    colour.save(folder / "c.jpg", comment=SECRET.encode())
    return folder


@pytest.fixture
def make_films(films: Path, tmp_path: Path) -> Callable[..., Prepared]:
    def made(rows: str = "", mapping: str = OF_FILMS) -> Prepared:
        (tmp_path / "export" / "films.csv").write_text(FILMS + rows)
        (tmp_path / "mapping.yaml").write_text(SITE + mapping)
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        prepared = prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
        assert check_site(tmp_path / "site") == []
        return prepared

    return made


def test_pictures_of_any_kind(make_films: Make, films: Path, tmp_path: Path) -> None:
    shutil.copy(films / "b.dcm", films / "IM0001")  # as archives write them: without ending
    made = make_films("p4,IM0001,1\np1,a.png,1\n")
    assert (made.examples, made.patients) == (4, 4)
    assert left_out(made) == [("films.csv:6", "lung_opacity: repeats films.csv:2")]
    pictures = {p.read_bytes() for p in (tmp_path / "site" / "images").iterdir()}
    assert len(pictures) == 3
    assert not any(SECRET.encode() in picture for picture in pictures)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("p4,none.png,1", "its file is missing"),
        ("p4,,1", "the row names no file"),
        (",a.png,1", "the row does not say whose it is"),
        ("p4,../films.csv,1", "its file is a path or link that leaves the source folder"),
        ("p4,/etc/passwd,1", "its file is a path or link that leaves the source folder"),
        ("p4,link.png,1", "its file is a path or link that leaves the source folder"),
        ("p4,broken.png,1", "its image: "),
        ("p4,broken.dcm,1", "its image"),
        ("p4,burned.dcm,1", "its image has text in its pixels (BurnedInAnnotation is YES)"),
        ("p4,bomb.png,1", "its image: "),
    ],
)
def test_a_picture_is_left_out(
    make_films: Make, films: Path, tmp_path: Path, row: str, reason: str
) -> None:
    import pydicom

    (tmp_path / "outside.png").write_bytes((films / "a.png").read_bytes())
    (films / "link.png").symlink_to(tmp_path / "outside.png")
    (films / "broken.png").write_bytes((films / "a.png").read_bytes()[:200])
    (films / "broken.dcm").write_bytes((films / "b.dcm").read_bytes()[:-100])
    burned: Any = pydicom.dcmread(films / "b.dcm")
    burned.BurnedInAnnotation = "YES"
    burned.save_as(films / "burned.dcm")
    whole = (films / "a.png").read_bytes()
    (films / "bomb.png").write_bytes(whole[:16] + b"\0\0\x9c\x40" * 2 + whole[24:])
    made = make_films(row + "\n")
    ((record, why),) = left_out(made)
    assert record == "films.csv:5"
    assert why.startswith(f"lung_opacity: {reason}")
    assert str(films) not in why
    assert made.examples == 3


def test_two_patients_and_two_answers(make_films: Make) -> None:
    made = make_films("p9,a.png,1\np2,b.dcm,1\n")
    assert made.examples == 1
    assert [line[0] for line in left_out(made)] == [f"films.csv:{row}" for row in (2, 3, 5, 6)]
    assert {line[1] for line in left_out(made)} == {
        "lung_opacity: its file belongs to two patients",
        "lung_opacity: the same question has another answer elsewhere",
    }


def test_a_pattern_finds_one_file(make_films: Make, films: Path) -> None:
    for path in list(films.iterdir()):
        path.rename(path.with_name(f"p{'abc'.index(path.stem) + 1}_x[1]{path.suffix}"))
    made = make_films(mapping=OF_FILMS.replace("img/{file}", "img/{patient}_*"))
    assert (made.examples, left_out(made)) == (3, [])
    shutil.copy(films / "p1_x[1].png", films / "p1_y.png")
    made = make_films("p11,x,1\n", mapping=OF_FILMS.replace("img/{file}", "img/{patient}_*"))
    assert left_out(made) == [
        ("films.csv:2", "lung_opacity: several files fit the pattern; it must find one"),
        ("films.csv:5", "lung_opacity: no file fits the pattern"),
    ]


def test_free_text_answers_and_unseen_tasks(make_films: Make, tmp_path: Path) -> None:
    mapping = OF_FILMS.replace("lung_opacity", "med_vqa_rad").replace(
        "{column: opacity, yes: [1], no: [0]}", "{column: opacity}\n    question: file"
    )
    make_films(mapping=mapping)
    examples = Site.open(tmp_path / "site").examples
    assert sorted(examples["answer"]) == ["0", "0", "1"]
    assert sorted(examples["question"]) == ["a.png", "b.dcm", "c.jpg"]


def test_ids_may_be_kept_and_a_file_may_split(make_films: Make, tmp_path: Path) -> None:
    (tmp_path / "export" / "parts.csv").write_text("who,part\np1,A\np2,B\np3,A\n")
    split = "split: {by: {file: parts.csv, patient: who, column: part, validation: [B]}}\n"
    make_films(mapping=OF_FILMS + split + "pseudonyms: {keep: true}\n")
    rows = Site.open(tmp_path / "site").examples.select("patient_id", "split")
    assert dict(rows.iter_rows()) == {
        "north-p1": "train",
        "north-p2": "validation",
        "north-p3": "train",
    }
    assert not (tmp_path / "fedkim.key").exists()
    (tmp_path / "export" / "parts.csv").write_text("who,part\np1,A\np2,B\np1,B\n")
    with pytest.raises(UserError, match=r"parts\.csv:4: a patient trains and validates"):
        make_films(mapping=OF_FILMS + split)


def test_nothing_left_is_an_error_and_says_where_to_look(make_films: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no example is left; .*site\.left_out\.csv says why"):
        make_films(mapping=OF_FILMS.replace("yes: [1], no: [0]", "yes: [7], no: [8]"))
    assert len((tmp_path / "site.left_out.csv").read_text().splitlines()) == 4


def test_damaged_signals_are_left_out(tmp_path: Path) -> None:
    write_export(tmp_path, patients=12)
    ecgs = tmp_path / "export" / "EKG"
    header = (ecgs / "70013_ekg.hea").read_text()
    (ecgs / "70013_ekg.hea").write_text(header.replace(" V2", " X2"))
    (ecgs / "70026_ekg.dat").write_bytes(b"\0" * 50)
    (ecgs / "70039_ekg.dat").unlink()
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    made = prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
    listed = dict(line for line in left_out(made) if line[0].startswith("EKG.csv:"))
    assert listed["EKG.csv:3"] == "ecg_abnormal: its signal: the record has no lead V2"
    assert listed["EKG.csv:4"].startswith("ecg_abnormal: its signal: not a readable WFDB record")
    assert listed["EKG.csv:5"].startswith("ecg_abnormal: its signal: ")
    assert "70026" not in made.listed.read_text()
