"""Questions that arrive together share a batch, and only that."""

import asyncio
import threading
from collections.abc import Coroutine

import pytest

from fedkim_core.ask import Reply
from fedkim_core.data.examples import Example
from fedkim_core.serve.batcher import Batcher, Busy


def question(name: str) -> Example:
    return Example(name, "p", "covid19", name, "")


def reply(example: Example) -> Reply:
    return Reply(example.task, example.question, "yes", 0.5, [], [], "", [])


class Model:
    """Answers with the question itself; notes the size of every batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.go = threading.Event()

    def __call__(self, examples: list[Example]) -> list[Reply]:
        self.go.wait(10)
        self.sizes.append(len(examples))
        self.threads.add(threading.get_ident())
        if any(example.question == "bad" for example in examples):
            raise ValueError("bad")
        return [reply(example) for example in examples]


def run(main: Coroutine) -> object:
    return asyncio.run(asyncio.wait_for(main, 20))


def test_what_waits_is_answered_together_by_one_thread() -> None:
    model = Model()

    async def main() -> list[Reply]:
        batcher = Batcher(model, most=8, waiting=64)
        worker = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.ask(question("0")))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.ask(question(str(i)))) for i in range(1, 12)]
        await asyncio.sleep(0)
        model.go.set()
        replies = await asyncio.gather(first, *others)
        worker.cancel()
        return replies

    assert [one.question for one in run(main())] == [str(i) for i in range(12)]
    assert model.sizes == [1, 8, 3]
    assert len(model.threads) == 1


def test_one_bad_question_fails_alone() -> None:
    model = Model()

    async def main() -> list[object]:
        batcher = Batcher(model, most=8, waiting=64)
        asked = [asyncio.create_task(batcher.ask(question(q))) for q in ("a", "bad", "b")]
        await asyncio.sleep(0)
        model.go.set()
        worker = asyncio.create_task(batcher.run())
        replies = await asyncio.gather(*asked, return_exceptions=True)
        worker.cancel()
        return replies

    first, bad, last = run(main())
    assert (first.question, last.question) == ("a", "b")
    assert isinstance(bad, ValueError)


def test_too_many_are_turned_away_and_who_left_is_forgotten() -> None:
    model = Model()
    model.go.set()

    async def main() -> Reply:
        batcher = Batcher(model, most=8, waiting=2)
        gone = asyncio.create_task(batcher.ask(question("gone")))
        here = asyncio.create_task(batcher.ask(question("here")))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await batcher.ask(question("late"))
        gone.cancel()
        await asyncio.sleep(0)
        worker = asyncio.create_task(batcher.run())
        answer = await here
        worker.cancel()
        return answer

    assert run(main()).question == "here"
    assert model.sizes == [1]
