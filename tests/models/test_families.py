"""Families of language models, random and tiny: what holds for one must hold for each."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file

from fedkim_core.config import compose
from fedkim_core.data.examples import collate
from fedkim_core.errors import UserError
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.foundation import Foundation, load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.m3oe import fold
from fedkim_core.models.pace import Saved
from fedkim_core.models.probe import packs
from fedkim_core.models.sequences import pack, pad, stack
from fedkim_core.models.tiny_model import byte_tokenizer
from tests.patients import example
from tests.tiny import tiny

COMMON: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
WINDOW = 5
"""Tokens that a layer with a sliding window sees: far fewer than a row has."""
ALTERNATING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    "head_dim": 8,
}
BLOOM = {
    "vocab_size": 258,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.2,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
OPT = {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

PACKED = {
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "llama, tied": lambda: transformers.LlamaConfig(**COMMON, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**COMMON, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(**COMMON),
    "qwen2, window": lambda: transformers.Qwen2Config(
        **COMMON, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, head_dim=8),
    "gemma": lambda: transformers.GemmaConfig(**COMMON, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(
        **COMMON,
        **ALTERNATING,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **COMMON, **ALTERNATING, query_pre_attn_scalar=8
    ),
    "phi": lambda: transformers.PhiConfig(**COMMON),
    "phi3": lambda: transformers.Phi3Config(**COMMON, sliding_window=WINDOW),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=258, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, eos_token_id=257
    ),
    "opt": lambda: transformers.OPTConfig(**OPT),
    "gemma3 with vision": lambda: transformers.Gemma3Config(
        text_config={**COMMON, **ALTERNATING, "query_pre_attn_scalar": 8},
        vision_config={**VISION, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    ),
    "llava": lambda: transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**COMMON),
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=16),
    ),
}
STACKED = {
    "bloom": lambda: transformers.BloomConfig(**BLOOM),
}
FAMILIES = PACKED | STACKED


def make(config: Any) -> Any:
    """A random model of that configuration."""
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    loader = (
        transformers.AutoModelForCausalLM
        if type(config) in known
        else transformers.AutoModelForImageTextToText
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return loader.from_config(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family saved as its authors would, made when it is first asked for."""

    class Made(dict):
        def __missing__(self, name: str) -> Path:
            folder = tmp_path_factory.mktemp(name.replace(",", "").replace(" ", "-"))
            make(FAMILIES[name]()).save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            return self.setdefault(name, folder)

    return Made()


def load(folder: Path) -> Foundation:
    words = ["foundation=huggingface", f"foundation.model={folder}", "foundation.dtype=float32"]
    return load_foundation(compose(words).foundation)


def inject(folder: Path, *words: str) -> InjectedModel:
    """Attached through the automatic choice of layers, every expert away from zero."""
    config = tiny(*words)
    torch.manual_seed(0)
    extractor = KnowledgeExtractor(config, config.cards())
    model = InjectedModel(extractor, load(folder), config.injector, config.cards()).eval()
    for parameter in model.experts.parameters() if model.experts else ():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, InjectedModel]:
    class Made(dict):
        def __missing__(self, name: str) -> InjectedModel:
            return self.setdefault(name, inject(folders[name]))

    return Made()


def patients() -> list:
    names = ("lung_opacity", "ecg_abnormal", "mortality", "lung_opacity")
    return [example(name, seed) for seed, name in enumerate(names)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_adapter_is_there_and_counts(models: dict[str, InjectedModel], name: str) -> None:
    """Against the model without it; and every expert of every layer is reached by the loss."""
    model = models[name]
    batch = collate(patients())
    with_it = model.score(batch)
    kept = {key: value.clone() for key, value in model.experts.state().items()}
    model.experts.load_state({key: torch.zeros_like(value) for key, value in kept.items()})
    assert (model.score(batch) - with_it).abs().min() > 1e-4
    model.experts.load_state(kept)
    torch.testing.assert_close(model.score(batch), with_it)
    model.zero_grad()
    model.loss(batch).backward()
    silent = [n for n, p in model.experts.model.named_parameters() if "lora_" in n and not moved(p)]
    assert not silent
    layers = {n.split(".lora_")[0] for n in kept}
    assert len(layers) % model.foundation.model.config.num_hidden_layers == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_that_run_again_give_the_same_gradients(
    models: dict[str, InjectedModel], folders: dict[str, Path], name: str
) -> None:
    batch = collate(patients())
    found, kept = [], []
    for model in (models[name], inject(folders[name], "injector.gradient_checkpointing=true")):
        for parameter in (*model.parameters(), *model.experts.parameters()):
            parameter.grad = None  # other tests use this model as well
        saved = Saved(model.foundation.model)
        with torch.autograd.graph.saved_tensors_hooks(saved.note, lambda x: x):
            loss = model.loss(batch)
        loss.backward()
        trained = [p for p in (*model.parameters(), *model.experts.parameters()) if moved(p)]
        found.append([loss.detach(), *(p.grad.clone() for p in trained)])
        kept.append(sum(saved.bytes.values()))
    assert len(found[0]) == len(found[1]) > 10
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)
    assert kept[1] < 0.7 * kept[0]


