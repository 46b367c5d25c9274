"""Federations from site folders: every patient in one place, nothing changed on the way."""

import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.config import compose
from fedkim_core.data import network
from fedkim_core.data.contract import KIND_OF
from fedkim_core.data.dropout import drop_modalities
from fedkim_core.data.federation import column_of, combine, read_folder, read_folders, strata_of
from fedkim_core.data.holdings import HOLDINGS_FILE, holdings
from fedkim_core.data.prepare import write_network
from fedkim_core.data.simulate import simulate_network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError

REAL = Path(os.environ.get("FEDKIM_REALDATA", "/nowhere"))
pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospitals") / "network"
    simulate_network(
        root,
        seed=3,
        sites=3,
        patients=40,
        public_patients=12,
        validation_patients=12,
        test_patients=12,
    )
    return root


def all_rows(root: Path) -> pl.DataFrame:
    folders = sorted(path.parent for path in root.rglob("site.yaml"))
    return pl.concat(
        Site.open(folder).examples.with_columns(place=pl.lit(folder.name)) for folder in folders
    )


def files(root: Path) -> dict[str, bytes]:
    """By the end of its path, what each image and signal holds."""
    found = (path for end in ("png", "dcm", "dat") for path in root.rglob(f"*.{end}"))
    return {"/".join(path.parts[-2:]): path.read_bytes() for path in found}


@pytest.mark.parametrize("by", ["iid", "dirichlet:0.3", "natural"])
def test_a_pool_is_divided_by_patient_and_copied_as_it_is(
    hospitals: Path, tmp_path: Path, by: str
) -> None:
    out = tmp_path / "out"
    write_network(read_folders(hospitals / "sites"), out, sites=3, seed=1, by=by)
    network.prepare(compose(["data=folder", f"data.root={out}"]))
    before, after = all_rows(hospitals / "sites"), all_rows(out)
    assert after.group_by("patient_id").agg(pl.col("place").n_unique())["place"].max() == 1
    assert set(after["patient_id"]) == set(before["patient_id"])
    assert sorted(after["answer"]) == sorted(before["answer"])
    assert all(files(hospitals / "sites")[name] == content for name, content in files(out).items())
    values = [
        pl.concat(pl.read_parquet(path) for path in sorted(root.rglob("tables.parquet")))
        for root in (hospitals / "sites", out)
    ]
    assert values[0]["value"].sum() == pytest.approx(values[1]["value"].sum(), rel=1e-9)


def test_natural_keeps_the_patients_of_a_hospital_together(hospitals: Path, tmp_path: Path) -> None:
    write_network(
        read_folders(hospitals / "sites"), tmp_path / "out", sites=3, seed=1, by="natural"
    )
    home = dict(all_rows(hospitals / "sites").select("patient_id", "place").iter_rows())
    for site in (tmp_path / "out" / "sites").iterdir():
        assert len({home[patient] for patient in Site.open(site).examples["patient_id"]}) == 1


@pytest.mark.parametrize("by", ["iid", "natural"])
def test_test_patients_name_whose_patients_they_resemble(
    hospitals: Path, tmp_path: Path, by: str
) -> None:
    write_network(read_folders(hospitals / "sites"), tmp_path / "out", sites=3, seed=1, by=by)
    home = dict(all_rows(hospitals / "sites").select("patient_id", "place").iter_rows())
    rows = all_rows(tmp_path / "out")
    tested = rows["place"].is_in(["validation", "test"])
    assert rows.filter(~tested)["origin"].null_count() == len(rows.filter(~tested))
    want = home
    if by == "natural":  # the site that got the patients of the same hospital
        sites = rows.filter(pl.col("place").str.starts_with("site-"))
        site_of = {home[p]: place for p, place in sites.select("patient_id", "place").iter_rows()}
        want = {patient: site_of[name] for patient, name in home.items()}
    for patient, origin in rows.filter(tested).select("patient_id", "origin").iter_rows():
        assert origin == want[patient]


