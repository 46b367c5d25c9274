"""A base in 8 and in 4 bits: beside the same base in float32, by bitsandbytes itself."""

import importlib.util
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
import transformers

from fedkim_core.config import compose
from fedkim_core.data.examples import collate
from fedkim_core.errors import UserError
from fedkim_core.models import footprint, quantised
from fedkim_core.models.foundation import Foundation, load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.tiny_model import byte_tokenizer
from tests.internlm2 import CONFIG, checkpoint, write
from tests.models.test_families import ALTERNATING, COMMON, VISION, make, moved, patients
from tests.tiny import make_extractor, tiny

WIDE = {**COMMON, "hidden_size": 64, "intermediate_size": 128}
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**WIDE),
    "gemma3 with vision": lambda: transformers.Gemma3Config(
        text_config={**WIDE, **ALTERNATING, "head_dim": 16, "query_pre_attn_scalar": 16},
        vision_config={**VISION, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    ),
}


def save(config: Any, folder: Path) -> Path:
    make(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(MODELS[request.param](), tmp_path_factory.mktemp("base"))


def words(folder: Path, kind: str) -> list[str]:
    return [
        "foundation=huggingface",
        f"foundation.model={folder}",
        "foundation.dtype=float32",
        f"foundation.quantised={kind}",
    ]


def load(folder: Path, kind: str) -> Foundation:
    return load_foundation(compose(words(folder, kind)).foundation)


def weight_of(layer: Any) -> torch.Tensor:
    """What a quantised layer multiplies by."""
    if type(layer).__name__ == "Linear4bit":
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127


@pytest.mark.parametrize("kind", quantised.BYTES)
def test_it_is_the_same_model_but_for_rounding(folder: Path, kind: str) -> None:
    """Every weight is off by half a step at most, and nothing else differs."""
    plain, rounded = load(folder, "none"), load(folder, kind)
    assert rounded.parameters == plain.parameters
    # Half the widest step of NF4 is .152 of a block's largest; of 255 steps 1/254 of a row's.
    most = {"nf4": 0.155, "int8": 1.1 / 254}[kind]
    count = 0
    for name, layer in rounded.model.named_modules():
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            weight, used = plain.model.get_submodule(name).weight, weight_of(layer)
            rows = (-1, quantised.BLOCK) if kind == "nf4" else weight.shape
            off = (used - weight).reshape(rows).abs().amax(1)
            assert (off <= most * weight.reshape(rows).abs().amax(1)).all(), name
            weight.data.copy_(used)
            count += 1
    assert count == 14
    embeddings = plain.embed(torch.arange(40, 60))[None]
    mask = torch.ones(1, 20, dtype=torch.bool)
    with torch.no_grad():
        want, got = (one.hidden(embeddings, mask) for one in (plain, rounded))
    # In 8 bits inputs are rounded as well; in NF4 they are where a CPU multiplies in bfloat16.
    assert (got - want).norm() < {"nf4": 0.03, "int8": 0.05}[kind] * want.norm()


@pytest.mark.parametrize("kind", quantised.BYTES)
def test_experts_train_on_it_and_are_never_merged(folder: Path, kind: str) -> None:
    config = tiny(*words(folder, kind), "injector.gradient_checkpointing=true")
    torch.manual_seed(0)
    model = InjectedModel(
        make_extractor(config), load_foundation(config.foundation), config.injector, config.cards()
    )
    assert not model.experts.mergeable
    for name, parameter in model.experts.model.named_parameters():
        assert parameter.dtype == torch.float32 or "lora_" not in name
    batch, optimiser = collate(patients()), torch.optim.SGD(model.experts.parameters(), lr=0.1)
    before = model.score(batch)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        assert any(moved(p) for p in model.experts.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.score(batch) - before).abs().min() > 1e-4
    assert len(model.generate(batch, 3)) == len(batch)


@pytest.mark.parametrize("kind", quantised.BYTES)
def test_its_size_is_known_before_it_is_read(folder: Path, kind: str) -> None:
    own = footprint.footprint(tiny(*words(folder, kind)))
    held = load(folder, kind).model
    # transformers counts the packed weights; the scales lie beside them.
    assert own.weights == pytest.approx(held.get_memory_footprint(), rel=0.1)
    assert own.weights < 0.8 * own.parameters * 4
    assert (own.kept_in, own.merged) == (kind, False)


def test_what_cannot_be_quantised_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = save(transformers.LlamaConfig(**COMMON), tmp_path / "narrow")
    with pytest.raises(UserError, match="q_proj reads 32 numbers, no multiple of 64"):
        load(narrow, "nf4")
    with pytest.raises(UserError, match="quantised=nf4: tiny has no file"):
        load_foundation(compose(["foundation=tiny", "foundation.quantised=nf4"]).foundation)
    (tmp_path / "internlm2").mkdir()
    write(tmp_path / "internlm2", CONFIG, checkpoint(CONFIG))
    with pytest.raises(UserError, match="fedkim foundation convert"):
        load(tmp_path / "internlm2", "int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install 'fedkim\[quantised\]'"):
        load(narrow, "nf4")
