"""How long training takes here, and what it keeps: one layer of the model, tried at random."""

import copy
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from fedkim_core.models.m3oe import Experts
from fedkim_core.models.recompute import no_contexts, recompute
from fedkim_core.settings import InjectorConfig

ROW = 48
"""Tokens of a typical row: question, features, answer."""
ROWS = 4
STEPS, SECONDS = 10, 2.0
"""When enough has been tried, but never less than two steps: the first ones are slow."""


@dataclass(frozen=True)
class Pace:
    """Of one token in one layer."""

    seconds: float
    """Forward and backward."""
    saved: float
    """Bytes kept for the backward pass."""
    again: float
    """Bytes of the one layer that runs again at a time, with gradient checkpointing."""

    def kept(self, tokens: int, layers: int) -> float:
        """Bytes at the most."""
        return tokens * (self.saved * layers + self.again)


def measure(known: Any, injector: InjectorConfig, dtype: torch.dtype, device: torch.device) -> Pace:
    """Train one layer of that configuration for a few short steps; the fastest one counts."""
    model = _one_layer(known, dtype).to(device)
    experts = Experts(model, injector) if injector.experts else None
    pace = _train(model, experts, injector.experts, dtype, device)
    if not injector.gradient_checkpointing:
        return pace
    recompute(model, experts.twice if experts else no_contexts)
    slower = _train(model, experts, injector.experts, dtype, device)
    return Pace(slower.seconds, slower.saved, pace.saved)


def _train(
    model: Any, experts: Experts | None, count: int, dtype: torch.dtype, device: torch.device
) -> Pace:
    width = int(model.get_input_embeddings().weight.shape[1])
    decoder = model.get_decoder()
    low = dtype != torch.float32
    autocast = torch.autocast(device.type, dtype) if low else nullcontext()
    embeddings = torch.full((ROWS, ROW, width), 0.01, dtype=dtype, device=device)
    mask = torch.ones(ROWS, ROW, dtype=torch.long, device=device)
    alpha = torch.full((ROWS, count), 1 / max(count, 1), device=device)
    taken: list[float] = []
    saved = Saved(model)
    while len(taken) < 2 or (len(taken) < STEPS and sum(taken) < SECONDS):
        saved.bytes.clear()
        began = time.perf_counter()
        gated = experts.gated(alpha) if experts else nullcontext()
        with autocast, gated, torch.autograd.graph.saved_tensors_hooks(saved.note, lambda x: x):
            given = embeddings.clone().requires_grad_()
            output = decoder(inputs_embeds=given, attention_mask=mask, use_cache=False)
            loss = output.last_hidden_state.float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    tokens = ROWS * ROW
    return Pace(min(taken) / tokens, sum(saved.bytes.values()) / tokens, 0.0)


class Saved:
    """Counts what autograd keeps, every storage once and the model's own not at all."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.bytes: dict[int, int] = {}

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self.bytes[storage.data_ptr()] = storage.nbytes()
        return tensor


def _one_layer(known: Any, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(known)
    config.num_hidden_layers, config.vocab_size = 1, 8
    config.pad_token_id = None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(config)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.full(parameter.shape, 0.01, dtype=dtype)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
    model.set_attn_implementation("eager")
    return model.eval()
