"""A frozen base in 8 or 4 bits, by bitsandbytes (MIT): what it is loaded with, what it weighs.

The experts stay in float32; they are never merged into such weights, so the gate stays live.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from fedkim_core.errors import UserError

BLOCK = 64
"""Weights in NF4 that share a scale."""
BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / BLOCK}
"""Of a weight, its share of a float32 scale included."""


def options(kind: str, dtype: torch.dtype, place: str | Mapping[str, Any]) -> dict[str, Any]:
    """What ``from_pretrained`` gets for a base of that kind; nothing for ``none``.

    Args:
        kind: of its weights.
        dtype: of its arithmetic.
        place: accelerate's ``device_map``.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if kind == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"foundation.quantised={kind}: bitsandbytes is not installed; install "
            "'fedkim[quantised]'"
        )
    config = BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": place}


def check_layers(model: nn.Module, kind: str, device: torch.device) -> None:
    """Refuse what bitsandbytes 0.50 computes wrongly: blocks of 64 that cross rows, on a CPU.

    Raises:
        UserError: names the first such layer.
    """
    if kind != "nf4" or device.type != "cpu":
        return
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit" and layer.in_features % BLOCK:
            raise UserError(
                f"foundation.quantised=nf4: {name} reads {layer.in_features} numbers, no multiple "
                f"of {BLOCK}, which bitsandbytes gets wrong on a CPU; use int8, or a GPU"
            )


def weight_bytes(model: nn.Module, kind: str, dtype: torch.dtype) -> int:
    """Bytes of the frozen weights; its linear layers but the last are what is quantised."""
    total = sum(p.numel() for p in model.parameters())
    if kind == "none":
        return total * dtype.itemsize
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head
    )
    return int((total - linear) * dtype.itemsize + linear * BYTES[kind])
