"""The probe as the router calls it: `await service.estimate(text)`.

One worker thread owns the model. It takes what is waiting as one batch, so a crowd costs little more than one prompt; recent prompts
are remembered; the same prompt asked twice at once is read once. What happens when the probe is slow, gone or flooded: the caller gets
`ProbeUnavailable` (soon, and at once while the breaker is open) and the policy's fallback takes over. No estimate is ever made up here.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field

from difficulty.errors import ProbeUnavailable
from difficulty.probe import Estimate, Probe


class ProbeServiceOptions(BaseModel):
    """How estimates are batched, remembered, and given up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch: int = Field(32, ge=1, description="prompts read together")
    max_wait_s: float = Field(0.0, ge=0, description="how long the first prompt of a batch waits for company; 0: not at all")
    queue: int = Field(256, ge=1, description="prompts waiting; past it the estimate is refused at once")
    timeout_s: float = Field(2.0, gt=0, description="after it the router goes on without an estimate")
    memo: int = Field(4096, ge=0, description="recent prompts whose estimate is kept")
    failures: int = Field(5, ge=1, description="in a row, until the probe is left alone")
    retry_s: float = Field(30.0, ge=0, description="how long it is left alone")


@dataclass(slots=True, eq=False)
class _Job:
    """One prompt on its way through the worker; skipped there once nobody waits for it."""

    text: str
    waiting: int = 1
    future: Future[Estimate] = field(default_factory=Future)


