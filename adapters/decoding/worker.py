"""The thread that owns a model. In every turn it lets newcomers in, draws one token for every row, and sees the finished off.

The caller's side is `submit`, `cancel` and `close`, called from any event loop. What both sides touch (the waiting jobs, a job's `Call`)
is touched under one lock, which is never held during a forward pass: a cancelled call is settled at once, and its rows leave
before the next step. A prompt that makes the model fail fails alone; a step that fails ends the calls in it, and the thread goes on;
if the thread itself ends, every call in it or after it says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby

import torch

from adapters.decoding.batch import Batch, Drawn
from adapters.decoding.jobs import Event, Job, Row
from adapters.decoding.model import CausalModel, level
from adapters.decoding.prefixes import Known, Prefixes
from adapters.decoding.sampling import uniforms
from adapters.decoding.window import Prefill
from adapters.errors import BackendError, BackendMalformed, BackendUnavailable

READ_AT_ONCE = 8192
"""Tokens, padding included, of the prompts read in one turn: it bounds the memory and how long running answers wait."""

CLOSE_WITHIN_S = 30

Group = tuple[Prefill, list[Row], list[int]]
"""New rows, the prompts that were read for them, and with each row which of these is its own."""


New = tuple[Job, list[Row], Known]
"""A job whose prompt is to be read, the rows that it gets, and what is known of the prompt."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of it at once."""

    rows: int
    jobs: int
    waiting: int
    threads: int
    prefix_bytes: int


