"""The semantic cache: the answer to a question that was asked before in other words. Off unless configured.

Two requests meet only if everything but the text of their last message is equal (all that the exact key holds: tenant, namespace, policy,
effort, every field, the conversation before) and if the two texts agree in what must never differ (`Wording.strict`), for both are in the
bucket's key. Of an index only a text is believed: the answer is then read from the exact cache, under the key that this very request would
have with that text. So neither a wrong entry nor a collision leads to another tenant's answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from adapters.types import text_of
from adapters.vectors import Entry, Near
from difficulty.encoders import Floats
from difficulty.sentences import SentencesUnavailable
from router.answer_cache import AnswerCache, whole
from router.job import Job
from router.pipeline_types import Outcome
from router.similar import Similar, similarity
from router.wording import Wording, differing, read

log = logging.getLogger("outlay")

MAX_CHARACTERS = 1500
"""Longer texts are not compared: an encoder reads 256 tokens, and one word in many says less to it than it means."""
NEIGHBOURS = 4
"""So many are looked at, nearest first: what only one of both says has to be read for each."""
KEEPING = 64
"""Questions on their way into the index; beyond so many they are dropped."""


class SemanticCache:
    """Without a `Similar` every look is a miss, and nothing is kept."""

    def __init__(self, answers: AnswerCache, similar: Similar | None, clock: Callable[[], float] = time.time) -> None:
        self._answers, self._similar, self._clock = answers, similar, clock
        self._keeping: set[asyncio.Task[None]] = set()
        self._warned = False

    async def get(self, job: Job) -> Outcome | None:
        """The answer to the nearest question that asks the same; None where there is none, in time."""
        if self._similar is None or job.ask.cache.no_cache:
            return None
        outcome, why = None, "timeout"
        try:
            async with asyncio.timeout(self._similar.timeout_s):
                outcome, why = await self._look(self._similar, job)
        except TimeoutError:
            pass
        except SentencesUnavailable as error:
            why = self._told(error)
        self._similar.counts[why] += 1
        return outcome

    def keep(self, job: Job, outcome: Outcome) -> None:
        """Let the answer be found by others that ask the same. The question is read beside its way out."""
        if self._similar is None or job.ask.cache.no_store or not whole(outcome) or len(self._keeping) >= KEEPING:
            return
        task = asyncio.create_task(self._keep(self._similar, job))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def kept(self) -> None:
        """Wait until all that is to be kept is kept."""
        await asyncio.gather(*self._keeping)

    async def _look(self, similar: Similar, job: Job) -> tuple[Outcome | None, str]:
        """The answer, or None, and what came of the look."""
        if (asked := _asked(job)) is None:
            return None, "unfit"
        text, wording = asked
        bucket = self._bucket(similar, job, wording)
        if not await similar.index.holds(bucket):
            return None, "new"
        vector = (await similar.reader.vectors([text]))[0]
        if vector is None:
            return None, "unfit"
        why = "far"
        for near in await similar.index.nearest(bucket, vector, similar.threshold, NEIGHBOURS):
            found, guard = await _similarity(similar, wording, near)
            if found < similar.threshold:
                why = f"guard:{guard}" if guard else why
            elif (outcome := await self._answers.get(self._answers.key(job, near.text), job)) is not None:
                return replace(outcome, decision={**outcome.decision, "similarity": round(found, 4)}), "hit"
        return None, why

    async def _keep(self, similar: Similar, job: Job) -> None:
        if (asked := _asked(job)) is None:
            return
        text, wording = asked
        try:
            vector = (await similar.reader.vectors([text]))[0]
        except SentencesUnavailable as error:
            self._told(error)
            return
        if vector is not None:
            until = self._clock() + min(similar.ttl_s, job.ask.cache.ttl_s or similar.ttl_s)
            await similar.index.add(self._bucket(similar, job, wording), Entry(text, vector, until))

    def _told(self, error: SentencesUnavailable) -> str:
        """What came of a look that found no vectors; an encoder's failure is logged once."""
        if error.reason == "failed" and not self._warned:
            log.warning("%s; the semantic cache goes on without", error)
            self._warned = True
        return error.reason

    def _bucket(self, similar: Similar, job: Job, wording: Wording) -> str:
        """What may be compared: the exact key, with what the text must agree in instead of the text."""
        return self._answers.key(job, json.dumps(["semantic", similar.reader.digest, wording.strict]))


async def _similarity(similar: Similar, wording: Wording, near: Near) -> tuple[float, str]:
    """How similar a neighbour's question is, and the guard that decided."""
    difference = differing(wording, read(near.text))
    rests: list[Floats | None] = []
    if difference.mine:
        rests = await similar.reader.vectors([difference.mine, difference.theirs])
    found = similarity(near.cosine, difference, rests)
    return found, difference.guard or ("words" if found < similar.threshold else "")


def _asked(job: Job) -> tuple[str, Wording] | None:
    """The question, where its answer may be another's: plain text in English, asked for one plain answer."""
    request, last = job.request, job.request.messages[-1]
    plain = last.get("role") == "user" and isinstance(last.get("content"), str)
    if not plain or job.single_only or job.kept or request.n > 1 or request.logprobs or request.continue_final:
        return None
    text = text_of(last)
    if not text.strip() or len(text) > MAX_CHARACTERS:
        return None
    wording = read(text)
    return (text, wording) if wording.english else None
