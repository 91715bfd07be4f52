"""Policies in shadow: beside the live policy others decide the same requests, for nothing but comparison; what they would do is logged.

It costs no call of a model, and no request anything: the answer is on its way when a thread of its own looks at the decisions, one request
after the other; what finds QUEUE of them waiting is left out and counted. What a comparison consists of is in `policies/shadow.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from difficulty.belief import Belief
from policies.facts import Decision, Facts, Market
from policies.policy import Policy
from policies.shadow import Course, Point, beside
from router.events import ShadowPolicyEvent
from router.job import Job
from router.splits import position

log = logging.getLogger("outlay")

QUEUE = 256
Tell = Callable[[ShadowPolicyEvent], None]


@dataclass(slots=True)
class Tally:
    """What was found of one shadow beside one policy."""

    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (`first` or `later` of its request, `agreed` or `differed`)."""
    gain: Course = field(default_factory=lambda: Course(0.0))
    """Summed over first decisions; what follows them is in their forecast."""

    def add(self, points: Sequence[Point]) -> None:
        """Count one request."""
        for i, point in enumerate(points):
            self.decisions["later" if i else "first", "agreed" if point.live == point.shadow else "differed"] += 1
        if points and (more := points[0].gain) is not None:
            self.gain += more


@dataclass(frozen=True, slots=True)
class _Pair:
    """A shadow beside a policy, at the decisions of one request."""

    names: tuple[str, str]
    shadow: Policy
    live: Policy
    market: Market
    decisions: Sequence[tuple[Facts, Belief, Decision]]

    def points(self) -> list[Point]:
        """Pure work of some milliseconds."""
        return [beside(self.shadow, self.live, self.market, *row) for row in self.decisions]


class ShadowPolicies:
    """All comparisons of one process; which policies are compared is said by each request's own configuration."""

    def __init__(self, clock: Callable[[], float] = time.time, *, queue: int = QUEUE) -> None:
        self._clock, self._queue = clock, queue
        self._thread = ThreadPoolExecutor(1, "shadow-policies")
        self._waiting: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        """Comparisons that were `made`, `failed`, or `crowded` out."""
        self.tallies: dict[tuple[str, str], Tally] = {}
        """By (policy, shadow)."""

    def offer(self, job: Job, tell: Tell) -> None:
        """Compare the decisions of a request whose answer is known. Returns at once."""
        for pair in _pairs(job):
            if len(self._waiting) >= self._queue:
                self.counts["crowded"] += 1
                continue
            task = asyncio.create_task(self._compare(pair, job.ask.id, job.ask.purse.owner, tell), name="shadow policy")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _compare(self, pair: _Pair, id: str, owner: str, tell: Tell) -> None:
        try:
            points = await asyncio.get_running_loop().run_in_executor(self._thread, pair.points)
        except Exception:  # nobody's request is concerned, whatever it is
            log.exception("the shadow policy '%s' of '%s' could not decide %s", pair.names[1], pair.names[0], id)
            self.counts["failed"] += 1
            return
        self.counts["made"] += 1
        self.tallies.setdefault(pair.names, Tally()).add(points)
        tell(ShadowPolicyEvent(id, self._clock(), *pair.names, [asdict(point) for point in points], owner))

    async def aclose(self) -> None:
        """Make the comparisons that wait: at most QUEUE of them, of milliseconds each."""
        await asyncio.gather(*self._waiting)
        self._thread.shutdown()


def shown(job: Job) -> list[dict[str, Any]]:
    """For the block of whoever asks for more: what each shadow would have done."""
    try:
        return [{"policy": pair.names[1], "points": [asdict(point) for point in pair.points()]} for pair in _pairs(job)]
    except Exception:  # as above
        log.exception("no shadow policy could be shown for %s", job.ask.id)
        return []


def _pairs(job: Job) -> Iterator[_Pair]:
    """The shadows that have a say: of this policy, with this request in their share, and where it was a policy that decided."""
    live, policies = job.policy_name, job.parts.policies
    shares = {} if job.bypass else job.parts.shadow_policies.get(live, {})
    rows = [row for row in job.decisions if row[0].forced is None and row[2].cause != "explore"] if shares else []
    for name, share in shares.items():
        if rows and position(live, name, job.ask.id) < share:
            yield _Pair((live, name), policies[name], job.policy, job.parts.market, rows)
