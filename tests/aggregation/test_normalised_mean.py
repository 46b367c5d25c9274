"""FedNova against the paper's formula, written out in float64, and on quadratics."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.aggregation import Stack, weighted_mean
from fedkim_core.aggregation.normalised_mean import combine

sites = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 60)), min_size=1, max_size=8)
seeds = st.integers(0, 999)


def draw(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 9, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(sites, seeds)
def test_is_equation_six(counts: list[tuple[int, int]], seed: int) -> None:
    """``x - tau_eff sum_i p_i eta d_i`` with ``eta d_i = (x - x_i) / tau_i``."""
    values, x = draw(len(counts), seed), draw(1, seed + 1)[0]
    got = combine(Stack.of(values, *zip(*counts, strict=True), x))
    p = np.array([k for k, _ in counts], np.float64) / sum(k for k, _ in counts)
    tau = np.array([t for _, t in counts], np.float64)
    start = x.double().numpy()
    direction = (start - values.double().numpy()) / tau[:, None]
    want = start - (p * tau).sum() * (p[:, None] * direction).sum(0)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(1, 90), seeds)
def test_with_equal_steps_it_is_fedavg_to_the_bit(weights: list[int], steps: int, seed: int):
    values, x = draw(len(weights), seed), draw(1, seed + 1)[0]
    stack = Stack.of(values, tuple(weights), (steps,) * len(weights), x)
    assert torch.equal(combine(stack), weighted_mean.combine(stack))


def rounds(method, x: float, count: int) -> float:
    """Two sites with ``(y - b)^2 / 2`` that take SGD steps of 0.01: one takes 2, the other 40."""
    for _ in range(count):
        reached = []
        for b, steps in ((-1.0, 2), (3.0, 40)):
            y = x
            for _ in range(steps):
                y -= 0.01 * (y - b)
            reached.append([y])
        stack = Stack.of(torch.tensor(reached), (1, 1), (2, 40), torch.tensor([x]))
        x = float(method(stack)[0])
    return x


def test_who_takes_more_steps_pulls_no_harder() -> None:
    """The mean of the two minima is 1: FedAvg ends at the one with more steps, FedNova near 1."""
    assert rounds(weighted_mean.combine, 0.0, 300) > 2.5
    assert abs(rounds(combine, 0.0, 300) - 1) < 0.25


def test_a_made_up_update_cannot_overflow_the_sum() -> None:
    largest = weighted_mean.LARGEST / 8 * 0.999
    values = torch.tensor([[largest], [-largest], [1.0]])
    stack = Stack.of(values, (8, 8, 8), (1, 60, 60), torch.zeros(1))
    assert abs(float(combine(stack)[0])) <= weighted_mean.LARGEST / 8
