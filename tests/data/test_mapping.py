"""From a hospital's export to a site folder: what is read, what is refused, what is left out."""

import csv
import gzip
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedkim_core.data import cells
from fedkim_core.data.cells import Format
from fedkim_core.data.check import check_site
from fedkim_core.data.mapped import Prepared, prepare_site
from fedkim_core.data.site import Site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.paths import APP
from fedkim_core.tasks import load_tasks
from tests.data.german_hospital import MAPPING, PATIENTS, write_dicom, write_export

pytestmark = pytest.mark.usefixtures("private_cache")
SECRET = "Geheim4711"
"""Part of every cell that a test makes: must never be seen in a message."""
REAL = Path(os.environ.get("FEDKIM_REALDATA", "")) / "ehr/mimic-iv-clinical-database-demo-2.2/hosp"


def left_out(prepared: Prepared) -> list[tuple[str, str]]:
    with prepared.listed.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["record", "reason"]
    assert len(rows) == prepared.left_out
    return [(record, reason) for record, reason in rows]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The German hospital, prepared: folder with export, mapping.yaml, fedkim.key and site."""
    folder = tmp_path_factory.mktemp("klinik")
    write_export(folder)
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    prepare_site(folder / "mapping.yaml", folder / "site")
    return folder


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


# A small export, bent by each test ------------------------------------------------------------

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


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the files of an export and its mapping, and prepare the site."""
    (tmp_path / "export").mkdir()

    def made(mapping: str, **files: str | bytes) -> Prepared:
        for name, content in ({"stays": STAYS, "wide": WIDE, "long": LONG} | files).items():
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / "export" / f"{name}.csv").write_bytes(data)
        (tmp_path / "mapping.yaml").write_text(mapping, encoding="utf-8")
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        prepared = prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
        assert check_site(tmp_path / "site") == []
        for path in tmp_path.rglob("*"):
            assert not path.name.startswith(".fedkim-")
        return prepared

    return made


def values(tmp_path: Path, variable: str) -> list[tuple[int, float]]:
    tables = pl.read_parquet(tmp_path / "site" / "tables.parquet")
    rows = tables.filter(variable=variable).select("hour", pl.col("value").round(6))
    return sorted(rows.iter_rows())


def test_wide_and_long_give_the_same(make: Make, tmp_path: Path) -> None:
    made = make(SITE + OF_STAYS + OF_WIDE + DEATHS)
    assert (made.patients, made.examples, left_out(made)) == (3, 3, [])
    assert values(tmp_path, "heart_rate") == [(0, 80), (1, 81), (2, 82)]
    assert values(tmp_path, "temperature") == [(0, 37), (1, 37.5)]
    made = make(
        WHOLE.replace("      Na: {variable: sodium}\n      Crea: {variable: creatinine}\n", "")
    )
    assert left_out(made) == []
    assert values(tmp_path, "heart_rate") == [(0, 80), (1, 81), (2, 82)]


@pytest.mark.parametrize(
    ("row", "record", "reason"),
    [
        (f"s1,2021-01-01 08:00,HR,{SECRET},bpm", "heart_rate", "not a number in the stated style"),
        ("s1,2021-01-01 08:00,HR,\"80,5\",bpm", "heart_rate", "not a number in the stated style"),
        ("s1,2021-01-01 08:00,HR,>200,bpm", "heart_rate", "a limit such as <5"),
        ("s1,2021-01-01 08:00,HR,NA,bpm", "heart_rate", "that are empty"),
        ("s1,2021-01-01 07:00,HR,80,bpm", "heart_rate", "before admission"),
        ("s1,2021-01-02 08:00,HR,80,bpm", "heart_rate", "after the first 24 hours"),
        ("s4,2021-01-01 08:00,HR,80,bpm", "heart_rate", "after the discharge"),
        (f"s1,{SECRET},HR,80,bpm", "heart_rate", "time is empty or not in the stated format"),
        (f"{SECRET},2021-01-01 08:00,HR,80,bpm", "heart_rate", "of no stay that could be used"),
        (",2021-01-01 08:00,HR,80,bpm", "heart_rate", "of no stay that could be used"),
        ("s1,2021-01-01 08:30,HR,80,bpm", "heart_rate", "that repeat an earlier row"),
        (f"s1,2021-01-01 08:00,{SECRET},80,bpm", "", "of a name that the mapping does not list"),
    ],
)  # fmt: skip
def test_an_observation_is_left_out(make: Make, tmp_path: Path, row: str, record: str,
                                    reason: str) -> None:  # fmt: skip
    stays = STAYS + "s4,p4,2021-01-01 06:00,2021-01-01 07:00,0\n"
    made = make(WHOLE, stays=stays, long=LONG + row + "\n")
    listed = [line for line in left_out(made) if line[0].startswith("long.csv") and ";" in line[1]]
    ((where, why),) = listed
    assert where == f"long.csv {record}".strip()
    assert why.startswith("1 value ")
    assert reason in why
    assert why.endswith("; row 5")
    assert values(tmp_path, "heart_rate") == [(0, 80), (1, 81), (2, 82)]
    assert SECRET not in made.listed.read_text()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"s1,2021-01-01 08:00,HR,80,{SECRET}", "1 value in an unknown unit"),
        ("s1,2021-01-01 08:00,HR,400,bpm", "1 value outside 20..260 1/min"),
        ("s1,2021-01-01 08:00,HR,80,", "1 value in an unknown unit"),
    ],
)
def test_units_and_ranges(make: Make, row: str, reason: str) -> None:
    made = make(WHOLE, long=LONG + row + "\n")
    assert ("vitals/heart_rate", reason) in left_out(made)
    assert SECRET not in made.listed.read_text()


