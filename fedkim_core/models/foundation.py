"""Load a frozen causal language model: bundled, a folder, a hub name, or a tiny random one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from fedkim_core.config import FoundationConfig
from fedkim_core.data.examples import NO, YES
from fedkim_core.errors import UserError
from fedkim_core.models.bundled import bundled_folder

ANSWER = "Answer:"
"""What a prompt ends with."""


@dataclass(frozen=True)
class Foundation:
    """A frozen foundation model and its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype

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
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

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
        if mask.dim() == 4:
            least = torch.finfo(self.dtype).min
            mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill(~mask, least)
        else:
            mask = mask.long()
        if positions is None:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        )
        return torch.as_tensor(output.last_hidden_state)

    def head(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits ``[..., vocabulary]``, or only of the tokens ``ids``, then in float32.

        Two logits of a 16-bit head differ by less than its rounding; scores need more.
        """
        layer: Any = self.model.get_output_embeddings()
        if ids is None:
            logits = torch.as_tensor(layer(hidden)).float()
        else:
            with torch.autocast(self.device.type, enabled=False):
                bias = layer.bias[ids].float() if layer.bias is not None else None
                logits = nn.functional.linear(hidden.float(), layer.weight[ids].float(), bias)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if not cap else cap * torch.tanh(logits / cap)


def load_foundation(config: FoundationConfig) -> Foundation:
    """Load and freeze the foundation model that ``config`` names.

    Raises:
        UserError: no such folder or name, no weights in it, or no device of that kind.
    """
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    model: Any
    if config.source == "tiny":
        model, tokenizer = _tiny(), _byte_tokenizer()
    else:
        source = str(bundled_folder()) if config.source == "bundled" else str(config.model)
        model, tokenizer = _from_pretrained(source, dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    if tokenizer.eos_token_id is None:
        raise UserError(f"foundation {config.name}: its tokenizer has no end-of-text token")
    model.requires_grad_(False).eval()
    if device.type == "cpu":
        # For tens of tokens PyTorch's fused attention is slower on CPUs, backward most of all.
        model.set_attn_implementation("eager")
    model.to(device=device, dtype=dtype)
    # In generation the head is given a slice of the hidden states; PyTorch multiplies a
    # non-contiguous one by a copy of the whole head for every row (gigabytes).
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return Foundation(config.name, model, tokenizer, device, dtype)


def _from_pretrained(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    folder = Path(source).expanduser()
    if folder.is_dir():
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
        if not (folder / "config.json").is_file() or not weights:
            wanted = "*.safetensors" if (folder / "config.json").is_file() else "config.json"
            raise UserError(f"foundation.model={source}: no {wanted} in that folder")
        source = str(folder)
    try:
        AutoConfig.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"foundation.model={source}: cannot be loaded: {reason}") from error
    return model, tokenizer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"foundation.device={name}: not usable here: {reason}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 only where the processor multiplies it natively."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _contiguous(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].contiguous(),)


def _tiny() -> LlamaForCausalLM:
    """Two random layers over bytes; the same weights every time."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"<bos>": 256, "<eos>": 257}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<bos>", "<eos>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
