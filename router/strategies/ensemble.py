"""Samples of several backends, drawn at the same time; of all together one is chosen, by the verifier or by a vote.

The best, and in a weighted vote what each voice counts, goes by how likely an answer is to be right: by its score and by whose it is
(`difficulty/pooled.py`). A backend that fails is left out, and one whose answers could not turn the vote is no longer waited for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from adapters.answers import normalise
from adapters.errors import BackendError
from adapters.types import ChatRequest, Choice
from policies.plans import Ensemble, Member
from router.candidates import Candidate
from router.run import Failure, OutOfBudget, Run, Weigh
from router.strategies.answers import buy, top, warm, whole

UNHEARD = "\0"
"""An answer that nobody has given yet."""


@dataclass(frozen=True, slots=True)
class Lead:
    """The leader of a vote."""

    answer: str
    share: float
    """Of the (weighted) vote."""
    chance: float
    """That it is right."""


async def ensemble(spec: Ensemble, request: ChatRequest, run: Run) -> Candidate:
    """The chosen one of all that came; with its share of the vote, where one was held."""
    members, drawn, failures = spec.parts(run.down), list[Candidate](), list[Failure]()
    asked = accumulate((member.n for member in members), initial=0)
    async with asyncio.TaskGroup() as group:
        waiting = {group.create_task(_part(spec, member, request, run, n)): member for member, n in zip(members, asked, strict=False)}
        while waiting and not _over(spec, drawn, list(waiting.values()), run.weigh):
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task in done]:  # of those that end at once, in the order of the plan
                del waiting[task]
                result = task.result()
                (drawn.extend(result) if isinstance(result, list) else failures.append(result))
        for task in waiting:
            task.cancel()
    if not drawn:  # what the limits forbade may be had later; so that is said first
        raise min(failures, key=lambda failure: isinstance(failure, BackendError))
    return choose(spec, drawn, run)


def choose(spec: Ensemble, drawn: Sequence[Candidate], run: Run) -> Candidate:
    """By the plan's way to select. Where nothing was scored, by a weighted vote instead of the best."""
    voters = whole(drawn)
    if spec.select == "best" and any(c.score is not None for c in voters):
        chances = run.chances(voters)
        return max(zip(chances, voters, strict=True), key=lambda row: (row[1].score is not None, row[0], row[1].score or 0.0))[1]
    said = answers(spec, voters)
    won = lead(spec, said, voters, run.weigh)
    return replace(top([voter for voter, answer in zip(voters, said, strict=True) if answer == won.answer]), votes=won.share)


def answers(spec: Ensemble, voters: Sequence[Candidate]) -> list[str]:
    """What each of them says, as it is voted on."""
    return [normalise(voter.text, spec.answer) for voter in voters]


def lead(spec: Ensemble, said: Sequence[str], voters: Sequence[Candidate], weigh: Weigh) -> Lead:
    """Who leads: of the most votes or of the highest chance to be right, which also decides between answers of as many votes."""
    chances = weigh(said, voters)
    counts = Counter(said) if spec.select == "majority" else chances
    leader = max(chances, key=lambda answer: (counts[answer], chances[answer]))
    return Lead(leader, counts[leader] / sum(counts.values()), chances[leader])


async def _part(spec: Ensemble, member: Member, request: ChatRequest, run: Run, asked: int) -> list[Candidate] | Failure:
    """One backend's samples, with seeds of their own; or why there are none."""
    seed = None if request.seed is None else request.seed + asked
    batch = request.but(n=member.n, temperature=warm(spec.temperature, request), seed=seed)
    try:
        return await buy(member, batch, run, asked=request)
    except (OutOfBudget, BackendError) as failure:
        if isinstance(failure, BackendError):
            run.degraded.add(f"backend:{member.backend}")
        return failure


def _over(spec: Ensemble, drawn: Sequence[Candidate], missing: Sequence[Member], weigh: Weigh) -> bool:
    """Whether the leader of the vote stays ahead even if all that is still to come agrees, on whatever answer. Scores may say anything."""
    voters = [voter for voter in whole(drawn) if not voter.fault]
    if not voters or spec.select == "best" or (spec.select == "weighted" and spec.verifier is not None):
        return False
    said = answers(spec, voters)
    leader = lead(spec, said, voters, weigh).answer
    late = [Candidate(Choice(""), member.backend, spec.key) for member in missing for _ in range(member.n)]
    rivals = {*said, UNHEARD} - {leader}
    return all(lead(spec, [*said, *[rival] * len(late)], [*voters, *late], weigh).answer == leader for rival in rivals)
