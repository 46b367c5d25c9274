"""A mapping proposed from an export: good guesses, and TODO where there is none."""

import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from fedkim_core.cli import app
from fedkim_core.data.check import check_site
from fedkim_core.data.hospital import prepare_site
from fedkim_core.data.hospital.load import load_mapping
from fedkim_core.data.hospital.proposal import propose
from fedkim_core.data.hospital.proposal.sniff import look_at
from fedkim_core.data.hospital.proposal.synonyms import unit_in, variable_of
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from tests.data.hospital.german import PATIENTS, write_export

SECRET = "Geheim4711"


def test_from_a_german_export_to_a_site_folder(tmp_path: Path) -> None:
    export, mapping = write_export(tmp_path), tmp_path / "mapping.yaml"
    assert propose(export, mapping) == 2
    with pytest.raises(
        UserError, match=r"yaml:4: still to do; complete or delete these lines: 4, "
    ):
        prepare_site(mapping, tmp_path / "site")
    text = mapping.read_text(encoding="utf-8")
    text = text.replace("name: TODO", "name: klinik")
    text = re.sub(r"unit: TODO}.*", "unit: mmol/l}", text)
    mapping.write_text(text, encoding="utf-8")
    made = prepare_site(mapping, tmp_path / "site")
    assert check_site(tmp_path / "site") == []
    assert (made.patients, made.examples) == (PATIENTS, 3 * PATIENTS)
    site = Site.open(tmp_path / "site")
    assert site.card.tasks == ("ecg_abnormal", "lung_opacity", "mortality")
    assert site.examples.filter(task="mortality", answer="yes").height == PATIENTS // 4
    tables = pl.read_parquet(tmp_path / "site" / "tables.parquet")
    assert set(tables["variable"]) == {
        "heart_rate", "systolic_bp", "temperature", "spo2",
        "sodium", "creatinine", "lactate", "haemoglobin",
    }  # fmt: skip
    read = load_mapping(mapping)
    assert read.format.model_dump() | {"missing": ()} == {
        "delimiter": ";",
        "decimal": ",",
        "thousands": "",
        "encoding": "cp1252",
        "datetime": "%d.%m.%Y %H:%M",
        "missing": (),
        "limits": "drop",
    }
    assert read.tables[0].file == "Labor_2021*.csv.gz"
    assert read.examples[1].signal == "EKG/{PATNR}_*.hea"