class ProbeService:
    """A blocking probe made concurrent. Use from one event loop; `aclose` when done."""

    def __init__(self, probe: Probe, options: ProbeServiceOptions | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or ProbeServiceOptions()
        self.backends = probe.backends
        self.counts: Counter[str] = Counter()
        """What happened to the estimates asked for: `ok`, `memo`, or the reason of a ProbeUnavailable."""
        self._memo: OrderedDict[bytes, Estimate] = OrderedDict()
        self._flying: dict[bytes, _Job] = {}
        self._breaker = _Breaker(self.options.failures, self.options.retry_s, clock)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(self.options.queue)
        self._closed = False
        # A daemon: a model call that never returns must not keep the process from ending.
        self._worker = threading.Thread(target=_work, args=(probe, self._jobs, self.options), name="probe", daemon=True)
        self._worker.start()

    async def estimate(self, text: str) -> Estimate:
        """The estimate of one prompt (`conversation.conversation_text` of a conversation). Raises ProbeUnavailable, and nothing else."""
        key = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        if (known := self._memo.get(key)) is not None:
            self._memo.move_to_end(key)
            self.counts["memo"] += 1
            return known
        try:
            estimate = await self._ask(key, text)
        except ProbeUnavailable as error:
            self.counts[error.reason] += 1
            raise
        self.counts["ok"] += 1
        return estimate

    @property
    def waiting(self) -> int:
        """Prompts that the worker has not taken yet."""
        return self._jobs.qsize()

    async def load(self) -> None:
        """Read nothing once, however long it takes, at start-up: so that no request waits for a model to load. Raises ProbeUnavailable."""
        job, _ = self._job(b"load", "")
        with self._awaited(b"load", job):
            await asyncio.shield(asyncio.wrap_future(job.future))

    async def aclose(self) -> None:
        """Fail what waits, and let the worker go when its batch is done. Harmless to repeat."""
        self._closed = True
        for job in _drained(self._jobs):
            job.future.cancel()
        self._jobs.put_nowait(None)

    async def _ask(self, key: bytes, text: str) -> Estimate:
        if self._closed:
            raise ProbeUnavailable("closed", "it was shut down")
        self._breaker.check()
        job, first = self._job(key, text)
        with self._awaited(key, job):
            estimate = await self._outcome(job)
        self._remember(key, estimate)
        return estimate if first else replace(estimate, tokens_read=0)

    def _job(self, key: bytes, text: str) -> tuple[_Job, bool]:
        """The job of this prompt, and whether it is a new one."""
        if (job := self._flying.get(key)) is not None:
            job.waiting += 1
            return job, False
        job = _Job(text)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise ProbeUnavailable("overload", f"{self.options.queue} prompts are waiting") from None
        self._flying[key] = job
        return job, True

    @contextmanager
    def _awaited(self, key: bytes, job: _Job) -> Iterator[None]:
        try:
            yield
        finally:
            job.waiting -= 1
            if (job.future.done() or not job.waiting) and self._flying.get(key) is job:
                del self._flying[key]

    async def _outcome(self, job: _Job) -> Estimate:
        try:
            async with asyncio.timeout(self.options.timeout_s):
                # Shielded: one caller who leaves must not take the estimate from the others who wait for the same prompt.
                estimate = await asyncio.shield(asyncio.wrap_future(job.future))
        except TimeoutError:
            self._breaker.failed()
            raise ProbeUnavailable("timeout", f"no estimate within {self.options.timeout_s} s") from None
        except asyncio.CancelledError:
            if job.future.cancelled():
                raise ProbeUnavailable("closed", "it was shut down") from None
            raise
        except ProbeUnavailable:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return estimate

    def _remember(self, key: bytes, estimate: Estimate) -> None:
        """Remembered estimates were paid for already, so they have read nothing."""
        self._memo[key] = replace(estimate, tokens_read=0)
        while len(self._memo) > self.options.memo:
            self._memo.popitem(last=False)


class _Breaker:
    """Open for `retry_s` after `failures` failures in a row; then the next attempts decide."""

    def __init__(self, failures: int, retry_s: float, clock: Callable[[], float]) -> None:
        self._limit, self._retry_s, self._clock = failures, retry_s, clock
        self._failures, self._open_until = 0, float("-inf")

    def check(self) -> None:
        """Raises ProbeUnavailable while open."""
        if self._clock() < self._open_until:
            raise ProbeUnavailable("breaker", f"it failed {self._failures} times in a row and is left alone for {self._retry_s} s")

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._limit:
            self._open_until = self._clock() + self._retry_s

    def succeeded(self) -> None:
        self._failures, self._open_until = 0, float("-inf")


def _work(probe: Probe, jobs: queue.Queue[_Job | None], options: ProbeServiceOptions) -> None:
    """The worker thread: batch after batch, until a None."""
    while (batch := _batch(jobs, options)) is not None:
        _run(probe, [job for job in batch if job.waiting and job.future.set_running_or_notify_cancel()])


def _batch(jobs: queue.Queue[_Job | None], options: ProbeServiceOptions) -> list[_Job] | None:
    """What waits now, and what comes within `max_wait_s` of the first, up to `max_batch`."""
    first = jobs.get()
    if first is None:
        return None
    batch, until = [first], time.monotonic() + options.max_wait_s
    while len(batch) < options.max_batch:
        left = until - time.monotonic()
        try:
            job = jobs.get(timeout=left) if left > 0 else jobs.get_nowait()
        except queue.Empty:
            break
        if job is None:
            jobs.put(None)
            break
        batch.append(job)
    return batch


def _run(probe: Probe, batch: Sequence[_Job]) -> None:
    """Estimate a batch. If it fails its prompts are tried one by one, so that a poisoned prompt fails alone."""
    if not batch:
        return
    try:
        estimates = list(zip(batch, probe.estimate([job.text for job in batch]), strict=True))
    except BaseException as error:  # whatever model code throws, the thread must live on
        if len(batch) == 1:
            batch[0].future.set_exception(ProbeUnavailable("error", f"{type(error).__name__}: {error}"))
        else:
            for job in batch:
                _run(probe, [job])
    else:
        for job, estimate in estimates:
            job.future.set_result(estimate)


def _drained(jobs: queue.Queue[_Job | None]) -> Iterator[_Job]:
    while True:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return
        if job is not None:
            yield job
