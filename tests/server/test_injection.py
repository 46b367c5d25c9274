"""Injection: what it draws, what it changes, what it leaves alone, and that it learns."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.examples import NO, YES, Example, collate
from fedkim_core.models.injected import InjectedModel
from server_app import injection
from server_app.injection import Injector, balanced_batches
from tests.patients import example
from tests.tiny import make_model, same, tiny

EXAMPLES = [
    example(task, i)
    for task in ("lung_opacity", "covid19", "ecg_abnormal", "mortality")
    for i in range(2)
]


def made(*words: str, rounds: int = 1, examples: list[Example] = EXAMPLES) -> Injector:
    config = tiny(*words)
    return Injector(make_model(config), examples, config.injector, seed=config.seed, rounds=rounds)


def silent(step: int, of: int, loss: float) -> None:
    assert 1 <= step <= of
    assert math.isfinite(loss)


def frozen(model: InjectedModel) -> dict[str, torch.Tensor]:
    named = model.foundation.model.named_parameters()
    return {name: p.detach().clone() for name, p in named if "lora_" not in name}


strata = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([YES, NO, "left lung"])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=80)
@given(rows=strata, size=st.integers(1, 9), seed=st.integers(0, 99))
def test_tasks_and_answers_take_turns(rows, size, seed) -> None:
    examples = [Example(str(i), "p", task, "?", answer) for i, (task, answer) in enumerate(rows)]
    source = balanced_batches(examples, size, torch.Generator().manual_seed(seed))
    drawn: list[tuple[str, str, str]] = []
    while len(drawn) < 4 * len(rows) + size:
        batch = next(source)
        assert len(batch) == size
        drawn += zip(batch.tasks, batch.answers, batch.example_ids, strict=True)
    tasks = sorted({task for task, _ in rows})
    assert [d[0] for d in drawn] == [tasks[i % len(tasks)] for i in range(len(drawn))]
    for task in tasks:
        own = [d for d in drawn if d[0] == task]
        answers = sorted({answer for t, answer in rows if t == task})
        assert [d[1] for d in own] == [answers[i % len(answers)] for i in range(len(own))]
        for answer in answers:
            ids = [d[2] for d in own if d[1] == answer]
            whole = {str(i) for i, row in enumerate(rows) if row == (task, answer)}
            for start in range(0, len(ids), len(whole)):
                turn = ids[start : start + len(whole)]
                # Each once before any comes again.
                assert max(Counter(turn).values()) == 1
                assert set(turn) <= whole


def test_draws_come_from_the_generator() -> None:
    def ids(seed: int) -> list[tuple[str, ...]]:
        source = balanced_batches(halves(12), 3, torch.Generator().manual_seed(seed))
        return [next(source).example_ids for _ in range(9)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_schedule_rises_then_falls_to_its_floor() -> None:
    total = 200
    rates = [injection._rate(step, total, 0.1) for step in range(total + 50)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == rates[20] == pytest.approx(1)
    assert all(a < b for a, b in pairwise(rates[:20]))
    assert set(rates[20:151]) == {1}
    assert all(a > b for a, b in pairwise(rates[150:201]))
    assert rates[total] == pytest.approx(injection.FLOOR)
    assert rates[-1] == pytest.approx(injection.FLOOR)
    assert injection._rate(0, 1, 0.0) == 1


def test_schedule_spans_all_rounds() -> None:
    injector = made("injector.steps=10", "injector.growth=3", rounds=2)
    rates: list[float] = []
    for round in (1, 2):
        injector.inject(round, lambda *_: rates.append(injector.optimiser.param_groups[0]["lr"]))
    highest = injector.config.feature_learning_rate
    expected = [highest * injection._rate(i, 20, injector.config.warmup) for i in range(20)]
    assert rates == pytest.approx(expected)


@given(st.integers(0, 60), st.floats(1, 5), st.integers(1, 12))
def test_rounds_share_the_steps(mean, growth, rounds) -> None:
    steps = injection.steps_by_round(mean, growth, rounds)
    assert len(steps) == rounds
    assert sum(steps) == pytest.approx(mean * rounds, abs=rounds)
    assert all(a <= b for a, b in pairwise(steps))
    assert all(steps) if mean else not any(steps)


def test_rounds_take_more_steps_from_one_to_the_next() -> None:
    assert injection.steps_by_round(20, 1.0, 4) == [20, 20, 20, 20]
    assert injection.steps_by_round(20, 2.0, 4) == [5, 11, 21, 43]
    injector = made("injector.steps=3", "injector.growth=2", rounds=2)
    for round, count in ((1, 2), (2, 4)):
        said: list[tuple[int, int]] = []
        injector.inject(round, lambda step, of, loss, said=said: said.append((step, of)))
        assert said == [(i, count) for i in range(1, count + 1)]


def test_no_steps_no_change() -> None:
    injector = made("injector.steps=0")
    before = {k: v.clone() for k, v in injector.model.state_dict().items()}
    adapter = {k: v.clone() for k, v in injector.model.experts.state().items()}
    assert injector.inject(1, silent) == 0
    assert all(torch.equal(v, before[k]) for k, v in injector.model.state_dict().items())
    assert all(torch.equal(v, adapter[k]) for k, v in injector.model.experts.state().items())


@pytest.mark.parametrize("train_encoders", [True, False])
@pytest.mark.parametrize("injector", ["m3oe", "lora", "fedplug"])
def test_what_changes_and_what_does_not(injector: str, train_encoders: bool) -> None:
    experts = {"m3oe": 3, "lora": 1, "fedplug": 0}[injector]
    own = made(
        f"injector={injector}",
        f"injector.experts={experts}",
        f"injector.train_encoders={train_encoders}",
        "injector.steps=3",
        "injector.batch_size=8",
    )
    model = own.model
    base, arrays = frozen(model), model.extractor.arrays()
    connectors = {k: v.clone() for k, v in model.connectors.state_dict().items()}
    adapter = {k: v.clone() for k, v in model.experts.state().items()} if experts else {}
    gate = {k: v.clone() for k, v in model.gate.state_dict().items()} if model.gate else {}
    own.inject(1, silent)
    assert all(torch.equal(v, base[k]) for k, v in frozen(model).items())
    after = model.extractor.arrays()
    for module in arrays:
        moved = not same({module: arrays[module]}, {module: after[module]})
        assert moved == (module.startswith("encoder.") and train_encoders), module
    assert all(not torch.equal(v, connectors[k]) for k, v in model.connectors.state_dict().items())
    assert (model.experts is None) == (injector == "fedplug")
    if adapter:
        assert all(not torch.equal(v, adapter[k]) for k, v in model.experts.state().items())
    assert bool(gate) == (injector == "m3oe")
    if gate:
        moved = [not torch.equal(v, gate[k]) for k, v in model.gate.state_dict().items()]
        assert all(moved)
    if not train_encoders:
        assert all(p.grad is None for p in model.extractor.parameters())
    assert not model.training


def test_the_same_seed_and_round_give_the_same_model() -> None:
    words = ["injector.dropout=0.2", "injector.train_encoders=true"]
    # At the same rate in rounds 1 and 2.
    words += ["injector.growth=1", "injector.warmup=0"]
    one, two = made(*words, rounds=8), made(*words, rounds=8)
    state = torch.get_rng_state()
    assert one.inject(1, silent) == two.inject(1, silent)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(one.model.extractor.arrays(), two.model.extractor.arrays())
    other = made(*words, rounds=8)
    other.inject(2, silent)
    assert not same(one.model.extractor.arrays(), other.model.extractor.arrays())


def halves(count: int) -> list[Example]:
    """Synthetic images that are bright on the left (yes) or on the right (no)."""
    rows = []
    for i in range(count):
        image = 0.2 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(i))
        answer = YES if i % 2 else NO
        image[:, :, slice(0, 16) if answer == YES else slice(16, 32)] += 0.6
        question = "Is there a lung opacity on this chest radiograph?"
        rows.append(
            Example(str(i), f"p{i}", "lung_opacity", question, answer, None, {"image": image})
        )
    return rows


def test_it_learns_what_can_be_learned() -> None:
    injector = made(
        "tasks=[lung_opacity]",
        "injector.steps=30",
        "injector.batch_size=8",
        "injector.learning_rate=3e-3",
        "injector.feature_learning_rate=3e-3",
        "injector.distillation=1",  # of heads that know nothing
        examples=halves(16),
    )
    losses: list[float] = []
    mean = injector.inject(1, lambda step, of, loss: losses.append(loss))
    assert len(losses) == 30
    assert mean == pytest.approx(sum(losses) / 30)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    rows = halves(40)[16:]  # others than it was trained on
    scores = injector.model.score(collate(rows))
    yes = torch.tensor([row.answer == YES for row in rows])
    assert scores[yes].min() > scores[~yes].max()


def test_mutual_information_is_maximised() -> None:
    bits = []
    for weight in (0.0, 20.0):
        injector = made(
            "injector.steps=60",
            f"injector.gate.mutual_information={weight}",
        )
        injector.inject(1, silent)
        bits.append(float(injector.model.gate_information().detach()))
    assert bits[1] > bits[0] + 0.5


def test_divergence_names_the_remedy() -> None:
    injector = made(rounds=4)
    with torch.no_grad():
        next(injector.model.connectors.parameters()).fill_(math.nan)
    with pytest.raises(RuntimeError, match=r"round 4, step 1: loss nan; lower injector\.learning"):
        injector.inject(4, silent)
