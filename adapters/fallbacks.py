"""A backend with others that answer in its place: a chain that is a backend itself.

The others are asked in their order, each once, when the first fails in one of the ways that `fallback_on` names; a stream only while no
client has a word of it, for what was read cannot be taken back. An answer that was filtered or refused is such a failure, and goes out if
nobody has a better one. Where none answers, the first one's error says why.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import cast

from adapters.deployment import blames_us, cause_of
from adapters.errors import BackendError, BackendRefused, BackendWithheld
from adapters.options import FallbackOn
from adapters.types import Attempt, Backend, Call, ChatRequest, Choice, Delta

CODES = {"context_length_exceeded": "context_length", "content_filter": "content_filter", "content_policy_violation": "content_filter"}
TOO_LONG = re.compile(r"maximum context length|context (window|size|length)|prompt is too long|too many (input )?tokens", re.IGNORECASE)
"""What servers say that have no code for it (vLLM, llama.cpp, Anthropic)."""


class Fallbacks:
    """`backend`, and `others` after it; named, priced and featured as the first. The others are closed by whoever made them."""

    def __init__(
        self, backend: Backend, others: Sequence[Backend], on: Collection[FallbackOn], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.price, self.features = backend.name, backend.price, backend.features
        self.backend, self._others, self._on, self._clock = backend, others, on, clock

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """The answer of the first that gives one; where all that there is was withheld, that."""
        first_error: BackendError | None = None
        kept: list[Choice] = []
        for backend in (self.backend, *self._others):
            if first_error is not None and not await self._may(backend, request, call):
                continue
            try:
                with self._part(backend, call) as part:
                    await backend.complete(request, part)
                    self._withhold(part, kept)
                return
            except BackendError as error:
                first_error = first_error or error
                if call.choices or not self._helps(error):
                    break
        assert first_error is not None, "the first backend is asked in any case"
        call.choices += kept
        try:
            if not kept:
                raise first_error
        finally:
            del first_error  # from the frame that the error holds

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, streamed. Where a refusal would be fallen back from, its words wait for its end."""
        first_error: BackendError | None = None
        kept, unsaid = list[Choice](), list[Delta]()
        for backend in (self.backend, *self._others):
            if first_error is not None and not await self._may(backend, request, call):
                continue
            held = _Held(call, refusals="content_filter" in self._on)
            try:
                with self._part(backend, call) as part:
                    part.take_back = held.take_back
                    async with aclosing(cast(AsyncGenerator[Delta], backend.stream(request, part))) as deltas:
                        async for delta in deltas:
                            for free in held.freed_by(delta):
                                yield free
                    if not held.begun:
                        unsaid = unsaid or held.deltas
                        self._withhold(part, kept)
                for delta in held.deltas:
                    yield delta
                return
            except BackendError as error:
                read = not held.take_back()
                first_error = error if read else first_error or error
                if read or call.choices or not self._helps(error):
                    break
        assert first_error is not None, "the first backend is asked in any case"
        call.choices += kept
        try:
            if not kept:
                raise first_error
            for delta in unsaid:
                yield delta
        finally:
            del first_error  # from the frame that the error holds

    def count_tokens(self, request: ChatRequest) -> int:
        """As the first backend counts."""
        return self.backend.count_tokens(request)

    async def aclose(self) -> None:
        """Close the first backend."""
        await self.backend.aclose()

    def state(self) -> str:
        """Of the first backend."""
        return str(getattr(self.backend, "state", lambda: "ok")())

    def states(self) -> dict[str, str]:
        """Of the first backend's deployments."""
        return dict(getattr(self.backend, "states", dict)())

    def _withhold(self, part: Call, kept: list[Choice]) -> None:
        """An answer that was withheld is a failure, if the configuration wants another backend asked then; the first one is kept."""
        if "content_filter" in self._on and part.choices and all(choice.withheld for choice in part.choices):
            kept += [] if kept else part.choices
            part.choices = []
            part.attempts = [replace(one, outcome=BackendWithheld.__name__) if one.outcome == "ok" else one for one in part.attempts]
            raise BackendWithheld(self.name)

    def _helps(self, error: BackendError) -> bool:
        """Whether the configuration wants another backend asked after this error."""
        if error.retryable or blames_us(error):
            return "failure" in self._on
        said = CODES.get(getattr(error, "code", None) or "")
        if said is None and isinstance(error, BackendRefused) and TOO_LONG.search(error.detail):
            said = "context_length"
        return said in self._on

    async def _may(self, backend: Backend, request: ChatRequest, call: Call) -> bool:
        return backend.features.continues_prefix >= request.continue_final and await call.may(backend, 0.0, True)

    @contextmanager
    def _part(self, backend: Backend, call: Call) -> Iterator[Call]:
        """The part of the call that this backend makes, charged to the whole however it ends."""
        part, started, outcome, cause = Call(backend.price, call.scope, may=call.may), self._clock(), "cancelled", ""
        try:
            yield part
            outcome = "ok"
        except BackendError as error:
            outcome, cause = type(error).__name__, cause_of(error)
            raise
        finally:
            if backend is not self.backend:
                used = (part.input_tokens, part.output_tokens, part.cost_usd)
                alone = Attempt(backend.name, "fallback", *used, self._clock() - started, outcome, part.cached_tokens, cause)
                part.attempts = [replace(attempt, kind="fallback") for attempt in part.attempts] or [alone]
            call.charge(part)
            call.choices += part.choices


class _Held:
    """What one backend has streamed. Where a refusal would be fallen back from, it waits for what follows."""

    def __init__(self, call: Call, *, refusals: bool) -> None:
        self._call, self._refusals = call, refusals
        self.begun, self.deltas = False, list[Delta]()

    def freed_by(self, delta: Delta) -> list[Delta]:
        """What may go out, now that this has come."""
        self.deltas.append(delta)
        self.begun = self.begun or delta.says or not self._refusals
        if not self.begun:
            return []
        free, self.deltas = self.deltas, []
        return free

    def take_back(self) -> bool:
        """It has not begun, if no client has a word of it."""
        if self.begun and not self._call.take_back():
            return False
        self.begun, self.deltas = False, []
        return True
