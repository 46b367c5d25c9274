"""Random patients for tests of models and training: synthetic, and without meaning."""

import torch

from fedkim_core.data.examples import NO, YES, Example
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks


def features(names: tuple[str, ...], seed: int, *, size: int = 32, hours: int = 24) -> dict:
    generator = torch.Generator().manual_seed(seed)
    cards = load_modalities()
    made = {}
    for name in names:
        card = cards[name]
        if card.kind == "image":
            made[name] = torch.rand(1, size, size, generator=generator)
        elif card.kind == "signal":
            made[name] = torch.randn(len(card.leads), card.samples, generator=generator)
        else:
            centre = torch.tensor([v.mean for v in card.variables])
            spread = torch.tensor([v.sd for v in card.variables])
            table = centre + spread * torch.randn(hours, len(spread), generator=generator)
            table[torch.rand(table.shape, generator=generator) < 0.5] = float("nan")
            made[name] = table
    return made


def example(task: str, seed: int, *, without: tuple[str, ...] = (), hours: int = 24) -> Example:
    card = load_tasks()[task]
    names = tuple(m for m in card.encoded if m not in without)
    answer = (YES if seed % 2 else NO) if card.answer == "yes_no" else "left lung"
    return Example(
        f"e{task}{seed}",
        f"p{seed}",
        task,
        card.question,
        answer,
        "Cough for three days." if "text" in card.modalities else None,
        features(names, seed, hours=hours),
    )
