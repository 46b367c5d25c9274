"""A folder of WFDB records: written as PhysioNet ships them, and the real files where they are."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.signal import resample_poly

from fedkim_core.data.adapters import wfdb_folder
from fedkim_core.data.check import check_site
from fedkim_core.data.ecg_labels import ECTOPIC, from_codes
from fedkim_core.data.prepare import SourceData, prepare
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SINUS, BRADYCARDIA, PVC = "426783006", "426177001", "427172004"
REAL = Path(os.environ.get("FEDKIM_REALDATA", ".")) / "ecg" / "physionet-challenge-2021"


def signal_of(number: int, samples: int = 1000) -> np.ndarray:
    """Whole microvolts."""
    return np.random.default_rng(number).integers(-3000, 3000, (samples, 12)) / 1000


def write(
    folder: Path,
    name: str,
    values: np.ndarray,
    codes: str = SINUS,
    *,
    rate: float = 100,
    leads: list[str] = LEADS,
    unit: str = "mV",
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=[unit] * len(leads),
        sig_name=leads,
        p_signal=values,
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),
        baseline=[0] * len(leads),
        comments=["Age: 71", "Sex: Female", f"Dx: {codes}", "Rx: Unknown"],
        write_dir=str(folder),
    )


def as_mat(folder: Path, name: str) -> None:
    """Turn a record's ``.dat`` into the Challenge's MATLAB 4 file: 24 bytes, then the samples."""
    data, header = folder / f"{name}.dat", folder / f"{name}.hea"
    samples = np.frombuffer(data.read_bytes(), "<i2")
    front = np.array([30, 12, len(samples) // 12, 0, 4], "<i4").tobytes() + b"val\0"
    (folder / f"{name}.mat").write_bytes(front + data.read_bytes())
    header.write_text(header.read_text().replace(f"{name}.dat 16 ", f"{name}.mat 16x1+24 "))
    data.unlink()


def read(folder: Path, **settings: str) -> SourceData:
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return wfdb_folder.read(folder, scratch, **settings)


def answers(data: SourceData, task: str) -> dict[str, str]:
    rows = data.examples.filter(task=task).select("signal", "answer").iter_rows()
    return {signal.removeprefix("signals/"): answer for signal, answer in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good records in two hospitals, one of them as MATLAB file."""
    source = tmp_path / "source"
    write(source / "north", "N1", signal_of(1))
    write(source / "north", "N2", signal_of(2), f"{BRADYCARDIA},{PVC}")
    write(source / "south", "S1", signal_of(3), f"{SINUS},{BRADYCARDIA}")
    as_mat(source / "south", "S1")
    return source


def test_records_and_labels(folder: Path) -> None:
    data = read(folder)
    assert answers(data, "ecg_abnormal") == {"north/N1": "no", "north/N2": "yes", "south/S1": "yes"}
    assert answers(data, "ectopic_beats") == {"north/N1": "no", "north/N2": "yes", "south/S1": "no"}
    assert set(data.examples["patient_id"]) == {"wfdb-north/N1", "wfdb-north/N2", "wfdb-south/S1"}
    assert data.natural["wfdb-north/N2"] == "north"
    assert data.strata["wfdb-north/N2"] == (True, True)
    assert data.left_out == []
    for number, name in enumerate(("north/N1", "north/N2", "south/S1"), start=1):
        expected = signal_of(number).astype(np.float32)
        np.testing.assert_array_equal(data.signals[f"signals/{name}"], expected)


@pytest.mark.parametrize(
    ("codes", "abnormal", "ectopic"),
    [
        (SINUS, False, False),
        (f" {SINUS} ,", False, False),
        ("427393009", True, False),  # sinus arrhythmia
        ("13640000,75532003", True, False),  # fusion and escape beats
        *((f"{SINUS},{code}", True, True) for code in ECTOPIC),
    ],
)
@pytest.mark.parametrize("prefix", ["# Dx: ", "#Dx: "])
def test_codes(prefix: str, codes: str, abnormal: bool, ectopic: bool) -> None:
    header = f"r 12 500 5000\n# Age: 1\n{prefix}{codes}\n# Rx: Unknown\n"
    assert from_codes(header) == ("", {"ecg_abnormal": abnormal, "ectopic_beats": ectopic})


