"""What every test gets: fixed seeds, a private cache, reproducible examples of Hypothesis."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("fedkim", deadline=None, derandomize=True, database=None)
settings.load_profile("fedkim")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # a test that needs it not should not wait for it
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test makes ends in the user's cache, nor is it taken from there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FEDKIM_CACHE", str(folder))
        yield folder
