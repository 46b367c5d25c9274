"""InternLM2 (MMedLM 2 among others) as a stock Llama, without its authors' code.

The architecture is Llama's, with other names and with query, key and value in one matrix, ``wqkv``:
for every key-value head its g query heads, then its key, then its value, each of ``d`` rows
(Cai et al. 2024, "InternLM2 Technical Report", arXiv 2403.17297, section 2.2).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fedkim_core.errors import UserError

ARCHITECTURE = "InternLM2ForCausalLM"
NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {
    "model.tok_embeddings": "model.embed_tokens",
    "model.norm": "model.norm",
    "output": "lm_head",
}


def is_internlm2(config: Mapping[str, Any]) -> bool:
    """By the architecture: the first releases call their ``model_type`` as InternLM does."""
    return ARCHITECTURE in (config.get("architectures") or ())


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """The same model in the terms of Llama.

    Raises:
        UserError: a key is missing, or a scaling of positions that Llama does not have.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    if scaling := config.get("rope_scaling"):
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind not in ("linear", "dynamic"):
            raise UserError(f"config.json: rope_scaling of type {kind} is not known of InternLM2")
        rope |= {"rope_type": kind, "factor": float(scaling["factor"])}
    try:
        return LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            max_position_embeddings=config["max_position_embeddings"],
            rms_norm_eps=config["rms_norm_eps"],
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("bias", False),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            rope_parameters=rope,
            bos_token_id=config.get("bos_token_id", 1),
            eos_token_id=config.get("eos_token_id", 2),
            pad_token_id=config.get("pad_token_id", 2),
        )
    except KeyError as error:
        raise UserError(f"config.json: InternLM2 needs the key {error}") from error


def split_wqkv(wqkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query ``[heads * d, ...]``, key and value ``[kv_heads * d, ...]`` of a fused weight or bias.

    Raises:
        UserError: its rows cannot be divided so.
    """
    blocks = heads + 2 * kv_heads
    if heads % kv_heads or len(wqkv) % blocks:
        raise UserError(f"wqkv has {len(wqkv)} rows, which {heads}+2*{kv_heads} heads cannot share")
    group = heads // kv_heads
    by_head = wqkv.unflatten(0, (kv_heads, group + 2, len(wqkv) // blocks))
    query, key, value = by_head[:, :group], by_head[:, group], by_head[:, group + 1]
    return query.flatten(0, 2), key.flatten(0, 1), value.flatten(0, 1)


def load_internlm2(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype | None
) -> LlamaForCausalLM:
    """The weights of ``folder`` as a Llama; one tensor more than the model is in memory.

    Args:
        dtype: of the model; None keeps that of every tensor.

    Raises:
        UserError: no weights, or not those of this architecture.
    """
    llama = llama_config(config)
    with init_empty_weights(include_buffers=False):
        model = LlamaForCausalLM(llama)
    missing = set(model.state_dict())
    if llama.tie_word_embeddings:
        missing.discard("lm_head.weight")
    for name, tensor in _stored(folder):
        for own, value in _renamed(name, tensor, llama):
            if own not in missing:
                raise UserError(f"{folder}: {name} is not a weight of InternLM2")
            wanted = model.get_parameter(own).shape
            if value.shape != wanted:
                raise UserError(
                    f"{folder}: {name} has the wrong shape for its config.json, "
                    f"{list(value.shape)} instead of {list(wanted)}"
                )
            # A copy: what is read may be a view of the whole file, or of all of wqkv.
            value = value.to(dtype or value.dtype, copy=True, memory_format=torch.contiguous_format)
            model.load_state_dict({own: value}, strict=False, assign=True)
            missing.discard(own)
    if missing:
        raise UserError(f"{folder}: {len(missing)} weights are missing, first {min(missing)}")
    model.tie_weights()
    return model


def _renamed(name: str, tensor: Tensor, config: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    stem, _, kind = name.rpartition(".")
    if stem in OUTER:
        yield f"{OUTER[stem]}.{kind}", tensor
        return
    _, _, rest = stem.partition("model.layers.")
    layer, _, part = rest.partition(".")
    if part == "attention.wqkv":
        heads, kv_heads = config.num_attention_heads, int(config.num_key_value_heads or 0)
        parts = split_wqkv(tensor, heads, kv_heads)
        for own, value in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            yield f"model.layers.{layer}.self_attn.{own}.{kind}", value
    elif part in NAMES:
        yield f"model.layers.{layer}.{NAMES[part]}.{kind}", tensor
    elif not part.endswith("rotary_emb"):  # some releases store the frequencies, which follow
        yield name, tensor


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the shards, one at a time; safetensors where there are both."""
    if shards := _shards(folder, "model*.safetensors"):
        for path in shards:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping
                    yield name, file.get_tensor(name)
        return
    for path in _shards(folder, "pytorch_model*.bin"):
        # weights_only: a pickle could run any code. mmap: only what is looked at is read.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        while tensors:
            yield tensors.popitem()


def _shards(folder: Path, pattern: str) -> list[Path]:
    """The files that the index names, or those that are there; all of an index must be."""
    for index in folder.glob(f"{pattern}.index.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        paths = [folder / Path(name).name for name in sorted(names)]
        if gone := [path.name for path in paths if not path.is_file()]:
            raise UserError(f"{folder}: {gone[0]} is missing, which {index.name} names")
        return paths
    return sorted(folder.glob(pattern))
