"""The exact cache of answers: what its key is made of, and how an outcome is written down. Where it is kept is in `adapters/cache.py`.

The key holds everything that changes the answer: the policy's digest, the effort asked for, every field of the request, and the
namespace; and whose answer it is, so that no tenant sees another's. Answers that were cut short, or made while something was down,
are not kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from adapters.cache import Cache
from adapters.fast_json import dumps, loads
from adapters.types import Choice
from router.candidates import Candidate
from router.job import Job
from router.pipeline_types import Outcome
from router.record import arm

FORMAT = 4
MAX_BYTES = 4 << 20
"""Larger entries are neither kept nor read."""


class AnswerCache:
    """Outcomes by request. Without a cache behind it, every look is a miss."""

    def __init__(self, cache: Cache | None, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self.cache, self.ttl_s, self.clock = cache, ttl_s, clock

    def key(self, job: Job, text: str | None = None) -> str:
        """Sixty-four hex digits that change with anything that changes the answer; empty where no cache would be asked.

        With a text: those of the same request with this text as its last message.
        """
        if self.cache is None:
            return ""
        ask = job.ask
        limits = (vars(ask.purse.key.limits), ask.max_cost_usd, ask.deadline_s, ask.min_quality)
        said = [FORMAT, *common(job, text), job.policy_name, job.digest, *limits, ask.plan.key if ask.plan else None]
        return hashlib.sha256(orjson.dumps(said, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()

    async def get(self, key: str, job: Job) -> Outcome | None:
        """The outcome kept under the key, as this request's; None where there is none, or none young enough."""
        if self.cache is None or job.ask.cache.no_cache:
            return None
        found = await self.cache.get(key)
        if found is None or len(found) > MAX_BYTES:
            return None
        try:
            entry = loads(found)
            if entry["key"] != key:  # of another request, wherever it came from
                return None
            outcome = _outcome(entry["outcome"])
            age_s = self.clock() - float(entry["stored_at"])
        except (ValueError, TypeError, KeyError):  # not ours, or of another version: a miss
            return None
        if job.ask.cache.s_maxage_s is not None and age_s > job.ask.cache.s_maxage_s:
            return None
        return repeated(outcome, job)

    async def put(self, key: str, job: Job, outcome: Outcome) -> None:
        """Keep the outcome, unless the client or its own state forbids."""
        control = job.ask.cache
        if self.cache is None or control.no_store or not whole(outcome):
            return
        value = dumps({"key": key, "stored_at": self.clock(), "outcome": outcome})
        if len(value) <= MAX_BYTES:
            await self.cache.set(key, value, self.ttl_s if control.ttl_s is None else control.ttl_s)


def common(job: Job, text: str | None = None) -> list[Any]:
    """What every key of a request holds: whose it is, what they may not buy, the namespace, all of the request, its tags."""
    ask, request = job.ask, job.request
    if text is not None:
        request = request.but(messages=(*request.messages[:-1], {**request.messages[-1], "content": text}))
    return [ask.purse.owner, sorted(job.barred), ask.cache.namespace, request, sorted(ask.tags.items())]


def whole(outcome: Outcome) -> bool:
    """Whether another request may have it: nothing cut it short, and nothing was down."""
    return not outcome.truncated_by and not outcome.degraded


def repeated(outcome: Outcome, job: Job) -> Outcome:
    """The outcome of an equal request as this one's, for which nothing is paid."""
    said = {name: value for name, value in outcome.decision.items() if name != "shadow_policies"}  # for whoever asked for more
    decision = {**said, "id": job.ask.id, "split": arm(job), "cached_from": outcome.id, "cost_usd": 0.0}
    now = job.run.elapsed_s
    return replace(outcome, id=job.ask.id, cached=True, cost_usd=0.0, latency_s=now, overhead_s=now, decision=decision)


def _outcome(data: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**data, "candidates": tuple(candidate_from(row) for row in data["candidates"]), "degraded": tuple(data["degraded"])})


def candidate_from(data: Mapping[str, Any]) -> Candidate:
    """A candidate as `asdict` wrote it. Raises KeyError or TypeError of anything else."""
    choice = data["choice"]
    lists = {name: tuple(choice[name]) for name in ("logprobs", "tokens") if choice[name] is not None}
    return Candidate(**{**data, "choice": Choice(**{**choice, **lists}), "steps": tuple(data["steps"])})
