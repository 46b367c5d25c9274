"""A replayed federation gives what the whole run gives, or is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedkim_core.errors import UserError
from server_app import evaluation
from server_app.run import execute
from tests.tiny import make_grid, overrides

TASKS = "tasks=[lung_opacity,mortality,sepsis]"


def whole(network: Path, output: Path, *more: str) -> dict[str, Any]:
    words = overrides(network, TASKS, "rounds=2", *more)
    return json.loads(execute([*words, f"output={output}"], make_grid(words)).read_text())


def replayed(network: Path, source: Path, output: Path, *more: str) -> dict[str, Any]:
    words = overrides(network, TASKS, "rounds=2", f"federation.replay={source}", *more)
    # No grid: nobody is asked.
    return json.loads(execute([*words, f"output={output}"], None).read_text())


@pytest.fixture(scope="module")
def recorded(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "run"
    whole(network, folder, "federation.record=true")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["injector=lora", "injector.experts=1"],
        ["injector.gate.task_description=false", "injector.steps=3", "injector.few_shot=2"],
        ["injector=none"],
    ],
)
def test_the_same_numbers_as_the_whole_run(
    words: list[str], recorded: Path, network: Path, tmp_path: Path
) -> None:
    one = whole(network, tmp_path / "whole", *words)
    two = replayed(network, recorded, tmp_path / "replayed", *words)
    for part in ("tasks", "gate", "communication", "left_out", "data", "injector"):
        assert one[part] == two[part], part
    lines = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("whole", "replayed")]
    assert lines[0] == lines[1]
    assert "train" not in two["seconds"]


def test_looking_less_often_changes_no_result(
    recorded: Path, network: Path, tmp_path: Path
) -> None:
    one = json.loads((recorded / "summary.json").read_text())
    two = replayed(network, recorded, tmp_path / "last", "evaluation.every=3")
    for part in ("tasks", "gate", "communication"):
        assert one[part] == two[part], part
    every, last = (
        (folder / "metrics.jsonl").read_text().splitlines()
        for folder in (recorded, tmp_path / "last")
    )
    assert last == [line for line in every if json.loads(line)["round"] == 2]
    assert 0 < len(last) < len(every)


def test_the_foundation_model_alone_is_not_asked_again(
    recorded: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(*arguments: Any, plain: bool = False, **options: Any) -> Any:
        asked.append(plain)
        return evaluation.ask(*arguments, plain=plain, **options)

    monkeypatch.setattr("server_app.run.ask", ask)
    one = replayed(network, recorded, tmp_path / "same", "injector.steps=1")
    assert asked == []
    # Free-text answers of another length would be others.
    two = replayed(network, recorded, tmp_path / "other", "evaluation.max_new_tokens=3")
    assert asked == [True]
    assert {t: e["before"] for t, e in one["tasks"].items()} == {
        t: e["before"] for t, e in two["tasks"].items()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=fedprox"], "its setting of strategy is another"),
        (["seed=1"], "its setting of seed is another"),
        (["federation.public_epochs=1"], "its setting of federation is another"),
        (["injector.train_encoders=true"], "sites notice the injection"),
    ],
)
def test_another_federation_is_refused(
    words: list[str], message: str, recorded: Path, network: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        replayed(network, recorded, tmp_path / "run", *words)


def test_what_is_missing_or_older_is_refused(recorded: Path, network: Path, tmp_path: Path) -> None:
    source = shutil.copytree(recorded, tmp_path / "source")
    with pytest.raises(UserError, match=r"config\.yaml: not found"):
        replayed(network, tmp_path, tmp_path / "run1")
    (source / "federation" / "round-002.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"round-002\.safetensors: cannot be read"):
        replayed(network, source, tmp_path / "run2")
    (source / "federation" / "before.json").write_text("torn")
    with pytest.raises(UserError, match=r"before\.json: cannot be read"):
        replayed(network, source, tmp_path / "run5")
    profiles = source / "federation" / "profiles.json"
    profiles.write_text(json.dumps({"code": "older", "profiles": []}))
    with pytest.raises(UserError, match="recorded by other code"):
        replayed(network, source, tmp_path / "run3")
    profiles.unlink()
    with pytest.raises(UserError, match="nothing to replay"):
        replayed(network, source, tmp_path / "run4")
