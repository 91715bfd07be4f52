"""What all strategies do alike: buy answers, have them scored, offer them, and know when no more can be had."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from adapters.errors import BackendError
from adapters.types import ChatRequest, Choice
from policies.plans import Source
from router.candidates import Candidate, best
from router.run import OutOfBudget, Run, Scored


async def buy(spec: Source, request: ChatRequest, run: Run, *, asked: ChatRequest | None = None, live: bool = False) -> list[Candidate]:
    """`request.n` answers, or as many as there are to be had, scored and offered.

    `asked` is what the verifier is told that they answer, where that is not `request` itself.
    """
    choices = await run.generate(spec.backend, request, live=live, verifier=spec.verifier)
    return await appraise(spec, asked or request, run, choices)


async def appraise(spec: Source, request: ChatRequest, run: Run, choices: Sequence[Choice], *, blind: bool = False) -> list[Candidate]:
    """The answers as candidates, scored (unless `blind`) if the plan names a verifier. Offered even if the scoring is cancelled."""
    scored = [Scored() for _ in choices]
    try:
        if spec.verifier is not None and not blind:
            scored = await run.score(spec.verifier, request, choices)
    finally:
        candidates = [candidate(spec, choice, verdict, run) for choice, verdict in zip(choices, scored, strict=True)]
        run.offer(*candidates)
    return candidates


def candidate(spec: Source, choice: Choice, scored: Scored, run: Run) -> Candidate:
    """An answer of this plan with what its verifier said, and what is wrong with it by itself: withheld, or not of the form asked for."""
    verifier = None if scored.score is None else spec.verifier
    return Candidate(
        choice, spec.backend, spec.key, scored.score, scored.raw, verifier, scored.steps,
        reason=scored.reason, cluster=scored.cluster, fault=choice.withheld or run.fault(choice),
    )  # fmt: skip


async def more(spec: Source, run: Run, had: Sequence[Candidate], buying: Awaitable[list[Candidate]]) -> list[Candidate]:
    """What `buying` brings; nothing where a limit or the backend forbids it, but there are answers to fall back on."""
    try:
        return await buying
    except (OutOfBudget, BackendError) as failure:
        if not had:
            raise
        if isinstance(failure, BackendError):
            run.degraded.add(f"backend:{spec.backend}")
        return []


def top(candidates: Sequence[Candidate]) -> Candidate:
    """The best of at least one."""
    chosen = best(candidates)
    assert chosen is not None, "a strategy that has no answer raises why"
    return chosen


def whole(drawn: Sequence[Candidate]) -> list[Candidate]:
    """Who may vote: those that were not cut off and have the form asked for, where there are any."""
    uncut = [c for c in drawn if c.choice.finish_reason != "cancelled"] or list(drawn)
    return [c for c in uncut if not c.fault] or uncut


def warm(temperature: float | None, request: ChatRequest) -> float | None:
    """The temperature of samples that are to differ: the plan's, else the request's, else the backend's own (None). A request that says 0
    is taken at its word."""
    return 0.0 if request.temperature == 0 else temperature or request.temperature
