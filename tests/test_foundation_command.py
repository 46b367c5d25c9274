"""`fedkim foundation` as a person types it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkim_core.cli import app
from fedkim_core.errors import UserError
from fedkim_core.models import footprint
from fedkim_core.models.foundation import load_foundation
from tests.internlm2 import CONFIG, checkpoint, write
from tests.models.test_footprint import saved
from tests.tiny import tiny


def said(*words: object) -> str:
    """What the command prints; what it raises is raised."""
    done = CliRunner().invoke(app, ["foundation", *map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_list_names_licence_and_source() -> None:
    lines = said("list").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("mmedlm2_1_8b: "))
    assert "1,889 million parameters, width 2048; CC-BY-4.0" in lines[start]
    assert lines[start + 1] == "  obtain: https://huggingface.co/Henrychur/MMedLM2-1_8B"


def test_check_reads_no_weight_and_says_what_would_be(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    text = said("check", tmp_path / "model", "injector.experts=4", "injector.rank=2")
    assert "LlamaForCausalLM, 0 million parameters, 2 layers of width 32" in text
    assert "adapted: 2 q_proj, 2 k_proj, 2 v_proj, 2 o_proj, 2 gate_proj" in text
    assert "4 experts of rank 2" in text
    assert "memory: 1.0 GB to ask it" in text
    assert "s for a training step" in text


def test_check_of_a_card_and_of_internlm2(tmp_path: Path) -> None:
    assert "licence: Apache-2.0" in said("check", "tiny")
    write(tmp_path, CONFIG, checkpoint(CONFIG))
    text = said("check", tmp_path)
    assert "LlamaForCausalLM" in text
    assert "2 layers of width 24" in text


def test_too_small_a_machine_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda device, **_: 1000)
    with pytest.raises(UserError, match="tiny: does not fit; of the known ones"):
        said("check", "tiny")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nonsense: no folder and no card"):
        said("check", "nonsense")
    with pytest.raises(UserError, match=r"no config\.json"):
        said("check", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "spiral", "auto_map": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="spiral runs only with code of its own") as caught:
        said("check", tmp_path)
    assert "\n" not in str(caught.value)


def test_convert_writes_a_plain_folder(tmp_path: Path) -> None:
    write(tmp_path / "own", CONFIG, checkpoint(CONFIG), kind="bin")
    said("convert", tmp_path / "own", "--out", tmp_path / "plain")
    one, two = (
        load_foundation(
            tiny(
                "foundation=huggingface",
                f"foundation.model={tmp_path / name}",
                "foundation.dtype=float32",
            ).foundation
        )
        for name in ("own", "plain")
    )
    assert one.model.state_dict().keys() == two.model.state_dict().keys()
    for name, value in one.model.state_dict().items():
        assert value.equal(two.model.state_dict()[name]), name
    assert one.token_ids("a cough") == two.token_ids("a cough")
    assert one.start_ids() == two.start_ids()
