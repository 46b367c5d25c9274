"""From a hospital's export to a site folder."""

import csv
import gzip
import io
import os
import re
import shutil
import stat
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from PIL import Image

from fedkim_core.data.check import check_site
from fedkim_core.data.hospital import prepare_site
from fedkim_core.data.site import Site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks
from tests.data.hospital.exports import left_out
from tests.data.hospital.german import MAPPING, PATIENTS

pytestmark = pytest.mark.usefixtures("private_cache")

REAL = Path(os.environ.get("FEDKIM_REALDATA", "")) / "ehr/mimic-iv-clinical-database-demo-2.2/hosp"


def test_an_export_becomes_a_site_folder(hospital: Path) -> None:
    assert check_site(hospital / "site") == []
    site = Site.open(hospital / "site")
    assert (site.card.name, site.card.synthetic, site.card.note) == (
        "klinik-nord",
        True,
        "invented",
    )
    assert site.card.tasks == ("ecg_abnormal", "lung_opacity", "mortality")
    groups = site.examples.group_by("task", "answer").len()
    counts = {(task, answer): number for task, answer, number in groups.iter_rows()}
    assert counts == {
        ("mortality", "yes"): 10,
        ("mortality", "no"): 30,
        ("lung_opacity", "yes"): 14,
        ("lung_opacity", "no"): 26,
        ("ecg_abnormal", "yes"): 20,
        ("ecg_abnormal", "no"): 20,
    }
    assert site.examples["patient_id"].n_unique() == PATIENTS
    # The draw goes by pseudonym, so a new key gives other patients, about a fifth of them.
    assert 6 <= site.examples.filter(split="validation")["patient_id"].n_unique() <= 10


def test_values_are_those_of_the_export(hospital: Path) -> None:
    """Two stays by hand: one laboratory reports creatinine in µmol/l, the other in mg/dl."""
    tables = pl.read_parquet(hospital / "site" / "tables.parquet")
    labs = gzip.decompress((hospital / "export" / "Labor_2021a.csv.gz").read_bytes())
    rows = list(csv.reader(io.StringIO(labs.decode("cp1252")), delimiter=";"))
    given = [float(r[3].replace(",", ".")) for r in rows if r[2] == "Kreatinin"][:4]
    expected = {round(v / 88.42, 2) for v in given[:2]} | {round(v, 2) for v in given[2:]}
    found = set(tables.filter(variable="creatinine")["value"].round(2).to_list())
    assert expected <= found
    assert set(tables["unit"]) == {"1/min", "mmHg", "degC", "%", "mmol/L", "mg/dL", "g/dL"}
    assert tables["hour"].max() == 22
    assert len(tables.filter(variable="heart_rate")) == PATIENTS * 12


def test_files_are_copied_without_their_patients(hospital: Path) -> None:
    site = Site.open(hospital / "site")
    originals = [
        4095 - np.frombuffer((p.read_bytes())[-48 * 40 * 2 :], dtype="<u2").reshape(48, 40)
        for p in sorted((hospital / "export" / "Roentgen").iterdir())
    ]
    copies = [np.asarray(Image.open(p)) for p in sorted((site.folder / "images").iterdir())]
    assert len(copies) == len(originals)
    scaled = [np.rint(o / 4095 * 65535).astype(int).sum() for o in originals]
    assert sorted(scaled) == pytest.approx(sorted(c.astype(int).sum() for c in copies), rel=1e-3)
    traces = {
        wfdb.rdrecord(str(p.with_suffix(""))).p_signal.tobytes()
        for folder in (hospital / "export" / "EKG", site.folder / "signals")
        for p in folder.glob("*.hea")
    }
    assert len(traces) == PATIENTS


def test_nothing_that_names_a_patient_is_left(hospital: Path) -> None:
    export, site = hospital / "export", hospital / "site"
    ids = {str(70000 + 13 * n) for n in range(PATIENTS)}
    ids |= {str(2100000 + 7 * n) for n in range(PATIENTS)}
    frames = [pl.read_parquet(site / f"{name}.parquet") for name in ("examples", "tables")]
    texts = [frame.select(pl.col(pl.String)).write_csv() for frame in frames]
    texts += [path.read_text() for path in site.rglob("*.hea")]
    texts += ["\n".join(path.name for path in site.rglob("*"))]
    texts += [(hospital / "site.left_out.csv").read_text()]
    assert any(ids & set(re.findall(r"\w+", path.name.replace("_", " ")))
               for path in export.rglob("*"))  # fmt: skip
    for text in texts:
        assert not ids & set(re.findall(r"[A-Za-z0-9]+", text))
        assert "Mustermann" not in text
        assert "Schmidt" not in text
    assert not list((hospital / "site").glob("*left_out*"))
    for path in (hospital / "site" / "images").iterdir():
        assert b"Mustermann" not in path.read_bytes()


