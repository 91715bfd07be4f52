"""What goes on beside the requests, and after them: the event log, feedback, drift, shadow calls. Put together here, and told what happens.

Nothing in here can fail a request or hold it up: events go to a queue (`adapters/event_log.py`), labels are counted when they come
(`lessons.py`), tests see numbers that are there anyway (`watch.py`), shadows are called, or decide, later (`shadow.py`,
`shadow_policies.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from adapters.event_log import EventWriter
from difficulty.belief import PLAIN
from difficulty.conversation import conversation_text
from router.candidates import Candidate
from router.events import DecisionEvent, Ending, Event, FeedbackEvent, decision_line, line
from router.job import Job
from router.lessons import Given, Judged, Lessons, Sent
from router.parts import Parts
from router.pipeline_types import Ask, Outcome
from router.redact import redacted, redacted_start
from router.shadow import Compared, Shadow
from router.shadow_policies import ShadowPolicies
from router.tracing import Tracing
from router.watch import Watch

PROMPT_CHARACTERS = 100_000
"""Of a prompt, so much is logged at most."""


class Online:
    """Without anything configured it only remembers which answers can be judged."""

    def __init__(
        self,
        writers: Sequence[EventWriter] = (),
        lessons: Lessons | None = None,
        watch: Watch | None = None,
        shadow: Callable[[Callable[[Compared], None]], Shadow] | None = None,
        shadow_policies: ShadowPolicies | None = None,
        tracing: Tracing | None = None,
        *,
        prompts: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.writers, self.lessons, self.watch = writers, lessons or Lessons(), watch or Watch(None)
        self.shadow = shadow(self._compared) if shadow else None
        self.watch.tell = self.watch.tell or self.log
        self.shadow_policies, self.tracing = shadow_policies or ShadowPolicies(), tracing
        self._prompts, self._clock = prompts, clock

    def adopt(self, parts: Parts) -> None:
        """Go on with the watch and the shadow of another configuration: from now on what they find is told here."""
        self.watch.tell = self.log
        if self.shadow is not None:
            self.shadow.serve(parts, self._compared)

    def log(self, event: Event) -> None:
        """Hand an event to every sink."""
        for writer in self.writers:
            writer.add(lambda: line(event))

    # --- a request ------------------------------------------------------------------------------------------------------

    def corrections(self, ask: Ask) -> Mapping[str, float]:
        """By backend: what feedback says to add to its logit for this request."""
        return self.lessons.shifts(self.lessons.domain(ask.tags))

    def decided(self, ask: Ask, block: bytes, ending: Ending) -> None:
        """A request was decided, and ended so; its block as JSON."""
        if not self.writers:
            return
        tags = {name: redacted(value) for name, value in ask.tags.items()}
        event = DecisionEvent(ask.id, self._clock(), ending, {}, tags, ask.purse.owner)

        def written() -> bytes:  # in the writer's thread: reading a long prompt takes time
            prompt = redacted_start(conversation_text(ask.request.messages), PROMPT_CHARACTERS)
            return decision_line(replace(event, prompt=prompt), block)

        for writer in self.writers:
            writer.add(written if self._prompts else lambda: decision_line(event, block))

    async def answered(self, job: Job, outcome: Outcome) -> None:
        """An answer is about to go out: it can be judged from now on, and others may be asked what they would have said."""
        domain = self.lessons.domain(job.ask.tags)
        sent = [_sent(job, candidate, best=i == 0) for i, candidate in enumerate(outcome.candidates)]
        await self.lessons.remember(outcome.id, domain, job.ask.purse.owner, sent, job.arm)
        if job.bypass or outcome.cached:
            return
        lines = job.belief.lines
        ease = sum(centre - job.corrections.get(name, 0.0) for name, (centre, *_) in lines.items()) / max(1, len(lines))
        self.watch.asked(job.belief.source, ease, job.input_tokens)
        self.shadow_policies.offer(job, self.log)
        if self.shadow is not None:
            self.shadow.offer(job, outcome)

    # --- afterwards -----------------------------------------------------------------------------------------------------

    async def feedback(self, given: Given) -> Judged:
        """Somebody judged an answer. Raises a RouterError where it cannot be counted."""
        judged = await self.lessons.judge(given)
        if judged.status != "unchanged":
            self.log(FeedbackEvent(given.id, self._clock(), given.label, given.candidate, given.key))
        if judged.status == "recorded" and judged.sent.chance is not None:
            self.watch.judged(judged.sent.backend, judged.sent.verifier, judged.sent.chance, given.label)
        return judged

    def _compared(self, found: Compared) -> None:
        self.log(found.event)
        if found.answered is not None and found.shadow is not None:
            self.watch.compared(found.answered, found.shadow)

    # --- for operators --------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """By component: `ok`, or what is wrong. What is not configured is left out."""
        states = {writer.name: writer.state for writer in self.writers}
        if self.tracing is not None:
            states["tracing"] = self.tracing.writer.state
        if self.lessons.trouble:
            states["feedback"] = self.lessons.trouble
        return states | {f"drift:{name}": message for name, message in self.watch.alarms.items()}

    async def load(self) -> None:
        """Take what feedback has taught before, so that the first request has it."""
        await self.lessons.load()

    def owned(self) -> list[object]:
        """All that is to be ended at the end."""
        return [*([self.shadow] if self.shadow else []), self.shadow_policies, self.lessons, *self._threads]

    async def aclose(self, keep: Sequence[object] = ()) -> None:
        """Cancel shadows, hand in labels, write what waits; all but what is to be kept, for another router has it too."""
        ends = [part for part in self.owned() if not any(part is other for other in keep)]
        if self.shadow in ends and self.shadow is not None:
            await self.shadow.aclose()
        if self.shadow_policies in ends:
            await self.shadow_policies.aclose()
        if self.lessons in ends:
            await self.lessons.aclose()
        await asyncio.gather(*(asyncio.to_thread(part.close) for part in self._threads if part in ends))

    @property
    def _threads(self) -> list[EventWriter | Tracing]:
        """What is written by threads of their own."""
        return [*self.writers, *([self.tracing] if self.tracing else [])]


def _sent(job: Job, candidate: Candidate, *, best: bool) -> Sent:
    """The answer with what is believed of it now; nothing is where the request named its backend, or the answer came from the cache."""
    verifier = candidate.verifier if candidate.raw_score is not None else None
    if job.bypass or candidate.backend not in job.belief.lines or not job.belief.evidence:
        return Sent(candidate.backend, None)
    chance = job.belief.best if best else job.chance_of(candidate, PLAIN)
    return Sent(candidate.backend, chance, job.corrections.get(candidate.backend, 0.0), verifier, candidate.score)