class Worker:
    """Decodes what is submitted until it is closed. `ready` is the model once it is loaded, or why it is not."""

    def __init__(self, name: str, load: Callable[[], CausalModel], bounds: Bounds) -> None:
        self.ready: Future[CausalModel] = Future()
        self._name, self._load, self._bounds = name, load, bounds
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._open: set[Job] = set()
        self._ends: frozenset[int] = frozenset()
        self._prefixes = Prefixes(bounds.prefix_bytes)
        self._news: dict[asyncio.AbstractEventLoop, list[tuple[Job, Event]]] = defaultdict(list)
        self._closing = self.ended = False
        self._thread = threading.Thread(target=self._run, name=f"backend {name}", daemon=True)
        self._thread.start()

    # --- the caller's side ----------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job. BackendUnavailable if too many wait already, or nobody is there to do it."""
        with self._wake:
            if self.ended or self._closing:
                raise BackendUnavailable(self._name, "the backend is closed")
            if len(self._waiting) >= self._bounds.waiting:
                raise BackendUnavailable(self._name, f"too many requests waiting ({len(self._waiting)})", retry_after_s=1)
            self._open.add(job)
            self._waiting.append(job)
            self._wake.notify()

    def cancel(self, job: Job, *, keep: bool) -> None:
        """End a job now, if it is still open. What is unfinished is kept as cancelled answers, or not."""
        with self._wake:
            if job in self._waiting:
                self._waiting.remove(job)
            if job.open and keep:
                job.cut_off()
            self._close(job)

    def close(self) -> None:
        """Stop after the running step, and fail what is open. Blocks until the thread has ended, so call it in another one.

        A step that hangs is left behind after a while: nothing can interrupt it, and the thread is no reason for the process to stay.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_WITHIN_S)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason, failure = "the backend is closed", None
        try:
            torch.set_num_threads(self._bounds.threads)
            model = self._load()
            self._ends = model.defaults.ends
            self.ready.set_result(model)
            batch = Batch(model, self._prefixes)
            with torch.inference_mode():
                while self._turn(model, batch):
                    pass
        except BaseException as error:  # whatever it is, it must reach those who wait: nobody above this frame would tell them
            reason, failure = f"the backend has stopped: {type(error).__name__}: {error}", error
        self._end(reason)
        if failure is not None and not self.ready.done():
            self.ready.set_exception(failure)

    def _end(self, reason: str) -> None:
        with self._wake:
            self.ended = True
            self._waiting.clear()
            self._prefixes.clear()
            for job in list(self._open):
                self._fail(job, BackendUnavailable(self._name, reason))
        self._tell()

    def _turn(self, model: CausalModel, batch: Batch) -> bool:
        """One token for everybody; False when there will be none any more."""
        with self._wake:
            while not (self._waiting or batch.rows or self._closing):
                self._wake.wait()
            if self._closing:
                return False
            batch.drop(_gone)
            admitted = self._admit(batch)
        for prefill, rows, source in self._read(model, admitted):
            self._begin(batch, rows, prefill, source)
        if batch.rows:
            self._step(batch)
        self._tell()
        return True

    def _admit(self, batch: Batch) -> list[Row]:
        """Rows for waiting jobs, as far as there is room. A job that needs more of them goes to the end of the queue for the rest."""
        free, jobs = self._bounds.rows - len(batch.rows), {row.job for row in batch.rows}
        admitted: list[Row] = []
        prompts, longest = 0, 0
        while free and self._waiting:
            job = self._waiting[0]
            prompts, longest = prompts + 1, max(longest, len(job.prompt))
            if (admitted and prompts * longest > READ_AT_ONCE) or (job not in jobs and len(jobs) >= self._bounds.jobs):
                break
            self._waiting.popleft()
            jobs.add(job)
            rows = [Row(job, index, uniforms(job.seed, index)) for index in range(job.begun, min(job.n, job.begun + free))]
            job.rows.extend(rows)
            admitted.extend(rows)
            job.begun, free = job.begun + len(rows), free - len(rows)
            if job.begun < job.n:
                self._waiting.append(job)
        return admitted

    # --- prompts --------------------------------------------------------------------------------------------------

    def _read(self, model: CausalModel, rows: list[Row]) -> list[Group]:
        """Read the prompts of new rows: in one pass those of which nothing is known, in another those with about as much left to read."""
        by_job = [(job, list(own)) for job, own in groupby(rows, key=lambda row: row.job)]
        again = [(job.prefill, own, [0] * len(own)) for job, own in by_job if job.prefill is not None]
        new = [(job, own) for job, own in by_job if job.prefill is None]
        passes: dict[int, list[New]] = defaultdict(list)
        for job, own in new:
            known = self._known(job)
            passes[(len(job.prompt) - len(known)).bit_length() if len(known) else -1].append((job, own, known))
        return again + [group for some in passes.values() for group in self._read_new(model, some)]

    def _known(self, job: Job) -> Known:
        """Of a prompt; not its last token without what follows it, for something has to be read then."""
        known = self._prefixes.find(job.prompt, job.call.scope)
        return known if known.logits is not None else known.first(len(job.prompt) - 1)

    def _read_new(self, model: CausalModel, new: list[New]) -> list[Group]:
        prompts = [job.prompt for job, _, _ in new]
        try:
            known = level(prompts, [k for _, _, k in new])
            prefill = model.read(prompts, known)
        except Exception as error:
            if len(new) > 1 or len(new[0][2]):  # one of them is to blame, or what was known: each on its own, from its beginning
                return [group for job, own, _ in new for group in self._read_new(model, [(job, own, Known())])]
            with self._wake:
                self._fail(new[0][0], BackendUnavailable(self._name, f"the model failed on this prompt: {type(error).__name__}: {error}"))
            return []
        with self._wake:
            for index, (job, own, _) in enumerate(new):
                if job.open:
                    job.call.input_tokens += len(job.prompt)
                    job.call.cached_tokens += len(known[index])
                job.prefill = prefill.only(index) if len(own) < job.n else None
        self._keep([job for job, _, _ in new], known, prefill)
        return [(prefill, [row for _, own, _ in new for row in own], [index for index, (_, own, _) in enumerate(new) for _ in own])]

    def _keep(self, jobs: Sequence[Job], known: Sequence[Known], prefill: Prefill) -> None:
        """Remember what was read. Not what a model made of a prompt that it broke on."""
        if not self._prefixes.limit:
            return
        for index, whole in enumerate(prefill.logits.isfinite().all(-1).tolist()):
            job = jobs[index]
            if fresh := whole * (len(job.prompt) - len(known[index])):
                self._prefixes.keep(job.prompt, prefill.state(index, fresh), prefill.logits[index], job.call.scope)

    def _begin(self, batch: Batch, rows: list[Row], prefill: Prefill, source: list[int]) -> None:
        try:
            self._take(rows, batch.begin(rows, prefill, source))
            staying = [(row, index) for row, index in zip(rows, source, strict=True) if not _gone(row)]
            batch.join([row for row, _ in staying], prefill, [index for _, index in staying])
        except Exception as error:
            self._fail_all([*rows, *batch.clear()], error)

    # --- tokens ---------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        try:
            drawn = batch.step()
        except Exception as error:
            self._fail_all(batch.clear(), error)
            return
        self._take(batch.rows, drawn)
        batch.drop(_gone)

    def _take(self, rows: Sequence[Row], drawn: Drawn) -> None:
        """Hand each row its token, and each caller what is new."""
        logprobs: Sequence[float | None] = drawn.logprobs or [None] * len(rows)
        with self._wake:
            for index, (row, token, logprob) in enumerate(zip(rows, drawn.tokens, logprobs, strict=True)):
                if not row.job.open:
                    continue
                if index in drawn.broken:
                    self._fail(row.job, BackendMalformed(self._name, "the model's output is not a number"))
                else:
                    self._hand(row, token, logprob)
        self._tell()

    def _hand(self, row: Row, token: int, logprob: float | None) -> None:
        job = row.job
        reason = row.push(token, logprob, self._ends)
        piece = row.finish(reason) if reason else row.piece() if job.live else None
        if piece is not None and job.live:
            self._news[job.loop].append((job, piece))
        if reason:
            job.rows.remove(row)
            job.finished += 1
            if job.finished == job.n:
                self._close(job)
                self._news[job.loop].append((job, None))

    # --- news -----------------------------------------------------------------------------------------------------

    def _close(self, job: Job) -> None:
        job.open = False
        self._open.discard(job)

    def _fail(self, job: Job, error: BackendError) -> None:
        if job.open:
            self._close(job)
            self._news[job.loop].append((job, error))

    def _fail_all(self, rows: Sequence[Row], error: Exception) -> None:
        with self._wake:
            for row in rows:
                self._fail(row.job, BackendUnavailable(self._name, f"the model failed: {type(error).__name__}: {error}"))

    def _tell(self) -> None:
        """Pass all news of a turn on, with one call into each loop."""
        news, self._news = self._news, defaultdict(list)
        for loop, items in news.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # the loop is closed: nobody is there to hear it, nor to pay for more
                for job, _ in items:
                    self.cancel(job, keep=False)


def _gone(row: Row) -> bool:
    return row.done or not row.job.open


def _deliver(items: Sequence[tuple[Job, Event]]) -> None:
    for job, event in items:
        job.events.put_nowait(event)
