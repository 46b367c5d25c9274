"""M3OE beside its peers, in one run: read the ratios, not the seconds.

`make bench` times a forward and backward pass of one adapted linear layer (batch 2 x 512 tokens,
width 1024, P = 12 experts of rank 8): the frozen layer alone, a stock PEFT LoRA of rank P*r (the
arithmetic's floor), our gated LoRA, and the sum over experts written out as an einsum over a
[batch, token, expert, width] tensor.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

BATCH, TOKENS, WIDTH, EXPERTS, RANK = 2, 512, 1024, 12, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def lora() -> nn.Module:
    config = LoraConfig(r=EXPERTS * RANK, lora_alpha=32, target_modules=["linear"])
    return get_peft_model(Block(), config)


def gated(model: nn.Module, alpha: torch.Tensor) -> nn.Module:
    scale = alpha.repeat_interleave(RANK, -1)[:, None, :]
    layer = model.base_model.model.linear
    layer.lora_A["default"].register_forward_hook(lambda module, args, output: output * scale)
    return model


class WrittenOut(nn.Module):
    """One tensor per expert and token, as the authors released it."""

    def __init__(self, alpha: torch.Tensor) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(EXPERTS, RANK, WIDTH) * 0.02)
        self.b = nn.Parameter(torch.zeros(EXPERTS, WIDTH, RANK))
        self.alpha = alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.einsum("bnd,prd->bnpr", x, self.a)
        outer = torch.einsum("bnpr,pdr->bnpd", inner, self.b)
        return self.base(x) + torch.einsum("bnpd,bp->bnd", outer, self.alpha)


def peers() -> dict[str, nn.Module]:
    alpha = torch.softmax(torch.randn(BATCH, EXPERTS), -1)
    base = Block().requires_grad_(False)
    return {
        "base": base,
        "lora": lora(),
        "m3oe": gated(lora(), alpha),
        "einsum": WrittenOut(alpha),
    }


@pytest.mark.parametrize("name", ["base", "lora", "m3oe", "einsum"])
def test_forward_and_backward(benchmark, name: str) -> None:
    torch.manual_seed(0)
    model = peers()[name]
    x = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)

    def step() -> torch.Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    assert benchmark(step).isfinite()