def test_leads_units_rate_and_length_are_repaired(tmp_path: Path) -> None:
    source, values = tmp_path / "source", signal_of(5)
    order = np.random.default_rng(0).permutation(12)
    write(source, "leads", values[:, order], leads=[LEADS[i].upper() for i in order])
    write(source, "long", np.vstack([signal_of(6), signal_of(7)]))
    write(source, "unit", signal_of(8), unit="uV")
    time = np.arange(5000)[:, None] / 500
    write(source, "rate", np.sin(2 * np.pi * (1 + np.arange(12)) * time), rate=500)
    data = read(source)
    assert data.left_out == []
    exact = np.testing.assert_array_equal
    exact(data.signals["signals/leads"], values.astype(np.float32))
    exact(data.signals["signals/long"], signal_of(6).astype(np.float32))
    np.testing.assert_allclose(data.signals["signals/unit"], signal_of(8) / 1000, rtol=1e-6)
    expected = np.sin(2 * np.pi * (1 + np.arange(12)) * np.arange(1000)[:, None] / 100)
    middle = slice(50, -50)  # the ends are extrapolated
    np.testing.assert_allclose(data.signals["signals/rate"][middle], expected[middle], atol=0.01)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def bad_records(source: Path) -> dict[str, str]:
    """Writes one record of each fault; the reason for each."""
    write(source, "short", signal_of(10, 999))
    write(source, "lead", signal_of(11)[:, :11], leads=LEADS[:11])
    write(source, "unit", signal_of(12), unit="mmHg")
    write(source, "twin", signal_of(1))  # the samples of the good one
    missing = signal_of(13)
    missing[500, 3] = np.nan
    write(source, "gap", missing)
    write(source, "large", signal_of(14))
    edit(source / "large.hea", "1000.0(0)/mV", "10.0(0)/mV")
    for name, codes in (("uncoded", "Unknown"), ("strange", f"{SINUS},123456789"), ("none", "")):
        write(source, name, signal_of(len(name)), codes)
    for number, rate in enumerate(("0", "-500", "1e9", "20", "500000", "fast")):
        write(source, f"rate{number}", signal_of(20 + number))
        edit(source / f"rate{number}.hea", " 12 100 1000\n", f" 12 {rate} 1000\n")
    write(source, "wrongrate", signal_of(30))  # 1,000 samples said to be 2 s
    edit(source / "wrongrate.hea", " 12 100 1000\n", " 12 500 1000\n")
    write(source, "cut", signal_of(31))
    (source / "cut.dat").write_bytes((source / "cut.dat").read_bytes()[:-24])
    write(source, "cutmat", signal_of(32))
    as_mat(source, "cutmat")
    (source / "cutmat.mat").write_bytes((source / "cutmat.mat").read_bytes()[:1000])
    write(source, "nodata", signal_of(33))
    (source / "nodata.dat").unlink()
    write(source, "climbs", signal_of(34))
    edit(source / "climbs.hea", "climbs.dat", "../climbs.dat")
    (source / "empty.hea").write_text("")
    (source / "bytes.hea").write_bytes(b"\xff\xfe\x00")
    write(source, "spaces", signal_of(35))
    (source / "spaces.hea").rename(source / "with spaces.hea")
    rate = "the header's sampling rate is not 50 to 10000 Hz"
    coded = "the header has no Dx codes; give labels with --set labels=FILE.csv"
    return {
        "short": "the record is shorter than 10 s",
        "wrongrate": "the record is shorter than 10 s",
        "lead": "the record has no lead V6",
        "unit": "unit 'mmHg' is not a voltage; known: mV, uV, V",
        "twin": "the samples are those of an earlier record",
        "gap": "the signal has samples that were not recorded",
        "large": "the signal exceeds +-32.767 mV",
        "uncoded": "Dx has a code of unknown meaning",
        "strange": "Dx has a code of unknown meaning",
        "none": coded,
        **{f"rate{number}": rate for number in range(6)},
        "climbs": "the WFDB header names a file outside its own folder",
        "empty": coded,
        "bytes": "the header cannot be read",
        "with spaces": "a record's path may hold letters, digits, _ and - only",
    }


