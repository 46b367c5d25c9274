"""Batches: absent modalities stay absent, every example once, cards decide what is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.examples import Example, batches, collate
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks
from tests.patients import example

TASKS = load_tasks()
TABLES = frozenset(n for n, card in load_modalities().items() if card.kind == "table")
MODALITIES = ("image", "signal", "vitals")


def patient(number: int, names: tuple[str, ...], hours: int = 3) -> Example:
    shapes = {"image": (1, 4, 4), "signal": (2, 5), "vitals": (hours, 2)}
    features = {name: torch.full(shapes[name], float(number)) for name in names}
    return Example(f"e{number}", f"p{number}", "covid19", "?", "yes", None, features)


subsets = st.lists(st.sets(st.sampled_from(MODALITIES)), min_size=1, max_size=12)


@settings(max_examples=80)
@given(subsets, st.integers(1, 13))
def test_a_batch_holds_what_each_patient_has_and_no_more(sets, size) -> None:
    rows = [patient(i, tuple(sorted(names))) for i, names in enumerate(sets)]
    seen: list[str] = []
    for batch in batches(rows, size):
        own = rows[len(seen) : len(seen) + len(batch)]
        assert batch.example_ids == tuple(e.example_id for e in own)
        for name in MODALITIES:
            having = [i for i, e in enumerate(own) if name in e.features]
            assert (name in batch.features) == bool(having)
            if having:
                features = batch.features[name]
                assert features.rows.tolist() == having
                values = features.values[features.source]
                for value, i in zip(values, having, strict=True):
                    assert torch.equal(value, own[i].features[name])
        seen += batch.example_ids
    assert seen == [e.example_id for e in rows]


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 9))
def test_shuffled_every_example_comes_once(count: int, size: int, seed: int) -> None:
    rows = [patient(i, ("signal",)) for i in range(count)]

    def order() -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [name for batch in batches(rows, size, generator) for name in batch.example_ids]

    assert sorted(order()) == sorted(e.example_id for e in rows)
    assert order() == order()


def test_what_examples_share_is_in_the_batch_once() -> None:
    one, two = example("mortality", 1, hours=24), example("sepsis", 2, hours=24)
    # As read from a site folder: a view of the same table, cut to another number of hours.
    labs = {"labs": one.features["labs"]}
    shared = Example("e", "p", "sepsis", "?", "yes", None, labs)
    cut = Example("e", "p", "sepsis", "?", "yes", None, {"labs": labs["labs"][:7]})
    features = collate([one, two, shared, cut]).features["labs"]
    assert features.source.tolist() == [0, 1, 0, 2]
    values = features.values[features.source]
    assert values.shape[:2] == (4, 24)
    assert torch.equal(values[0].nan_to_num(-1), values[2].nan_to_num(-1))
    assert torch.equal(values[3, :7].nan_to_num(-1), labs["labs"][:7].nan_to_num(-1))
    assert values[3, 7:].isnan().all()


def test_examples_of_a_patient_stay_together_when_shuffled() -> None:
    rows = [
        Example(f"{i}", f"p{i % 5}", "covid19", "?", "yes", None, patient(i, ("signal",)).features)
        for i in range(20)
    ]
    (batch,) = batches(rows, 20, torch.Generator().manual_seed(1))
    runs = [p for i, p in enumerate(batch.patient_ids) if i == 0 or batch.patient_ids[i - 1] != p]
    assert sorted(runs) == [f"p{i}" for i in range(5)]
    assert runs != sorted(runs)


def test_shorter_tables_are_padded_with_nothing_observed() -> None:
    batch = collate([patient(1, ("vitals",), hours=2), patient(2, ("vitals",), hours=5)])
    values = batch.features["vitals"].values
    assert values.shape == (2, 5, 2)
    assert values[0].isnan().tolist() == [[False] * 2] * 2 + [[True] * 2] * 3
    assert not values[1].isnan().any()


def test_labels_are_one_zero_or_nothing() -> None:
    rows = [example("covid19", 1), example("covid19", 2), example("med_vqa_rad", 1)]
    labels = collate(rows).labels
    assert labels[:2].tolist() == [1.0, 0.0]
    assert labels[2].isnan()


def test_no_examples_no_batch() -> None:
    assert list(batches([], 4)) == []
    with pytest.raises(ValueError, match="no examples"):
        collate([])
