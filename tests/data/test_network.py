"""The folder of a network: where it is, what must be in it, and who may be in two places."""

from pathlib import Path

import pytest
import yaml

from fedkim_core.config import compose
from fedkim_core.data.network import SERVER_SETS, Network, locate, prepare
from fedkim_core.data.simulate import SIMULATOR_VERSION
from fedkim_core.errors import UserError
from tests.tiny import SITES, overrides

SIZES = (
    "data.sites=2",
    "data.patients=10",
    "data.public_patients=4",
    "data.validation_patients=4",
    "data.test_patients=4",
)


def test_sites_stand_in_the_order_of_their_names(network: Path) -> None:
    found = Network(network)
    assert [folder.name for folder in found.sites] == list(SITES)
    assert [found.server_set(name) for name in SERVER_SETS] == [
        network / name for name in ("public", "validation", "test")
    ]


def test_a_good_network_passes(network: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    root = prepare(compose(overrides(network)), lambda *step: seen.append(step))
    assert root == network
    assert [step[1:] for step in seen] == [(i, 6) for i in range(6)]


def test_synthetic_data_are_made_once(private_cache: Path) -> None:
    config = compose([*SIZES, "seed=4"])
    root = prepare(config)
    assert (
        root == private_cache.parent / "data" / f"synthetic-v{SIMULATOR_VERSION}-seed4-2-10-4-4-4"
    )
    assert yaml.safe_load((root / "network.yaml").read_text())["synthetic"] is True
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert prepare(config) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == made


def test_two_runs_that_begin_together_share_what_one_of_them_made(private_cache: Path) -> None:
    config = compose([*SIZES, "seed=5"])
    root, behind = locate(config.data, config.seed), []

    def overtake(*_: object) -> None:
        if not behind:
            behind.append(True)
            prepare(config)

    assert prepare(config, overtake) == root
    assert behind
    assert len(Network(root).sites) == 2


def test_sizes_and_seed_name_the_folder(tmp_path: Path) -> None:
    folders = {
        locate(compose(words).data, seed)
        for words in ([], ["data.patients=50"], ["data.sites=7"], ["data.test_patients=9"])
        for seed in (0, 1)
    }
    assert len(folders) == 8
    # What is only a matter of reading names no other data.
    assert locate(compose(["data.image_size=128"]).data, 0) in folders
    data = compose(["data=folder", f"data.root={tmp_path}"]).data
    assert locate(data, 0) == locate(data, 1) == tmp_path


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(compose(["data=folder", "data.root='~/x'"]).data, 0) == tmp_path / "x"


def test_synthetic_data_go_where_they_are_told(tmp_path: Path) -> None:
    root = tmp_path / "made here"
    assert prepare(compose([*SIZES, f"data.root='{root}'"])) == root
    assert len(Network(root).sites) == 2


@pytest.fixture
def linked(network: Path, tmp_path: Path) -> Path:
    root = tmp_path / "linked"
    (root / "sites").mkdir(parents=True)
    for folder in (*Network(network).sites, *(network / name for name in SERVER_SETS)):
        (root / folder.relative_to(network)).symlink_to(folder)
    return root


@pytest.mark.parametrize("name", SERVER_SETS)
def test_a_missing_set_is_named(name: str, linked: Path) -> None:
    (linked / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not found; the server needs it"):
        prepare(compose(overrides(linked)))


def test_a_patient_may_be_in_one_folder_only(linked: Path) -> None:
    (linked / "sites" / "zwin").symlink_to(linked / "test")
    with pytest.raises(UserError, match="shares a patient with") as caught:
        prepare(compose(overrides(linked)))
    assert "\n" not in str(caught.value)
    patients = [f"{name}-0000" for name in (*SITES, *SERVER_SETS)]
    assert not any(patient in str(caught.value) for patient in patients)


def test_no_folder_and_no_sites(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*: no such folder"):
        prepare(compose(overrides(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="sites: holds no site folder"):
        prepare(compose(overrides(tmp_path)))
