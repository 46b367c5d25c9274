"""Stays and observations of an export: what is read, what is refused, what is left out."""

import gzip
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.hospital import prepare_site
from fedkim_core.errors import UserError
from tests.data.hospital.exports import (
    DEATHS,
    HEAD,
    LONG,
    OF_STAYS,
    OF_WIDE,
    SECRET,
    SITE,
    STAYS,
    WHOLE,
    WIDE,
    Make,
    left_out,
    values,
)

pytestmark = pytest.mark.usefixtures("private_cache")


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
