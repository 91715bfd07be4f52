"""An answer on its way to a client: deltas as they come, or the winner once it is known; and the end of all work when the client leaves.

Nothing here knows what an answer costs or how it is made; `render.py` knows what the events look like.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adapters.types import Delta
from router.apis import Api
from router.errors import RouterError
from router.pipeline_types import Ask, Outcome, Pipeline
from router.render import Chunks

T = TypeVar("T")

TURNS = 3
"""Of the loop, for which the first words wait: where the connection that brought them broke with them, that is known by then."""


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in this task; it is cancelled when the client goes (ClientGone) or when the caller is cancelled itself."""
    here, watch = asyncio.current_task(), asyncio.ensure_future(_disconnect(receive))
    assert here is not None, "work is awaited in a task"
    left = False

    def leave(watch: asyncio.Future[None]) -> None:
        nonlocal left
        if not watch.cancelled():
            left = here.cancel()

    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and here.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, as the last that this task does. That it was cancelled and nobody cancelled the task is a fault like any other:
    to pass it on as a cancellation would end the request without a word."""
    here = asyncio.current_task()
    assert here is not None, "work is awaited in a task"
    try:
        return await work
    except asyncio.CancelledError as error:
        if here.cancelling():
            raise
        raise RuntimeError("the work was cancelled, and nobody asked for it") from error


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel it if it still runs, and wait until it has cleaned up."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


class LiveAnswer:
    """The pipeline at work for one stream, and the sink of its words: those that no client was sent can be taken back.

    The queue of deltas has no bound: an answer is no larger than its `max_tokens`, and a slow reader must not hold up a backend.
    """

    def __init__(self, pipeline: Pipeline, ask: Ask) -> None:
        self._news: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._some_news = asyncio.Event()
        self._sent: dict[int, str] = {}
        self._live: set[int] = set()
        self._task = asyncio.ensure_future(unbroken(pipeline.answer(ask, self)))
        self._task.add_done_callback(lambda _: self._tell(None))

    async def __call__(self, delta: Delta) -> None:
        """One more delta for the client."""
        self._tell(delta)

    def take_back(self) -> bool:
        """Forget the words, if the client was sent none; comments stay. Whether it was sent none."""
        if self._live:
            return False
        for news in [self._news.get_nowait() for _ in range(self._news.qsize())]:
            if news is None or news.comment:
                self._news.put_nowait(news)
        return True

    def _tell(self, news: Delta | None) -> None:
        self._news.put_nowait(news)
        self._some_news.set()

    async def first_news(self, within_s: float) -> Outcome | None:
        """Wait for the first delta, for the end, or for so long. The outcome, if it is there by then; raises what the pipeline raised."""
        await self._more_within(within_s)
        return self._task.result() if self._task.done() else None

    async def batches(self, chunks: Chunks, keep_alive_s: float) -> AsyncIterator[list[dict[str, Any]] | str]:
        """The stream, from the role to the outcome; comments between, and while there is no news. Raises what the pipeline raises."""
        yield self._begin(chunks, 0)
        while True:
            if self._news.empty() and not await self._more_within(keep_alive_s):
                yield "working"
                continue
            batch: list[dict[str, Any]] = []
            while not self._news.empty():  # what came at once goes out at once
                if (delta := self._news.get_nowait()) is None:
                    yield [*batch, *self._rest(chunks, self._task.result())]
                    return
                if delta.comment:
                    if batch:
                        yield batch
                    yield delta.comment
                    batch = []
                if delta.text or delta.fields or delta.logprobs:
                    batch += [*self._begin(chunks, delta.index), chunks.delta(delta)]
                    self._sent[delta.index] += delta.text
                    self._live.add(delta.index)
            if batch:
                yield batch

    async def _more_within(self, seconds: float) -> bool:
        """Wait for news; for others, where the first words were taken back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._news.empty():
                    self._some_news.clear()
                    await self._some_news.wait()
                    for _ in range(0 if self._live else TURNS):
                        await asyncio.sleep(0)
        return not self._news.empty()

    def result(self) -> Outcome:
        """The outcome, after the last event."""
        return self._task.result()

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await _cancel(self._task)
        if not self._task.cancelled():
            self._task.exception()  # Looked at, so that asyncio does not report it a second time.

    def _begin(self, chunks: Chunks, index: int) -> list[dict[str, Any]]:
        """The role of a choice, before its first delta; nothing once it was sent."""
        if index in self._sent:
            return []
        self._sent[index] = ""
        return [chunks.role(index)]

    def _rest(self, chunks: Chunks, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """What of the outcome the client does not have yet: all of it, unless it was streamed live."""
        for index, candidate in enumerate(outcome.candidates):
            yield from self._begin(chunks, index)
            sent, text = self._sent[index], candidate.text
            if not text.startswith(sent):
                raise RouterError("the answer changed after a part of it was sent; ask again", code="stream_broken")
            yield from chunks.words(index, text[len(sent) :])
            if index not in self._live:
                yield from chunks.beside_text(index, candidate.choice)
        yield from chunks.end(outcome)


class EventStream(Response):
    """Server-sent events of a live answer. An error in the middle is an event of its own; the work ends with the connection."""

    media_type = "text/event-stream"

    def __init__(
        self,
        live: LiveAnswer,
        events: AsyncIterator[bytes],
        headers: Mapping[str, str],
        api: Api,
        *,
        to_error: Callable[[Exception], RouterError],
        on_end: Callable[[Outcome | None], None],
    ) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self._live, self._events, self._api, self._to_error, self._on_end = live, events, api, to_error, on_end
        # Without the last two a proxy may hold events back until the stream is over.
        self.raw_headers = [
            (name.encode(), value.encode("latin-1"))
            for name, value in {**headers, "content-type": self.media_type, "cache-control": "no-store", "x-accel-buffering": "no"}.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop as soon as the client is gone."""
        try:
            await unless_gone(receive, self._send(send))
        except ClientGone:
            self._on_end(None)
        finally:
            await self._live.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self._events:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._on_end(self._live.result())
        except Exception as error:
            await send({"type": "http.response.body", "body": self._api.broken(self._to_error(error)), "more_body": True})
        await send({"type": "http.response.body", "body": self._api.end, "more_body": False})
