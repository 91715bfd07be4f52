"""What was drawn before for the same request under another effort: answers and scores, kept so that a larger budget goes on from them.

The key holds what changes an answer (whose it is, the request, what was learned of backends and verifiers), but not how much was to be
spent. Taken up again, answers are evidence like any other (`Job.recall`), and what they cost was paid by whoever drew them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter

from adapters.cache import Cache
from adapters.fast_json import dumps, loads
from policies.plans import Plan
from router.answer_cache import MAX_BYTES, candidate_from, common
from router.job import Action, Job

FORMAT = 2
_plan: TypeAdapter[Plan] = TypeAdapter(Plan)


@dataclass(frozen=True, slots=True)
class Found:
    """Work of earlier requests, the first of which was answered at `since`."""

    id: str
    since: float
    actions: tuple[Action, ...]


class EarlierWork:
    """Without a cache nothing is kept."""

    def __init__(self, cache: Cache | None, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._cache, self._ttl_s, self._clock = cache, ttl_s, clock

    async def recall(self, job: Job) -> None:
        """Give the request what there is; nothing where the client, a named backend or a call for one answer only forbids."""
        if self._cache is None or job.ask.cache.no_cache or not job.may_recall:
            return
        key = _key(job)
        found = _read(await self._cache.get(key), key)
        oldest_s = job.ask.cache.s_maxage_s
        if found is not None and (oldest_s is None or self._clock() - found.since <= oldest_s):
            job.recall(found.id, found.since, found.actions)

    async def keep(self, job: Job) -> None:
        """Keep what was drawn, with what it went on from; never longer than the first of it may be kept."""
        control, drawn = job.ask.cache, [action for action in (*job.recalled, *job.actions) if action.drawn]
        if self._cache is None or control.no_store or not job.may_recall or not drawn or job.run.degraded:
            return
        key, now = _key(job), self._clock()
        since = job.recalled_since if job.recalled else now
        entry = {"key": key, "id": job.ask.id, "since": since, "actions": [_row(action) for action in drawn]}
        value = dumps(entry)
        if len(value) <= MAX_BYTES:
            await self._cache.set(key, value, (self._ttl_s if control.ttl_s is None else control.ttl_s) - (now - since))


def _key(job: Job) -> str:
    parts = job.parts
    said = ["earlier", FORMAT, *common(job), parts.answerers, parts.market.curves.digest, sorted(parts.market.prices.items())]
    return hashlib.sha256(orjson.dumps(said, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _row(action: Action) -> dict[str, Any]:
    return {"plan": action.plan.model_dump(mode="json"), "drawn": action.drawn, "chosen": action.chosen, "error": action.error}


def _read(value: bytes | None, key: str) -> Found | None:
    """What an entry says; None of one that is not ours, not for this key, or too large."""
    if value is None or len(value) > MAX_BYTES:
        return None
    try:
        entry = loads(value)
        if entry["key"] != key:
            return None
        return Found(str(entry["id"]), float(entry["since"]), tuple(_action(row) for row in entry["actions"]))
    except (ValueError, TypeError, KeyError):
        return None


def _action(row: Mapping[str, Any]) -> Action:
    chosen = candidate_from(row["chosen"]) if row["chosen"] else None
    drawn = tuple(candidate_from(answer) for answer in row["drawn"])
    return Action(_plan.validate_python(row["plan"]), 0, 0.0, 0.0, chosen=chosen, drawn=drawn, error=str(row["error"]))