def test_mixed_units_and_own_spellings(make: Make, tmp_path: Path) -> None:
    more = "s1,2021-01-01 08:30,Crea,88.42,µmol/L\ns2,2021-01-01 08:30,Crea,2,mg/dl\n"
    more += "s3,2021-01-01 08:30,Crea,265.26,mikromol\n"
    mapping = WHOLE.replace("    unit: uom\n", "    unit: uom\n    units: {mikromol: umol/L}\n")
    make(mapping, long=LONG + more)
    found = [value for _, value in values(tmp_path, "creatinine")]
    assert found == pytest.approx([1.0, 2.0, 3.0], abs=0.01)


def test_limits_may_be_kept(make: Make, tmp_path: Path) -> None:
    mapping = WHOLE + "format: {limits: keep}\n"
    make(mapping, long=LONG + "s1,2021-01-01 08:00,Crea,< 0.5,mg/dl\n")
    assert values(tmp_path, "creatinine") == [(0, 0.5)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("s1,p1,2021-01-01 08:00,2021-01-03 08:00,1", "that repeat an earlier row"),
        ("s4,,2021-01-01 08:00,,0", "without a patient"),
        (",p4,2021-01-01 08:00,,0", "without a stay"),
        (f"s4,p4,{SECRET},,0", "whose admission is empty or not a time in the stated format"),
        ("s4,p4,2021-01-05 08:00,2021-01-03 08:00,0", "discharged before admission"),
        (f"s4,p4,2021-01-01 08:00,{SECRET},0", "whose discharge is not a time"),
    ],
)
def test_a_stay_is_left_out(make: Make, row: str, reason: str) -> None:
    made = make(WHOLE, stays=STAYS + row + "\n")
    assert any(
        record == "stays.csv" and reason in why and why.endswith("row 5")
        for record, why in left_out(made)
    )
    assert made.examples == 3
    assert SECRET not in made.listed.read_text()


def test_a_stay_that_contradicts_itself_belongs_to_nobody(make: Make) -> None:
    made = make(WHOLE, stays=STAYS + "s1,p9,2021-01-01 08:00,,1\n")
    assert made.examples == 2
    rule = "2 values of a stay that is listed again with another patient or time; rows 2, 5"
    assert ("stays.csv", rule) in left_out(made)
    made = make(WHOLE, stays=STAYS + "s1,p1,2021-01-01 08:00,2021-01-03 08:00,0\n")
    assert made.examples == 2
    assert ("stays.csv:2", "mortality: the same question has another answer elsewhere") in left_out(
        made
    )


def test_a_stay_without_observation_and_an_unclear_answer(make: Make) -> None:
    stays = STAYS + f"s4,p4,2021-01-01 08:00,,0\ns5,p5,2021-01-01 08:00,,{SECRET}\n"
    stays += "s6,p6,2021-01-01 08:00,,\n"
    made = make(WHOLE, stays=stays)
    for line in (
        ("stays.csv:5", "mortality: no observation of the stay can be used"),
        ("stays.csv:6", "mortality: the answer is neither yes nor no"),
        ("stays.csv:7", "mortality: the answer is empty"),
        ("long.csv", "'Na' of the mapping has no value"),
    ):
        assert line in left_out(made)
    assert SECRET not in made.listed.read_text()


