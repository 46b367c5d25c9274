"""The robust methods: against written-out ones in float64, and what they promise."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import trim_mean

from fedkim_core import aggregation
from fedkim_core.aggregation import Stack, combiner
from fedkim_core.aggregation.geometric_median import combine as geometric_median
from fedkim_core.aggregation.krum import choose
from fedkim_core.aggregation.krum import combine as krum
from fedkim_core.aggregation.median import combine as median
from fedkim_core.aggregation.trimmed_mean import combine as trimmed_mean
from fedkim_core.config import compose
from fedkim_core.exchange import KnowledgeUpdate
from fedkim_core.paths import CONF
from tests.updates import combined

METHODS = {
    path.stem: combiner(compose([f"strategy={path.stem}"]).strategy)
    for path in sorted((CONF / "strategy").glob("*.yaml"))
}
ROBUST = ["geometric_median", "krum", "median", "multi_krum", "trimmed_mean"]


def draw(sites: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(sites, size, generator=torch.Generator().manual_seed(seed))


sites, seeds = st.integers(1, 12), st.integers(0, 9999)


@settings(max_examples=30)
@given(sites, seeds)
def test_median_is_numpys(n: int, seed: int) -> None:
    values = draw(n, 7, seed)
    want = np.median(values.double().numpy(), axis=0)
    np.testing.assert_allclose(median(Stack.of(values)).numpy(), want, rtol=1e-6, atol=1e-7)


@settings(max_examples=30)
@given(sites, st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.4, 0.49]), seeds)
def test_trimmed_mean_is_the_mean_between_the_cuts(n: int, share: float, seed: int) -> None:
    values = draw(n, 7, seed)
    cut = int(np.ceil(np.round(share * n, 9)))
    got = trimmed_mean(Stack.of(values), share=share).numpy()
    exact = values.double().numpy()
    # scipy's share is of what is cut: a little more, against rounding down.
    cut = min(cut, (n - 1) // 2)
    want = trim_mean(exact, (cut + 1e-9) / n, axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@settings(max_examples=30)
@given(st.integers(3, 12), st.integers(0, 4), st.integers(1, 4), seeds)
def test_krum_chooses_as_stock_flower(n: int, faulty: int, selected: int, seed: int) -> None:
    faulty = min(faulty, (n - 3) // 2)
    selected = min(selected, n - faulty)
    values = draw(n, 9, seed)
    records = [
        RecordDict({"arrays": ArrayRecord({"w": row.double()}), "i": ArrayRecord({})})
        for row in values
    ]
    theirs = select_multikrum(records, faulty, selected)
    want = sorted(i for i, record in enumerate(records) if any(record is r for r in theirs))
    assert choose(Stack.of(values).squared_distances(), faulty, selected) == want
    got = krum(Stack.of(values), faulty=faulty, selected=selected)
    np.testing.assert_allclose(got, values[want].double().mean(0), rtol=1e-6, atol=1e-7)


@settings(max_examples=20)
@given(st.integers(3, 9), seeds)
def test_geometric_median_has_the_least_sum_of_distances(n: int, seed: int) -> None:
    values = draw(n, 4, seed).double().numpy()

    def total(point: np.ndarray) -> float:
        return float(np.linalg.norm(values - point, axis=1).sum())

    got = geometric_median(Stack.of(torch.tensor(values).float()), iterations=10_000)
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    best = minimize(total, values.mean(0), method="Nelder-Mead", options=options)
    assert total(got.double().numpy()) <= best.fun * (1 + 1e-6)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=15)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=9), seeds, st.randoms())
def test_no_order_of_arrival_changes_a_bit(name, counts, seed, random) -> None:
    values = draw(len(counts), 11, seed)
    updates = [
        KnowledgeUpdate(
            f"site-{i}", {"head.a": {"w": values[i]}}, {"head.a": count}, {"head.a": 1}, {}
        )
        for i, count in enumerate(counts)
    ]
    one = combined(updates, METHODS[name])
    random.shuffle(updates)
    assert torch.equal(one["head.a"]["w"], combined(updates, METHODS[name])["head.a"]["w"])


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=15)
@given(st.integers(1, 9), seeds)
def test_what_all_agree_on_is_what_comes_out(name: str, n: int, seed: int) -> None:
    values = draw(1, 11, seed).repeat(n, 1)
    got = METHODS[name](Stack.of(values, (7,) * n))
    torch.testing.assert_close(got, values[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_blocks_are_invisible(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack.of(draw(5, 103, 4), (3, 1, 4, 1, 5))
    whole = METHODS[name](stack)
    monkeypatch.setattr(aggregation, "BLOCK", 50)
    assert len(list(stack.blocks())) == 11
    torch.testing.assert_close(METHODS[name](stack), whole, rtol=1e-6, atol=1e-7)


attacks = st.sampled_from(["huge", "flip", "noise", "same"])


def attacked(honest: torch.Tensor, faulty: int, attack: str, seed: int) -> torch.Tensor:
    """The honest rows, and ``faulty`` that somebody made up; a minority, shuffled."""
    size = honest.shape[1]
    made_up = {
        "huge": torch.full((faulty, size), 1e6),
        "flip": -30 * honest.mean(0).repeat(faulty, 1),
        "noise": 1e3 * draw(faulty, size, seed + 1),
        "same": honest[:1].repeat(faulty, 1) + 50,
    }[attack]
    rows = torch.cat([honest, made_up])
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


@settings(max_examples=60)
@given(st.integers(2, 9), attacks, seeds)
def test_a_minority_cannot_move_the_median_outside_the_honest_range(n, attack, seed) -> None:
    honest = draw(n, 6, seed)
    got = median(Stack.of(attacked(honest, n - 1, attack, seed)))
    assert (got >= honest.min(0).values).all()
    assert (got <= honest.max(0).values).all()


@settings(max_examples=60)
@given(st.integers(0, 3), attacks, seeds)
def test_trimmed_mean_withstands_what_it_cuts(faulty: int, attack: str, seed: int) -> None:
    honest = draw(10 - faulty, 6, seed)
    got = trimmed_mean(Stack.of(attacked(honest, faulty, attack, seed)), share=0.3)
    assert (got >= honest.min(0).values - 1e-6).all()
    assert (got <= honest.max(0).values + 1e-6).all()


@pytest.mark.parametrize("name", ROBUST)
@settings(max_examples=20)
@given(attacks, seeds)
def test_one_of_five_cannot_lead_a_robust_method_away(name: str, attack: str, seed: int) -> None:
    centre = draw(1, 30, seed)
    honest = centre + 0.1 * draw(4, 30, seed + 2)
    values = attacked(honest, 1, attack, seed)
    reach = (honest - centre).norm(dim=1).max()
    assert (METHODS[name](Stack.of(values)) - centre).norm() <= 3 * reach
    if attack != "flip":
        assert (METHODS["fedavg"](Stack.of(values)) - centre).norm() > 3 * reach


def test_two_sites_show_no_majority() -> None:
    values = draw(2, 5, 0)
    for name in ROBUST:
        torch.testing.assert_close(METHODS[name](Stack.of(values)), values.mean(0))


def test_distances_are_those_of_numpy() -> None:
    values = draw(6, 40, 1).double().numpy()
    want = ((values[:, None] - values[None]) ** 2).sum(-1)
    got = Stack.of(torch.tensor(values).float()).squared_distances()
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)
