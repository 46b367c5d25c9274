"""What the foundation model reads: questions as rows of embeddings, packed or padded.

A row is a prompt, which the patients of a task have in common, and what is this patient's:

    Question: ... Vitals: | <K tokens> Labs: <K tokens> ... Note: ... Answer: yes<end>

The prompt stands first, so that a batch needs to compute it only once (:func:`pack`). A model that
cannot read a packed batch gets one row each (:func:`stack`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkim_core.models.foundation import Foundation

Key = tuple[str, tuple[str, ...]]
"""What the experts' weights depend on: a task, and which of its modalities a patient has."""


@dataclass(frozen=True)
class Row:
    """One question about one patient."""

    gate: Key
    """Rows that differ in it cannot share a prompt."""
    prompt: tuple[int, ...]
    """Token ids."""
    rest: Tensor
    """Embeddings ``[n, width]`` of everything after the prompt."""
    answer: tuple[int, ...] = ()
    """Token ids to predict, the end included; empty where they are asked for.

    All but the end stand in ``rest`` already: it is predicted but predicts nothing.
    """


@dataclass(frozen=True)
class Layout:
    """A batch as the model reads it: packed, ``b = 1`` sequence, or one row of ``b`` each."""

    embeddings: Tensor
    """``[b, n, width]``."""
    mask: Tensor
    """Packed: ``[1, 1, n, n]`` bool, a token sees its own row and its prompt, up to itself.
    One row each: ``[b, n]`` bool, True where there is a token."""
    positions: Tensor | None
    """``[1, n]``: a packed row's tokens count on from its prompt. None: from the first token."""
    gates: list[Key]
    """:attr:`Row.gate` of every token if packed, else of every row."""
    targets: Tensor
    """``[b * n]``: the token that each must predict, row after row; -1 where none is supervised."""
    ends: Tensor
    """``[B]``: where each row ends, in ``b * n``."""

    @property
    def packed(self) -> bool:
        return self.mask.dim() == 4


def portions(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """The rows in order, as many together as have ``most`` tokens after their prompts."""
    portion: list[Row] = []
    for row in rows:
        if portion and sum(len(r.rest) for r in portion) + len(row.rest) > most:
            yield portion
            portion = []
        portion.append(row)
    yield portion


def pack(foundation: Foundation, rows: Sequence[Row]) -> Layout:
    """Lay rows one after the other; rows of the same gate and prompt share the prompt's tokens."""
    prompts = {key: i for i, key in enumerate(dict.fromkeys((r.gate, r.prompt) for r in rows))}
    parts = [foundation.embed(_ids(foundation, prompt)) for _, prompt in prompts]
    parts += [row.rest for row in rows]
    starts = [0] * len(prompts) + [len(row.prompt) for row in rows]
    gates = [gate for gate, _ in prompts] + [row.gate for row in rows]
    lengths = torch.tensor([len(part) for part in parts])
    # Of every token: the part it belongs to, and the prompt that its part goes on from.
    part = torch.repeat_interleave(torch.arange(len(parts)), lengths)
    before = torch.tensor([*range(len(prompts)), *(prompts[r.gate, r.prompt] for r in rows)])[part]
    visible = (part[:, None] == part) | (before[:, None] == part)
    ends = lengths.cumsum(0)
    targets = torch.full((len(part),), -1)
    for row, end in zip(rows, ends[len(prompts) :].tolist(), strict=True):
        if row.answer:
            targets[end - len(row.answer) : end] = torch.tensor(row.answer)
    positions = [
        torch.arange(start, start + n) for start, n in zip(starts, lengths.tolist(), strict=True)
    ]
    device = foundation.device
    return Layout(
        embeddings=torch.cat(parts)[None],
        mask=visible.tril()[None, None].to(device),
        positions=torch.cat(positions)[None].to(device),
        gates=[gates[i] for i in part.tolist()],
        targets=targets.to(device),
        ends=ends[len(prompts) :].to(device) - 1,
    )


def stack(foundation: Foundation, rows: Sequence[Row]) -> Layout:
    """One row below the other, padded on the left."""
    embeddings, mask = pad(foundation, rows)
    targets = torch.full(mask.shape, -1)
    for i, row in enumerate(rows):
        if row.answer:
            targets[i, -len(row.answer) :] = torch.tensor(row.answer)
    count, length = mask.shape
    ends = torch.arange(1, count + 1, device=foundation.device) * length - 1
    gates = [row.gate for row in rows]
    return Layout(embeddings, mask, None, gates, targets.flatten().to(foundation.device), ends)


def pad(foundation: Foundation, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Embeddings ``[B, n, width]`` and mask ``[B, n]``, padded on the left as generation needs."""
    whole = [torch.cat([foundation.embed(_ids(foundation, r.prompt)), r.rest]) for r in rows]
    length = max(len(row) for row in whole)
    embeddings = whole[0].new_zeros(len(rows), length, whole[0].shape[1])
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(whole):
        embeddings[i, length - len(row) :] = row
        mask[i, length - len(row) :] = True
    return embeddings, mask.to(foundation.device)


def _ids(foundation: Foundation, ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.long, device=foundation.device)
