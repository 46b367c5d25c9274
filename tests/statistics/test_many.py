"""Holm's correction against its step-down rule; the spread over seeds against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.statistics.multiple import holm
from fedkim_core.statistics.seeds import over_seeds

values = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=12)


@given(values, st.floats(0.001, 0.999))
def test_holm_rejects_what_its_step_down_rule_rejects(p, level) -> None:
    adjusted = holm(p)
    assert adjusted.keys() == p.keys()
    rejected = set()
    for place, name in enumerate(sorted(p, key=p.get)):
        if p[name] * (len(p) - place) > level:
            break
        rejected.add(name)
    assert {name for name in p if adjusted[name] <= level} == rejected
    for name, value in p.items():
        assert value <= adjusted[name] <= min(1, len(p) * value) + 1e-12


def test_seeds_and_sampling_are_kept_apart() -> None:
    """Runs that differ by luck of the seed alone, and by luck of the patients alone."""
    rng = np.random.default_rng(0)
    patients = rng.normal(scale=0.03, size=2000)
    luck = rng.normal(scale=0.05, size=(8, 1))
    spread = over_seeds(0.8 + luck[:, 0], 0.8 + luck + patients)
    assert spread["seeds"] == 8
    assert spread["mean"] == pytest.approx(0.8 + luck.mean())
    assert spread["seed_sd"] == pytest.approx(luck.std(ddof=1))
    # The runs share their patients, so eight of them are no surer than one.
    assert spread["sampling_se"] == pytest.approx(0.03, rel=0.05)
    independent = over_seeds(np.full(8, 0.8), 0.8 + rng.normal(scale=0.03, size=(8, 2000)))
    assert independent["sampling_se"] == pytest.approx(0.03 / np.sqrt(8), rel=0.05)
    assert independent["seed_sd"] == 0


def test_one_seed_has_no_spread_and_no_draws_no_error() -> None:
    one = over_seeds(np.array([0.7]), np.array([[0.6, 0.8, np.nan]]))
    assert one["seed_sd"] is None
    assert one["sampling_se"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert over_seeds(np.array([0.7, 0.8]), np.empty((2, 0)))["sampling_se"] is None
    with pytest.raises(ValueError, match="over_seeds"):
        over_seeds(np.array([0.7]), np.empty((2, 0)))
