"""Gradient checkpointing of the frozen layers (Chen et al. 2016): less memory, more time.

transformers' own goes with a model's training mode, which also switches its dropout on; here the
frozen model always runs as in inference, and the experts' gate must be there a second time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from fedkim_core.errors import UserError

Contexts = Callable[[], tuple[AbstractContextManager[object], AbstractContextManager[object]]]
"""Called when a layer is run: what surrounds it now, and what when it is run again."""


def no_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Nothing surrounds a layer."""
    return nullcontext(), nullcontext()


def recompute(model: PreTrainedModel, contexts: Contexts) -> None:
    """Let every layer of ``model`` keep its input alone and run again in the backward pass.

    Raises:
        UserError: transformers does not say which of its modules are layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"injector.gradient_checkpointing=true: {type(model).__name__} is not made for it"
        )
    for layer in layers:
        layer.forward = _again(layer.forward, contexts)


def _again(forward: Callable[..., Any], contexts: Contexts) -> Callable[..., Any]:
    @wraps(forward)
    def run(*inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)

    return run
