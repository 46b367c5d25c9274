"""Site folders made to break the check: accepted only what the documentation allows, nothing told.

The oracle is ``docs/site-folder.md``, written down once more below in a few lines of plain Python.
A folder has no fault if and only if the oracle finds none; a folder without fault opens and loads.
Every generated cell carries a marker that no message may show. ``FEDKIM_FUZZ_CASES`` sets how many
folders are tried (default 300).
"""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedkim_core.data.site import Site, SiteCard, check_site, load_examples, write_site
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("private_cache")
CASES = int(os.environ.get("FEDKIM_FUZZ_CASES", "300"))
MARK = "Secretname-4711"
PNG, DICOM, SIGNAL = f"images/{MARK}-a.png", f"images/{MARK}-b.dcm", f"signals/{MARK}-a"
STAYS = (f"{MARK}-s1", f"{MARK}-s2")
TABLES = ("vitals", "labs", "inputs", "outputs")
MODALITIES = ("image", "signal", *TABLES)
OF_TASK = {
    "lung_opacity": ("image",),
    "ecg_abnormal": ("signal",),
    "mortality": TABLES,
    "med_vqa_rad": ("image",),
}
HOURS = 24  # of mortality
VARIABLES = {  # modality and variable: unit, lowest and highest plausible value
    ("vitals", "heart_rate"): ("1/min", 20, 260),
    ("vitals", "spo2"): ("%", 40, 100),
    ("labs", "sodium"): ("mmol/L", 100, 180),
    ("labs", "ph"): ("pH", 6.6, 7.9),
    ("inputs", "noradrenaline"): ("ug/kg/min", 0, 5),
    ("outputs", "urine"): ("mL/h", 0, 2500),
}
REQUIRED = ("example_id", "patient_id", "task", "split", "answer")
EXAMPLES = (*REQUIRED, "question", *MODALITIES, "text")
OBSERVATIONS = ("stay_id", "hour", "modality", "variable", "value", "unit")


