"""The router that is in use, and how another takes its place while requests are under way.

A request is answered by the router that it began with. What the next configuration does not change (backends with their models and
connections, verifiers, probe, caches, budgets, log, feedback) is handed over as it is (`assembly.py`); what only the old one had is
released when its last request has ended. A configuration that cannot be used changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adapters.errors import AdapterError
from difficulty.errors import DifficultyError
from router.assembly import assemble
from router.config import Config
from router.errors import ConfigError, RouterError
from router.keys import NOBODY, Key
from router.lessons import Given, Judged
from router.pipeline import Router
from router.pipeline_types import Ask, ModelCard, Outcome, Sink

log = logging.getLogger("outlay")

FIXED = ("server", "keys", "metrics", "tracing")
"""Sections that are read when the process starts."""


class Live:
    """A pipeline whose router can be replaced; implements `router.pipeline_types.Pipeline`."""

    def __init__(self, config: Config, router: Router | None = None) -> None:
        self.config, self.router = config, router or assemble(config)
        self._started_with = config
        self._under_way: dict[Router, int] = {self.router: 0}
        """Requests by router: the one in use, and those with requests yet to end."""
        self._releasing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    async def use(self, config: Config) -> None:
        """Put another configuration into use, once all of it is built and loaded. Raises ConfigError, and goes on as before."""
        async with self._lock:
            new = await asyncio.to_thread(assemble, config, (self.config, self.router))
            try:
                await new.load()
            except (AdapterError, DifficultyError) as error:
                await new.aclose(keep=self.router.owned())
                raise ConfigError(str(error)) from error
            old, self.config, self.router = self.router, config, new
            self._under_way[new] = 0
            new.online.adopt(new.parts)
            self._release(old)

    def waiting_for_restart(self) -> list[str]:
        """Sections that differ from what the process was started with, and have no effect before it is started again."""
        return [name for name in FIXED if getattr(self.config, name, None) != getattr(self._started_with, name, None)]

    @contextmanager
    def _in_use(self) -> Iterator[Router]:
        router = self.router
        self._under_way[router] += 1
        try:
            yield router
        finally:
            self._under_way[router] -= 1
            self._release(router)

    def _release(self, router: Router) -> None:
        """Let go of what only this router has, if it is no longer in use and its last request has ended."""
        if router is self.router or self._under_way[router]:
            return
        del self._under_way[router]
        kept = [part for other in self._under_way for part in other.owned()]
        task = asyncio.create_task(router.aclose(keep=kept), name="release")
        self._releasing.add(task)
        task.add_done_callback(self._released)

    def _released(self, task: asyncio.Task[None]) -> None:
        self._releasing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what the last configuration had could not be released", exc_info=error)

    # --- the pipeline ---------------------------------------------------------------------------------------------------

    async def answer(self, ask: Ask, sink: Sink | None = None) -> Outcome:
        """By the router in use when the request came, to its end."""
        with self._in_use() as router:
            return await router.answer(ask, sink)

    async def route(self, ask: Ask) -> Mapping[str, Any]:
        """The same without generating."""
        with self._in_use() as router:
            return await router.route(ask)

    async def decision(self, id: str, owner: str = "") -> Mapping[str, Any] | None:
        """A past decision, under whichever configuration it was taken."""
        return await self.router.decision(id, owner)

    async def feedback(self, given: Given) -> Judged:
        """Count what somebody says of an answer that went out."""
        with self._in_use() as router:
            return await router.feedback(given)

    def models(self, key: Key = NOBODY) -> Sequence[ModelCard]:
        """Every name that `Ask.model` may hold now."""
        return self.router.models(key)

    def count_tokens(self, ask: Ask) -> int:
        """By the one in use."""
        return self.router.count_tokens(ask)

    def refused(self, error: RouterError) -> None:
        """Count an error that went out instead of an answer."""
        self.router.refused(error)

    def measured(self) -> bytes:
        """What was counted since the process began, and how everything stands."""
        return self.router.measured()

    async def ready(self) -> Mapping[str, str]:
        """Each component that is in use now."""
        with self._in_use() as router:
            return await router.ready()

    async def load(self) -> None:
        """Load what is loaded at start-up."""
        await self.router.load()

    async def aclose(self) -> None:
        """Release all of it."""
        await asyncio.gather(*self._releasing, return_exceptions=True)
        for router in list(self._under_way):
            await router.aclose()