def test_layers_run_again_without_experts_too(folders: dict[str, Path]) -> None:
    """FedPlug: connectors alone are trained, through layers that run a second time."""
    batch, name = collate(patients()), next(iter(FAMILIES))
    found, kept = [], []
    for again in ("false", "true"):
        more = f"injector.gradient_checkpointing={again}"
        model = inject(folders[name], "injector.experts=0", more)
        assert model.experts is None
        saved = Saved(model.foundation.model)
        with torch.autograd.graph.saved_tensors_hooks(saved.note, lambda x: x):
            loss = model.loss(batch)
        loss.backward()
        found.append([p.grad.clone() for p in model.connectors.parameters() if moved(p)])
        kept.append(sum(saved.bytes.values()))
    assert len(found[0]) == len(found[1]) > 2
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)
    assert kept[1] < 0.7 * kept[0]


def moved(parameter: torch.Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_gated_folded_and_merged_are_one(
    models: dict[str, InjectedModel], folders: dict[str, Path], name: str, tmp_path: Path
) -> None:
    model = models[name]
    gate = model.task_alphas(["mortality"]).detach()
    foundation = model.foundation
    embeddings = foundation.embed(torch.arange(40, 60))[None]
    mask = torch.ones(1, 20, dtype=torch.bool)
    with torch.no_grad(), model.experts.gated(gate):
        want = foundation.hidden(embeddings, mask)
    base = load(folders[name])
    model.experts.model.save_pretrained(str(tmp_path))
    state = fold(model.experts.state(), gate[0], model.experts.rank)
    save_file(state, tmp_path / "adapter_model.safetensors")
    folded = PeftModel.from_pretrained(base.model, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(base.hidden(embeddings, mask), want, atol=1e-5, rtol=1e-5)
        folded.merge_and_unload()
        torch.testing.assert_close(base.hidden(embeddings, mask), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_in_company_are_read_as_alone(models: dict[str, InjectedModel], name: str) -> None:
    """Against one row at a time through transformers' own masks."""
    model = models[name]
    assert model._lay is (pack if name in PACKED else stack)
    batch = collate(patients())
    together, loss = model.score(batch), model.loss(batch)
    yes, no = (model.foundation.answer_ids(word)[0] for word in ("yes", "no"))
    for score, row in zip(together, patients(), strict=True):
        (own,) = model._rows(collate([row]), answers=False)
        embeddings, mask = pad(model.foundation, [own])
        assert mask.shape[1] > 3 * WINDOW
        with torch.no_grad(), model._gated([own.gate]):
            last = model.foundation.model(
                inputs_embeds=embeddings, attention_mask=mask.long()
            ).logits[0, -1]
        torch.testing.assert_close(score, last[yes] - last[no], atol=1e-4, rtol=1e-3)
    other = InjectedModel._hidden
    rows = model._rows(batch, answers=True)
    with torch.no_grad():
        stacked = stack(model.foundation, rows)
        logits = model.foundation.head(other(model, stacked)[stacked.targets >= 0])
    want = torch.nn.functional.cross_entropy(logits, stacked.targets[stacked.targets >= 0])
    torch.testing.assert_close(loss.detach(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_with_a_cache_says_the_same(models: dict[str, InjectedModel], name: str) -> None:
    """Two rows of unlike length and gate, so with padding, beyond the window."""
    model = models[name]
    batch = collate([example("med_vqa_rad", 1), example("ecg_noise_qa", 2)])
    rows = model._rows(batch, answers=False)
    embeddings, mask = pad(model.foundation, rows)
    said = []
    for cache in (True, False):
        with model._gated([row.gate for row in rows]):
            ids = model.foundation.model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask.long(),
                min_new_tokens=8,
                max_new_tokens=8,
                do_sample=False,
                use_cache=cache,
                pad_token_id=257,
            )
        said.append(ids.tolist())
    assert said[0] == said[1]
    assert {len(ids) for ids in said[0]} == {8}


def test_a_text_tower_is_the_same_language_model(folders: dict[str, Path]) -> None:
    """Against the whole multimodal model, asked in text; nothing of its eyes stays."""
    for name in ("gemma3 with vision", "llava"):
        tower = load(folders[name]).model
        whole = make(FAMILIES[name]())
        ids = torch.arange(60, 80)[None]
        with torch.no_grad():
            torch.testing.assert_close(
                tower(ids).logits, whole(input_ids=ids).logits, atol=1e-5, rtol=1e-4
            )
        assert not [n for n, _ in tower.named_parameters() if "vision" in n]


def test_embeddings_have_the_size_that_the_model_gets(folders: dict[str, Path]) -> None:
    for name, factor in (("llama", 1.0), ("gemma3", 32**0.5)):
        foundation = load(folders[name])
        weight = foundation.embedding.weight.square().mean().sqrt()
        assert foundation.embedding_size == pytest.approx(float(weight) * factor)


def test_logits_that_are_scaled_are_refused(tmp_path: Path) -> None:
    make(transformers.GraniteConfig(**COMMON, logits_scaling=8.0)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="GraniteForCausalLM scales its logits") as caught:
        inject(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_its_neighbours_does_not_pack(folders: dict[str, Path]) -> None:
    foundation = load(folders["llama"])
    assert packs(foundation)
    decoder = foundation.model.get_decoder()
    whole = decoder.forward
    decoder.forward = lambda attention_mask, **given: whole(attention_mask=None, **given)
    assert not packs(foundation)
