"""M3OE: the multi-task multi-modal mixture of LoRA experts (FedKIM, section 3.3), as one adapter.

With P experts of rank r, gate ``alpha`` in R^P and scale ``s = lora_alpha / r``, the paper's layer
is ``c = W h + s * sum_p alpha_p B_p A_p h``. Stack the experts, ``A = [A_1; ...; A_P]`` of shape
``[P*r, in]`` and ``B = [B_1 ... B_P]`` of shape ``[out, P*r]``; then

    sum_p alpha_p B_p A_p h  =  B ( repeat(alpha, r) * (A h) )

so the mixture *is* one ordinary LoRA adapter of rank P*r whose inner activations are scaled, rank
block by rank block. It is therefore built on a stock PEFT adapter: a hook on every ``lora_A``
multiplies by the gate. No tensor has an expert axis and no loop runs over experts. Since alpha
depends on text only, it is a constant for a fixed task, and folding it into B (:func:`fold`)
leaves a plain PEFT adapter that needs no gate.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import RLock
from typing import cast

import torch
from peft import (
    LoraConfig,
    PeftModelForCausalLM,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedkim_core.errors import UserError
from fedkim_core.settings import InjectorConfig

ADAPTER = "default"
ADDABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Weights that can hold an adapter. Those of 16 bits round it, to about what a model that computes
in 16 bits is off anyway (docs/results.md, "Merged in 16 bits")."""


class Gate(nn.Module):
    """Experts' weights from the descriptions of task and modalities.

    ``beta = softmax(W^q E(M) (W^k E(T))^T / sqrt(d_k)) W^v E(T)``;
    ``alpha = softmax(MLP(mean of beta))``. Padding takes no part in attention or mean.
    The raw embeddings of a language model are so small that the softmax stays uniform;
    ``normalise`` puts a layer norm on both descriptions. With ``top_k`` only the k largest weights
    count, scaled to sum to 1 (Shazeer et al. 2017).
    """

    def __init__(
        self, embedding: int, experts: int, width: int, *, normalise: bool, top_k: int = 0
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.task_norm = nn.LayerNorm(embedding) if normalise else nn.Identity()
        self.modality_norm = nn.LayerNorm(embedding) if normalise else nn.Identity()
        self.query = nn.Linear(embedding, width, bias=False)
        self.key = nn.Linear(embedding, width, bias=False)
        self.value = nn.Linear(embedding, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, experts))

    def forward(
        self, task: Tensor, task_mask: Tensor, modality: Tensor, modality_mask: Tensor
    ) -> Tensor:
        """``task [N, n, e]``, ``modality [N, m, e]``, masks True at tokens; gives ``[N, P]``."""
        task, modality = self.task_norm(task), self.modality_norm(modality)
        query, key, value = self.query(modality), self.key(task), self.value(task)
        beta = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=task_mask[:, None, :]
        )
        weight = modality_mask.to(beta.dtype)[..., None]
        pooled = (beta * weight).sum(1) / weight.sum(1)
        logits = self.mlp(pooled)
        if self.top_k:
            largest = logits.topk(self.top_k, -1).indices
            kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, largest, True)
            logits = logits.masked_fill(~kept, -torch.inf)
        return torch.softmax(logits, -1)


def mutual_information(alpha: Tensor) -> Tensor:
    """``I(task; expert) = H(mean alpha) - mean H(alpha)`` in nats, of ``alpha [tasks, P]``.

    Every task counts the same. 0 when all tasks use the experts alike; at most
    ``log(min(tasks, P))``.
    """

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp(min=1e-12).log()).sum(-1)

    return entropy(alpha.mean(0)) - entropy(alpha).mean()


