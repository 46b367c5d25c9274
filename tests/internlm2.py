"""A random InternLM2 in its authors' layout, with code of theirs that must not run."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fedkim_core.models.tiny_model import byte_tokenizer

CONFIG = {
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
    "model_type": "internlm",  # as the first releases call it
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "tie_word_embeddings": False,
    "vocab_size": 258,
}
REMOTE_CODE = "raise SystemExit('the code of the repository ran')\n"


def checkpoint(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under InternLM2's names."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    d = width // config["num_attention_heads"]
    fused = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * d

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "model.tok_embeddings.weight": random(config["vocab_size"], width),
        "model.norm.weight": 1 + random(width),
        "output.weight": random(config["vocab_size"], width),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        weights |= {
            f"{layer}.attention.wqkv.weight": random(fused, width),
            f"{layer}.attention.wo.weight": random(width, width),
            f"{layer}.feed_forward.w1.weight": random(inner, width),
            f"{layer}.feed_forward.w2.weight": random(width, inner),
            f"{layer}.feed_forward.w3.weight": random(inner, width),
            f"{layer}.attention_norm.weight": 1 + random(width),
            f"{layer}.ffn_norm.weight": 1 + random(width),
        }
        if config["bias"]:
            weights |= {
                f"{layer}.attention.wqkv.bias": random(fused),
                f"{layer}.attention.wo.bias": random(width),
            }
    if config["tie_word_embeddings"]:
        del weights["output.weight"]
    return weights


def write(folder: Path, config: dict, weights: dict, *, shards: int = 2, kind: str = "safetensors"):
    """A folder as its authors ship it, with code that must not run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("modeling_internlm2.py", "tokenization_internlm2.py"):
        (folder / name).write_text(REMOTE_CODE)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    where = {}
    for i in range(shards):
        own = dict(list(weights.items())[i::shards])
        path = f"{stem}-{i + 1:05}-of-{shards:05}.{kind}"
        where |= dict.fromkeys(own, path)
        save_file(own, folder / path) if kind == "safetensors" else torch.save(own, folder / path)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": where}))
    byte_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
                "tokenizer_class": "InternLM2Tokenizer",
                "bos_token": "<bos>",
                "eos_token": {"content": "<eos>"},
                "pad_token": "<eos>",
                "unk_token": "<eos>",
            }
        )
    )
