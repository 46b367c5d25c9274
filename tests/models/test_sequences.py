"""Packed rows are read as each row alone; padding stands on the left."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.config import compose
from fedkim_core.models.foundation import Foundation, load_foundation
from fedkim_core.models.sequences import Row, pack, pad, portions

KEYS = [("a", ()), ("a", ("image",)), ("b", ("image",))]
PROMPTS = [(1, 2, 3), (1, 2), (4,)]


@pytest.fixture(scope="module")
def tiny() -> Foundation:
    return load_foundation(compose(["foundation=tiny"]).foundation)


def row(kind: tuple[int, int, int, int]) -> Row:
    """A row of the given key, prompt and length, with a content of its own."""
    key, prompt, length, seed = kind
    rest = torch.randn(length, 32, generator=torch.Generator().manual_seed(seed))
    return Row(KEYS[key], PROMPTS[prompt], rest, answer=(7,) * min(length, seed % 3))


kinds = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 6), st.integers(0, 99)),
    min_size=1,
    max_size=6,
)


@given(kinds, st.integers(1, 20))
def test_portions_keep_every_row_in_order(drawn: list, most: int) -> None:
    rows = [row(kind) for kind in drawn]
    parts = list(portions(rows, most))
    assert [id(r) for part in parts for r in part] == [id(r) for r in rows]
    sizes = [[len(r.rest) for r in part] for part in parts]
    assert all(sum(own) <= most or len(own) == 1 for own in sizes)
    assert all(sum(a) + b[0] > most for a, b in pairwise(sizes))  # none could take one more


@settings(max_examples=40, deadline=None)
@given(kinds)
def test_packed_rows_are_read_as_alone(tiny: Foundation, drawn: list) -> None:
    rows = [row(kind) for kind in drawn]
    packed = pack(tiny, rows)
    with torch.no_grad():
        hidden = tiny.hidden(packed.embeddings, packed.mask, packed.positions)[0]
        for own, end in zip(rows, packed.ends.tolist(), strict=True):
            alone = tiny.hidden(*pad(tiny, [own]))[0]
            there = hidden[end + 1 - len(own.rest) : end + 1]
            torch.testing.assert_close(there, alone[len(own.prompt) :], atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(kinds)
def test_a_prompt_is_there_once_for_each_gate(tiny: Foundation, drawn: list) -> None:
    rows = [row(kind) for kind in drawn]
    packed = pack(tiny, rows)
    prompts = {(r.gate, r.prompt) for r in rows}
    tokens = sum(len(p) for _, p in prompts) + sum(len(r.rest) for r in rows)
    assert packed.embeddings.shape == (1, tokens, tiny.width)
    assert packed.mask.shape == (1, 1, tokens, tokens)
    assert len(packed.gates) == tokens
    for own, end in zip(rows, packed.ends.tolist(), strict=True):
        assert packed.gates[end] == own.gate
        tail = packed.targets[end + 1 - len(own.rest) : end + 1]
        assert tail[tail >= 0].tolist() == list(own.answer)
        seen = packed.mask[0, 0, end].sum()
        assert seen == len(own.prompt) + len(own.rest) == packed.positions[0, end] + 1


def test_padding_changes_nothing(tiny: Foundation) -> None:
    rows = [row((0, 0, 5, 1)), row((2, 2, 1, 2))]
    embeddings, mask = pad(tiny, rows)
    assert mask.sum(1).tolist() == [8, 2]
    assert mask[:, -1].all()
    with torch.no_grad():
        together = tiny.hidden(embeddings, mask)[1, -2:]
        alone = tiny.hidden(*pad(tiny, rows[1:]))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
