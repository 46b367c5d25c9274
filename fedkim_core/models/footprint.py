"""What a foundation model would take, from its configuration alone: no weight is read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import init_empty_weights
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from fedkim_core.errors import UserError
from fedkim_core.models.bundled import bundled_folder
from fedkim_core.models.cards import cards
from fedkim_core.models.connector import Connector
from fedkim_core.models.foundation import device_of, dtype_of
from fedkim_core.models.m3oe import Experts, Gate
from fedkim_core.models.pretrained import check_folder, load_config
from fedkim_core.models.quantised import BYTES, weight_bytes
from fedkim_core.models.tiny_model import tiny_model
from fedkim_core.settings import Config, FoundationConfig

PROCESS = 1_000_000_000
"""Bytes of the server's process beside the model: Python, PyTorch, the server's data."""
TRAINED = 16
"""Bytes of a trained parameter: itself, its gradient and Adam's two moments, in float32."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Footprint:
    """A foundation model and what injection adds to it."""

    architecture: str
    parameters: int
    width: int
    layers: int
    adapted: Mapping[str, int]
    """Names of the adapted linear layers, and how many there are of each."""
    trained: int
    """Parameters of experts, gate and connectors."""
    dtype: torch.dtype
    quantised: str
    weights: int
    """Bytes of the frozen model."""
    device: torch.device
    merged: bool
    """Whether it is asked with the experts in a second copy of its weights."""

    @property
    def kept_in(self) -> str:
        """Of the frozen weights."""
        return name_of(self.dtype) if self.quantised == "none" else self.quantised

    @property
    def asking(self) -> int:
        """Bytes to ask the injected model."""
        return self.weights * (2 if self.merged else 1) + self.trained * 4 + PROCESS

    def training(self, saved: float) -> int:
        """Bytes to train what is injected; ``saved``: those kept for the backward pass."""
        return self.weights + self.trained * TRAINED + int(saved) + PROCESS


def language_config(settings: FoundationConfig) -> Any:
    """transformers' configuration of the language model that ``settings`` names.

    Raises:
        UserError: as :func:`fedkim_core.models.foundation.load_foundation`.
    """
    if settings.source == "tiny":
        return tiny_model().config
    source = str(bundled_folder()) if settings.source == "bundled" else str(settings.model)
    check_folder(source)
    return load_config(source)


def footprint(config: Config) -> Footprint:
    """Count what ``config`` would load and train, on tensors without storage.

    Raises:
        UserError: the model or a target does not exist, or no device of that kind.
    """
    settings, injector = config.foundation, config.injector
    device = device_of(settings.device)
    known = language_config(settings)
    added = 0
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(known)
    model.tie_weights()  # without storage they come apart
    dtype = dtype_of(settings.dtype, device)
    parameters = sum(p.numel() for p in model.parameters())
    weights = weight_bytes(model, settings.quantised, dtype)
    with init_empty_weights():
        width = int(model.get_input_embeddings().weight.shape[1])
        adapted: Counter[str] = Counter()
        if injector.experts:
            experts = Experts(model, injector)
            added += sum(p.numel() for p in experts.parameters())
            layers = experts.model.named_modules()
            adapted.update(n.rpartition(".")[2] for n, m in layers if isinstance(m, LoraLayer))
        if injector.experts > 1 and injector.gate.kind == "learned":
            normalise = injector.gate.normalise
            gate = Gate(width, injector.experts, injector.gate.width, normalise=normalise)
            added += sum(p.numel() for p in gate.parameters())
        connector = Connector(config.extractor.width, width, 1.0)
        added += _encoders(config) * sum(p.numel() for p in connector.parameters())
    return Footprint(
        architecture=type(model).__name__,
        parameters=parameters,
        width=width,
        layers=int(known.num_hidden_layers),
        adapted=adapted,
        trained=added,
        dtype=dtype,
        quantised=settings.quantised,
        weights=weights,
        device=device,
        merged=bool(adapted) and config.evaluation.merge_experts and settings.quantised == "none",
    )


def check_memory(config: Config) -> None:
    """Refuse a foundation model that cannot fit, before any of it is read.

    Raises:
        UserError: its weights need more memory than is free; names what would fit.
    """
    if config.foundation.source != "huggingface":
        return
    own, settings = footprint(config), config.foundation
    free = free_memory(own.device, spread=settings.device_map is not None)
    if own.asking > free:
        raise UserError(
            f"foundation={config.foundation.name}: {gigabytes(own.asking)} of memory needed for "
            f"{own.parameters / 1e9:.1f} billion parameters in {own.kept_in}, "
            f"{gigabytes(free)} free; {remedy(config, own, free)}"
        )


def remedy(config: Config, own: Footprint, free: int) -> str:
    """What would fit into ``free`` bytes instead."""
    alone = replace(own, merged=False)
    if own.asking > free and alone.asking <= free:
        return "evaluation.merge_experts=false would fit"
    if own.dtype == torch.float32 and own.parameters * 2 + own.trained * 4 + PROCESS <= free:
        apart = " evaluation.merge_experts=false" if own.merged else ""
        return f"foundation.dtype=bfloat16{apart} would fit"
    nf4 = int(own.parameters * BYTES["nf4"]) + own.trained * 4 + PROCESS
    if own.asking > free and own.quantised == "none" and nf4 * 1.1 <= free:
        return "foundation.quantised=nf4 would fit"
    if own.asking <= free and not config.injector.gradient_checkpointing:
        return "injector.gradient_checkpointing=true or a smaller injector.batch_size may fit"
    if config.injector.targets == "all-linear" and own.asking <= free:
        return "adapt fewer layers (injector.targets=[q_proj,v_proj]) or fewer rows at once"
    fits = [
        name
        for name, settings in cards().items()
        if settings.card
        and settings.card.parameters
        # The adapter counts about a tenth of a model's parameters, a smaller one of a smaller.
        and settings.card.parameters * own.dtype.itemsize * 1.2 + PROCESS <= free
    ]
    return f"of the known ones would fit: {', '.join(fits) or 'none'}"


def free_memory(device: torch.device, *, spread: bool = False) -> int:
    """Bytes that a new process may use of that device, within a container's limit.

    Args:
        device: which.
        spread: of all GPUs, if it is one.
    """
    if device.type == "cuda":
        gpus = range(torch.cuda.device_count()) if spread else [device]
        return sum(int(torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus)
    free = int(psutil.virtual_memory().available)
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return free


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _encoders(config: Config) -> int:
    trained = (card for card in config.cards().values() if card.role == "train")
    return len({name for card in trained for name in card.encoded})
