"""Questions that arrive together are answered together, by the one thread that owns the model."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedkim_core.ask import Reply
from fedkim_core.data.examples import Example

Answer = Callable[[Sequence[Example]], list[Reply]]
_Waiting = tuple[Example, "asyncio.Future[Reply]"]


class Busy(Exception):
    """More questions wait than may."""


class Batcher:
    """Collects questions while the model is at work, then asks them in one batch.

    Args:
        answer: called by one thread only, as the gate of the batch at hand is state of the model.
        most: questions in a batch.
        waiting: questions that may wait.
    """

    def __init__(self, answer: Answer, *, most: int, waiting: int) -> None:
        self._answer, self._most = answer, most
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def ask(self, example: Example) -> Reply:
        """The answer to one question.

        Raises:
            Busy: too many wait.
            Exception: whatever the model raised on this question.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((example, future))
        except asyncio.QueueFull as error:
            raise Busy from error
        return await future

    async def run(self) -> None:
        """Answer for ever; cancel it to end."""
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < self._most and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._serve([one for one in batch if not one[1].done()])
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        examples = [example for example, _ in batch]
        try:
            replies = await loop.run_in_executor(self._thread, self._answer, examples)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            for one in batch:  # the others are not to pay for one question
                await self._serve([one])
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            _settle(future, reply)


def _settle(future: "asyncio.Future[Reply]", outcome: Reply | Exception) -> None:
    """Whoever asked may have given up meanwhile."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
