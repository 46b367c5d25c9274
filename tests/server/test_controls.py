"""Controls: each spoils one thing, for its own time only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.data.examples import Example
from fedkim_core.models.injected import InjectedModel
from server_app.controls import ask_controls, shuffle
from server_app.evaluation import ask
from tests.patients import example
from tests.tiny import make_model, tiny

CONFIG = tiny("evaluation.batch_size=8")
TASKS = ("covid19", "lung_opacity", "med_vqa_rad", "mortality")
ROWS = [example(task, i) for i in range(5) for task in TASKS]


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    made = make_model(CONFIG)
    with torch.no_grad():
        for parameter in made.experts.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return made


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 2**31 - 1),
)
def test_nobody_keeps_their_own_features(drawn, seed) -> None:
    """Whatever the patients, how many rows each has and which modalities."""
    rows = [
        Example(f"e{i}", f"p{p}", "covid19", "?", "no", f"note {i}", {"image": torch.tensor([p])})
        if seen
        else Example(f"e{i}", f"p{p}", "covid19", "?", "no", f"note {i}")
        for i, (p, seen) in enumerate(drawn)
    ]
    mixed = shuffle(rows, seed)
    if len({row.patient_id for row in rows}) < 2:
        assert mixed == []
        return
    for own, other in zip(rows, mixed, strict=True):
        kept = (own.example_id, own.patient_id, own.question, own.answer, own.text)
        assert kept == (
            other.example_id,
            other.patient_id,
            other.question,
            other.answer,
            other.text,
        )
        if other.features:
            assert f"p{int(other.features['image'])}" != own.patient_id
    again = [row.features for row in shuffle(rows, seed)]
    assert all(one is other for one, other in zip(again, [r.features for r in mixed], strict=True))


def test_controls_answer_every_example_and_leave_the_model_alone(model: InjectedModel) -> None:
    before = ask(model, ROWS, CONFIG.evaluation)
    parts = (model.extractor, model.gate, model.cards)
    answers = ask_controls(model, ROWS, CONFIG.evaluation, seed=0)
    spoilt_gate = ["other_description", "random_gate", "no_experts"]
    assert list(answers) == ["blanked", "shuffled", *spoilt_gate]
    for control in answers.values():
        assert sorted(control) == sorted(before)
        for task, said in control.items():
            assert said.example_ids == before[task].example_ids
            assert (said.patients, said.labels) == (before[task].patients, before[task].labels)
            assert len(said.logits or said.texts) == len(said.patients)
    for one, other in zip(parts, (model.extractor, model.gate, model.cards), strict=True):
        assert one is other
    assert ask(model, ROWS, CONFIG.evaluation) == before
    assert ask_controls(model, ROWS, CONFIG.evaluation, seed=0) == answers


def test_each_control_spoils_what_it_should(model: InjectedModel) -> None:
    before = ask(model, ROWS, CONFIG.evaluation)
    answers = ask_controls(model, ROWS, CONFIG.evaluation, seed=0)
    blanked = answers["blanked"]["covid19"].logits
    assert len(set(blanked)) == 1  # one question, no patient: one answer
    own = before["covid19"].logits
    for control in ("shuffled", "other_description", "random_gate", "no_experts"):
        assert answers[control]["covid19"].logits != own
    # The extractor's other task sees the same images, spoilt independently of this one.
    other = ask_controls(model, ROWS, CONFIG.evaluation, seed=1)
    assert other["random_gate"]["covid19"].logits != answers["random_gate"]["covid19"].logits
    assert other["blanked"] == answers["blanked"]


def test_without_experts_the_adapter_is_off(model: InjectedModel) -> None:
    answers = ask_controls(model, ROWS, CONFIG.evaluation, seed=0)["no_experts"]
    with model.experts.disabled():  # as PEFT does it
        off = ask(model, ROWS, CONFIG.evaluation)
    for task, said in off.items():
        assert answers[task].logits == pytest.approx(said.logits, abs=1e-5)
        assert answers[task].texts == said.texts


def test_without_a_gate_there_is_no_gate_to_spoil() -> None:
    config = tiny("injector.experts=1", "evaluation.batch_size=8")
    answers = ask_controls(make_model(config), ROWS[:4], config.evaluation, seed=0)
    assert list(answers) == ["blanked"]  # one patient: nobody to shuffle with
