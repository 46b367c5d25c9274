"""Local training against the formulas that it claims to compute."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.optimizer import register_optimizer_step_pre_hook

from client_app import training
from fedkim_core.data.examples import NO, YES, Example, collate
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.settings import StrategyConfig
from tests.patients import example
from tests.tiny import make_extractor, same, tiny

CONFIG = tiny("extractor.dropout=0", "extractor.encoders.signal.channels=[4,8]")
IMAGES = [example("lung_opacity", i) for i in range(6)] + [example("covid19", i) for i in range(3)]
MIXED = [*IMAGES, *(example("ecg_abnormal", i) for i in range(4))]


def strategy(**changes: object) -> StrategyConfig:
    return CONFIG.strategy.model_copy(update={"batch_size": 4, **changes})


def train(
    examples: list[Example] = MIXED, *, seed: int = 5, site: str = "a", round: int = 1, **changes
) -> tuple[KnowledgeExtractor, training.LocalResult]:
    extractor = make_extractor(CONFIG)
    result = training.train(
        extractor, examples, strategy(**changes), seed=seed, site=site, round=round
    )
    return extractor, result


@contextmanager
def gradients_at_each_step() -> Iterator[list[list[torch.Tensor]]]:
    """What the optimiser is given, step by step."""
    seen: list[list[torch.Tensor]] = []

    def note(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        seen.append([torch.zeros(0) if p.grad is None else p.grad.clone() for p in parameters])

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def test_loss_is_the_mean_over_tasks_of_the_mean_over_examples() -> None:
    """1/T sum_t 1/|D_t| sum_i l(f(x_i), y_i), through the gradient of the first full batch."""
    with gradients_at_each_step() as seen:
        train(batch_size=len(MIXED), class_balance=False, clip_norm=1e9)
    extractor = make_extractor(CONFIG).train()
    terms = []
    for task in ("lung_opacity", "covid19", "ecg_abnormal"):
        own = [e for e in MIXED if e.task == task]
        target = torch.tensor([float(e.answer == "yes") for e in own])
        terms.append(binary_cross_entropy_with_logits(extractor.logits(collate(own)), target))
    torch.stack(terms).mean().backward()
    assert len(seen) == 1
    for parameter, got in zip(extractor.parameters(), seen[0], strict=True):
        want = torch.zeros(0) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


labelled = st.lists(
    st.tuples(st.sampled_from(["covid19", "mortality"]), st.sampled_from([YES, NO])),
    min_size=1,
    max_size=200,
)


@settings(max_examples=100)
@given(labelled, st.booleans())
def test_weights_have_mean_one_and_tasks_count_the_same(rows, balance) -> None:
    examples = [Example(f"{i}", "p", task, "?", answer) for i, (task, answer) in enumerate(rows)]
    weights = training._weights(examples, balance=balance)
    assert math.fsum(weights[row] for row in rows) / len(rows) == pytest.approx(1)
    tasks = {task for task, _ in rows}
    for task in tasks:
        share = math.fsum(weights[row] for row in rows if row[0] == task)
        assert share == pytest.approx(len(rows) / len(tasks))
        if balance and {(task, YES), (task, NO)} <= set(rows):
            counts = [rows.count((task, answer)) for answer in (YES, NO)]
            ratio = weights[task, YES] / weights[task, NO]
            want = counts[1] / counts[0]
            assert ratio == pytest.approx(min(max(want, 1 / 10), 10))


def test_class_balance_is_capped_at_ten() -> None:
    rows = [YES] + [NO] * 500
    examples = [Example(f"{i}", "p", "covid19", "?", answer) for i, answer in enumerate(rows)]
    weights = training._weights(examples, balance=True)
    assert weights["covid19", YES] / weights["covid19", NO] == pytest.approx(10)


def test_proximal_term_covers_the_modules_of_the_batch_only() -> None:
    extractor = make_extractor(CONFIG)
    received = extractor.arrays()
    with torch.no_grad():
        for parameter in extractor.parameters():
            parameter += 0.1
    batch = collate([example("covid19", 1)])
    used = ["encoder.image", "head.covid19"]
    want = sum(0.01 * p.numel() for m in used for p in extractor.module(m).parameters())
    distance = training._distance(extractor, batch, received)
    assert float(distance.detach()) == pytest.approx(want, rel=1e-3)
    distance.backward()
    moved = {
        m
        for m in extractor.module_names()
        if next(extractor.module(m).parameters()).grad is not None
    }
    assert moved == set(used)


def test_proximal_term_is_half_mu_times_the_squared_distance() -> None:
    """Its gradient is mu (w - w_global): the second step of two tells."""
    one = [example("covid19", 1)]
    gradients = []
    for mu in (0.0, 3.0):
        with gradients_at_each_step() as seen:
            train(one, local_epochs=2, proximal_mu=mu, clip_norm=1e9, weight_decay=0.0)
        gradients.append(seen)
    start = [p.detach().clone() for p in make_extractor(CONFIG).parameters()]
    after, _ = train(one, local_epochs=1, clip_norm=1e9, weight_decay=0.0)
    plain, pulled = gradients
    for p0, p1, g0, g1 in zip(start, after.parameters(), plain[1], pulled[1], strict=True):
        if len(g0):
            torch.testing.assert_close(g1 - g0, 3.0 * (p1.detach() - p0), atol=1e-5, rtol=1e-3)


def test_huge_mu_keeps_the_weights_near_what_was_received() -> None:
    received = make_extractor(CONFIG).arrays()

    def drift(mu: float) -> float:
        trained, _ = train(IMAGES, local_epochs=5, proximal_mu=mu, learning_rate=1e-3)
        arrays = trained.arrays()
        squares = [
            (arrays[m][k] - received[m][k]).square().sum() for m in received for k in received[m]
        ]
        return float(torch.stack(squares).sum().sqrt())

    assert drift(1e4) < 0.5 * drift(0.0)


def test_gradients_are_clipped_by_their_norm() -> None:
    norms = []
    for clip in (1e9, 0.01):
        with gradients_at_each_step() as seen:
            train(clip_norm=clip)
        norms.append([float(torch.cat([g.flatten() for g in step]).norm()) for step in seen])
    free, clipped = norms
    assert min(free) > 0.01
    assert max(clipped) <= 0.01 * 1.001
    assert len(clipped) == math.ceil(len(MIXED) / 4)


def test_the_same_seed_site_and_round_give_the_same_weights() -> None:
    first, _ = train()
    assert same(first.arrays(), train()[0].arrays())
    for other in ({"round": 2}, {"site": "b"}, {"seed": 6}):
        assert not same(first.arrays(), train(**other)[0].arrays())


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(77)
    before = torch.get_rng_state()
    train()
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_are_counted_by_module() -> None:
    """k_{n,m}: patients without a modality do not count for its encoder."""
    stays = [
        example("mortality", 1),
        example("mortality", 2, without=("labs",)),
        example("mortality", 3, without=("labs", "inputs", "outputs")),
    ]
    _, result = train([*stays, *IMAGES], local_epochs=3)
    assert result.examples == {
        "encoder.image": 9,
        "head.lung_opacity": 6,
        "head.covid19": 3,
        "encoder.vitals": 3,
        "encoder.labs": 1,
        "encoder.inputs": 2,
        "encoder.outputs": 2,
        "head.mortality": 3,
    }


def test_modules_that_no_example_uses_do_not_move() -> None:
    before = make_extractor(CONFIG).arrays()
    trained, result = train(IMAGES, weight_decay=0.1, proximal_mu=0.1)
    after = trained.arrays()
    for module in before:
        moved = not same({module: before[module]}, {module: after[module]})
        assert moved == (module in result.examples), module


def test_loss_of_each_task_is_reported_and_falls() -> None:
    _, first = train(IMAGES, batch_size=16)
    _, later = train(IMAGES, batch_size=16, local_epochs=40, learning_rate=3e-3)
    assert first.metrics.keys() == {
        f"{kind}.{task}" for kind in ("loss", "examples") for task in ("lung_opacity", "covid19")
    }
    assert first.metrics["examples.covid19"] == 3
    assert later.metrics["loss.lung_opacity"] < 0.5 * first.metrics["loss.lung_opacity"]


def test_validation_has_no_auroc_where_there_is_one_answer() -> None:
    rows = [example("covid19", i) for i in (1, 3, 5)] + [example("lung_opacity", i) for i in (1, 2)]
    metrics = training.validate(make_extractor(CONFIG), rows, 2)
    assert metrics.keys() == {"examples.covid19", "examples.lung_opacity", "auroc.lung_opacity"}
    assert metrics["auroc.lung_opacity"] in (0.0, 0.5, 1.0)
    assert training.validate(make_extractor(CONFIG), [], 2) == {}


def sgd(examples: list[Example], offsets: dict | None = None) -> tuple[dict, training.LocalResult]:
    """Weights after one epoch of SGD in batches of four, and what training says of it."""
    extractor = make_extractor(CONFIG)
    config = strategy(optimiser="sgd", learning_rate=0.5, weight_decay=0.0)
    result = training.train(extractor, examples, config, seed=5, site="a", round=1, offsets=offsets)
    return extractor.arrays(), result


def test_an_offset_is_added_to_every_step_of_the_modules_in_it() -> None:
    one_batch = [example("covid19", i) for i in range(4)]
    plain, result = sgd(one_batch)
    offsets = {
        module: {name: torch.full_like(value, 0.25) for name, value in group.items()}
        for module, group in plain.items()
    }
    moved, _ = sgd(one_batch, offsets)
    used = {"encoder.image", "head.covid19"}
    assert result.steps == dict.fromkeys(used, 1)
    for module, group in plain.items():
        for name, value in group.items():
            # After clipping: the offset arrives whole, however large the gradient.
            want = value - 0.5 * 0.25 if module in used else value
            torch.testing.assert_close(moved[module][name], want, atol=1e-6, rtol=1e-5)


def test_steps_are_counted_by_module() -> None:
    _, result = sgd(MIXED)
    batches = math.ceil(len(MIXED) / 4)
    assert result.steps.keys() == result.examples.keys()
    assert all(1 <= count <= batches for count in result.steps.values())
    # At least as many batches as its examples fill.
    assert all(4 * result.steps[m] >= result.examples[m] for m in result.steps)
