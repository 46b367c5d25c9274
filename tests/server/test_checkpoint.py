"""Checkpoints: back to the bit, whole or not at all, one line when damaged."""

import errno
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from fedkim_core.errors import UserError
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from server_app import checkpoint
from server_app.injection import Injector
from tests.patients import example
from tests.tiny import make_extractor, make_model, same, tiny

CONFIG = tiny()
FEDERATED = make_extractor(tiny("seed=9")).arrays()
EXAMPLES = [example(task, i) for task in ("lung_opacity", "ecg_abnormal") for i in range(2)]


def injected(*words: str) -> tuple[InjectedModel, Injector]:
    config = tiny(*words)
    injector = Injector(make_model(config), EXAMPLES, config.injector, seed=config.seed, rounds=3)
    injector.inject(1, lambda *_: None)
    return injector.model, injector


def state(model: InjectedModel) -> dict[str, torch.Tensor]:
    adapter = model.experts.state() if model.experts else {}
    return {k: v.clone() for k, v in {**model.state_dict(), **adapter}.items()}


@pytest.fixture(scope="module")
def parts() -> tuple[InjectedModel, Injector]:
    return injected()


@pytest.fixture
def saved(parts: tuple[InjectedModel, Injector], tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path, 1, parts[0], FEDERATED, parts[1])


@pytest.mark.parametrize("words", [[], ["injector.experts=1"], ["injector.experts=0"]])
def test_round_trip_to_the_bit(words: list[str], tmp_path: Path) -> None:
    model, injector = injected(*words)
    folder = checkpoint.save(tmp_path, 2, model, FEDERATED, injector)
    assert folder == checkpoint.find(tmp_path, "last") == tmp_path / "checkpoints" / "round-002"
    other = make_model(tiny("seed=4", *words))
    federated = checkpoint.load(folder, other)
    assert same(federated, FEDERATED)
    want, got = state(model), state(other)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_training_goes_on_to_the_bit(
    saved: Path, parts: tuple[InjectedModel, Injector], tmp_path: Path
) -> None:
    """Moments, steps, schedule and generator: the next round is the same one."""
    assert not [p for p in saved.rglob("*") if p.suffix in (".pkl", ".bin", ".pt")]
    drawn = torch.rand(3)
    model, injector = injected()
    expected = injector.inject(2, lambda *_: None)
    fresh = Injector(make_model(CONFIG), EXAMPLES, CONFIG.injector, seed=CONFIG.seed, rounds=3)
    checkpoint.load(saved, fresh.model)
    assert checkpoint.load_training(saved, fresh) == {}
    assert torch.equal(torch.rand(3), drawn)
    assert fresh.inject(2, lambda *_: None) == expected
    want, got = state(model), state(fresh.model)
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert [g["lr"] for g in fresh.optimiser.param_groups] == [
        g["lr"] for g in injector.optimiser.param_groups
    ]


def test_more_rounds_put_the_rate_on_the_longer_schedule(saved: Path) -> None:
    fresh = Injector(make_model(CONFIG), EXAMPLES, CONFIG.injector, seed=CONFIG.seed, rounds=9)
    checkpoint.load_training(saved, fresh)
    longer = Injector(make_model(CONFIG), EXAMPLES, CONFIG.injector, seed=CONFIG.seed, rounds=9)
    for injector in (fresh, longer):
        injector.inject(2, lambda *_: None)
    assert [g["lr"] for g in fresh.optimiser.param_groups] == [
        g["lr"] for g in longer.optimiser.param_groups
    ]


def test_checkpoints_of_earlier_versions_are_read(parts: tuple[InjectedModel, Injector]) -> None:
    """They held the number of steps, which the round tells."""
    _, injector = parts
    fresh = Injector(make_model(CONFIG), EXAMPLES, CONFIG.injector, seed=CONFIG.seed, rounds=3)
    fresh.load_state({**injector.state(), "steps": torch.tensor(2)})
    assert same({"": fresh.state()}, {"": injector.state()})


def test_the_strategy_and_the_state_come_back(
    parts: tuple[InjectedModel, Injector], tmp_path: Path
) -> None:
    own = {"momentum/encoder.image/a": torch.randn(3), "count": torch.tensor(2)}
    kept = {"best": {"round": 1, "value": 0.1 + 0.2}, "before": {"covid19": {"logits": [1 / 3]}}}
    folder = checkpoint.save(tmp_path, 1, parts[0], FEDERATED, parts[1], strategy=own, state=kept)
    back = checkpoint.load_training(folder, parts[1])
    assert back.keys() == own.keys()
    assert all(torch.equal(back[k], own[k]) for k in own)
    assert checkpoint.read_state(folder) == {**kept, "round": 1}


def test_adapter_loads_with_stock_peft(saved: Path, parts: tuple[InjectedModel, Injector]) -> None:
    base = load_foundation(CONFIG.foundation).model
    stock = get_peft_model_state_dict(PeftModel.from_pretrained(base, str(saved / "adapter")))
    own = parts[0].experts.state()
    assert stock.keys() == own.keys()
    assert all(torch.equal(stock[k], own[k]) for k in own)


