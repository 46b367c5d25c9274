"""Ways to put P LoRA experts of rank r on a language model, each attached to the same weights.

Every function takes a random Llama and gives the model to call, with trainable experts:

- ``base``: the frozen model alone;
- ``lora_r``, ``lora_wide``: stock PEFT LoRA of rank r, and of rank P*r;
- ``m3oe``: :class:`fedkim_core.models.m3oe.Experts`, as `fedkim run` attaches it;
- ``einsum``: the sum over experts written out over a [batch, token, expert, width] tensor;
- ``loop``: the same sum as a Python loop over experts;
- ``xlora``: PEFT's X-LoRA with trainable adapters. Its gate reads hidden states of the frozen
  model, so it is another function, and pays a second forward pass for it.
"""

import copy
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from peft import LoraConfig, XLoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fedkim_core.config import compose
from fedkim_core.models.m3oe import Experts

ALPHA = 32.0
RANK = 8
VOCABULARY = 512


@dataclass(frozen=True)
class Peer:
    model: nn.Module
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around every call."""


def base_model(width: int, layers: int, key_heads: int | None = None) -> LlamaForCausalLM:
    """A random Llama, frozen; heads of 64, the inner layer 8/3 as wide."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=key_heads or width // 64,
        attn_implementation="eager",
        use_cache=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).requires_grad_(False).eval()


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Another model with the very same frozen weights, held once."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def lora(model: LlamaForCausalLM, rank: int, scale: float) -> nn.Module:
    config = LoraConfig(
        r=rank, lora_alpha=scale * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


class Written(nn.Module):
    """One linear layer with its experts written out."""

    def __init__(self, base: nn.Linear, rank: int, alpha: torch.Tensor, *, loop: bool) -> None:
        super().__init__()
        experts = alpha.shape[1]
        self.base, self.alpha, self.scale, self.loop = base, alpha, ALPHA / rank, loop
        self.a = nn.Parameter(torch.randn(experts, rank, base.in_features) * 0.02)
        self.b = nn.Parameter(torch.zeros(experts, base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base(x)
        if self.loop:
            for p in range(len(self.a)):
                gate = self.scale * self.alpha[:, None, p : p + 1]
                out = out + gate * (x @ self.a[p].T @ self.b[p].T)
            return out
        inner = torch.einsum("bnd,prd->bnpr", x, self.a)
        outer = torch.einsum("bnpr,pdr->bnpd", inner, self.b)
        return out + self.scale * torch.einsum("bnpd,bp->bnd", outer, self.alpha)


def written(
    model: LlamaForCausalLM, rank: int, alpha: torch.Tensor, *, loop: bool
) -> LlamaForCausalLM:
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, Written(linear, rank, alpha, loop=loop))
    return model


def m3oe(model: LlamaForCausalLM, rank: int, alpha: torch.Tensor) -> Experts:
    words = [f"injector.experts={alpha.shape[1]}", f"injector.rank={rank}"]
    config = compose(words).injector.model_copy(update={"alpha": ALPHA})
    return Experts(model, config)


def xlora(model: LlamaForCausalLM, experts: int, rank: int) -> nn.Module:
    """P adapters of rank r, all from one folder that is written for the occasion."""
    width = model.config.hidden_size
    with tempfile.TemporaryDirectory() as folder:
        lora(twin(model), rank, ALPHA / rank).save_pretrained(folder)
        config = XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=width,
            adapters={str(i): folder for i in range(experts)},
            use_trainable_adapters=True,
        )
        return get_peft_model(model, config)


class Alone(nn.Module):
    """One layer of a peer, called as a whole model is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs_embeds: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(inputs_embeds))


def one_layer(width: int, experts: int, rank: int, batch: int) -> dict[str, Peer]:
    """The peers' layer ``[width, width]``; X-LoRA has none that works alone."""
    among = peers(width, 1, experts, rank, batch)
    del among["xlora"]

    def layer(model: nn.Module) -> nn.Module:
        named = dict(model.named_modules())
        return next(part for name, part in named.items() if name.endswith("self_attn.q_proj"))

    return {name: Peer(Alone(layer(p.model)), p.context) for name, p in among.items()}


def peers(
    width: int, layers: int, experts: int, rank: int, batch: int, key_heads: int | None = None
) -> dict[str, Peer]:
    """All of them over one set of frozen weights; the gate's weights are trained, too."""
    base = base_model(width, layers, key_heads)
    alpha = torch.softmax(torch.randn(batch, experts), -1).requires_grad_()
    gated = m3oe(twin(base), rank, alpha)
    return {
        "base": Peer(base),
        "lora_r": Peer(lora(twin(base), rank, ALPHA / rank)),
        "lora_wide": Peer(lora(twin(base), experts * rank, ALPHA / rank)),
        "m3oe": Peer(gated.model, lambda: gated.gated(alpha)),
        "einsum": Peer(written(twin(base), rank, alpha, loop=False)),
        "loop": Peer(written(twin(base), rank, alpha, loop=True)),
        "xlora": Peer(xlora(twin(base), experts, rank)),
    }
