"""What a model would take, counted from its configuration: against the model itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import init_empty_weights

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.models import footprint
from fedkim_core.models.cards import cards
from fedkim_core.models.footprint import PROCESS, check_memory
from fedkim_core.models.internlm2 import llama_config
from fedkim_core.models.pace import measure
from fedkim_core.models.tiny_model import tiny_model
from fedkim_core.settings import Config
from tests.internlm2 import CONFIG as INTERNLM2
from tests.models.test_families import FAMILIES
from tests.tiny import make_model, tiny

LLAMA_LIKE = {"num_hidden_layers": 32, "num_key_value_heads": 8, "num_attention_heads": 32}
PUBLISHED = {
    "mmedlm2_1_8b": lambda: llama_config(
        INTERNLM2
        | {
            "vocab_size": 92544,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "num_key_value_heads": 8,
        }
    ),
    "mmedlm2_7b": lambda: llama_config(
        INTERNLM2
        | LLAMA_LIKE
        | {"vocab_size": 92544, "hidden_size": 4096, "intermediate_size": 14336}
    ),
    "mmed_llama3_8b": lambda: transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, **LLAMA_LIKE
    ),
    "qwen2_5_0_5b": lambda: transformers.Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_attention_heads=14,
        num_hidden_layers=24,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "smollm2_360m": lambda: transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_attention_heads=15,
        num_hidden_layers=32,
        num_key_value_heads=5,
        tie_word_embeddings=True,
    ),
    "tiny": lambda: tiny_model().config,
}
"""Shapes as the models' own pages give them."""


def saved(folder: Path, *words: str) -> Config:
    """A folder with a configuration and no weight worth reading."""
    folder.mkdir(exist_ok=True)
    tiny_model().config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForCausalLM"]})
    )
    (folder / "model.safetensors").write_bytes(b"")
    return tiny("foundation=huggingface", f"foundation.model={folder}", *words)


@pytest.mark.parametrize("words", [(), ("injector=fedplug", "injector.experts=0")])
def test_counts_are_those_of_the_model(words: tuple[str, ...]) -> None:
    config = tiny(*words)
    own, model = footprint.footprint(config), make_model(config)
    assert own.parameters == model.foundation_parameters
    assert (own.width, own.layers) == (32, 2)
    parts = [model.experts, model.gate, model.connectors]
    trained = (p for part in parts if part is not None for p in part.parameters())
    assert own.trained == sum(p.numel() for p in trained)
    assert sum(own.adapted.values()) == (14 if config.injector.experts else 0)
    assert own.training(1e6) >= replace(own, merged=False).asking + 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_has_the_counts_of_the_published_shape(name: str) -> None:
    config = PUBLISHED[name]()
    with init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    card = compose([f"foundation={name}"]).foundation.card
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert card.width == config.hidden_size


def test_every_card_says_where_to_get_it_and_under_which_terms() -> None:
    sizes = [settings.card.parameters or float("inf") for settings in cards().values()]
    assert sizes == sorted(sizes)
    assert {"smollm2", "tiny", "medgemma_4b", "meditron_7b", *PUBLISHED} == set(cards())
    for settings in cards().values():
        assert settings.card.licence
        assert settings.card.obtain
        assert (settings.source == "huggingface") == bool(settings.model)


def test_too_little_memory_is_said_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = saved(tmp_path / "model", "foundation.dtype=float32")
    own = footprint.footprint(config)

    def free(number: int) -> None:
        monkeypatch.setattr(footprint, "free_memory", lambda device, **_: number)

    free(own.asking)
    check_memory(config)
    free(own.asking - 1)
    with pytest.raises(UserError, match=r"evaluation\.merge_experts=false would fit"):
        check_memory(config)
    config = saved(tmp_path / "model", "foundation.dtype=float32", "evaluation.merge_experts=false")
    alone = footprint.footprint(config)
    assert own.asking - alone.asking == own.parameters * 4
    free(alone.asking)
    check_memory(config)
    free(alone.asking - 1)
    with pytest.raises(UserError, match=r"GB free; foundation\.dtype=bfloat16 would fit"):
        check_memory(config)
    free(PROCESS // 2)
    with pytest.raises(UserError, match="would fit: none"):
        check_memory(config)


def test_what_would_fit_is_named() -> None:
    config = tiny("foundation.dtype=bfloat16")
    own = footprint.footprint(config)
    assert footprint.remedy(config, own, PROCESS) == "of the known ones would fit: none"
    huge = replace(own, parameters=10**12, weights=2 * 10**12)
    few = footprint.remedy(config, huge, 6 * 10**9)
    assert "qwen2_5_0_5b" in few
    assert "mmedlm2_1_8b" in few
    assert "mmed_llama3_8b" not in few
    large = replace(own, parameters=3 * 10**9, weights=6 * 10**9)
    assert footprint.remedy(config, large, 4 * 10**9) == "foundation.quantised=nf4 would fit"
    roomy = footprint.remedy(config, own, own.asking + 1)
    assert "injector.gradient_checkpointing=true" in roomy
    wide = replace(own, dtype=torch.float32, parameters=10**9, weights=4 * 10**9)
    both = "foundation.dtype=bfloat16 evaluation.merge_experts=false would fit"
    assert footprint.remedy(config, wide, 4 * 10**9) == both
    config = tiny("foundation.dtype=bfloat16", "injector.gradient_checkpointing=true")
    assert "injector.targets" in footprint.remedy(config, own, own.asking + 1)


def test_free_memory_keeps_to_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    whole = footprint.free_memory(cpu)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert footprint.free_memory(cpu) > whole / 2
    (tmp_path / "memory.max").write_text("5000\n")
    assert footprint.free_memory(cpu) == 4000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_layer_is_tried_here(dtype: torch.dtype, family: str) -> None:
    config = tiny()
    known, cpu = FAMILIES[family](), torch.device("cpu")
    one, two = (measure(known, config.injector, dtype, cpu) for _ in range(2))
    assert one.seconds > 0
    assert one.saved == two.saved > 0
    assert one.kept(10, 3) == pytest.approx(30 * one.saved)
    less = measure(known, tiny("injector.gradient_checkpointing=true").injector, dtype, cpu)
    assert less.saved < one.saved / 2
    assert less.again == one.saved
    assert less.kept(10, 30) < one.kept(10, 30)
    assert known.num_hidden_layers == 2
