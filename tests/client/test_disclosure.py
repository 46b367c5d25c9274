"""The site's own policy: no number that leaves stands on a few patients."""

import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from client_app import disclosure
from fedkim_core.config import compose
from fedkim_core.data.examples import Example
from fedkim_core.deploy.settings import Egress
from fedkim_core.exchange import KnowledgeUpdate, SiteProfile
from fedkim_core.tasks import load_tasks
from server_app.claims import check_claims

STRATEGY = compose([]).strategy
CARDS = {name: card for name, card in load_tasks().items() if card.role == "train"}
MODALITIES = sorted({m for card in CARDS.values() for m in card.encoded})


@st.composite
def patients(draw: st.DrawFn) -> list[Example]:
    """Examples of up to forty patients for each trained task, who lack some modalities."""
    examples = []
    for task, card in CARDS.items():
        for i in range(draw(st.integers(0, 40))):
            has = draw(st.lists(st.sampled_from(sorted(card.encoded)), min_size=1, unique=True))
            examples.append(
                Example(
                    f"{task}-{i}",
                    f"p{draw(st.integers(0, 30))}",
                    task,
                    "?",
                    "yes",
                    features={name: torch.zeros(1) for name in has},
                )
            )
    return examples


def told(examples: list[Example], policy: Egress) -> tuple[SiteProfile, KnowledgeUpdate]:
    """Profile and update as the client's handlers make them, of examples that were admitted."""
    by_task = {t: sum(e.task == t for e in examples) for t in {e.task for e in examples}}
    present = {m for e in examples for m in e.features}
    used = {f"head.{task}": n for task, n in by_task.items()}
    used |= {f"encoder.{m}": sum(m in e.features for e in examples) for m in present}
    arrays = {module: {"w": torch.zeros(2)} for module in used}
    metrics = {f"loss.{t}": 0.5 for t in by_task} | {f"examples.{t}": n for t, n in by_task.items()}
    batches = STRATEGY.local_epochs * math.ceil(len(examples) / STRATEGY.batch_size)
    steps = dict.fromkeys(used, batches)  # as many as there can be
    profile = SiteProfile("site", by_task, tuple(sorted(present)))
    update = KnowledgeUpdate("site", arrays, used, steps, metrics, dict(arrays))
    return (
        disclosure.limit_profile(profile, examples, policy),
        disclosure.limit_update(update, examples, policy, STRATEGY, CARDS),
    )


def standing_on(module: str, examples: list[Example]) -> int:
    """Patients behind a module, counted without the code under test."""
    kind, name = module.split(".")
    rows = {
        "head": [e for e in examples if e.task == name],
        "encoder": [e for e in examples if name in e.features],
    }[kind]
    return len({e.patient_id for e in rows})


@given(patients(), st.sampled_from([1, 2, 10]))
def test_no_small_cell_leaves(everyone: list[Example], smallest: int) -> None:
    policy = Egress(smallest=smallest)
    examples = disclosure.admitted(everyone, policy)
    profile, update = told(examples, policy)
    for task, count in profile.examples.items():
        assert standing_on(f"head.{task}", everyone) >= smallest
        assert count >= smallest
    for modality in profile.modalities:
        assert standing_on(f"encoder.{modality}", examples) >= smallest
    for module, count in update.examples.items():
        assert standing_on(module, examples) >= smallest
        assert count >= smallest
    for named in (update.arrays, update.steps, update.variates or {}):
        assert named.keys() == update.examples.keys()
    counts = [*profile.examples.values(), *update.examples.values()]
    counts += [int(v) for k, v in update.metrics.items() if k.startswith("examples.")]
    # So are sums and differences, whatever is subtracted from what.
    assert all(count % smallest == 0 for count in counts)


@given(patients())
def test_the_server_believes_rounded_counts(everyone: list[Example]) -> None:
    policy = Egress()
    profile, update = told(disclosure.admitted(everyone, policy), policy)
    if update.arrays:
        check_claims(replace(update, variates=None), profile, STRATEGY, CARDS)


@given(patients())
def test_a_policy_of_one_changes_nothing(everyone: list[Example]) -> None:
    """What a simulation sends is not touched."""
    policy = Egress(smallest=1)
    assert disclosure.admitted(everyone, policy) == everyone
    _, update = told(everyone, policy)
    batches = STRATEGY.local_epochs * math.ceil(len(everyone) / STRATEGY.batch_size)
    assert set(update.steps.values()) <= {batches}
    assert update.examples == {
        module: count
        for module, count in (
            *((f"head.{t}", sum(e.task == t for e in everyone)) for t in CARDS),
            *((f"encoder.{m}", sum(m in e.features for e in everyone)) for m in MODALITIES),
        )
        if count
    }