def test_the_last_two_and_their_best_are_kept(
    parts: tuple[InjectedModel, Injector], tmp_path: Path
) -> None:
    def there(best: list[int | None]) -> list[int]:
        run = tmp_path / str(best)
        for round, number in enumerate(best):
            kept = {"best": number if number is None else {"round": number, "value": 0.5}}
            checkpoint.save(run, round, parts[0], FEDERATED, parts[1], state=kept)
        return [int(p.name[-3:]) for p in sorted((run / "checkpoints").iterdir())]

    assert there([None]) == [0]
    assert there([None, 1, 1, 1]) == [1, 2, 3]
    assert there([None, 1, 1, 3]) == [1, 2, 3]  # without 3, 1 is the best
    assert there([None, 1, 1, 3, 3]) == [3, 4]


def test_names_of_checkpoints(parts: tuple[InjectedModel, Injector], tmp_path: Path) -> None:
    for round in (1, 2):
        kept = {"best": {"round": 1, "value": 0.5}}
        checkpoint.save(tmp_path, round, parts[0], FEDERATED, parts[1], state=kept)
    found = [checkpoint.find(tmp_path, name).name for name in ("best", "last", "1", "2")]
    assert found == ["round-001", "round-002", "round-001", "round-002"]
    with pytest.raises(UserError, match=r"no such checkpoint; there are those of rounds 1, 2"):
        checkpoint.find(tmp_path, "7")
    with pytest.raises(UserError, match="checkpoint=newest: must be best, last or the number"):
        checkpoint.find(tmp_path, "newest")


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "one bit": lambda path: path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    ),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["training.safetensors", "state.json", "manifest.json"])
def test_a_torn_checkpoint_is_passed_over(
    file: str,
    damage: str,
    parts: tuple[InjectedModel, Injector],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    older, newer = (
        checkpoint.save(tmp_path, round, parts[0], FEDERATED, parts[1]) for round in (1, 2)
    )
    assert checkpoint.newest(tmp_path) == (newer, [])
    DAMAGES[damage](newer / file)
    found, notes = checkpoint.newest(tmp_path)
    assert found == older
    (note,) = notes
    assert str(newer) in note
    assert "the checkpoint before it is used" in note
    assert checkpoint.find(tmp_path, "last") == older
    assert note in caplog.text
    with pytest.raises(UserError, match="round-002") as caught:
        checkpoint.find(tmp_path, "2")
    assert_one_line(caught, newer)
    DAMAGES[damage](older / file)
    with pytest.raises(UserError, match="no checkpoint is whole") as caught:
        checkpoint.newest(tmp_path)
    assert_one_line(caught, tmp_path)
    # The round that is run again takes the place of the torn one.
    checkpoint.save(tmp_path, 2, parts[0], FEDERATED, parts[1])
    assert checkpoint.newest(tmp_path) == (newer, [])


def assert_one_line(error: pytest.ExceptionInfo[UserError], folder: Path) -> None:
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


FILES = (
    "extractor.safetensors",
    "federated.safetensors",
    "connectors.safetensors",
    "gate.safetensors",
    "adapter/adapter_model.safetensors",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
def test_a_damaged_file_is_one_line(saved: Path, file: str, damage: str) -> None:
    path = saved / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"x" * 99)
    with pytest.raises(UserError, match="checkpoint cannot be read") as caught:
        checkpoint.load(saved, make_model(CONFIG))
    assert_one_line(caught, saved)


@pytest.mark.parametrize("file", ["extractor.safetensors", "federated.safetensors"])
def test_a_file_that_lacks_a_module_is_refused(saved: Path, file: str) -> None:
    """The released code loads with strict=False."""
    tensors = load_file(saved / file)
    save_file({k: v for k, v in tensors.items() if "head.covid19" not in k}, saved / file)
    with pytest.raises(UserError, match=r"head\.covid19") as caught:
        checkpoint.load(saved, make_model(CONFIG))
    assert_one_line(caught, saved)


@pytest.mark.parametrize(
    "words", [["extractor.width=16"], ["injector.rank=3"], ["tasks=[covid19]"]]
)
def test_a_checkpoint_of_another_configuration_is_refused(saved: Path, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        checkpoint.load(saved, make_model(tiny(*words)))
    assert "\n" not in str(caught.value)


def test_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.find(tmp_path, "last")


def test_an_interrupted_save_leaves_the_older_one_alone(
    saved: Path,
    parts: tuple[InjectedModel, Injector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("server_app.checkpoint.os.replace", full)
    with pytest.raises(UserError, match="No space left") as caught:
        checkpoint.save(tmp_path, 2, parts[0], FEDERATED, parts[1])
    monkeypatch.undo()
    assert_one_line(caught, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [saved.name]
    assert same(checkpoint.load(saved, make_model(CONFIG)), FEDERATED)


def test_a_disk_that_fills_up_half_way_leaves_nothing(
    parts: tuple[InjectedModel, Injector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = checkpoint.save_file, []

    def second_fails(tensors: object, path: Path) -> None:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", second_fails)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, 1, parts[0], FEDERATED, parts[1])
    assert len(written) == 1
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_no_place_to_write(parts: tuple[InjectedModel, Injector], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="cannot be written") as caught:
        checkpoint.save(tmp_path, 1, parts[0], FEDERATED, parts[1])
    assert_one_line(caught, tmp_path)
