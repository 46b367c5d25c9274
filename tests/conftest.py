"""What every test gets: fixed seeds, a private cache, reproducible examples of Hypothesis."""

import gc
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings

settings.register_profile("fedkim", deadline=None, derandomize=True, database=None)
settings.load_profile("fedkim")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as a federation often waits; each takes memory."""
    return min((os.cpu_count() or 1) + 1, 4)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, whole federations take turns: each has a process per site.

    They begin at once, so that they are not what everybody waits for at the end. The other tests
    of a file stay together, so that what they share is made once; large files come first.
    """
    sizes = Counter(item.path for item in items)
    for item in items:
        group = "federation" if item.get_closest_marker("e2e") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (item.get_closest_marker("e2e") is None, -sizes[item.path]))


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # a test that needs it not should not wait for it
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _flower_task() -> None:
    """Flower asks the process which task it runs whenever a server makes a message."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test makes ends in the user's cache, nor is it taken from there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FEDKIM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small synthetic hospitals and the server's sets; a test that changes them copies them.

    By name: the first has images only, the second and third all modalities.
    """
    from fedkim_core.data.simulate import simulate_network

    root = tmp_path_factory.mktemp("network") / "hospitals"
    simulate_network(
        root,
        seed=3,
        sites=3,
        patients=24,
        public_patients=24,
        validation_patients=16,
        test_patients=24,
    )
    return root