def test_hours_instead_of_times(make: Make, tmp_path: Path) -> None:
    mapping = WHOLE.replace("time: time", "hours: time").replace(", admitted: in", "")
    mapping = mapping.replace(", discharged: out", "")
    made = make(mapping, long="stay,time,what,result,uom\ns1,0.9,HR,80,bpm\ns2,-1,HR,80,bpm\n")
    assert values(tmp_path, "heart_rate") == [(0, 80)]
    assert ("long.csv heart_rate", "1 value before admission; row 3") in left_out(made)


def test_spellings_of_csv(make: Make, tmp_path: Path) -> None:
    """A byte order mark, quoted line breaks, thousands, ids that became 1.0, old line ends."""
    stays = (
        '\ufeff"stay";"patient";"in";"died";"note"\r\n1.0;7;01.02.2021;ja;"a ""line""\r\nbreak"\r\n'
    )
    stays += "2;8;01.02.2021;nein;\r\n"
    long = 'stay;time;what;result;uom\r\n1;01.02.2021;Plt;"1.234.000,5";/µl\r\n'
    long += "2;01.02.2021;Plt;200.000;/µl\r\n"
    mapping = WHOLE.replace("yes: [1], no: [0]", "yes: [ja], no: [nein]")
    mapping = mapping.replace(", discharged: out", "")
    mapping = mapping.replace("HR: {variable: heart_rate}", "Plt: {variable: platelets}")
    mapping += 'format: {delimiter: ";", decimal: ",", thousands: ".", datetime: "%d.%m.%Y"}\n'
    make(mapping, stays=stays, long=long)
    assert values(tmp_path, "platelets") == [(0, 200), (0, 1234.0005)]


def test_parquet_with_types(make: Make, tmp_path: Path) -> None:
    stays = pl.read_csv(STAYS.encode(), try_parse_dates=True)
    long = pl.read_csv(LONG.encode(), try_parse_dates=True)
    (tmp_path / "export" / "stays.parquet").unlink(missing_ok=True)
    stays.write_parquet(tmp_path / "export" / "stays.parquet")
    long.write_parquet(tmp_path / "export" / "long.parquet", row_group_size=2)
    made = make(WHOLE.replace(".csv", ".parquet"))
    assert made.examples == 3
    assert values(tmp_path, "heart_rate") == [(0, 80), (1, 81), (2, 82)]
    zoned = long.with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    zoned.write_parquet(tmp_path / "export" / "long.parquet")
    with pytest.raises(UserError, match="column 'time' has a time zone"):
        make(WHOLE.replace(".csv", ".parquet"))
    listed = long.with_columns(pl.concat_list("result").alias("result"))
    listed.write_parquet(tmp_path / "export" / "long.parquet")
    with pytest.raises(UserError, match="column 'result' must hold text, numbers or times"):
        make(WHOLE.replace(".csv", ".parquet"))
    (tmp_path / "export" / "long.parquet").write_bytes(b"PAR1" + SECRET.encode())
    with pytest.raises(UserError, match=r"long\.parquet: file is not readable parquet"):
        make(WHOLE.replace("long.csv", "long.parquet"))


@settings(max_examples=60)
@given(st.sampled_from(["stays", "long", "wide"]), st.integers(0, 10**6), st.binary(max_size=4))
def test_a_damaged_file_is_read_or_refused_in_one_line(file: str, place: int, junk: bytes) -> None:
    """Cells of the marker, bytes overwritten anywhere: never another error, never a cell."""
    marked = {
        "stays": STAYS.replace("\np", f"\n{SECRET}p").replace(",s", f",{SECRET}s"),
        "long": LONG.replace("bpm", SECRET).replace("80", "80\ns1,2021-01-01 08:31,HR,81,bpm"),
        "wide": WIDE.replace("80", SECRET),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "export").mkdir()
        for part, text in marked.items():
            data = bytearray(text.encode())
            if part == file:
                data[place % len(data) : place % len(data) + len(junk)] = junk
            (folder / "export" / f"{part}.csv").write_bytes(bytes(data))
        mapping = WHOLE.replace("examples:", OF_WIDE.removeprefix("tables:\n") + "examples:")
        (folder / "mapping.yaml").write_text(mapping)
        message = ""
        try:
            prepare_site(folder / "mapping.yaml", folder / "site")
        except UserError as error:
            message = str(error)
        assert SECRET not in message
        assert "\n" not in message
        listed = folder / "site.left_out.csv"
        assert not listed.exists() or SECRET not in listed.read_text()


HEAD = LONG.splitlines()[0]


