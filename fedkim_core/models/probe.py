"""What a foundation model can do, tried on a few tokens rather than looked up by its name."""

import torch
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.models.foundation import Foundation
from fedkim_core.models.sequences import Row, pack, pad

REFUSALS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What models raise over a mask or positions that they cannot take."""


@torch.no_grad()
def packs(foundation: Foundation) -> bool:
    """Whether rows packed into one sequence are read as each alone.

    Not so where positions come from the mask (ALiBi), or where layers are not attention.
    """
    one, two = _rows(foundation, "yes, a fever"), _rows(foundation, "the cough has gone")
    try:
        first = _read(foundation, one)
        if (_read(foundation, [two[0], one[1]])[-1] - first[-1]).norm() > 1e-3 * first[-1].norm():
            return False  # the second row saw the first
        alone = [foundation.hidden(*pad(foundation, [row]))[0, -len(row.rest) :] for row in one]
    except REFUSALS:
        return False
    tolerance = 1e-3 if foundation.dtype == torch.float32 else 0.1
    return all(
        bool((together - own).norm() <= tolerance * own.norm())
        for together, own in zip(first, alone, strict=True)
    )


@torch.no_grad()
def check_head(foundation: Foundation) -> None:
    """Refuse a model whose logits are more than its output layer and a soft cap.

    Raises:
        UserError: its logits are not those of :meth:`Foundation.head`.
    """
    row = _rows(foundation, "yes")[:1]
    embeddings, mask = pad(foundation, row)
    model = foundation.model
    wanted = model(inputs_embeds=embeddings, attention_mask=mask.long()).logits.float()
    got = foundation.head(foundation.hidden(embeddings, mask))
    if not (got - wanted).norm() <= 0.01 * wanted.norm():
        raise UserError(
            f"foundation {foundation.name}: {type(model).__name__} scales its logits in a way of "
            "its own, which fedkim does not follow; choose another"
        )


def _rows(foundation: Foundation, text: str) -> list[Row]:
    """Two rows after one prompt: ``text``, and one that is always the same."""
    prompt = (*foundation.start_ids(), *foundation.token_ids(" Question: is there"))

    def row(said: str) -> Row:
        ids = torch.tensor(foundation.token_ids(said)[:4], device=foundation.device)
        return Row(("", ()), prompt, foundation.embed(ids))

    return [row(text), row("no, there is none")]


def _read(foundation: Foundation, rows: list[Row]) -> list[Tensor]:
    """Hidden states ``[n, width]`` of every row's own tokens, read packed."""
    packed = pack(foundation, rows)
    hidden = foundation.hidden(packed.embeddings, packed.mask, packed.positions)[0]
    ends = [int(end) + 1 for end in packed.ends]
    return [hidden[end - len(row.rest) : end] for row, end in zip(rows, ends, strict=True)]
