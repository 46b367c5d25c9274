"""Exports whose base model transformers cannot read as it is shipped: it is written plainly."""

from pathlib import Path

import pytest
import torch

from fedkim_core.data.examples import collate
from fedkim_core.errors import UserError
from fedkim_core.export.base import base_of, write_plain
from fedkim_core.export.export import Wish, export
from fedkim_core.export.load import ExportedModel
from fedkim_core.models.internlm2 import is_internlm2
from fedkim_core.models.pretrained import read_config
from tests.internlm2 import CONFIG, checkpoint, write
from tests.models.test_families import FAMILIES, byte_tokenizer, make
from tests.patients import example
from tests.tiny import make_model, tiny


def ship(kind: str, folder: Path) -> Path:
    folder.mkdir()
    if kind == "internlm2":
        write(folder, CONFIG | {"max_position_embeddings": 512}, checkpoint(CONFIG), kind="bin")
    else:
        make(FAMILIES[kind]()).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["internlm2", "gemma3 with vision"])
def test_an_export_answers_on_the_plain_base(kind: str, tmp_path: Path) -> None:
    shipped = ship(kind, tmp_path / "shipped")
    words = [f"foundation.model={shipped}", "foundation.dtype=float32"]
    config = tiny("foundation=huggingface", *words)
    model = make_model(config).eval()
    with torch.no_grad():
        for parameter in model.experts.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    nothing = {"validation": [], "summary": None, "synthetic": True, "single": True}
    export(model, config, ["covid19"], tmp_path / "out", Wish(), **nothing)
    write_plain(config.foundation, tmp_path / "plain")
    assert not is_internlm2(read_config(str(tmp_path / "plain")))
    exported = ExportedModel(tmp_path / "out", str(tmp_path / "plain"))
    patient = example("covid19", 1)
    want = model.score(collate([patient]))[0]
    assert exported.logit(patient.features) == pytest.approx(float(want), abs=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "fedkim foundation convert shipped" in card


def test_a_plain_base_is_used_where_it_lies(tmp_path: Path) -> None:
    shipped = ship("llama", tmp_path / "shipped")
    config = tiny("foundation=huggingface", f"foundation.model={shipped}")
    with base_of(config.foundation) as base:
        assert base.folder == shipped
        assert not base.note


def test_what_cannot_be_loaded_is_not_written(tmp_path: Path) -> None:
    shipped = ship("internlm2", tmp_path / "shipped")
    next(shipped.glob("*00001*.bin")).unlink()
    config = tiny("foundation=huggingface", f"foundation.model={shipped}")
    with pytest.raises(UserError, match="is missing"), base_of(config.foundation):
        pass
