"""The knowledge extractor: encoders and heads, the part that trains at the sites and travels.

``f(x) = DEC_t(ENC_m(x))`` (FedKIM, section 3.2). Its modules are named ``encoder.<modality>`` and
``head.<task>``; they are what updates hold and what aggregation averages, each on its own.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fedkim_core.data.examples import Batch
from fedkim_core.modalities import load_modalities
from fedkim_core.models.encoders import build_encoder
from fedkim_core.settings import Config
from fedkim_core.tasks import TaskCard


class Head(nn.Module):
    """The decoder of one yes/no task: mean of the tokens that are there, then a small MLP."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """``[b, width] -> [b]`` logits."""
        return torch.as_tensor(self.layers(pooled)).squeeze(-1)


class KnowledgeExtractor(nn.Module):
    """One encoder per modality and one head per trained task."""

    def __init__(self, config: Config, cards: Mapping[str, TaskCard]) -> None:
        super().__init__()
        trained = {name: card for name, card in cards.items() if card.role == "train"}
        settings = config.extractor
        names = sorted({m for card in trained.values() for m in card.encoded})
        modalities = load_modalities()
        self.width = settings.width
        self.encoders = nn.ModuleDict(
            {
                name: build_encoder(
                    getattr(settings.encoders, modalities[name].kind),
                    modalities[name],
                    width=settings.width,
                    tokens=settings.tokens,
                    image_size=config.data.image_size,
                )
                for name in names
            }
        )
        self.heads = nn.ModuleDict(
            {
                name: Head(settings.width, settings.head_hidden, settings.dropout)
                for name in sorted(trained)
            }
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tokens(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Encode what is there.

        Returns, by modality, ``rows [b]`` and ``tokens [b, K, width]``. Modalities that no
        trained task uses have no encoder and are left out.
        """
        device = self.device
        return {
            name: (
                features.rows.to(device),
                self.encoders[name](features.values.to(device))[features.source.to(device)],
            )
            for name, features in batch.features.items()
            if name in self.encoders
        }

    def logits(self, batch: Batch) -> Tensor:
        """``[B]`` logits of "yes"; NaN in rows whose task has no head or that have no tokens."""
        encoded = self.tokens(batch)
        device = self.device
        total = torch.zeros(len(batch), self.width, device=device)
        count = torch.zeros(len(batch), 1, device=device)
        for rows, tokens in encoded.values():
            total = total.index_add(0, rows, tokens.mean(1))
            count = count.index_add(0, rows, torch.ones(len(rows), 1, device=device))
        pooled = total / count.clamp(min=1)
        result = torch.full((len(batch),), float("nan"), device=device)
        for task in sorted(set(batch.tasks) & set(self.heads)):
            rows = torch.tensor(
                [i for i, name in enumerate(batch.tasks) if name == task and count[i] > 0],
                dtype=torch.long,
                device=device,
            )
            if len(rows):
                result = result.index_copy(0, rows, self.heads[task](pooled[rows]))
        return result

    def used_by(self, batch: Batch) -> dict[str, int]:
        """Modules that take part in ``logits(batch)``, and in how many of its rows."""
        counts: dict[str, int] = {}
        has_head = [task in self.heads for task in batch.tasks]
        rows_with_tokens: set[int] = set()
        for name, features in batch.features.items():
            rows = [i for i in features.rows.tolist() if has_head[i]]
            if name in self.encoders and rows:
                counts[f"encoder.{name}"] = len(rows)
                rows_with_tokens.update(rows)
        for i in rows_with_tokens:
            head = f"head.{batch.tasks[i]}"
            counts[head] = counts.get(head, 0) + 1
        return counts

    def module(self, name: str) -> nn.Module:
        """The module called ``encoder.<modality>`` or ``head.<task>``."""
        kind, _, key = name.partition(".")
        group = {"encoder": self.encoders, "head": self.heads}.get(kind)
        if group is None or key not in group:
            raise KeyError(f"no module {name!r} in this extractor")
        return group[key]

    def module_names(self) -> list[str]:
        return [f"encoder.{m}" for m in self.encoders] + [f"head.{t}" for t in self.heads]

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, dict[str, Tensor]]:
        """Copies of the parameters: module name -> parameter name -> tensor."""
        chosen = self.module_names() if names is None else names
        return {
            name: {k: v.detach().clone() for k, v in self.module(name).state_dict().items()}
            for name in chosen
        }

    def load_arrays(self, arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load whole modules; every parameter of a named module must be there."""
        for name, parameters in arrays.items():
            self.module(name).load_state_dict(dict(parameters), strict=True)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
