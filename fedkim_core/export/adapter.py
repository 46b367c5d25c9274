"""The adapter of one task with its gate folded in, at full or at reduced rank."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.m3oe import ADAPTER, fold

A, B = ".lora_A.", ".lora_B."


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter: ``W + alpha / rank * B A`` at every adapted layer."""

    state: Mapping[str, Tensor]
    """Under PEFT's names, float32."""
    rank: int
    alpha: float
    errors: Mapping[str, float]
    """By layer, what truncation lost of ``B A``: the Frobenius norm of the difference over that
    of the whole. Empty at full rank."""


def modality_set(model: InjectedModel, task: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities that an export of ``task`` is for, in the card's order.

    Raises:
        UserError: no such task in this run, or a modality that it does not read or that this run
            has no encoder for.
    """
    if task not in model.cards:
        raise UserError(f"--task {task}: not a task of this run; one of {', '.join(model.cards)}")
    card = model.cards[task]
    readable = [m for m in card.encoded if m in model.extractor.encoders]
    if not readable:
        raise UserError(
            f"--task {task}: this run has no encoder for {' or '.join(card.encoded)}; no trained "
            "task of it uses them"
        )
    for name in chosen or ():
        if name not in readable and name not in card.modalities:
            raise UserError(f"--modalities {name}: {task} reads {', '.join(readable)}")
        if name not in readable and name in card.encoded:
            raise UserError(f"--modalities {name}: this run has no encoder for it")
    if chosen is not None and not set(chosen) & set(readable):
        raise UserError(f"--modalities: name at least one of {', '.join(readable)}")
    wanted = set(readable if chosen is None else chosen)
    # A question is text, so the text modality is always there.
    return tuple(m for m in card.modalities if m == "text" or m in wanted)


@torch.no_grad()
def folded(model: InjectedModel, task: str, present: tuple[str, ...]) -> Adapter | None:
    """The adapter as it acts on ``task`` when ``present`` is there; None where the run has none."""
    if model.experts is None:
        return None
    gate = model.alphas([(task, present)])[0].cpu()
    state = {name: value.float().cpu() for name, value in model.experts.state().items()}
    config = _config(model)
    return Adapter(fold(state, gate, model.experts.rank), config.r, float(config.lora_alpha), {})


def truncated(adapter: Adapter, rank: int) -> Adapter:
    """The best approximation of every layer's ``B A`` of that rank (Eckart and Young 1936).

    Scale and singular values are divided evenly between A and B, so that alpha equals rank.

    Raises:
        UserError: the adapter's rank is not larger.
    """
    if not 1 <= rank < adapter.rank:
        most = adapter.rank - 1
        raise UserError(f"--rank {rank}: must be from 1 to {most}, below the whole adapter's rank")
    state: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    scale = adapter.alpha / adapter.rank
    for name in adapter.state:
        if A not in name:
            continue
        a, b = adapter.state[name].double(), adapter.state[name.replace(A, B)].double()
        # B A = Q_b (R_b R_a^T) Q_a^T: the decomposition is of a matrix as small as the rank.
        q_b, r_b = torch.linalg.qr(b)
        q_a, r_a = torch.linalg.qr(a.T)
        left, values, right = torch.linalg.svd(r_b @ r_a.T)
        kept = min(rank, len(values))  # a narrow layer may have fewer; the rest stays zero
        root = (scale * values[:kept]).sqrt()
        short_a, short_b = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
        short_a[:kept] = root[:, None] * (right[:kept] @ q_a.T)
        short_b[:, :kept] = (q_b @ left[:, :kept]) * root
        state[name], state[name.replace(A, B)] = short_a.float(), short_b.float()
        whole = float(values.norm())
        layer = name.split(A)[0].removeprefix("base_model.model.")
        errors[layer] = float(values[rank:].norm()) / whole if whole else 0.0
    return Adapter(state, rank, float(rank), errors)


def save(adapter: Adapter, model: InjectedModel, base: str, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT reads them."""
    config = copy.deepcopy(_config(model))
    config.r = adapter.rank
    config.lora_alpha = adapter.alpha  # type: ignore[assignment]  # PEFT divides it, no more
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.lora_dropout = 0.0
    config.save_pretrained(str(folder))
    save_file(dict(adapter.state), folder / "adapter_model.safetensors", {"format": "pt"})


def _config(model: InjectedModel) -> LoraConfig:
    assert model.experts is not None
    config = model.experts.model.peft_config[ADAPTER]
    assert isinstance(config, LoraConfig)
    return config
