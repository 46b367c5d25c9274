"""Load a frozen causal language model: bundled, a folder, a hub name, or a tiny random one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedkim_core.data.examples import NO, YES
from fedkim_core.errors import UserError
from fedkim_core.models import quantised
from fedkim_core.models.bundled import bundled_folder
from fedkim_core.models.placement import device_of_embeddings, spread
from fedkim_core.models.pretrained import load_pretrained
from fedkim_core.models.tiny_model import byte_tokenizer, tiny_model
from fedkim_core.settings import FoundationConfig

ANSWER = "Answer:"
"""What a prompt ends with."""
FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers in transformers' configurations."""


@dataclass(frozen=True)
class Foundation:
    """A frozen foundation model and its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    """Of its embeddings, and so of all that is read; layers can lie on others."""
    dtype: torch.dtype
    compiler: str | None = None

    @cached_property
    def _decoder(self) -> Any:
        decoder = self.model.get_decoder()
        if self.compiler is None:
            return decoder
        return torch.compile(decoder, backend=self.compiler, dynamic=True)

    @property
    def width(self) -> int:
        """Width of a token embedding."""
        return int(self.embedding.weight.shape[1])

    @property
    def embedding(self) -> nn.Embedding:
        layer = self.model.get_input_embeddings()
        if not isinstance(layer, nn.Embedding):
            raise UserError(f"foundation {self.name}: its input layer is not a token embedding")
        return layer

    @property
    def embedding_size(self) -> float:
        """Root mean square of what token embeddings hold, as the model gets them."""
        weight = self.embedding.weight
        some = torch.arange(min(len(weight), 1024), device=self.device)
        # Gemma 3 multiplies its weights when it looks them up; for others this is 1.
        factor = self.embed(some).float().norm() / weight[some].float().norm()
        return float(weight.float().square().mean().sqrt() * factor)

    @property
    def parameters(self) -> int:
        return int(self.model.num_parameters())  # which knows that 4-bit weights are packed

    def token_ids(self, text: str) -> list[int]:
        """Token ids of ``text`` alone, no special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def start_ids(self) -> list[int]:
        """What the tokenizer puts before every text: a beginning-of-text token, or nothing."""
        with_start = list(self.tokenizer("a")["input_ids"])
        plain = self.token_ids("a")
        return with_start[: len(with_start) - len(plain)] if with_start[-1:] == plain[-1:] else []

    def lead_ids(self) -> list[int]:
        """Token ids of :data:`ANSWER`, ready for :meth:`answer_ids`."""
        return self.token_ids(f" {ANSWER}") + self._lead()

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of ``answer`` as they stand after :meth:`lead_ids`."""
        ids, lead = self._after_answer(answer), self._lead()
        return ids[len(lead) :] if ids[: len(lead)] == lead else ids

    def _lead(self) -> list[int]:
        """What "yes" and "no" begin with in common (some tokenizers: a token for the space).

        It belongs to the prompt, so that the first token of an answer tells yes from no.
        """
        yes, no = self._after_answer(YES), self._after_answer(NO)
        pairs = enumerate(zip(yes, no, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), None)
        if same is None:
            raise UserError(f"foundation {self.name}: its tokenizer does not tell yes from no")
        return yes[:same]

    def _after_answer(self, answer: str) -> list[int]:
        return self.token_ids(f"{ANSWER} {answer}")[len(self.token_ids(ANSWER)) :]

    @property
    def end_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def embed(self, ids: Tensor) -> Tensor:
        return torch.as_tensor(self.embedding(ids))

    def hidden(self, embeddings: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Last hidden states ``[B, n, width]`` of embeddings ``[B, n, width]``.

        Args:
            embeddings: what is read.
            mask: ``[B, n]`` bool, True where there is a token; or ``[B, 1, n, n]`` bool, True
                where token i (row) may see token j.
            positions: ``[B, n]``; by default they count from the first token that is not
                padding, so that left padding changes nothing.
        """
        if positions is None:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        output = self._decoder(
            inputs_embeds=embeddings,
            attention_mask=self._masks(mask, positions) if mask.dim() == 4 else mask.long(),
            position_ids=positions,
            use_cache=False,
        )
        return torch.as_tensor(output.last_hidden_state).to(self.device)

    def _masks(self, visible: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to attention scores; by kind of layer, where a model has several.

        transformers takes a mask of four dimensions as it is, so the sliding window of some
        layers is cut here, by positions.
        """
        config: Any = self.model.config
        window = getattr(config, "sliding_window", None)
        alone = FULL if window is None else SLIDING
        kinds = set(getattr(config, "layer_types", None) or [alone])
        distance = positions[:, None, :, None] - positions[:, None, None, :]
        masks = {}
        for kind in kinds:
            seen = visible & (distance < int(window or 0)) if kind == SLIDING else visible
            least = torch.finfo(self.dtype).min
            masks[kind] = torch.zeros_like(seen, dtype=self.dtype).masked_fill(~seen, least)
        return masks if len(kinds) > 1 else masks[kinds.pop()]

    def head(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits ``[..., vocabulary]``, or only of the tokens ``ids``, then in float32.

        Two logits of a 16-bit head differ by less than its rounding; scores need more.
        """
        layer: Any = self.model.get_output_embeddings()
        if ids is None:
            logits = torch.as_tensor(layer(hidden)).float().to(self.device)
        else:
            own, rows = self.device, ids.to(layer.weight.device)
            with torch.autocast(own.type, enabled=False):
                bias = layer.bias[rows].float().to(own) if layer.bias is not None else None
                weight = layer.weight[rows].float().to(own)
                logits = nn.functional.linear(hidden.float(), weight, bias)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if not cap else cap * torch.tanh(logits / cap)


def load_foundation(config: FoundationConfig) -> Foundation:
    """Load and freeze the foundation model that ``config`` names.

    Raises:
        UserError: no such folder or name, no weights in it, or no device of that kind.
    """
    device = device_of(config.device)
    dtype = dtype_of(config.dtype, device)
    more = quantised.options(config.quantised, dtype, config.device_map or {"": device})
    model, tokenizer = load_parts(config, dtype, more)
    _check_tokenizer(config.name, model, tokenizer)
    quantised.check_layers(model, config.quantised, device)
    model.requires_grad_(False).eval()
    # For tens of tokens PyTorch's fused attention is slower on CPUs, backward most of all; and
    # it has no soft cap (Gemma 2).
    if device.type == "cpu" or getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    if config.device_map is None:
        if not more:
            model.to(device=device, dtype=dtype)
    elif more:  # and placed already
        device = device_of_embeddings(model)
    else:
        device = spread(model.to(dtype), config.device_map)
    # In generation the head is given a slice of the hidden states; PyTorch multiplies a
    # non-contiguous one by a copy of the whole head for every row (gigabytes).
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return Foundation(config.name, model, tokenizer, device, dtype, config.compile)


def load_parts(
    config: FoundationConfig, dtype: torch.dtype | None, more: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Model and tokenizer as they are, neither frozen nor on a device; ``dtype`` None: as stored.

    Args:
        config: which.
        dtype: of the model.
        more: how it is quantised, and then placed as well (:func:`quantised.options`).

    Raises:
        UserError: as :func:`load_foundation`.
    """
    if config.source == "tiny":
        if more:
            raise UserError(f"foundation.quantised={config.quantised}: {config.name} has no file")
        return tiny_model(), byte_tokenizer()
    source = str(bundled_folder()) if config.source == "bundled" else str(config.model)
    return load_pretrained(source, dtype, more)


def _check_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """Every text must have an embedding; padding may be any token, for it is masked."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"foundation {name}: its tokenizer has no end-of-text token")
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.eos_token_id >= rows or tokenizer.vocab_size > rows:
        raise UserError(
            f"foundation {name}: its tokenizer has {tokenizer.vocab_size} tokens, its model "
            f"embeddings for {rows}; they do not belong together"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def device_of(name: str) -> torch.device:
    """The device that ``foundation.device`` names, if it is usable.

    Raises:
        UserError: it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"foundation.device={name}: not usable here: {reason}") from error
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic that ``foundation.dtype`` names.

    ``auto`` takes bfloat16 only where the processor multiplies it natively.
    """
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _contiguous(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].contiguous(),)
