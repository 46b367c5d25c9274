"""Updates on disk: what comes back, and that memory does not grow with the sites."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.errors import UserError
from fedkim_core.exchange import KnowledgeUpdate
from fedkim_core.vectors import flatten, unflatten
from server_app.spool import Spool

ROOT = Path(__file__).parents[2]
shapes = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50)
@given(shapes)
def test_a_module_is_one_vector_and_back(wanted: dict[str, tuple[int, ...]]) -> None:
    parameters = {name: torch.randn(shape) for name, shape in wanted.items()}
    back = unflatten(flatten(dict(reversed(parameters.items()))), wanted)
    assert back.keys() == parameters.keys()
    for name, value in parameters.items():
        assert torch.equal(back[name], value)


def update(site: str, value: float, *modules: str) -> KnowledgeUpdate:
    arrays = {m: {"w": torch.full((2, 3), value)} for m in modules}
    ones = dict.fromkeys(modules, 1)
    return KnowledgeUpdate(site, arrays, dict.fromkeys(modules, 4), ones, {})


SENT = {m: {"w": torch.zeros(2, 3)} for m in ("a", "b")}


def test_stacks_hold_who_trained_a_module_by_name(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        spool.add(update("north", 3.0, "a", "b"), SENT)
        spool.add(update("east", 1.0, "b"), SENT)
        spool.add(update("gone", 9.0, "a", "b"), SENT)
        spool.discard("gone")
        # A file of its own, whatever was taken out before.
        spool.add(update("west", 5.0, "b"), SENT)
        stacks = dict(spool.stacks())
        assert {m: len(stack) for m, stack in stacks.items()} == {"a": 1, "b": 3}
        assert stacks["b"].read(0, 6)[:, 0].tolist() == [1.0, 3.0, 5.0]
        assert stacks["b"].read(2, 5).shape == (3, 3)
        assert spool.held["north"].norms["a"] == pytest.approx(3.0 * 6**0.5)
    assert not (tmp_path / "spool").exists()


def test_the_folder_goes_when_the_round_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with Spool(tmp_path / "spool") as spool:
            spool.add(update("north", 3.0, "a"), SENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "spool").exists()


def test_an_update_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        (tmp_path / "spool").rmdir()
        with pytest.raises(
            UserError, match=r"0\.safetensors: cannot be written .*make room"
        ) as caught:
            spool.add(update("north", 3.0, "a"), SENT)
        assert "\n" not in str(caught.value)
        assert spool.held == {}


def test_memory_is_the_same_for_two_hundred_sites_as_for_five() -> None:
    """Each update has 4 MB: held in memory, 200 of them would be 800 MB."""

    def peak(sites: int) -> int:
        command = [sys.executable, "benchmarks/memory_of_aggregation.py", "fedkim", str(sites)]
        done = subprocess.run(
            [*command, "1000000"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        found: int = json.loads(done.stdout.splitlines()[-1])["peak_mb"]
        return found

    assert peak(200) <= 1.3 * peak(5)