def test_the_key_decides_the_pseudonyms(hospital: Path, tmp_path: Path) -> None:
    key = hospital / "fedkim.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "export").symlink_to(hospital / "export")
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    (tmp_path / "fedkim.key").write_bytes(key.read_bytes())
    os.chmod(tmp_path / "fedkim.key", 0o644)
    with pytest.raises(UserError, match="others may read the key; chmod 600"):
        prepare_site(tmp_path / "mapping.yaml", tmp_path / "again")
    os.chmod(tmp_path / "fedkim.key", 0o600)
    prepare_site(tmp_path / "mapping.yaml", tmp_path / "again")
    for name in ("examples.parquet", "tables.parquet", "site.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (hospital / "site" / name).read_bytes()
    (tmp_path / "fedkim.key").unlink()
    prepare_site(tmp_path / "mapping.yaml", tmp_path / "other")
    patients = [
        set(Site.open(tmp_path / name).examples["patient_id"]) for name in ("again", "other")
    ]
    assert not patients[0] & patients[1]
    (tmp_path / "fedkim.key").write_text("no key")
    with pytest.raises(UserError, match="holds no key"):
        prepare_site(tmp_path / "mapping.yaml", tmp_path / "third")


def test_round_trip(network: Path, tmp_path: Path) -> None:
    """A site folder, exported as a hospital would and mapped back, holds the same."""
    site = Site.open(sorted((network / "sites").iterdir())[1])
    export = tmp_path / "export"
    export.mkdir()
    tables = pl.read_parquet(site.folder / "tables.parquet").filter(pl.col("hour") < 24)
    decimal_comma = pl.col("value").cast(pl.String).str.replace(".", ",", literal=True)
    tables.with_columns(decimal_comma).write_csv(export / "observations.csv", separator=";")
    stay = pl.coalesce("vitals", "labs", "inputs", "outputs").alias("stay")
    asked = {"mortality": stay, "lung_opacity": pl.col("image"), "ecg_abnormal": pl.col("signal")}
    for task, column in asked.items():
        rows = site.examples.filter(task=task).select("patient_id", "answer", column)
        rows.write_csv(export / f"{task}.csv", separator=";")
    for folder in ("images", "signals"):
        shutil.copytree(site.folder / folder, export / folder)
    (tmp_path / "mapping.yaml").write_text(BACK + "".join(
        f"      {name}: {{variable: {name}}}\n" for name in tables["variable"].unique().sort()
    ))  # fmt: skip
    made = prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
    assert not [line for line in left_out(made) if ".csv:" in line[0]]
    back = Site.open(tmp_path / "site")
    again = pl.read_parquet(back.folder / "tables.parquet").with_columns(
        pl.col("stay_id").str.strip_prefix("back-")
    )
    columns = ["stay_id", "hour", "variable", "value", "unit"]
    assert again.select(columns).sort(columns).equals(tables.unique().select(columns).sort(columns))
    for task in asked:
        card = {task: load_tasks()[task]}
        examples = load_examples(site, split=None, cards=card, image_size=32)
        found = load_examples(back, split=None, cards=card, image_size=32)
        ours = {e.patient_id.removeprefix("back-"): e for e in found}
        assert len(ours) == len(examples)
        for example in examples:
            assert ours[example.patient_id].answer == example.answer
            for modality, tensor in example.features.items():
                other = ours[example.patient_id].features[modality]
                exact = 1 / 250 if modality == "image" else 1e-6  # DICOM is written as it is shown
                np.testing.assert_allclose(other, tensor, atol=exact, equal_nan=True)


BACK = """site: {name: back}
source: export
format: {delimiter: ";", decimal: ","}
pseudonyms: {keep: true}
stays: {file: mortality.csv, stay: stay, patient: patient_id}
examples:
  - task: mortality
    answer: &answer {column: answer, yes: [yes], no: [no]}
  - {task: lung_opacity, file: lung_opacity.csv, patient: patient_id, image: "{image}",
     answer: *answer}
  - {task: ecg_abnormal, file: ecg_abnormal.csv, patient: patient_id, signal: "{signal}",
     answer: *answer}
tables:
  - file: observations.csv
    stay: stay_id
    hours: hour
    name: variable
    value: value
    unit: unit
    names:
"""
MIMIC = """site: {name: demo}
source: export
stays:
  {file: admissions.csv.gz, stay: hadm_id, patient: subject_id, admitted: admittime,
   discharged: dischtime}
tables:
  - file: labevents.csv.gz
    stay: hadm_id
    time: charttime
    name: itemid
    value: valuenum
    unit: valueuom
    names: {50983: {variable: sodium}, 51265: {variable: platelets}}
examples:
  - {task: mortality, answer: {column: hospital_expire_flag, yes: [1], no: [0]}}
"""


@pytest.mark.skipif(
    not (REAL / "labevents.csv.gz").is_file(),
    reason="needs hosp/ of the MIMIC-IV demo in $FEDKIM_REALDATA/ehr",
)
def test_a_real_export(tmp_path: Path) -> None:
    """MIMIC-IV demo 2.2 as if it were a hospital's export; counted again in another way."""
    (tmp_path / "export").symlink_to(REAL)
    (tmp_path / "mapping.yaml").write_text(MIMIC)
    prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
    assert check_site(tmp_path / "site") == []
    examples = Site.open(tmp_path / "site").examples
    assert Counter(examples["answer"]) == {"yes": 14, "no": 217}
    assert examples["patient_id"].n_unique() == 98
    tables = pl.read_parquet(tmp_path / "site" / "tables.parquet")
    assert Counter(tables["variable"]) == {"sodium": 414, "platelets": 385}
    labs = pl.read_csv(REAL / "labevents.csv.gz", infer_schema=False)
    stays = pl.read_csv(REAL / "admissions.csv.gz", infer_schema=False)
    joined = labs.filter(itemid="50983").join(stays, on="hadm_id")
    when = pl.col("charttime").str.to_datetime() - pl.col("admittime").str.to_datetime()
    first_day = joined.filter(when >= timedelta(), when < timedelta(hours=24))
    values = first_day.drop_nulls("valuenum")["valuenum"].cast(pl.Float64)
    assert sorted(values) == sorted(tables.filter(variable="sodium")["value"])
