"""Work in threads: every item once, a bounded number ahead, the first item's error."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fedkim_core.data import threads
from fedkim_core.data.threads import in_threads


@pytest.fixture(params=[1, 2, 5], autouse=True)
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "cores", lambda: request.param)
    return int(request.param)


def test_every_item_once() -> None:
    done: list[int] = []
    in_threads(done.append, range(200))
    assert sorted(done) == list(range(200))


def test_items_are_made_here_and_not_far_ahead(cores: int) -> None:
    done: list[int] = []
    ahead: list[int] = []

    def items() -> Iterator[int]:
        for item in range(60):
            assert threading.current_thread() is threading.main_thread()
            ahead.append(item - len(done))
            yield item

    def work(item: int) -> None:
        time.sleep(0.001)
        done.append(item)

    in_threads(work, items())
    # Two wait or work per thread, one more is being made; done out of turn counts for the others.
    assert max(ahead) <= 2 * cores + 1


def test_the_first_error_in_the_order_of_the_items() -> None:
    def fail(item: int) -> None:
        time.sleep(0.02 if item == 3 else 0)
        if item >= 3:
            raise ValueError(item)

    with pytest.raises(ValueError, match=r"^3$"):
        in_threads(fail, range(50))


def test_an_error_of_the_items_themselves() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("made up")

    with pytest.raises(KeyError):
        in_threads(lambda item: None, items())


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    in_threads(lambda item: None, range(20))
    assert torch.get_num_threads() == before


def test_cores_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert threads.cores() >= 1