def tries(share: float) -> Any:
    """The same cases in every short run, new ones in a long one."""
    return settings(
        max_examples=max(1, round(CASES * share)),
        derandomize="FEDKIM_FUZZ_CASES" not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder with every kind of file."""
    folder = tmp_path_factory.mktemp("good") / "site"
    chance = np.random.default_rng(0)
    write_site(
        folder,
        SiteCard(name="north", tasks=tuple(OF_TASK)),
        pl.DataFrame([row_of("lung_opacity", 0, image=PNG)], schema_overrides=STRINGS),
        images={
            PNG: chance.integers(0, 256, (9, 8), dtype=np.uint8),
            DICOM: chance.integers(0, 256, (7, 9), dtype=np.uint8),
        },
        signals={SIGNAL: chance.normal(0, 0.5, (1000, 12))},
        tables=pl.DataFrame(
            [
                (stay, 0, modality, variable, (low + high) / 2, unit)
                for stay in STAYS
                for (modality, variable), (unit, low, high) in VARIABLES.items()
            ],
            schema=list(OBSERVATIONS),
            orient="row",
        ),
    )
    return folder


STRINGS = dict.fromkeys(EXAMPLES, pl.String)


def row_of(task: str, number: int, **values: str | None) -> dict[str, str | None]:
    """A row without fault, as long as ``values`` give a modality of the task."""
    answer = f"{MARK} left lung" if task == "med_vqa_rad" else "yes"
    split = ("train", "validation", "test")[number % 3]
    row = dict.fromkeys(EXAMPLES) | {"example_id": f"{MARK}-{number}", "task": task}
    return row | {"patient_id": f"{MARK}-{split}", "split": split, "answer": answer} | values


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "site"))


def faults_of(folder: Path) -> list[str]:
    """What the check says: one line each, and nothing of a patient."""
    faults = check_site(folder)
    for fault in faults:
        assert MARK not in fault.replace(str(folder), "")
        assert len(fault.splitlines()) == 1
        assert len(fault) < 2000
    return faults


def loaded(folder: Path) -> int:
    """A folder without fault opens, and every number that it gives is finite or not observed."""
    examples = load_examples(Site.open(folder), split=None, cards=load_tasks(), image_size=8)
    for one in examples:
        assert one.features
        assert not any(bool(value.isinf().any()) for value in one.features.values())
    return len(examples)


def loaded_or_refused(folder: Path) -> None:
    """What the check does not look into may still be refused when it is read."""
    try:
        loaded(folder)
    except UserError as error:
        message = str(error).replace(str(folder), "")
        if MARK in message:
            raise AssertionError(message) from error


# --- site.yaml ------------------------------------------------------------------------------------

GOOD_TEXT = "name: north\ntasks: [lung_opacity]\n"
GOOD_CARD = {"name": "north", "tasks": list(OF_TASK), "synthetic": False, "licence": "none"}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.binary(max_size=9),
    st.text(max_size=20).map(lambda text: MARK + text),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@st.composite
def cards(draw: st.DrawFn) -> bytes:
    """A good card with some values replaced, left out or added."""
    card: dict[str, Any] = dict(GOOD_CARD)
    for key in draw(st.lists(st.sampled_from([*card, "note", "schema_version"]), max_size=3)):
        card[key] = draw(
            VALUES | st.sampled_from([1, 2, "south", ["lung_opacity"], ["a", "a"], True])
        )
    for key in draw(st.lists(st.sampled_from(list(card)), max_size=1)):
        del card[key]
    return yaml.safe_dump(card, allow_unicode=draw(st.booleans())).encode()


def card_is_good(folder: Path) -> bool:
    """The rules of site.yaml; a key that stands twice is one too many."""
    text = (folder / "site.yaml").read_text(encoding="utf-8")
    top = yaml.compose(text, Loader=yaml.SafeLoader)
    keys = [key.value for key, _ in top.value]
    card = yaml.safe_load(text)
    name, tasks = card["name"], card["tasks"]
    return (
        len(set(keys)) == len(keys)
        and set(keys) <= {"name", "schema_version", "tasks", "synthetic", "licence", "note"}
        and isinstance(name, str)
        and 0 < len(name) <= 64
        and all(c.isalnum() or c in "_ .-" for c in name)
        and isinstance(tasks, list)
        and 0 < len(tasks) == len(set(tasks))
        and set(tasks) <= set(load_tasks())
        and card.get("schema_version", 1) == 1
    )


@tries(0.2)
@given(content=st.binary() | st.text().map(str.encode) | VALUES.map(yaml.safe_dump) | cards())
@example(content=yaml.safe_dump(GOOD_CARD).encode())
def test_site_yaml(folder: Path, content: bytes | str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "site.yaml").write_bytes(data)
    faults = check_site(folder)
    assert not any(len(fault.splitlines()) != 1 for fault in faults)
    assert not any(MARK in fault for fault in faults if "unknown task" not in fault)
    if not faults:
        assert card_is_good(folder)
        assert loaded(folder) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LAUGHS + "name: *a11\ntasks: *a11\n", id="billion laughs"),
        pytest.param("&a [*a]", id="list of itself"),
        pytest.param("name: &a [*a]\ntasks: *a\n", id="card of itself"),
        pytest.param("[" * 20_000, id="deep list"),
        pytest.param("tasks: " + "{a: " * 3_000 + "}" * 3_000, id="deep mapping"),
        pytest.param(GOOD_TEXT + "schema_version: 1" + "0" * 5000, id="digits"),
        pytest.param("name: north\nname: south\ntasks: [lung_opacity]", id="key twice"),
        pytest.param(
            "name: !!python/object/apply:os.getcwd []\ntasks: [lung_opacity]", id="object"
        ),
        pytest.param(GOOD_TEXT + "note: 2001-99-99", id="no date"),
        pytest.param(GOOD_TEXT + "note: !!timestamp x", id="no time"),
        pytest.param(GOOD_TEXT + "note: !!int x", id="no integer"),
        pytest.param(GOOD_TEXT + "note: !!float x", id="no number"),
        pytest.param(GOOD_TEXT + "synthetic: !!bool x", id="no bool"),
        pytest.param(GOOD_TEXT + "note: !!binary 'é'", id="no base64"),
        pytest.param("? [name, tasks]\n: north", id="list as key"),
        pytest.param("{{a: b}: c}", id="mapping as key"),
        pytest.param("1: north\n2: [mortality]", id="numbers as keys"),
        pytest.param("<<: 1\nname: north", id="merge of a number"),
        pytest.param("name: a\n---\nname: b", id="two documents"),
        pytest.param("name: !!binary aGVq\ntasks: [mortality]", id="bytes as name"),
        pytest.param("name: a\tb\ntasks: [lung_opacity]", id="tab in the name"),
        pytest.param("name: north\ntasks: mortality", id="task without list"),
        pytest.param("name: north\ntasks: []", id="no task"),
        pytest.param(f'{GOOD_TEXT}"{MARK}\\nx": 1', id="key of two lines"),
        pytest.param("", id="nothing"),
    ],
)
def test_nasty_site_yaml(folder: Path, text: str) -> None:
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    assert faults_of(folder)[0].startswith("site.yaml:")
    with pytest.raises(UserError):
        Site.open(folder)


# --- examples.parquet -----------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(lambda t: MARK + t)
JUNK = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "\t\n", "\u00a0", "yes", "Yes", "no", "train", "dev", "mortality"]),
    st.sampled_from(["lung opacity", "ectopic_beats", f"{MARK}\0", MARK * 5000, f"../{MARK}.png"]),
    st.sampled_from([PNG, DICOM, SIGNAL, *STAYS, f"/{PNG}", f"./{PNG}", f"{PNG}/", f"{PNG}\0"]),
    st.sampled_from(
        [f"images/../{PNG}", PNG.upper(), "images", f"c:{PNG}", PNG.replace("/", "\\")]
    ),
    WORDS,
)
ODD_COLUMNS = st.sampled_from(
    [
        lambda n: pl.Series(range(n)),
        lambda n: pl.Series([math.nan] * n),
        lambda n: pl.Series([True] * n),
        lambda n: pl.Series([MARK.encode()] * n),
        lambda n: pl.Series([[MARK]] * n),
        lambda n: pl.Series([{MARK: MARK}] * n),
        lambda n: pl.Series([[{MARK: [MARK]}]] * n),
        lambda n: pl.Series([MARK] * n, dtype=pl.Categorical),
        lambda n: pl.Series([MARK] * n, dtype=pl.Enum([MARK])),
        lambda n: pl.Series(["1.5"] * n).cast(pl.Decimal(20, 2)),
        lambda n: pl.Series([0] * n).cast(pl.Datetime("us", "Europe/Paris")),
        lambda n: pl.Series([0] * n).cast(pl.Duration),
        lambda n: pl.Series([None] * n, dtype=pl.Null),
        lambda n: pl.Series([MARK] * n),
    ]
)


TELLING = (
    lambda n: pl.Series([{MARK: MARK}] * n),
    lambda n: pl.Series([MARK] * n, dtype=pl.Enum([MARK])),
)


@st.composite
def example_frames(draw: st.DrawFn) -> pl.DataFrame:
    """Rows without fault, of which up to two cells and one column are then spoilt."""
    rows = []
    references = {"image": (PNG, DICOM), "signal": (SIGNAL,)} | dict.fromkeys(TABLES, STAYS)
    for number in range(draw(st.integers(0, 5))):
        task = draw(st.sampled_from(list(OF_TASK)))
        present = draw(st.sets(st.sampled_from(OF_TASK[task]), min_size=1))
        values = {m: draw(st.sampled_from(references[m])) for m in sorted(present)}
        said = {"question": draw(st.none() | WORDS), "text": draw(st.none() | WORDS)}
        rows.append(row_of(task, number, **values, **said))
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.sampled_from(EXAMPLES))] = draw(JUNK)
    return spoil_column(draw, pl.DataFrame(rows, schema=STRINGS), EXAMPLES)


def spoil_column(draw: st.DrawFn, frame: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    what = draw(st.sampled_from(["nothing"] * 4 + ["drop", "replace", "add"]))
    name = draw(st.sampled_from(names))
    if what == "drop":
        return frame.drop(name)
    if what == "nothing":
        return frame
    added = draw(WORDS) if what == "add" else name
    return frame.with_columns(draw(ODD_COLUMNS)(len(frame)).alias(added))


def examples_are_good(folder: Path, frame: pl.DataFrame) -> bool:
    """The rules of examples.parquet."""
    if frame.is_empty() or not set(REQUIRED) <= set(frame.columns) <= set(EXAMPLES):
        return False
    if any(dtype not in (pl.String, pl.Null) for dtype in frame.dtypes):
        return False
    splits: dict[str, str] = {}
    owners: dict[str, str] = {}
    for row in frame.iter_rows(named=True):
        if any(
            value is not None and not value.strip() for key, value in row.items() if key != "text"
        ):
            return False
        good = (
            all(row[key] is not None for key in REQUIRED)
            and row["task"] in OF_TASK
            and row["split"] in ("train", "validation", "test")
            and splits.setdefault(row["patient_id"], row["split"]) == row["split"]
            and (row["task"] == "med_vqa_rad" or row["answer"] in ("yes", "no"))
            and any(row.get(m) is not None for m in OF_TASK[row["task"]])
            and all(reference_is_good(folder, m, row.get(m)) for m in MODALITIES)
            and all(
                owners.setdefault(thing(folder, m, row[m]), row["patient_id"]) == row["patient_id"]
                for m in MODALITIES
                if row.get(m) is not None
            )
        )
        if not good:
            return False
    return frame["example_id"].n_unique() == len(frame)


def thing(folder: Path, modality: str, reference: str) -> str:
    """What a reference stands for, which belongs to one patient."""
    return reference if modality in TABLES else os.path.realpath(folder / reference)


def reference_is_good(folder: Path, modality: str, reference: str | None) -> bool:
    if reference is None:
        return True
    if modality in TABLES:
        return reference in STAYS
    if set(reference) & set("\\:\0") or reference.startswith("/") or ".." in reference.split("/"):
        return False
    if modality == "image":
        return reference.lower().endswith((".png", ".dcm")) and os.path.isfile(folder / reference)
    return all(os.path.isfile(f"{folder / reference}{end}") for end in (".hea", ".dat"))


@tries(0.35)
@given(frame=example_frames())
def test_examples(folder: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(folder / "examples.parquet")
    faults = faults_of(folder)
    assert (not faults) == examples_are_good(folder, frame)
    if not faults:
        assert loaded(folder) == len(frame)


# --- tables.parquet -------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.none(),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, 5e-324, 120.0, 7.4]),
)
SPOILT = {
    "stay_id": st.none() | WORDS,
    "hour": st.none() | st.sampled_from([-1, -(2**31), 2**31 - 1, 10**6]),
    "modality": st.none() | st.sampled_from(["vitals", "labs", "image", "Vitals", ""]) | WORDS,
    "variable": st.none() | st.sampled_from(["sodium", "heart_rate", "weight", ""]) | WORDS,
    "value": NUMBERS,
    "unit": st.none() | st.sampled_from(["mmol/L", "mg/dL", "1/MIN", " %", ""]) | WORDS,
}
TYPES = {
    "hour": [pl.Int8, pl.UInt8, pl.Int16, pl.UInt32, pl.Int64, pl.UInt64, pl.Float64, pl.String],
    "value": [pl.Float32, pl.Int64, pl.UInt8, pl.Decimal(20, 3), pl.Boolean, pl.String],
}


@st.composite
def observation_frames(draw: st.DrawFn) -> pl.DataFrame:
    """Observations without fault, of which up to two cells and one column are then spoilt."""
    rows = []
    for stay, modality in draw(
        st.permutations([(s, m) for s in STAYS for m in ("vitals", "labs")])
    ):
        known = [key for key in VARIABLES if key[0] == modality]
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 0]))):
            _, variable = key = draw(st.sampled_from(known))
            unit, low, high = VARIABLES[key]
            hour = draw(st.sampled_from([0, 1, 23, 24, 200]))
            values = (stay, hour, modality, variable, draw(st.floats(low, high)), unit)
            rows.append(dict(zip(OBSERVATIONS, values, strict=True)))
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        column = draw(st.sampled_from(OBSERVATIONS))
        rows[draw(st.integers(0, len(rows) - 1))][column] = draw(SPOILT[column])
    numbers = {"hour": pl.Int64, "value": pl.Float64}
    schema = {name: numbers.get(name, pl.String) for name in OBSERVATIONS}
    frame = pl.DataFrame(rows, schema=schema)
    if draw(st.booleans()):
        column = draw(st.sampled_from(list(TYPES)))
        kind = draw(st.sampled_from(TYPES[column]))
        frame = frame.with_columns(pl.col(column).cast(kind, strict=False))
    return spoil_column(draw, frame, OBSERVATIONS)


def observations_are_good(frame: pl.DataFrame) -> bool:
    """The rules of tables.parquet, and that the stays asked for are there."""
    if set(frame.columns) != set(OBSERVATIONS):
        return False
    words = [frame.schema[name] == pl.String for name in OBSERVATIONS if name not in TYPES]
    value = frame.schema["value"]
    number = value.is_float() or value.is_integer()
    if not (all(words) and frame.schema["hour"].is_integer() and number):
        return False
    held = set()
    for row in frame.iter_rows(named=True):
        unit, low, high = VARIABLES.get((row["modality"], row["variable"]), (None, 0, 0))
        good = (
            row["stay_id"] is not None
            and row["hour"] is not None
            and 0 <= row["hour"] <= 8784
            and row["unit"] == unit is not None
            and row["value"] is not None
            and low - 1e-6 * (high - low) <= row["value"] <= high + 1e-6 * (high - low)
        )
        if not good:
            return False
        held.add((row["stay_id"], row["modality"]))
    return held >= {(stay, modality) for stay in STAYS for modality in ("vitals", "labs")}


@tries(0.35)
@given(frame=observation_frames())
def test_tables(folder: Path, frame: pl.DataFrame) -> None:
    asked = [
        row_of("mortality", 0, vitals=STAYS[0], labs=STAYS[0]),
        row_of("mortality", 1, vitals=STAYS[1]),
        row_of("mortality", 4, labs=STAYS[1]),  # the same patient
    ]
    pl.DataFrame(asked, schema=STRINGS).write_parquet(folder / "examples.parquet")
    frame.write_parquet(folder / "tables.parquet")
    faults = faults_of(folder)
    assert (not faults) == observations_are_good(frame)
    if not faults:
        early = frame.filter(pl.col("hour") < HOURS)
        held = set(early.select("stay_id", "modality").iter_rows())
        expected = sum(any((row[m], m) in held for m in ("vitals", "labs")) for row in asked)
        assert loaded(folder) == expected


@pytest.mark.parametrize("column", TELLING, ids=["struct", "enum"])
@pytest.mark.parametrize(
    ("name", "columns"), [("examples.parquet", REQUIRED), ("tables.parquet", OBSERVATIONS)]
)
def test_types_that_hold_words(
    folder: Path, column: Any, name: str, columns: tuple[str, ...]
) -> None:
    """The names of a struct's fields and an enum's categories may be answers or names."""
    frame = pl.read_parquet(folder / name)
    frame.with_columns(column(len(frame)).alias(columns[0])).write_parquet(folder / name)
    assert faults_of(folder)


# --- bytes ----------------------------------------------------------------------------------------


@tries(0.1)
@given(
    name=st.sampled_from(["examples.parquet", "tables.parquet"]),
    start=st.floats(0, 1),
    length=st.integers(0, 40),
    bytes_in=st.binary(max_size=40),
)
def test_damaged_parquet(
    folder: Path, original: Path, name: str, start: float, length: int, bytes_in: bytes
) -> None:
    """Some bytes of a good file replaced: a fault, or a folder that loads or says why not."""
    whole = (original / name).read_bytes()
    at = round(start * len(whole))
    (folder / name).write_bytes(whole[:at] + bytes_in + whole[at + length :])
    if not faults_of(folder):
        loaded_or_refused(folder)
