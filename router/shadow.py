"""Shadow calls: on a share of the traffic another backend answers too, after the answer has gone out, and the policy's verifier compares.

One call at a time, out of a purse of its own for each hour; what finds the queue full or the purse empty is skipped and counted. The
client pays for none of it and waits for none of it. What comes out is an event; nothing of it is ever an answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from adapters.errors import BackendError
from adapters.types import ChatRequest, Choice
from router.candidates import Candidate
from router.events import ShadowEvent
from router.job import Job
from router.options import ShadowOptions
from router.parts import Parts
from router.pipeline_types import Outcome
from router.run import Limits, OutOfBudget, Run, Scored

log = logging.getLogger("outlay")

QUEUE = 32
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Task:
    id: str
    key: str
    request: ChatRequest
    answer: Candidate
    verifier: str | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A shadow call that ended, with the calibrated scores of both answers where they were scored."""

    event: ShadowEvent
    answered: float | None = None
    shadow: float | None = None


class Shadow:
    """Second opinions. `after_s` lets the answer reach its client before the machine is used for anything else."""

    def __init__(
        self,
        options: ShadowOptions,
        parts: Parts,
        tell: Callable[[Compared], None],
        *,
        dice: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        after_s: float = 1.0,
    ) -> None:
        self._options, self._parts, self._tell, self._dice, self._clock, self._after_s = options, parts, tell, dice, clock, after_s
        self._queue: asyncio.Queue[_Task] = asyncio.Queue(QUEUE)
        self._worker: asyncio.Task[None] | None = None
        self._hour, self._spent_usd, self._closed = 0, 0.0, False
        self.counts: Counter[str] = Counter()
        """Calls that were `called`, `failed`, `skipped` for want of money or `crowded` out."""
        self.total_usd = 0.0

    def serve(self, parts: Parts, tell: Callable[[Compared], None]) -> None:
        """Go on with other parts, with the queue and the purse that there are, and tell somebody else."""
        self._parts, self._tell = parts, tell

    def offer(self, job: Job, outcome: Outcome) -> None:
        """Perhaps ask the shadow what it would have said. Returns at once."""
        if self._dice() >= self._options.share:
            return
        verifiers = [plan.verifier for plan in job.policy.all_plans if plan.verifier]
        verifier = verifiers[0] if verifiers else None
        task = _Task(outcome.id, job.ask.purse.owner, job.request.but(n=1), outcome.candidates[0], verifier)
        try:
            self._queue.put_nowait(task)
        except asyncio.QueueFull:
            self.counts["crowded"] += 1
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="shadow")

    @property
    def waiting(self) -> int:
        """Calls yet to be made."""
        return self._queue.qsize()

    async def aclose(self) -> None:
        """Cancel what is under way; it is logged with what it cost until then."""
        self._closed = True  # for whatever takes the cancellation for its own
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        while not self._closed:
            task = await self._queue.get()
            await asyncio.sleep(self._after_s)
            try:
                await self._call(task)
            except Exception:  # a failure here must not end second opinions, nor concern anybody's request
                log.exception("shadow of %s failed", task.id)
                self.counts["failed"] += 1

    async def _call(self, task: _Task) -> None:
        run = self._run()
        scores, error = (Scored(), Scored()), "cancelled"
        try:
            scores, error = await self._compare(task, run), ""
        except (BackendError, OutOfBudget) as failure:
            error = f"{failure.cause} limit" if isinstance(failure, OutOfBudget) else type(failure).__name__
        finally:
            self._spent_usd += run.spent_usd
            self.total_usd += run.spent_usd
            self.counts["skipped" if error == "cost limit" else "failed" if error else "called"] += 1
            if run.calls or error != "cost limit":
                self._tell(self._compared(task, run, scores, error))

    async def _compare(self, task: _Task, run: Run) -> tuple[Scored, Scored]:
        choices = await run.generate(self._options.backend, task.request, verifier=task.verifier)
        if task.verifier is None:
            return Scored(), Scored()
        answered, shadow = await run.score(task.verifier, task.request, [Choice(task.answer.text), choices[0]])
        return answered, shadow

    def _run(self) -> Run:
        """With what is left of this hour's purse."""
        hour = int(self._clock() // HOUR_S)
        if hour != self._hour:
            self._hour, self._spent_usd = hour, 0.0
        left_usd = max(0.0, self._options.max_usd_per_hour - self._spent_usd)
        scores = self._parts.market.curves.scores
        calibrate = {name: found.calibrated for name, found in scores.items()}
        return Run(self._parts.backends, self._parts.verifiers, Limits(left_usd, self._options.timeout_s), calibrate)

    def _compared(self, task: _Task, run: Run, scores: tuple[Scored, Scored], error: str) -> Compared:
        answered, shadow = scores
        event = ShadowEvent(
            task.id, self._clock(), self._options.backend, run.spent_usd, run.elapsed_s, task.verifier, shadow.raw, answered.raw, error,
            task.key,
        )  # fmt: skip
        return Compared(event, answered.score, shadow.score)
