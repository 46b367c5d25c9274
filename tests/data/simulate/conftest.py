"""Patients whose conditions a test chooses."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from fedkim_core.data.simulate.hospitals import PROFILES, one_hospital
from fedkim_core.data.simulate.patients import Patients, draw_patients

Well = Callable[..., Patients]
SEVERITIES = (
    *("heart_failure", "hypertrophy", "infarct", "ischaemia", "wide_mediastinum", "pneumonia"),
    *("covid", "effusion", "effusion_right", "effusion_left", "atelectasis", "sepsis", "shock"),
    *("renal", "respiratory", "neuro", "liver"),
)


@pytest.fixture
def well() -> Well:
    """``well(n, hospital=0, **conditions)``: n healthy patients but for the conditions given."""

    def make(n: int, hospital: int = 0, **conditions: Any) -> Patients:
        drawn = draw_patients(one_hospital(PROFILES[hospital], n), np.random.default_rng(1))
        none = {name: np.zeros(n) for name in SEVERITIES}
        none |= {
            f.name: np.zeros_like(getattr(drawn, f.name))
            for f in fields(drawn)
            if getattr(drawn, f.name) is not drawn.origin
            and getattr(drawn, f.name).dtype in (np.bool_, np.int64)
        }
        none |= {"heart_ratio": np.full(n, 0.45), "stay": np.full(n, 100), "age": np.full(n, 60.0)}
        given = {
            name: np.broadcast_to(np.asarray(value, none.get(name, np.zeros(0)).dtype), (n,)).copy()
            for name, value in conditions.items()
        }
        return replace(drawn, **{**none, **given})

    return make
