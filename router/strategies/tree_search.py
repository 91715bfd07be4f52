"""A step-wise beam search: next steps are drawn for the best beginnings, and a process reward model says which to go on with.

Source: Snell et al. 2024, section 5 (beam search; lookahead is its rollout variant). Every beginning is scored once, however often and
whenever it comes up; an answer that ends on the way, in a rollout too, has been paid for and is offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

from adapters.errors import BackendError
from adapters.types import ChatRequest, Choice, Delta
from policies.plans import TreeSearch
from router.candidates import Candidate
from router.run import OutOfBudget, Run, Scored, attempts, successes
from router.strategies.answers import appraise, candidate, more, top, warm
from router.strategies.steps import Prefix, Steps, steps_for


async def tree_search(spec: TreeSearch, request: ChatRequest, run: Run) -> Candidate:
    """The best answer that the search finished; if it finished none, its best beginning, completed in one go.

    Without scores there is nothing to search by: the search ends as soon as the verifier fails.
    """
    search = _Search(spec, request, run, steps_for(run.features(spec.backend), spec.separator))
    beam = [Prefix()]
    try:
        for _ in range(spec.max_steps):
            beam = await search.deepen(beam)
            await search.tell(beam)
            if not beam or search.blind or (search.finished and not run.next_draws(run.pool)):
                break
    except (OutOfBudget, BackendError) as failure:
        if isinstance(failure, BackendError):
            run.degraded.add(f"backend:{spec.backend}")
        if not search.finished and not beam[0].text:
            raise
    return top(search.finished or await search.complete(beam[0]))


def aggregated(spec: TreeSearch, scored: Scored) -> float:
    """What a beginning is ranked by; a verifier that scores no steps is taken by its score alone."""
    if not scored.steps:
        return -math.inf if scored.raw is None else scored.raw
    return {"last": scored.steps[-1], "min": min(scored.steps), "prod": math.prod(scored.steps)}[spec.aggregate]


@dataclass(slots=True)
class _Search:
    """One search: what it has drawn, scored and finished so far."""

    spec: TreeSearch
    request: ChatRequest
    run: Run
    steps: Steps
    finished: list[Candidate] = field(default_factory=list)
    scores: dict[Prefix, Scored] = field(default_factory=dict)
    drawn: int = 0
    told: int = 0
    """Characters of the answer that were streamed."""
    blind: bool = False
    """The verifier scored nothing when it was last asked."""

    async def deepen(self, beam: Sequence[Prefix]) -> list[Prefix]:
        """Draws one step more for the beam; the best unfinished beginnings that come of it, best first."""
        warmth = warm(self.spec.temperature, self.request)
        shares = _shares(self.spec.samples, len(beam))
        grown = await self._draw(dict(zip(beam, shares, strict=True)), warmth)
        ahead = {prefix: prefix for prefix in grown if not prefix.ended}
        for _ in range(self.spec.lookahead):
            ahead = await self._roll_on(ahead)
        await self._score([*(prefix for prefix in grown if prefix.ended), *ahead.values()])
        ranked = sorted(ahead, key=lambda prefix: aggregated(self.spec, self.scores[ahead[prefix]]), reverse=True)
        return ranked[: self.spec.beam_width]

    async def tell(self, beam: Sequence[Prefix]) -> None:
        """Streams the steps that are settled: those that every beginning and every finished answer has in common.

        Not the separator after the last of them, which an answer that ends there will not have.
        """
        if self.run.sink is None:
            return
        texts = [*(prefix.text for prefix in beam), *(answer.text for answer in self.finished)]
        common = commonprefix(texts)  # noqa: RUF071  # letter by letter is what is wanted
        settled = common[: max(0, common.rfind(self.spec.separator))]
        if len(settled) > self.told:
            fresh, self.told = settled[self.told :], len(settled)
            await self.run.sink(Delta(fresh))

    async def complete(self, prefix: Prefix) -> list[Candidate]:
        """The rest of an answer in one go; what is there of it, as cut off, where the rest is not to be had."""
        part = candidate(self.spec, Choice(prefix.text, "cancelled"), self.scores.get(prefix, Scored()), self.run)
        whole = await more(self.spec, self.run, [part], self._whole(prefix))
        if not whole:
            self.run.offer(part)
        return whole or [part]

    async def _whole(self, prefix: Prefix) -> list[Candidate]:
        rest = self.steps.rest(self.request.but(n=1), prefix)
        (choice,) = await self.run.generate(self.spec.backend, rest, verifier=None if self.blind else self.spec.verifier)
        whole = Choice(prefix.text + choice.text, choice.finish_reason)
        return await appraise(self.spec, self.request, self.run, [whole], blind=self.blind)

    async def _draw(self, wanted: Mapping[Prefix, int], temperature: float | None) -> list[Prefix]:
        """So many next steps for each beginning, all at once. One that fails leaves the others; if all fail, so does this."""
        asked = [self._asking(prefix, n, temperature) for prefix, n in wanted.items()]
        results = await attempts(self.run.generate(self.spec.backend, one, verifier=self.spec.verifier) for one in asked)
        successes(results)
        drawn = [(p, choice) for p, result in zip(wanted, results, strict=True) if isinstance(result, list) for choice in result]
        return self.steps.grown(drawn)

    def _asking(self, prefix: Prefix, n: int, temperature: float | None) -> ChatRequest:
        """With seeds that no other draw of this search has."""
        seed = None if self.request.seed is None else self.request.seed + self.drawn
        self.drawn += n
        return self.steps.next_step(self.request, prefix).but(n=n, temperature=temperature, seed=seed)

    async def _roll_on(self, ahead: Mapping[Prefix, Prefix]) -> dict[Prefix, Prefix]:
        """Each rollout one greedy step further; those that ended, or that cannot be paid for, stay where they are."""
        going = list(dict.fromkeys(prefix for prefix in ahead.values() if not prefix.ended))
        asked = [self._asking(prefix, 1, 0.0) for prefix in going]
        results = await attempts(self.run.generate(self.spec.backend, one, verifier=self.spec.verifier) for one in asked)
        drawn = {prefix: result[0] for prefix, result in zip(going, results, strict=True) if isinstance(result, list)}
        further = dict(zip(drawn, self.steps.grown(list(drawn.items())), strict=True))
        return {prefix: further.get(rolled, rolled) for prefix, rolled in ahead.items()}

    async def _score(self, prefixes: Sequence[Prefix]) -> None:
        """Scores what was not scored before, each once and all in one call, and offers what is finished."""
        new = [prefix for prefix in dict.fromkeys(prefixes) if prefix not in self.scores]
        scored = await self.run.score(self.spec.verifier, self.request, [prefix.choice for prefix in new])
        self.scores.update(zip(new, scored, strict=True))
        self.blind = bool(scored) and all(one.score is None for one in scored)
        ended = [candidate(self.spec, prefix.choice, self.scores[prefix], self.run) for prefix in new if prefix.ended]
        self.finished += ended
        self.run.offer(*ended)


def _shares(samples: int, beams: int) -> list[int]:
    """`samples` over the beams as evenly as can be, the better ones first."""
    return [samples // beams + (i < samples % beams) for i in range(beams)]
