"""One call as the decoding thread sees it: what was asked, the answers under way, and how news of them reach the caller's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapters.decoding.text import Decode, GrowingText
from adapters.errors import BackendError
from adapters.types import Call, Choice, Delta, token_entry

if TYPE_CHECKING:
    from adapters.decoding.sampling import Sampling
    from adapters.decoding.window import Prefill

Event = Delta | BackendError | None
"""A piece of the answer, the failure that ends it, or its regular end."""


@dataclass(slots=True, eq=False)
class Job:
    """A call. The worker writes into it under its lock, and only while it is `open`."""

    prompt: list[int]
    n: int
    sampling: Sampling
    max_tokens: int
    seed: int | None
    stop: tuple[str, ...]
    logprobs: bool
    live: bool
    """The caller wants to see the answer grow; otherwise only its end is told."""
    decode: Decode
    context: list[int]
    """The last tokens of the text that the answer continues, if it continues one, and the spaces at the end of that text."""
    spaces: str
    call: Call
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    open: bool = True
    begun: int = 0
    """Answers whose decoding has begun; those left wait for a free row, with the prompt's `prefill` kept for them."""
    finished: int = 0
    prefill: Prefill | None = None
    rows: list[Row] = field(default_factory=list)

    def cut_off(self) -> None:
        """Close it from outside: what has been written of unfinished answers is kept, marked as cancelled."""
        self.open = False
        for row in self.rows:
            if row.tokens and not row.done:
                row.finish("cancelled")


class Row:
    """One answer under way."""

    def __init__(self, job: Job, index: int, numbers: Iterator[float]) -> None:
        self.job, self.index, self.numbers = job, index, numbers
        self.tokens: list[int] = []
        self.done = False
        self._logprobs: list[float] = []
        self._pieces: list[str] = []
        """With logprobs: the text that each token added; joined, they are the answer."""
        self._told = 0
        self._text = GrowingText(job.decode, job.stop, job.context, job.spaces)
        self._unread: list[int] = []
        # Decoding is most of the bookkeeping, so it waits for the end where nobody looks before.
        self._eager = job.live or bool(job.stop) or job.logprobs

    def push(self, token: int, logprob: float | None, ends: frozenset[int]) -> str | None:
        """Take one more token; why the answer is finished, if this token ends it."""
        self.tokens.append(token)
        self.job.call.output_tokens += 1
        before = len(self._text.text)
        reason = self._taken(token, ends)
        if logprob is not None:
            self._logprobs.append(logprob)
            self._pieces.append(self._text.text[before:])
        return reason

    def _taken(self, token: int, ends: frozenset[int]) -> str | None:
        if token in ends:
            return "stop"
        self._unread.append(token)
        if self._eager:
            self._read()
        if self._text.stopped_by is not None:
            return "stop"
        return "length" if len(self.tokens) >= self.job.max_tokens else None

    def finish(self, reason: str) -> Delta:
        """Write the answer down as it is; the last piece of it."""
        self.done = True
        before = len(self._text.text)
        if self._text.stopped_by is None:
            self._read(last=True)
        if self._pieces:
            self._pieces[-1] += self._text.text[before:]
        logprobs, tokens = self._told_from(0)
        self.job.call.choices.append(Choice(self._text.text, reason, logprobs, tokens, stopped_by=self._text.stopped_by))
        return self._delta(self._text.take(rest=True), reason)

    def piece(self) -> Delta | None:
        """What can be passed on now, if anything."""
        text = self._text.take()
        return self._delta(text, None) if text else None

    def _read(self, *, last: bool = False) -> None:
        self._text.push(self._unread, last=last)
        self._unread = []

    def _delta(self, text: str, reason: str | None) -> Delta:
        (logprobs, tokens), self._told = self._told_from(self._told), len(self._logprobs)
        return Delta(text, self.index, reason, logprobs, tokens)

    def _told_from(self, first: int) -> tuple[tuple[float, ...] | None, tuple[Mapping[str, Any], ...] | None]:
        """Figures and texts of the tokens from the `first` on, where they were asked for."""
        if not self.job.logprobs:
            return None, None
        pairs = zip(self._pieces[first:], self._logprobs[first:], strict=True)
        return tuple(self._logprobs[first:]), tuple(token_entry(piece, value) for piece, value in pairs)
