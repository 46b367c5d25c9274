"""Truncation against a singular value decomposition of the whole matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.errors import UserError
from fedkim_core.export.adapter import Adapter, truncated

NAME = "base_model.model.layer.lora_{}.weight"


def adapter(inner: int, outer: int, rank: int, alpha: float, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inner, generator=generator)
    b = torch.randn(outer, rank, generator=generator)
    return Adapter({NAME.format("A"): a, NAME.format("B"): b}, rank, alpha, {})


def product(made: Adapter) -> np.ndarray:
    a, b = (made.state[NAME.format(m)].double().numpy() for m in "AB")
    return made.alpha / made.rank * b @ a


@settings(max_examples=40)
@given(
    inner=st.integers(1, 9),
    outer=st.integers(1, 9),
    rank=st.integers(2, 8),
    kept=st.integers(1, 7),
    alpha=st.floats(0.5, 64),
    seed=st.integers(0, 9),
)
def test_equals_the_svd_of_the_whole_matrix(
    inner: int, outer: int, rank: int, kept: int, alpha: float, seed: int
) -> None:
    kept = min(kept, rank - 1)
    whole = adapter(inner, outer, rank, alpha, seed)
    made = truncated(whole, kept)
    left, values, right = np.linalg.svd(product(whole), full_matrices=False)
    want = (left[:, :kept] * values[:kept]) @ right[:kept]
    size = np.linalg.norm(values)
    assert made.state[NAME.format("A")].shape == (kept, inner)
    assert made.state[NAME.format("B")].shape == (outer, kept)
    np.testing.assert_allclose(product(made), want, atol=1e-5 * size)
    lost = np.linalg.norm(product(whole) - want) / size
    assert made.errors["layer"] == pytest.approx(lost, abs=1e-6)


def test_an_adapter_that_does_nothing_loses_nothing() -> None:
    whole = adapter(4, 4, 3, 8.0, 0)
    whole.state[NAME.format("B")].zero_()
    made = truncated(whole, 1)
    assert made.errors == {"layer": 0.0}
    assert not product(made).any()


@pytest.mark.parametrize("rank", [-1, 0, 3, 9])
def test_rank_out_of_range(rank: int) -> None:
    with pytest.raises(UserError, match=f"--rank {rank}: must be from 1 to 2"):
        truncated(adapter(4, 4, 3, 8.0, 0), rank)
