"""How many answers are under way at once, and how they end when the process is told to stop.

Past `server.max_requests` a request is turned away before its body is read, with 503 and `Retry-After`. A server that is told to stop
turns all new ones away and says so in /ready; what is under way has `server.drain_s` to finish. What has not finished by then is cancelled,
paid for what it produced, and told so: with 503, or by an error event that ends its stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router import render
from router.apis import api_of
from router.errors import HeadersTooLarge, Overloaded, RouterError

COME_BACK_S = 1.0
GOING = "this server is shutting down; ask again, and another one will answer"


class Gate:
    """Who is inside, and whether anybody may still come in."""

    def __init__(self, max_requests: int, max_header_kb: int) -> None:
        self.max_header_kb = max_header_kb
        self.going = self.cancelling = False
        self._max_requests = max_requests
        self._inside: set[asyncio.Task[Any]] = set()

    def refusal(self) -> Overloaded | None:
        """Why nobody may come in now; None if somebody may."""
        if self.going:
            return Overloaded(GOING, retry_after_s=COME_BACK_S)
        if len(self._inside) >= self._max_requests:
            message = f"{self._max_requests} requests are under way, the limit of this server (server.max_requests)"
            return Overloaded(message, retry_after_s=COME_BACK_S)
        return None

    def enter(self, task: asyncio.Task[Any]) -> None:
        """A request is worked on by this task."""
        self._inside.add(task)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """It is over."""
        self._inside.discard(task)

    async def drained(self, within_s: float) -> None:
        """Wait until nobody is inside; whoever is after so many seconds is cancelled."""
        self.going = True
        if self._inside:
            await asyncio.wait(self._inside, timeout=within_s)
        self.cancel()
        if self._inside:
            await asyncio.wait(self._inside)

    def cancel(self) -> None:
        """End all that is under way."""
        self.cancelling = True
        for task in self._inside:
            task.cancel()


class Gated:
    """`app` behind a gate. Only POST is counted: what is asked for by GET costs nothing, and tells how the server is."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, let in, turned away, or cancelled with a word."""
        error: RouterError | None
        if scope["type"] == "http" and (error := self._heavy(scope)) is not None:
            await (await _response(error, scope))(scope, receive, send)
        elif scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif (error := self._gate.refusal()) is not None:
            await (await _response(error, scope))(scope, receive, send)
        else:
            await self._inside(scope, receive, send)

    def _heavy(self, scope: Scope) -> RouterError | None:
        if sum([len(name) + len(value) for name, value in scope["headers"]]) <= self._gate.max_header_kb << 10:
            return None
        return HeadersTooLarge(f"the headers are over {self._gate.max_header_kb} KB, the limit of this server (server.max_header_kb)")

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, sent = asyncio.current_task(), list[Message]()
        assert task is not None, "every request has a task"

        def sending(message: Message) -> Awaitable[None]:
            sent[1:] = [message]
            return send(message)

        self._gate.enter(task)
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if not self._gate.cancelling:
                raise
            task.uncancel()
            await _tell(sent, scope, receive, send)
        finally:
            self._gate.leave(task)


async def _tell(sent: list[Message], scope: Scope, receive: Receive, send: Send) -> None:
    """What a client hears whose request is cut off; nothing where it has heard the end. Of what was sent, the first and the last count."""
    error = Overloaded(GOING, retry_after_s=COME_BACK_S)
    if not sent:
        await (await _response(error, scope))(scope, receive, send)
    elif (b"content-type", b"text/event-stream") in sent[0]["headers"] and (len(sent) == 1 or sent[-1].get("more_body")):
        api = await api_of(scope["path"])
        await send({"type": "http.response.body", "body": api.broken(error) + api.end, "more_body": False})


async def _response(error: RouterError, scope: Scope) -> Response:
    api = await api_of(scope["path"])
    headers = {**render.error_headers(error), "connection": "close"}
    return Response(render.dumps(api.error(error)), error.status, headers, "application/json")
