"""Independent samples, drawn in batches, of which one is chosen: by the verifier, by a vote, or by a vote that the verifier weighs.

Before each batch the policy is asked how many more are worth it, and a vote that later samples cannot turn is over.
Votes are counted on what the verifier says behaves alike (`Verdict.cluster`), else on the normalised answer: two programs are never the
same text.
Sources: Wang et al. 2022, "Self-consistency"; Li et al. 2022, "DiVeRSe" (the weighted vote); Aggarwal et al. 2023, "Adaptive-Consistency";
Chen et al. 2022, "CodeT" (votes of programs that pass the same tests).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.answers import normalise
from adapters.types import ChatRequest
from difficulty.belief import logit
from difficulty.votes import Tally
from policies.plans import BestOfN
from router.candidates import Candidate
from router.run import Run
from router.strategies.answers import buy, more, top, warm, whole


async def best_of_n(spec: BestOfN, request: ChatRequest, run: Run) -> Candidate | None:
    """The chosen one of up to `spec.n` samples; with its share of the vote, where one was held. None where the policy, which goes on with
    samples drawn before, thinks better of it before the first new one: time has passed since it decided."""
    drawn = list(run.earlier)
    asked = len(drawn)
    while len(drawn) < spec.n and not _settled(spec, drawn):
        n = min(run.next_draws(run.pool), spec.batch or spec.n, spec.n - len(drawn))
        if not n:
            break
        fresh = await more(spec, run, drawn, buy(spec, _batch(spec, request, asked, n), run, asked=request))
        if not fresh:
            break
        drawn, asked = drawn + fresh, asked + n
    return choose(spec, drawn) if drawn else None


def tally(spec: BestOfN, drawn: Sequence[Candidate]) -> Tally:
    """How the vote stands, one voice to a sample."""
    counts = sorted((len(vote.voters) for vote in _tally(spec, whole(drawn))), reverse=True)
    return Tally(counts[0], counts[1] if counts[1:] else 0, sum(counts))


def _batch(spec: BestOfN, request: ChatRequest, asked: int, n: int) -> ChatRequest:
    """The next `n` samples, with seeds of their own."""
    seed = None if request.seed is None else request.seed + asked
    return request.but(n=n, temperature=warm(spec.temperature, request), seed=seed)


def choose(spec: BestOfN, drawn: Sequence[Candidate]) -> Candidate:
    """By the plan's way to select. Where nothing was scored, by majority, whatever the plan says: it is all there is to go by."""
    voters = whole(drawn)
    if spec.select == "best" and any(c.score is not None for c in voters):
        return top(voters)
    votes = _tally(spec, voters)
    winner = max(votes, key=lambda vote: (vote.weight, top(vote.voters).score or 0.0))
    total = sum(vote.weight for vote in votes)
    return replace(top(winner.voters), votes=winner.weight / total if total else 0.0)


@dataclass(slots=True)
class _Vote:
    """One answer and all who gave it."""

    voters: list[Candidate]
    weight: float = 0.0


AGREEMENT = 0.5
"""Exponent on the votes of a cluster, which err together. CodeT's; `python -m benchmarks.weak_tests` finds the likeliest one near 1."""


def _tally(spec: BestOfN, drawn: Sequence[Candidate]) -> list[_Vote]:
    """The answers in the order they first came. By weight, an unscored voter counts as an average one."""
    scores = [c.score for c in drawn if c.score is not None]
    weighted = spec.select == "weighted" and scores
    average = sum(scores) / len(scores) if scores else 1.0
    votes: dict[tuple[bool, str], _Vote] = {}
    for voter in drawn:
        vote = votes.setdefault((bool(voter.cluster), voter.cluster or normalise(voter.text, spec.answer)), _Vote([]))
        vote.voters.append(voter)
        vote.weight += (average if voter.score is None else voter.score) if weighted else 1.0
    if weighted and _clustered(drawn):
        for vote in votes.values():
            vote.weight = _odds(vote.weight / len(vote.voters)) * len(vote.voters) ** AGREEMENT
    return list(votes.values())


def _clustered(drawn: Sequence[Candidate]) -> bool:
    return any(voter.cluster for voter in drawn)


def _odds(score: float) -> float:
    """What a score says of a behaviour. It is said once, however many behave so, and a sure one outweighs any number of doubtful ones."""
    return float(np.exp(logit(score)))


def _settled(spec: BestOfN, drawn: Sequence[Candidate]) -> bool:
    """Whether the leader of the vote stays ahead even if all samples still to come agree on the runner-up; none weighs more than 1.

    In a weighted vote of clusters nothing is settled: one more may be sure.
    """
    voters = [] if spec.select == "best" else [voter for voter in whole(drawn) if not voter.fault]
    if not voters or (spec.select == "weighted" and _clustered(voters)):
        return False
    first, second = sorted((*(vote.weight for vote in _tally(spec, voters)), 0.0), reverse=True)[:2]
    return first - second > spec.n - len(drawn)
