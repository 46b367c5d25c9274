"""Every patient has exactly one place, and the places are what was asked for."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.data.partition import (
    FRACTIONS,
    partition_patients,
    site_names,
    split_patients,
)
from fedkim_core.errors import UserError

SERVER = ("public", "validation", "test")


def cohort(counts: dict[str, int]) -> dict[str, str]:
    return {f"{label}{i}": label for label, count in counts.items() for i in range(count)}


cohorts = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 60), min_size=1).map(cohort)


@settings(max_examples=200, deadline=None)
@given(
    patients=cohorts,
    sites=st.integers(1, 12),
    seed=st.integers(0, 2**31 - 1),
    by=st.sampled_from(["iid", "natural", "column:ward"])
    | st.floats(1e-3, 100).map("dirichlet:{}".format),
)
def test_every_patient_exactly_once(
    patients: dict[str, str], sites: int, seed: int, by: str
) -> None:
    column = {patient: f"h{len(patient)}{patient[-1]}" for patient in patients}
    settings = {"sites": sites, "seed": seed, "by": by, "column": column}
    splits = split_patients(patients, fractions=FRACTIONS, seed=seed)
    owned = [patient for patient, split in splits.items() if split == "sites"]
    groups = {column[p] for p in owned} if by in ("natural", "column:ward") else set(owned)
    if len(groups) < sites:
        with pytest.raises(UserError, match=f"^sites={sites}: "):
            partition_patients(patients, **settings)
        return
    places = partition_patients(patients, **settings)
    assert places.keys() == patients.keys()
    assert set(places.values()) <= {*site_names(sites), *SERVER}
    assert set(site_names(sites)) <= set(places.values())
    backwards = dict(reversed(patients.items()))
    assert partition_patients(backwards, **settings) == places


@settings(max_examples=100, deadline=None)
@given(patients=cohorts, seed=st.integers(0, 1000))
def test_splits_keep_the_fractions_in_every_stratum_and_in_all(
    patients: dict[str, str], seed: int
) -> None:
    splits = split_patients(patients, fractions=FRACTIONS, seed=seed)
    strata = Counter(patients.values())
    for label, size in strata.items():
        counts = Counter(splits[p] for p, own in patients.items() if own == label)
        for place, fraction in FRACTIONS.items():
            assert abs(counts[place] - size * fraction) < 3
            assert counts[place] >= 1 or size < len(FRACTIONS)
    counts = Counter(splits.values())
    for place, fraction in FRACTIONS.items():  # each stratum gives every place at least one
        assert abs(counts[place] - len(patients) * fraction) <= 1 + 2 * len(strata)


def test_totals_keep_the_fractions_when_every_stratum_is_tiny() -> None:
    patients = {f"p{i}": i // 2 for i in range(400)}
    counts = Counter(split_patients(patients, fractions=FRACTIONS, seed=0).values())
    assert counts == {"sites": 280, "public": 40, "validation": 40, "test": 40}


@pytest.mark.parametrize("seed", range(5))
def test_small_cohort_has_both_answers_everywhere(seed: int) -> None:
    patients = cohort({"healthy": 60, "ill": 9})
    places = partition_patients(patients, sites=3, seed=seed)
    for label in ("healthy", "ill"):
        held = {places[p] for p, own in patients.items() if own == label}
        assert held == {*site_names(3), *SERVER}


def test_iid_sites_are_alike_and_of_one_size() -> None:
    patients = cohort({"healthy": 700, "ill": 300})
    places = partition_patients(patients, sites=7, seed=1)
    sizes = Counter(places.values())
    assert [sizes[name] for name in site_names(7)] == [100] * 7
    ill = Counter(places[p] for p, own in patients.items() if own == "ill")
    assert [ill[name] for name in site_names(7)] == [30] * 7


def prevalences(alpha: float) -> np.ndarray:
    patients = cohort({"healthy": 2000, "ill": 2000})
    rates = []
    for seed in range(5):
        places = partition_patients(patients, sites=5, seed=seed, by=f"dirichlet:{alpha}")
        sizes = Counter(places.values())
        ill = Counter(places[p] for p, own in patients.items() if own == "ill")
        rates += [ill[name] / sizes[name] for name in site_names(5)]
    return np.array(rates)


def test_dirichlet_sites_differ_the_more_the_smaller_alpha() -> None:
    spread = [prevalences(alpha).std() for alpha in (0.1, 1.0, 1000.0)]
    assert spread[0] > 0.3 > spread[1] > 0.1 > 0.03 > spread[2]


def test_dirichlet_leaves_the_server_sets_stratified() -> None:
    patients = cohort({"healthy": 700, "ill": 300})
    iid = partition_patients(patients, sites=4, seed=3)
    skewed = partition_patients(patients, sites=4, seed=3, by="dirichlet:0.1")
    for place in SERVER:
        assert {p for p in iid if iid[p] == place} == {p for p in skewed if skewed[p] == place}


def test_column_keeps_its_values_together_and_balances_sites() -> None:
    patients = cohort({"healthy": 300, "ill": 100})
    column = {p: f"ward-{i % 8}" for i, p in enumerate(patients)}
    places = partition_patients(patients, sites=4, seed=0, by="column:hospital", column=column)
    owners: dict[str, set[str]] = {}
    for patient, place in places.items():
        if place not in SERVER:
            owners.setdefault(column[patient], set()).add(place)
    assert all(len(sites) == 1 for sites in owners.values())
    sizes = Counter(places.values())
    assert max(sizes[n] for n in site_names(4)) - min(sizes[n] for n in site_names(4)) < 30


def test_seed_matters() -> None:
    patients = cohort({"healthy": 50, "ill": 50})
    assert partition_patients(patients, sites=2, seed=0) != partition_patients(
        patients, sites=2, seed=1
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sites": 0}, "sites=0: must be at least 1"),
        ({"sites": 99}, "sites=99: only 14 patients to divide among them"),
        ({"by": "dirichlet:0"}, "by=dirichlet:0: write dirichlet:ALPHA with a number above 0"),
        ({"by": "dirichlet:nan"}, "by=dirichlet:nan: write dirichlet:ALPHA"),
        ({"by": "column:ward"}, "by=column:ward: the data name no hospital"),
        ({"by": "natural", "column": dict.fromkeys(cohort({"a": 20}), "x")}, "only 1 different"),
        ({"fractions": {"sites": 0.5}}, "must be 0 or more and add up to 1"),
        ({"fractions": {"sites": 1.5, "test": -0.5}}, "must be 0 or more and add up to 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        partition_patients(cohort({"a": 20}), **({"sites": 2, "seed": 0} | settings))