@pytest.mark.parametrize(
    ("long", "rule"),
    [
        (b"", r"long\.csv:1: the file has no header"),
        (f"{SECRET}\n1\n", r"long\.csv:1: column 'stay' is missing \(the header has 1 column\)"),
        (LONG.replace(",", ";"), r"long\.csv:1: column 'stay' is missing"),
        (LONG.replace("uom", "time"), r"long\.csv:1: the header has column 'time' twice"),
        (LONG.replace("what", SECRET), r"long\.csv:1: column 'what' is missing"),
        (f"{LONG}s1,{SECRET}\n", r"long\.csv:5: the row has fewer fields than the header"),
        (f"{LONG}s1,a,b,c,d,{SECRET}\n", r"long\.csv:5: the row has more fields than the header"),
        (f'{HEAD}\ns1,"{SECRET}\n', r"long\.csv:2: "),
        ((LONG + f"s1,{SECRET}é\n").encode("latin-1"), r"long\.csv: is not utf-8; state its"),
        (LONG.replace("-", "/"), r"long\.csv: no value can be used; most are values whose time"),
        (f"{HEAD}\n", r"long\.csv: holds no row"),
    ],
)
def test_a_file_is_refused(make: Make, tmp_path: Path, long: str | bytes, rule: str) -> None:
    with pytest.raises(UserError, match=rule) as error:
        make(WHOLE, long=long)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "site").exists()


def test_broken_gzip_and_missing_files(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "export" / "long.csv.gz"
    packed = gzip.compress((LONG + "".join(f"s1,x{i},HR,{i},bpm\n" for i in range(5000))).encode())
    mapping = WHOLE.replace("long.csv", "long.csv.gz")
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="gzip file is damaged or cut off"):
        make(mapping)
    path.write_bytes(b"plain text")
    with pytest.raises(UserError, match="gzip file is damaged or cut off"):
        make(mapping)
    path.unlink()
    with pytest.raises(UserError, match=r"long\.csv\.gz: file is missing"):
        make(mapping)
    with pytest.raises(UserError, match="no file of such a name"):
        make(WHOLE.replace("long.csv", "lab_*.csv"))
    with pytest.raises(UserError, match="source: no such folder"):
        make(WHOLE.replace("source: export", "source: exports"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("name: north", "name: TODO", r"yaml:1: still to do; complete or delete this line: 1"),
        ("site:", "site: {", r"yaml:2: not YAML|yaml:1: not YAML"),
        ("source: export", "source: export\nsource: b", r"yaml:3: 'source' stands twice"),
        ("source: export", "sauce: export", r"yaml:2: sauce: Extra inputs"),
        ("{variable: heart_rate}", "{variable: hart_rate}", r"yaml:12: .*unknown variable"),
        ("{variable: sodium}", "{variable: sodium, unit: g}", r"yaml:13: .*unit 'g' is no known"),
        ("    unit: uom\n", "", r"yaml:5: tables: HR: unit is missing"),
        ("    time: time\n", "", r"needs either time or hours"),
        ("    name: what\n", "", r"names needs name and value"),
        ("yes: [1], no: [0]", "yes: [1], no: [1]", r"yaml:16: .*'1' means both yes and no"),
        ("yes: [1], no: [0]", "yes: [1]", r"yes and no go together"),
        ("yes: [1], no: [0]", "yes: other, no: other", r"cannot be told apart"),
        ("yes: [1], no: [0]", "yes: filled, no: [0]", r"filled goes with empty"),
        (", yes: [1], no: [0]", "", r"mortality: answer needs yes and no"),
        ("task: mortality,", "task: mortality, format: {},", r"format goes with file"),
        ("task: mortality", "task: death", r"unknown task 'death'; known:"),
        ("task: mortality", "task: covid19", r"covid19 needs image"),
        ("task: mortality", "task: mortality, image: a", r"mortality is asked of stays"),
        ("file: stays.csv", "file: ../stays.csv", r"must be a path below source"),
        (", admitted: in", "", r"stays\.admitted is missing"),
        (OF_STAYS, "", r"stays is missing"),
        (OF_LONG, "", r"tables is missing"),
        ("source: export", "format: {decimal: ';'}", r"yaml:2: format\.decimal: Input should be"),
        ("source: export", "format: {encoding: ebc}", r"yaml:2: .*encoding is unknown"),
        ("source: export", "format: {delimiter: ''}", r"yaml:2: .*delimiter must be one"),
        ("source: export", "split: {validation: 1}", r"yaml:2: split\.validation: "),
    ],
)  # fmt: skip
def test_a_mapping_is_refused(make: Make, old: str, new: str, rule: str) -> None:
    assert WHOLE.count(old) >= 1
    with pytest.raises(UserError, match=rule) as error:
        make(WHOLE.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_a_mapping_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    with pytest.raises(UserError, match="file is missing"):
        prepare_site(path, tmp_path / "site")
    for data, rule in ((b"\xff", "UTF-8"), (b"", "must hold site"), (b"[" * 100, "not YAML")):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rule):
            prepare_site(path, tmp_path / "site")


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


