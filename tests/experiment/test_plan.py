"""An experiment's file becomes runs; what is wrong with it is named."""

from pathlib import Path

import pytest

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.experiment.plan import MATRICES, Experiment, available, plan, read
from fedkim_core.guard import code_digest
from tests.experiment.conftest import Write


def keys(experiment: Experiment) -> list[str]:
    return [cell.key for cell in experiment.cells]


@pytest.mark.parametrize("name", available())
def test_every_file_makes_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDKIM_REALDATA", str(tmp_path))
    made = plan(name, seeds=[0])
    assert [cell.fault for cell in made.cells] == [""] * len(made.cells)
    assert len(set(keys(made))) == len(made.cells)
    assert made.file.compare


def test_fedmeki_has_sixteen_rows_of_one_table() -> None:
    file = read(MATRICES / "fedmeki16.yaml")
    assert len(file.rows) == 16
    single = {name for name, cell in file.cells.items() if cell.method == "fedprox_s_tuned"}
    assert len(single) == 4


def test_tiny_shares_one_federation_among_most_of_its_cells() -> None:
    made = plan("tiny")
    assert len(made.cells) == 12
    assert len({cell.federation_key for cell in made.cells}) == 2


def test_seeds_cells_and_settings(write: Write) -> None:
    path = write({"a": [], "b": {"set": ["strategy=fedprox"], "method": "m"}}, seeds=[3, 4])
    made = plan(str(path))
    assert [(c.name, c.method, c.seed) for c in made.cells] == [
        ("a", "a", 3),
        ("b", "m", 3),
        ("a", "a", 4),
        ("b", "m", 4),
    ]
    last = made.cells[-1]
    assert last.config == compose(last.overrides)
    assert last.config == compose(["foundation=tiny", "strategy=fedprox", "seed=4"])
    few = plan(str(path), seeds=[7], only=["b"], more=["rounds=1"])
    assert [(c.name, c.seed) for c in few.cells] == [("b", 7)]
    assert few.cells[0].config.rounds == 1


def test_a_key_is_settings_and_code(write: Write) -> None:
    path = write(
        {
            "same": [],
            "again": [f"rounds={compose().rounds}"],
            "elsewhere": ["output=/somewhere", "federation.record=true"],
            "other": ["rounds=9"],
        }
    )
    same, again, elsewhere, other = keys(plan(str(path)))
    assert same == again == elsewhere != other
    assert same.endswith(code_digest()[:12])
    assert plan(str(path), seeds=[1]).cells[0].key != same


def test_who_shares_a_federation(write: Write) -> None:
    path = write(
        {
            "one": [],
            "injector": ["injector=lora", "evaluation.bootstrap=5"],
            "feedback": ["injector.train_encoders=true"],
            "strategy": ["strategy=fedprox"],
            "data": ["data.patients=50"],
            "tuned": ["federation.public_epochs=1"],
        }
    )
    one, injector, feedback, *others = (c.federation_key for c in plan(str(path)).cells)
    assert one == injector
    assert feedback is None
    assert len({one, *others}) == 4


def test_one_broken_cell_leaves_the_others(write: Write) -> None:
    good, bad = plan(str(write({"good": [], "bad": ["rounds=none"]}))).cells
    assert good.config is not None
    assert bad.config is None
    assert "rounds='none'" in bad.fault


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: x\ncells: {}\n", "cells: Dictionary should have at least 1"),
        ("title: x\ncells: {a b: []}\n", "cells.a b"),
        ("title: x\ncells: {a: []}\nrows: {R: {method: z, column: injected}}\n", "no cell has the"),
        ("title: x\ncells: {a: []}\ncompare: z\n", "compare: no row 'z'; one of a"),
        ("title: x\ncells: {a: []}\nseed: [0]\n", "seed: Extra inputs"),
        ("title: [x\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        plan(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known(write: Write) -> None:
    with pytest.raises(UserError, match="experiment ablatoin: no such file; known: ablation"):
        plan("ablatoin")
    with pytest.raises(UserError, match="--only c: no such cell; one of a, b"):
        plan(str(write({"a": [], "b": []})), only=["c"])