class Experts:
    """P LoRA experts of rank r on the linear layers of a frozen model, as one PEFT adapter.

    Not a ``nn.Module``: the frozen model must not appear among anybody's parameters.
    """

    def __init__(self, model: PreTrainedModel, config: InjectorConfig) -> None:
        self.rank = config.rank
        targets = config.targets
        lora = LoraConfig(
            r=config.experts * config.rank,
            # PEFT scales by lora_alpha / (P*r); the method's scale is alpha / r.
            lora_alpha=cast(int, config.alpha * config.experts),
            lora_dropout=config.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        try:
            self.model = PeftModelForCausalLM(model, lora)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"injector.targets={targets}: {reason}") from error
        self._scale: Tensor | None = None
        self._merged: Tensor | None = None
        """Experts' weights ``[P]`` that the frozen weights hold at the moment."""
        self._own: list[Tensor] = []
        """The frozen weights themselves, meanwhile."""
        self._plain = ExitStack()
        """Holds the adapter disabled, meanwhile."""
        self._asked = RLock()
        """The hooks read one gate: who asks from another thread waits."""
        self._layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        self._bases = [cast(nn.Linear, layer.get_base_layer()) for layer in self._layers]
        for layer in self._layers:
            layer.lora_A[ADAPTER].register_forward_hook(self._gate_hook)
            # Autocast chooses the arithmetic; PEFT's own cast would copy every input twice.
            layer.cast_input_dtype_enabled = False
        self.train(False)

    def parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.model.named_parameters() if "lora_" in name]

    def train(self, mode: bool) -> None:
        """Switch the adapter's dropout; the frozen model always runs as in inference."""
        for layer in self._layers:
            layer.lora_dropout.train(mode)

    @contextmanager
    def gated(self, alpha: Tensor) -> Iterator[None]:
        """Within this context the experts' weights are ``alpha``.

        ``[B, P]`` by row of a batch, or ``[B, n, P]`` by token.

        Raises:
            RuntimeError: other weights than these are merged.
        """
        with self._asked:
            if self._merged is not None:
                if not torch.allclose(alpha, self._merged.to(alpha), atol=1e-6):
                    raise RuntimeError("other experts' weights are merged than are asked for")
                yield
                return
            scale = alpha.repeat_interleave(self.rank, -1)
            with self._with(scale if alpha.dim() == 3 else scale[:, None]):
                yield

    def twice(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For a layer that is run now and again in the backward pass, outside of :meth:`gated`."""
        return nullcontext(), self._with(self._scale)

    @contextmanager
    def _with(self, scale: Tensor | None) -> Iterator[None]:
        before, self._scale = self._scale, scale
        try:
            yield
        finally:
            self._scale = before

    @contextmanager
    def merged(self, alpha: Tensor) -> Iterator[None]:
        """Within this context the frozen weights hold the experts: see :meth:`merge`."""
        with self._asked:
            self.merge(alpha)
            try:
                yield
            finally:
                self.unmerge()

    def merge(self, alpha: Tensor) -> None:
        """Let the frozen weights hold the experts, weighed by ``alpha [P]``, until :meth:`unmerge`.

        The model then costs what it costs without experts, and answers everybody with this
        gate. The weights are replaced and put back, never added to, so that none of their bits
        changes.

        Raises:
            RuntimeError: :attr:`mergeable` is False, or others are merged already.
        """
        if not self.mergeable:
            raise RuntimeError("these weights cannot take up an adapter")
        scale = alpha.detach().repeat_interleave(self.rank)
        with self._asked:
            if self._merged is not None:
                raise RuntimeError("the frozen weights hold merged experts")
            self._own = [base.weight.data for base in self._bases]
            self._merged = alpha.detach()
            try:
                for layer, base in zip(self._layers, self._bases, strict=True):
                    base.weight.data = _with_adapter(layer, base.weight.data, scale)
                self._plain.enter_context(self.model.disable_adapter())
            except BaseException:
                self.unmerge()
                raise

    def unmerge(self) -> None:
        """Give the frozen weights back what they were; nothing if no experts are merged."""
        with self._asked:
            self._plain.close()
            self._merged = None
            for base, weight in zip(self._bases, self._own, strict=bool(self._own)):
                base.weight.data = weight
            self._own = []

    @property
    def mergeable(self) -> bool:
        """Whether the weights can be added to; quantised ones cannot."""
        return all(base.weight.dtype in ADDABLE for base in self._bases)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the model is the frozen foundation model alone.

        Raises:
            RuntimeError: experts are merged into its weights.
        """
        with self._asked, self.model.disable_adapter():
            if self._merged is not None:
                raise RuntimeError("the frozen weights hold merged experts")
            yield

    def state(self) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's names, as in ``adapter_model.safetensors``."""
        return dict(get_peft_model_state_dict(self.model, adapter_name=ADAPTER))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state` gave; every tensor of the adapter must be there."""
        own = self.state()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise UserError(f"adapter: {len(odd)} tensors missing or unknown, first {odd[0]}")
        set_peft_model_state_dict(self.model, dict(state), adapter_name=ADAPTER)

    def _gate_hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._scale is None:
            raise RuntimeError("experts were called outside gated()")
        scale = self._scale.to(output)  # layers can lie on several devices
        if output.dim() == 2:  # some models lay all tokens of a batch in one row (OPT)
            by_row = output.reshape(len(scale), -1, output.shape[1])
            return (by_row * scale).flatten(0, 1)
        return output * scale


@torch.no_grad()
def _with_adapter(layer: LoraLayer, weight: Tensor, scale: Tensor) -> Tensor:
    """A frozen weight plus ``s * B diag(scale) A``, ``scale [P*r]``; rounded once, at the end."""
    a, b = (cast(Tensor, part[ADAPTER].weight) for part in (layer.lora_A, layer.lora_B))
    left, right = b * scale.to(b.device), a
    if getattr(layer, "fan_in_fan_out", False):  # GPT-2 keeps its weights the other way round
        left, right = right.T, left.T
    wide = weight.to(torch.promote_types(weight.dtype, left.dtype))
    whole = torch.addmm(wide, left.to(wide), right.to(wide), alpha=layer.scaling[ADAPTER])
    return whole.to(weight.dtype)


def fold(state: Mapping[str, Tensor], alpha: Tensor, rank: int) -> dict[str, Tensor]:
    """Multiply the gate ``alpha [P]`` into the B matrices of a PEFT adapter's state.

    What comes back is the state of a plain LoRA adapter with the same configuration.
    """
    scale = alpha.repeat_interleave(rank)
    return {
        name: value * scale.to(value) if ".lora_B." in name else value.clone()
        for name, value in state.items()
    }