# Cells ----------------------------------------------------------------------------------------


def parsed(cell: str, style: Format) -> float | None:
    block = pl.DataFrame({"x": [cell]}, schema={"x": pl.String})
    found: float | None = block.select(cells.number(block, "x", style)).item()
    return found


@given(
    st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 4)),
    st.sampled_from([(".", ""), (",", ""), (",", "."), (".", ","), (".", "'"), (",", " ")]),
)
def test_numbers_survive_their_style(value: float, style: tuple[str, str]) -> None:
    decimal, thousands = style
    text = f"{value:,.4f}" if thousands else f"{value:.4f}"
    text = text.replace(",", "T").replace(".", "D").replace("T", thousands).replace("D", decimal)
    form = Format.model_validate({"decimal": decimal, "thousands": thousands})
    assert parsed(f" {text} ", form) == value


@given(st.text(max_size=12))
def test_text_is_no_number_unless_it_is_one(text: str) -> None:
    found = parsed(text, Format())
    if found is not None:
        assert float(text.strip().replace("\u2212", "-")) == found


@pytest.mark.parametrize(
    ("cell", "style", "value"),
    [
        ("1.5", {"decimal": ","}, None),
        ("1,5", {}, None),
        ("1.234", {"decimal": ",", "thousands": "."}, 1234.0),
        ("12.34", {"decimal": ",", "thousands": "."}, None),
        ("1.5", {"decimal": ",", "thousands": "."}, None),
        ("\u22121,5", {"decimal": ","}, -1.5),
        ("1e3", {}, 1000.0),
        ("inf", {}, None),
        ("1e999", {}, None),
        ("0x10", {}, None),
        ("1_000", {}, None),
        ("-", {}, None),
        ("<5", {"limits": "keep"}, 5.0),
        (">= 5", {"limits": "keep"}, 5.0),
    ],
)
def test_numbers(cell: str, style: dict[str, str], value: float | None) -> None:
    assert parsed(cell, Format.model_validate(style)) == value


@pytest.mark.parametrize(
    ("cell", "style", "iso"),
    [
        ("2021-02-03", "", "2021-02-03 00:00:00"),
        ("2021-02-03T04:05", "", "2021-02-03 04:05:00"),
        ("2021-02-03 04:05:06.789", "", "2021-02-03 04:05:06"),
        ("2021-02-03T04:05:06+01:00", "", None),
        ("2021-02-30", "", None),
        ("3.2.2021 4:05", "%d.%m.%Y %H:%M", "2021-02-03 04:05:00"),
        ("03.02.2021", "%d.%m.%Y", "2021-02-03 00:00:00"),
    ],
)
def test_times(cell: str, style: str, iso: str | None) -> None:
    block = pl.DataFrame({"x": [cell]})
    found = block.select(cells.time(block, "x", Format(datetime=style))).item()
    assert (str(found) if found else None) == iso


# Memory ---------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from pathlib import Path
from fedkim_core.data.mapped import prepare_site
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
prepare_site(Path(sys.argv[1]), Path(sys.argv[2]))
small = peak()
prepare_site(Path(sys.argv[3]), Path(sys.argv[4]))
print(peak() - small)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """150 MB take no more than 150 MB more than 15 MB do: blocks, not the file, are held."""
    (tmp_path / "export").mkdir()
    filler = "x" * 560
    (tmp_path / "export" / "stays.csv").write_text(
        STAYS.splitlines()[0] + "\n"
        + "".join(f"{i},p{i},2021-01-01 00:00,,{i % 2}\n" for i in range(500))
    )  # fmt: skip
    rows = [f"{i % 500},2021-01-01 {i % 24:02d}:%02d,HR,{60 + i % 60},bpm,{filler}\n"
            for i in range(2_500)]  # fmt: skip
    block = "".join(rows)
    for name, blocks in (("small", 10), ("large", 100)):
        with (tmp_path / "export" / f"{name}.csv").open("w") as file:
            file.write(HEAD + ",remark\n")
            for number in range(blocks):
                file.write(block.replace("%02d", f"{number % 60:02d}"))
        (tmp_path / f"{name}.yaml").write_text(WHOLE.replace("long.csv", f"{name}.csv"))
    assert (tmp_path / "export" / "large.csv").stat().st_size > 145e6
    arguments = [tmp_path / "small.yaml", tmp_path / "a", tmp_path / "large.yaml", tmp_path / "b"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        cwd=APP,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150