def test_unusable_records_are_left_out_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source, "a", signal_of(1))
    reasons = bad_records(source)
    data = read(source)
    damaged = {name: why for name, why in data.left_out if name in ("cut", "cutmat", "nodata")}
    assert len(damaged) == 3
    for reason in damaged.values():
        assert reason.startswith(("not a readable WFDB record", "the signal file cannot be read"))
    assert dict(data.left_out) == reasons | damaged
    assert len(data.left_out) == len(reasons) + 3
    assert list(answers(data, "ecg_abnormal")) == ["a"]


def test_records_file(folder: Path) -> None:
    index = folder / "RECORDS"
    index.write_text("south/\nnorth/N1\n\nnorth/N1\nnorth/N9\n")
    data = read(folder)
    assert set(answers(data, "ecg_abnormal")) == {"south/S1", "north/N1"}
    assert data.left_out == [("north/N1", "listed twice"), ("north/N9", "header file is missing")]
    for line in ("../elsewhere/N1", "/etc/N1", "north/../../N1", "./", "..", "C:\\N1"):
        index.write_text(f"north/N1\n{line}\n")
        with pytest.raises(UserError, match="RECORDS:2: must be a relative path inside the folder"):
            read(folder)
    index.write_bytes(b"\xff")
    with pytest.raises(UserError, match="RECORDS: cannot be read"):
        read(folder)


def test_nothing_usable(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(UserError, match="holds no WFDB record that can be used; obtain"):
        read(source)
    write(source, "a", signal_of(1), "")
    with pytest.raises(UserError, match="can be used; a: the header has no Dx codes"):
        read(source)


def test_patients_and_hospitals_from_the_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, name in enumerate(("A12_1", "A12_2", "B7_1", "odd")):
        write(source, name, signal_of(number), PVC if name == "A12_2" else SINUS)
    data = read(source, patient_from="^([AB][0-9]+)_", hospital_from="^[AB]")
    assert Counter(data.examples["patient_id"]) == {"wfdb-A12": 4, "wfdb-B7": 2}
    assert data.natural == {"wfdb-A12": "A", "wfdb-B7": "B"}
    assert data.strata == {"wfdb-A12": (True, True), "wfdb-B7": (False, False)}
    assert data.left_out == [("odd", "patient_from finds no patient in the name")]
    for setting in ("patient_from", "hospital_from"):
        with pytest.raises(UserError, match=f"^{setting}: not a regular expression"):
            read(source, **{setting: "(["})


def test_labels_from_a_table(folder: Path) -> None:
    table = folder / "answers.csv"
    table.write_text(
        "record,patient,ectopic_beats,ecg_abnormal,age\n"
        "north/N1,77,yes,,50\nnorth/N2,77,no,yes,51\nsouth/S1,78,,,52\nsouth/S8,79,no,no,53\n"
    )
    data = read(folder, labels="answers.csv")
    assert answers(data, "ecg_abnormal") == {"north/N2": "yes"}
    assert answers(data, "ectopic_beats") == {"north/N1": "yes", "north/N2": "no"}
    assert set(data.examples["patient_id"]) == {"wfdb-77"}
    assert data.strata == {"wfdb-77": (True, True)}
    assert data.left_out == [
        ("south/S1", "labels has no answer for the record"),
        ("south/S8", "labels has a row, but there is no such record"),
    ]
    table.write_text("record,ecg_abnormal\nnorth/N1,no\n")
    data = read(folder, labels=str(table))
    assert set(data.examples["patient_id"]) == {"wfdb-north/N1"}
    assert ("south/S1", "labels has no row of the record") in data.left_out


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("record,answer\nnorth/N1,yes\n", "needs the column record and one of ecg_abnormal, ect"),
        ("ecg_abnormal\nyes\n", "needs the column record"),
        ("record,ecg_abnormal\na,no\nb,Secretname\n", ":3: ecg_abnormal must be yes, no or empty"),
        ("record,ecg_abnormal\nSecretname,no\nSecretname,no\n", ":3: record is empty or not uniq"),
        ("record,ecg_abnormal\n,no\n", ":2: record is empty"),
        ("record,patient,ecg_abnormal\nSecretname,,no\n", ":2: patient is empty"),
        ("record,ecg_abnormal\na,no,Secretname\n", "not a CSV table"),
        ("", "not a CSV table"),
        (None, "not a CSV table"),
    ],
)
def test_broken_table(folder: Path, text: str | None, rule: str) -> None:
    if text is not None:
        (folder / "answers.csv").write_text(text)
    with pytest.raises(UserError, match=rule) as error:
        read(folder, labels="answers.csv")
    assert "answers.csv" in str(error.value)
    assert "Secretname" not in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_table_is_not_ignored(folder: Path) -> None:
    (folder / "answers.csv").write_text("record,ecg_abnormal\n")
    with pytest.raises(UserError, match="labels has no row of the record"):
        read(folder, labels="answers.csv")