def test_same_seed_same_federation(hospitals: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        data = read_folders(hospitals / "sites")
        write_network(data, tmp_path / name, sites=2, seed=seed, drop=0.4)
    one, same, other = (all_rows(tmp_path / name) for name in "abc")
    assert one.equals(same)
    assert not one.equals(other)
    pictures = [(tmp_path / name / HOLDINGS_FILE).read_bytes() for name in "ab"]
    assert pictures[0] == pictures[1]


def test_holdings_count_what_the_folders_hold(hospitals: Path) -> None:
    table = holdings(hospitals)
    site = sorted((hospitals / "sites").iterdir())[0]
    rows = Site.open(site).examples
    for task in rows["task"].unique():
        own = rows.filter(pl.col("task") == task)
        counted = table.row(by_predicate=(pl.col("place") == site.name) & (pl.col("what") == task))
        assert counted[2:] == (len(own), pytest.approx((own["answer"] == "yes").mean()))
    signals = table.filter(pl.col("place") == site.name, pl.col("what") == "signal")["examples"]
    assert signals.sum() == rows["signal"].count()


modalities = st.lists(st.sampled_from(sorted(KIND_OF)), unique=True, max_size=4)
places = st.lists(st.lists(modalities, min_size=1, max_size=6), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(places=places, rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_no_site_and_no_modality_is_lost(
    places: list[list[list[str]]], rate: float, seed: int
) -> None:
    rows = pl.DataFrame(
        [
            {"place": f"site-{n}", "row": f"{n}-{i}"}
            | {m: m if m in held else None for m in KIND_OF}
            for n, site in enumerate(places)
            for i, held in enumerate([*site, ["image"]])
        ],
        schema=dict.fromkeys(("place", "row", *KIND_OF), pl.String),
    )
    something = pl.any_horizontal(pl.col(list(KIND_OF)).is_not_null())
    kept = drop_modalities(rows, rate=rate, seed=seed)
    assert kept.equals(drop_modalities(rows, rate=rate, seed=seed))
    assert set(kept["place"]) == set(rows["place"])
    for name in KIND_OF:
        assert bool(kept[name].count()) == bool(rows[name].count())
        for place in set(rows["place"]):
            here = pl.col("place") == place
            assert kept.filter(here)[name].count() in (0, rows.filter(here)[name].count())
    if rate == 0:
        assert kept.equals(rows.filter(something))


def test_drop_takes_modalities_from_sites_only(hospitals: Path, tmp_path: Path) -> None:
    data = read_folders(hospitals / "sites")
    for name, drop in (("whole", 0.0), ("thin", 0.9)):
        write_network(data, tmp_path / name, sites=3, seed=2, drop=drop)
    whole, thin = (holdings(tmp_path / name) for name in ("whole", "thin"))
    at_site = pl.col("place").str.starts_with("site-")
    assert len(thin.filter(at_site)) < len(whole.filter(at_site))
    assert (
        thin.filter(~at_site)
        .sort("place", "what")
        .equals(whole.filter(~at_site).sort("place", "what"))
    )


def test_data_sets_that_share_patients_become_one(hospitals: Path) -> None:
    site = sorted((hospitals / "sites").iterdir())[0]
    part = read_folder(site)
    both = combine([part, part], "both")
    assert both.strata.keys() == part.strata.keys()
    assert len(both.examples) == 2 * len(part.examples)
    assert both.examples["example_id"].n_unique() == len(both.examples)
    assert set(both.natural.values()) == {part.name}
    image = part.examples["image"].drop_nulls()[0]
    assert both.images[f"00/{image}"] == both.images[f"01/{image}"] == site / image


def test_strata_hold_the_yes_of_a_patient() -> None:
    rows = pl.DataFrame(
        [
            ("p", "covid19", "no"),
            ("p", "covid19", "yes"),
            ("p", "med_vqa_rad", "the left lung"),
            ("q", "covid19", "no"),
        ],
        schema=["patient_id", "task", "answer"],
        orient="row",
    )
    assert strata_of(rows) == {
        "p": (("covid19", "yes"), ("med_vqa_rad", "")),
        "q": (("covid19", "no"),),
    }


def test_a_column_of_a_file_says_who_belongs_together(hospitals: Path, tmp_path: Path) -> None:
    patients = sorted(set(all_rows(hospitals / "sites")["patient_id"]))
    wards = {patient: f"ward {i % 2}" for i, patient in enumerate(patients)}
    table = pl.DataFrame({"patient_id": list(wards), "ward": list(wards.values())})
    table.write_csv(tmp_path / "wards.csv")
    table.write_parquet(tmp_path / "wards.parquet")
    assert column_of(tmp_path / "wards.csv", "ward") == wards
    assert column_of(tmp_path / "wards.parquet", "ward") == wards


def broken_folder(root: Path) -> None:
    (root / "site.yaml").write_text("name: x")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda root: None, "holds no site folder"),
        (broken_folder, "examples.parquet: file is missing|faults"),
    ],
)
def test_bad_folders(make: Callable[[Path], None], rule: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=rule):
        read_folders(tmp_path)


