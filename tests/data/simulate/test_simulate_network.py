"""A whole simulated network keeps the contract."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from fedkim_core.data.simulate import SIMULATOR_VERSION, build, simulate_network
from fedkim_core.data.simulate.build import draw_with_both_answers, true_answers
from fedkim_core.data.simulate.hospitals import PROFILES, hospital_names, mixture
from fedkim_core.data.simulate.patients import draw_patients
from fedkim_core.data.site import Site, check_site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks

SIZES = {"patients": 20, "public_patients": 15, "validation_patients": 10, "test_patients": 60}
TASKS = load_tasks()


def make(root: Path, *, seed: int = 3, sites: int = 5, **sizes: int) -> Path:
    simulate_network(root, seed=seed, sites=sites, **{**SIZES, **sizes})
    return root


def folders(root: Path) -> list[Path]:
    server = [root / role for role in ("public", "validation", "test")]
    return [*sorted((root / "sites").iterdir()), *server]


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data") / "network")


def examples(folder: Path) -> pl.DataFrame:
    return Site.open(folder).examples


def test_every_folder_keeps_the_contract_and_says_synthetic(network: Path) -> None:
    for folder in folders(network):
        assert check_site(folder) == []
        card = Site.open(folder).card
        assert card.synthetic
        assert "ynthetic" in card.note
    described = yaml.safe_load((network / "network.yaml").read_text())
    assert described["synthetic"] is True
    assert described["version"] == SIMULATOR_VERSION
    assert described["seed"] == 3
    assert described["parameters"] == {"sites": 5, **SIZES}
    assert tuple(described["hospitals"]) == hospital_names(5)


def test_all_tasks_are_tested_and_none_unseen_is_trained(network: Path) -> None:
    for folder in folders(network):
        tasks = set(examples(folder)["task"])
        if folder.name in ("validation", "test"):
            assert tasks == set(TASKS)
        else:
            assert {TASKS[task].role for task in tasks} == {"train"}


def test_sex_and_age_are_named_at_the_server_alone(network: Path) -> None:
    test = examples(network / "test").select("patient_id", "sex", "age_band").unique()
    assert test["patient_id"].is_unique().all()
    assert set(test["sex"]) == {"female", "male"}
    assert set(test["age_band"]) <= {"18-39", "40-59", "60-79", "80+"}
    for site in (network / "sites").iterdir():
        assert examples(site)["sex"].null_count() == len(examples(site))
    (one, *_) = load_examples(Site.open(network / "test"), split="test", cards=TASKS, image_size=32)
    assert one.groups.keys() == {"sex", "age_band"}


def test_test_patients_name_the_hospital_that_they_resemble(network: Path) -> None:
    test = examples(network / "test").select("patient_id", "origin").unique()
    assert set(test["origin"]) == set(hospital_names(5))
    assert not test["patient_id"].is_duplicated().any()
    own = examples(network / "sites" / hospital_names(5)[0])
    assert own["origin"].null_count() == len(own)


def test_both_answers_are_tested(network: Path) -> None:
    test = examples(network / "test")
    for name, card in TASKS.items():
        answers = set(test.filter(pl.col("task") == name)["answer"])
        assert {"yes", "no"} == answers if card.answer == "yes_no" else len(answers) > 3


def test_some_hospitals_lack_modalities_and_every_trained_task_has_sites(network: Path) -> None:
    held = {f.name: set(examples(f)["task"]) for f in sorted((network / "sites").iterdir())}
    trained = {name for name, card in TASKS.items() if card.role == "train"}
    assert sum(tasks < trained for tasks in held.values()) >= 2
    for task in trained:
        assert sum(task in tasks for tasks in held.values()) >= 3


def test_patients_are_in_one_folder_and_one_split(network: Path) -> None:
    owner: dict[str, str] = {}
    for folder in folders(network):
        frame = examples(folder)
        assert frame.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
        for patient in frame["patient_id"].unique():
            assert owner.setdefault(patient, folder.name) == folder.name
    splits = {f.name: set(examples(f)["split"]) for f in folders(network)}
    assert splits["public"] == {"train"}
    assert splits["validation"] == {"validation"}
    assert splits["test"] == {"test"}
    assert all(splits[name] == {"train", "validation"} for name in hospital_names(5))


def test_one_hospital_sends_dicom(network: Path) -> None:
    kinds = {f.name: {p.suffix for p in (f / "images").glob("*")} for f in folders(network)}
    assert kinds["northfield-university"] == {".dcm"}
    assert kinds["harbour-general"] == {".png"}
    assert kinds["test"] == {".dcm", ".png"}
    assert not kinds["eastgate-intensive"]


def test_everything_can_be_read(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path))
    site = Site.open(network / "test")
    read = load_examples(site, split="test", cards=TASKS, image_size=32)
    assert len(read) == len(site.examples)
    for example in read:
        assert set(example.features) <= set(TASKS[example.task].encoded)
        assert "image" not in example.features or float(example.features["image"].std()) > 0.05


def test_same_seed_same_bytes(network: Path, tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "again")) == fingerprint(network)
    other = make(tmp_path / "other", seed=4, sites=1, patients=10)
    assert (
        fingerprint(other)["test/examples.parquet"] != fingerprint(network)["test/examples.parquet"]
    )


def test_adding_a_hospital_changes_no_other(network: Path, tmp_path: Path) -> None:
    larger = make(tmp_path / "six", sites=6, public_patients=6, test_patients=12)
    for name in hospital_names(5):
        assert fingerprint(larger / "sites" / name) == fingerprint(network / "sites" / name)
    again = larger / "sites" / "harbour-general-2"
    assert check_site(again) == []
    assert fingerprint(again) != fingerprint(network / "sites" / "harbour-general")


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    small = {"patients": 10, "public_patients": 1, "validation_patients": 1, "test_patients": 1}
    simulate_network(tmp_path / "n", seed=0, sites=1, progress=lambda *a: told.append(a), **small)
    assert told == [
        ("harbour-general", 0, 4),
        ("public", 1, 4),
        ("validation", 2, 4),
        ("test", 3, 4),
        ("done", 4, 4),
    ]


def test_processes_write_the_same_bytes(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(build, "cores", lambda: 2)
    told: list[tuple[str, int, int]] = []
    simulate_network(tmp_path / "n", seed=3, sites=5, progress=lambda *a: told.append(a), **SIZES)
    for here, there in zip(folders(tmp_path / "n"), folders(network), strict=True):
        assert fingerprint(here) == fingerprint(there)
    assert [done for _, done, _ in told] == list(range(9))


def test_a_process_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(build, "cores", lambda: 2)
    with pytest.raises(ValueError, match="negative"):
        simulate_network(tmp_path / "n", seed=0, sites=2, **{**SIZES, "patients": -1})
    assert list(tmp_path.iterdir()) == []


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_network(tmp_path / "n", seed=0, sites=2, progress=stop, **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        make(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("seed", range(5))
def test_small_server_sets_hold_both_answers(seed: int) -> None:
    patients = draw_with_both_answers(mixture(PROFILES, 30), seed, "test")
    for rows, truth in true_answers(patients).values():
        assert truth[rows].any()
        assert not truth[rows].all()


def test_true_answers_cover_the_yes_no_tasks() -> None:
    patients = draw_patients(mixture(PROFILES, 50), np.random.default_rng(0))
    answers = true_answers(patients)
    assert set(answers) == {name for name, card in TASKS.items() if card.answer == "yes_no"}
    for name, (rows, _) in answers.items():
        kind = {"image": "image", "signal": "signal"}.get(TASKS[name].modalities[0], "icu")
        assert (getattr(patients, f"has_{kind}")[rows]).all()
