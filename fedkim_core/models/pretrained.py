"""A causal language model and its tokenizer, from a folder or by a Hugging Face name.

Code that lies beside weights is never executed, and weights are safetensors or, where there are
none, PyTorch files read as plain tensors (``weights_only``). What transformers does not know as a
causal language model becomes one here: InternLM2 a Llama (:mod:`internlm2`), a multimodal model
the language model inside it.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from fedkim_core.errors import UserError
from fedkim_core.models.internlm2 import is_internlm2, llama_config, load_internlm2
from fedkim_core.models.sentencepiece import internlm2_tokenizer

DAMAGE = (
    OSError,
    SafetensorError,
    pickle.UnpicklingError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What transformers raises over a damaged, incomplete or unknown model."""
INTERNLM2_FILES = ("*.json", "tokenizer.model")


def load_pretrained(
    source: str, dtype: torch.dtype | None, quantised: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or Hugging Face name, on the CPU.

    Args:
        source: a folder or a name.
        dtype: of the model; None keeps that of the weights.
        quantised: more for ``from_pretrained``, which then also places the model
            (:func:`fedkim_core.models.quantised.options`).

    Raises:
        UserError: nothing there, weights missing or damaged, or an architecture that only its
            authors' code could run.
    """
    check_folder(source)
    source = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        config = read_config(source)
        if is_internlm2(config):
            if quantised:
                raise UserError(
                    "InternLM2 cannot be quantised while it is converted; write it with `fedkim "
                    "foundation convert`, then name that folder"
                )
            folder = _internlm2_folder(source)
            return load_internlm2(folder, config, dtype), internlm2_tokenizer(folder)
        model = _load(source, dtype, quantised or {})
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except UserError as error:
        raise UserError(f"foundation.model={source}: {error}") from error
    except DAMAGE as error:
        raise UserError(f"foundation.model={source}: cannot be loaded: {_line(error)}") from error


def check_folder(source: str) -> None:
    """Refuse a folder that holds no model, before anything is read.

    Raises:
        UserError: no ``config.json`` or no weights in that folder.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise UserError(f"foundation.model={source}: no config.json in that folder")
    if not any(next(folder.glob(name), None) for name in ("*.safetensors*", "pytorch_model*.bin*")):
        raise UserError(f"foundation.model={source}: no *.safetensors in that folder")


def is_plain(folder: Path) -> bool:
    """Whether transformers reads the same causal language model from ``folder`` by itself."""
    if is_internlm2(read_config(str(folder))) or not any(folder.glob("model*.safetensors")):
        return False
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config.get_text_config() is config


def read_config(source: str) -> dict[str, Any]:
    """``config.json`` as it stands; of a name, fetched where it is not in the cache."""
    found, _ = PretrainedConfig.get_config_dict(source)
    return dict(found)


def load_config(source: str) -> Any:
    """The configuration of the causal language model that :func:`load_pretrained` would give.

    Raises:
        UserError: as there.
    """
    try:
        found = read_config(source)
        if is_internlm2(found):
            return llama_config(found)
        return _known(source, found).get_text_config()
    except UserError as error:
        raise UserError(f"foundation.model={source}: {error}") from error
    except DAMAGE as error:
        raise UserError(f"foundation.model={source}: cannot be loaded: {_line(error)}") from error


def _known(source: str, found: Mapping[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:
        if "auto_map" not in found:
            raise
        named = (found.get("architectures") or [found.get("model_type")])[0]
        raise UserError(
            f"{named} runs only with code of its own, which fedkim does not execute; choose a "
            "model that transformers has"
        ) from error


def _load(source: str, dtype: torch.dtype | None, more: Mapping[str, Any]) -> Any:
    config = _known(source, read_config(source))
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    loader: Any = AutoModelForCausalLM if known else AutoModelForImageTextToText
    model, about = loader.from_pretrained(
        source,
        dtype=dtype or "auto",
        trust_remote_code=False,
        weights_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # to say which
        **more,
    )
    if odd := sorted(str(key[0]) for key in about["mismatched_keys"]):
        raise UserError(
            f"{len(odd)} weights have other shapes than its config.json, first {odd[0]}"
        )
    if missing := sorted(about["missing_keys"]):  # transformers would leave them random
        raise UserError(f"{len(missing)} weights are missing, first {missing[0]}")
    return text_tower(model)


def text_tower(model: Any) -> Any:
    """The language model of a multimodal one as a causal language model; others as they are.

    It shares its layers with ``model``, whose other towers it leaves behind.

    Raises:
        UserError: transformers has no causal language model of that kind.
    """
    config = model.config.get_text_config()
    if config is model.config:
        return model
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise UserError(f"{type(model).__name__}: its language model cannot stand alone")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    config.tie_word_embeddings = embedding.weight is head.weight
    with torch.device("meta"):
        tower = kind(config)
    setattr(tower, tower.base_model_prefix, model.get_decoder())
    tower.set_output_embeddings(head)
    tower.generation_config = model.generation_config
    tower.name_or_path = model.name_or_path
    for name in ("is_loaded_in_8bit", "is_loaded_in_4bit"):  # PEFT asks
        setattr(tower, name, getattr(model, name, False))
    if any(parameter.is_meta for parameter in tower.parameters()):
        raise UserError(f"{type(model).__name__}: its language model cannot stand alone")
    return tower


def _internlm2_folder(source: str) -> Path:
    """The folder, or that of a Hugging Face name with the files that we read fetched."""
    if Path(source).is_dir():
        return Path(source)
    folder = Path(snapshot_download(source, allow_patterns=["*.safetensors", *INTERNLM2_FILES]))
    if not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(source, allow_patterns=["*.bin", *INTERNLM2_FILES]))
    return folder


def _line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