def network(out: Path) -> dict[str, Site]:
    paths = [*sorted((out / "sites").iterdir())]
    paths += [out / name for name in ("public", "validation", "test")]
    assert [check_site(path) for path in paths] == [[]] * len(paths)
    return {path.name: Site.open(path) for path in paths}


def test_network(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(60):
        codes = (SINUS, BRADYCARDIA, f"{SINUS},{PVC}")[number % 3]
        write(source / f"h{number % 4}", f"r{number:02d}", signal_of(number), codes)
    write(source / "h0", "short", signal_of(70, 100))
    prepare(wfdb_folder, source, tmp_path / "out", sites=2, seed=0, by="natural")
    sites = network(tmp_path / "out")
    hospitals = [
        {patient.split("/")[0] for patient in sites[name].examples["patient_id"]}
        for name in ("site-1", "site-2")
    ]
    assert [len(held) for held in hospitals] == [2, 2]
    assert not hospitals[0] & hospitals[1]
    for name, site in sites.items():
        unseen = "ectopic_beats" in set(site.examples["task"])
        assert unseen == (name in ("validation", "test"))
        for reference in site.examples["signal"].unique():
            number = int(reference[-2:])
            copied = wfdb.rdrecord(str(site.folder / reference)).p_signal
            np.testing.assert_array_equal(copied, signal_of(number))
    left_out = (tmp_path / "out" / "left_out.csv").read_text().splitlines()
    assert left_out == ["record,reason", "h0/short,the record is shorter than 10 s"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.skipif(
    not (REAL / "E07500.hea").is_file(),
    reason="needs $FEDKIM_REALDATA/ecg/physionet-challenge-2021",
)
def test_real_records(tmp_path: Path) -> None:
    """50 records of Georgia (E), PTB-XL (HR) and Ningbo (JS) at 500 Hz; two are the same."""
    assert (REAL / "E07509.mat").read_bytes() == (REAL / "E07510.mat").read_bytes()
    data = wfdb_folder.read(REAL, tmp_path, hospital_from="^[A-Z]+")
    assert data.left_out == [("E07510", "the samples are those of an earlier record")]
    assert Counter(data.natural.values()) == {"E": 19, "HR": 10, "JS": 20}
    assert Counter(answers(data, "ecg_abnormal").values()) == {"yes": 38, "no": 11}
    assert Counter(answers(data, "ectopic_beats").values()) == {"yes": 20, "no": 29}
    for reference, values in data.signals.items():
        official = wfdb.rdrecord(str(REAL / reference.removeprefix("signals/"))).p_signal
        expected = resample_poly(official, 1, 5, axis=0, padtype="line")
        np.testing.assert_allclose(values, expected, atol=1e-5)
    prepare(wfdb_folder, REAL, tmp_path / "out", sites=2, seed=0)
    sites = network(tmp_path / "out").values()
    assert sum(len(site.examples.filter(task="ecg_abnormal")) for site in sites) == 49