def test_a_patient_in_two_folders_is_refused(hospitals: Path, tmp_path: Path) -> None:
    data = read_folder(sorted((hospitals / "sites").iterdir())[0])
    for name in ("one", "two"):
        write_network(data, tmp_path / "both" / name, sites=1, seed=0)
    with pytest.raises(UserError, match="shares a patient_id with"):
        read_folders(tmp_path / "both")


@pytest.mark.parametrize(
    ("content", "column", "rule"),
    [
        ("patient_id,ward\nSecret-1,a\nSecret-1,b\n", "ward", "has two values of 'ward'"),
        ("patient,ward\nSecret-1,a\n", "ward", "column 'patient_id' is missing"),
        ("patient_id,ward\nSecret-1,a\n", "age", "column 'age' is missing"),
        ("", "ward", "cannot be read as csv"),
    ],
)
def test_bad_column_files(content: str, column: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "wards.csv").write_text(content)
    with pytest.raises(UserError, match=rule) as caught:
        column_of(tmp_path / "wards.csv", column)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["data.source=null"], r"data.source, the folder of the data sets \(or FEDKIM_REALDATA\)"),
        (["data.source=/nowhere", "data.parts=[]"], "kind sources needs data.source"),
        (["data.source=/nowhere", "data.drop=2"], "data.drop=2"),
    ],
)
def test_bad_settings_of_public_small(words: list[str], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        compose(["data=public_small", *words])


def test_an_unknown_adapter_is_named(tmp_path: Path) -> None:
    words = [f"data.source={tmp_path}", "data.parts=[{adapter: zebra, folder: x}]"]
    with pytest.raises(UserError, match=r"adapter 'zebra': unknown; one of .*ptbxl"):
        network.prepare(compose(["data=public_small", *words]))


@pytest.mark.skipif(
    not (REAL / "vqa/VQA-RAD").is_dir(), reason="needs the data sets of $FEDKIM_REALDATA"
)
def test_real_public_small(tmp_path: Path) -> None:
    config = compose(["data=public_small", f"data.root={tmp_path / 'network'}"])
    table = holdings(network.prepare(config))
    totals = dict(table.group_by("what").agg(pl.col("examples").sum()).iter_rows())
    assert totals["lung_opacity"] == 1200
    assert totals["covid19"] == 1284
    assert totals["ecg_abnormal"] == 312
    assert totals["mortality"] == 1500 + 107
    assert totals["med_vqa_rad"] == 747
    for site in sorted((tmp_path / "network" / "sites").iterdir()):
        held = set(table.filter(place=site.name)["what"])
        assert {"image", "signal", "vitals", "labs", "inputs", "outputs"} <= held
        assert not Site.open(site).card.synthetic