def test_commands(tmp_path: Path) -> None:
    write_export(tmp_path)
    run = CliRunner().invoke
    out = tmp_path / "mapping.yaml"
    done = run(app, ["propose", str(tmp_path / "export"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "2 lines are marked TODO" in done.output.replace("\n", " ")
    done = run(app, ["prepare-site", str(out), "--out", str(tmp_path / "site")])
    assert isinstance(done.exception, UserError)
    text = out.read_text(encoding="utf-8").replace("name: TODO", "name: klinik")
    out.write_text(re.sub(r"unit: TODO}.*", "unit: mmol/l}", text), encoding="utf-8")
    done = run(app, ["prepare-site", str(out), "--out", str(tmp_path / "site")])
    assert done.exit_code == 0, done.output
    assert f"{3 * PATIENTS} examples of {PATIENTS} patients" in done.output.replace("\n", " ")


def rows(header: str, *row: str) -> str:
    return "\n".join([header, *row]) + "\n"


def test_no_cell_is_shown_that_few_rows_share(tmp_path: Path) -> None:
    """Every cell holds the marker; what ten rows share may be named, and nothing else."""
    export = tmp_path / "export"
    export.mkdir()
    stays = [f"{SECRET}{i},{SECRET}p{i},2021-01-01 08:00,{SECRET}{i}" for i in range(30)]
    (export / "stays.csv").write_text(rows("stay_id,patient_id,admitted,died", *stays))
    labs = [f"{SECRET}{i},2021-01-01 09:00,{SECRET}{i},{i},{SECRET}" for i in range(30)]
    labs += [f"{SECRET}{i},2021-01-01 09:00,Na,{130 + i},mmol/l" for i in range(30)]
    labs += [f"{SECRET}{i},2021-01-01 09:00,often,1,x" for i in range(30)]
    (export / "labs.csv").write_text(rows("stay_id,charttime,item,value,unit", *labs))
    films = [f"{SECRET}p{i},{SECRET}{i}.dcm" for i in range(30)]
    (export / "films.csv").write_text(rows("patient_id,file", *films))
    (export / "notes.txt").write_text(f"{SECRET}\n{SECRET},{SECRET}\n")
    mapping = tmp_path / "mapping.yaml"
    assert propose(export, mapping) > 0
    text = mapping.read_text()
    assert SECRET not in text
    assert '"Na": {variable: sodium}' in text
    assert '# not recognised: "often"' in text
    assert '# not used: "films.csv"' in text
    assert "notes.txt: the row has" not in text or "notes.txt:2" in text


def test_units_by_range_and_questions(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    stays = [f"{i},{i},01/02/2021 08:00,{'13/02/2021' if i % 3 else ''}" for i in range(30)]
    (export / "sejours.csv").write_text(rows("sejour,ipp,date entree,deces", *stays))
    cells = [f"{i};01/02/2021 09:00;{37 + i / 50:.1f};{98 + i / 50:.1f};{70 + i};{5 + i / 20};x"
             for i in range(30)]  # fmt: skip
    (export / "constantes.csv").write_text(
        rows("sejour;heure;temp;Température corporelle;créatinine;glycémie;Natrium i. Urin",
             *cells), encoding="latin-1",
    )  # fmt: skip
    mapping = tmp_path / "mapping.yaml"
    propose(export, mapping)
    text = mapping.read_text(encoding="utf-8")
    assert '"temp": {variable: temperature, unit: "degC"}  # unit guessed from the range' in text
    assert '"Température corporelle": {variable: temperature, unit: "degF"}  # unit' in text
    assert '"créatinine": {variable: creatinine, unit: "umol/L"}  # unit guessed' in text
    assert '"glycémie": {variable: glucose, unit: "mmol/L"}  # unit guessed' in text
    assert "Urin" not in text
    assert 'answer: {column: "deces", yes: filled, no: empty}' in text
    assert 'format: {delimiter: ",", decimal: "."' in text
    assert '"%d/%m/%Y %H:%M"' in text


@pytest.mark.parametrize(
    ("own", "variable", "unit"),
    [
        ("Kreatinin [µmol/l]", "creatinine", "µmol/l"),
        ("S-Kreatinin (mg/dl)", "creatinine", "mg/dl"),
        ("creatinine_mg_dl", "creatinine", "mg/dl"),
        ("Natrium i.S.", "sodium", None),
        ("Hémoglobine (g/L)", "haemoglobin", "g/L"),
        ("Frecuencia cardíaca", "heart_rate", None),
        ("HERZFREQUENZ", "heart_rate", None),
        ("temperature degC", "temperature", "degC"),
        ("Natrium im Urin", None, None),
        ("Creatinine clearance", None, None),
        ("Hb A1c", None, None),
        ("", None, None),
        ("...", None, None),
    ],
)
def test_names(own: str, variable: str | None, unit: str | None) -> None:
    assert variable_of(own) == variable
    if variable:
        assert unit_in(own, variable) == unit


def test_every_synonym_means_one_thing() -> None:
    known = {v.name for card in load_modalities().values() for v in card.variables}
    for name in known:
        assert variable_of(name) == name or variable_of(name) is None
    from fedkim_core.data.hospital.proposal import synonyms

    words = [
        (synonyms.plain(word), name)
        for name, names in synonyms._file()["variables"].items()
        for word in names
    ]
    assert {name for _, name in words} <= known
    assert len(dict(words)) == len(set(words))


def test_formats_are_told_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(
        "k\tzeit\twert\n1\t2021-01-01 10:00:00\t1.5\n", encoding="utf-16"
    )
    with pytest.raises(UserError):
        look_at(tmp_path, "a.tsv")
    (tmp_path / "a.tsv").write_text("k\tzeit\twert\nü\t2021-01-01 10:00:00\t1.5\n")
    seen = look_at(tmp_path, "a.tsv")
    assert (seen.format.delimiter, seen.format.decimal, seen.format.encoding) == (
        "\t",
        ".",
        "utf-8",
    )
    assert seen.evident == {"delimiter", "decimal", "encoding", "datetime"}
    (tmp_path / "b.csv").write_text("k;w\n1;2\n")
    assert look_at(tmp_path, "b.csv").evident == {"delimiter"}
    pl.DataFrame({"k": [1]}).write_parquet(tmp_path / "c.parquet")
    assert look_at(tmp_path, "c.parquet").columns == ["k"]


def test_what_cannot_be_proposed(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    with pytest.raises(UserError, match="no such folder"):
        propose(tmp_path / "none", mapping)
    (tmp_path / "export").mkdir()
    with pytest.raises(UserError, match=r"holds no csv, csv\.gz, tsv, txt or parquet file"):
        propose(tmp_path / "export", mapping)
    (tmp_path / "export" / "a.csv").write_text("x,y\n1,2\n")
    propose(tmp_path / "export", mapping)
    text = mapping.read_text()
    assert "no table of stays was found" in text
    assert "no answers were found" in text
    with pytest.raises(UserError, match="exists already"):
        propose(tmp_path / "export", mapping)
    with pytest.raises(UserError, match="still to do"):
        prepare_site(mapping, tmp_path / "site")
