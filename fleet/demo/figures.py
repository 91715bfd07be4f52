"""From records to figures. Pure: no clock, no client, no terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.demo.asking import BASELINE, CHOSEN, OFFERS, Answer
from fleet.intervals import wilson


@dataclass(frozen=True)
class Row:
    """One offer over all its answers. A failed request is a wrong answer; its money and time are not known and left out."""

    offer: str
    asked: int
    right: float
    """Share of right answers, with its 95 % interval."""
    low: float
    high: float
    usd_per_1000: float
    to_large: float | None
    """Cost as a multiple of one answer of the large backend; None while that is not known."""
    p50_s: float
    p95_s: float
    calls: float
    drawn: float
    failed: int
    truncated: int


def quantile(values: Sequence[float], q: float) -> float:
    """By linear interpolation between the ordered values; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def mean(values: Iterable[float]) -> float:
    """0 of none."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def rows(answers: Sequence[Answer]) -> list[Row]:
    """A row for each offer that has an answer, in the order of OFFERS."""
    by_offer = {offer.name: [a for a in answers if a.offer == offer.name] for offer in OFFERS}
    large_usd = mean(a.cost_usd for a in by_offer[BASELINE.name] if not a.error)
    return [_row(name, found, large_usd) for name, found in by_offer.items() if found]


def _row(name: str, answers: Sequence[Answer], large_usd: float) -> Row:
    came = [a for a in answers if not a.error]
    right, cost, seconds = sum(a.right for a in answers), mean(a.cost_usd for a in came), [a.latency_s for a in came]
    low, high = wilson(right, len(answers))
    return Row(
        offer=name,
        asked=len(answers),
        right=right / len(answers),
        low=low,
        high=high,
        usd_per_1000=1000 * cost,
        to_large=cost / large_usd if large_usd else None,
        p50_s=quantile(seconds, 0.5),
        p95_s=quantile(seconds, 0.95),
        calls=mean(a.calls for a in came),
        drawn=mean(a.drawn for a in came),
        failed=len(answers) - len(came),
        truncated=sum(a.truncated_by is not None for a in came),
    )


def settled(answers: Sequence[Answer]) -> list[Answer]:
    """Those to questions that every offer was asked, so that a run which was stopped compares like with like.

    All, if there is no such question.
    """
    asked = Counter(a.question for a in answers)
    whole = [a for a in answers if asked[a.question] == len(OFFERS)]
    return whole or list(answers)


def shares(answers: Sequence[Answer]) -> dict[str, float]:
    """For each plan, the share of the policy's requests that ran it, commonest first. One request may run several."""
    chosen = [a for a in answers if a.offer == CHOSEN.name and not a.error]
    ran = Counter(short(key) for a in chosen for key in dict.fromkeys(a.actions))
    return {plan: count / len(chosen) for plan, count in ran.most_common()}


def short(key: str) -> str:
    """`best_of_n(small, n=16, verifier=reward)` as `best_of_n(small)`."""
    return key if "," not in key else key.partition(",")[0] + ")"


def hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The upper concave hull of (cost, accuracy), rising: what a coin between two fixed plans could reach at best, by cost."""
    found: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if found and point[1] <= found[-1][1]:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-1], point):
            found.pop()
        found.append(point)
    return found


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else math.inf


def affordable(rounds: int, first_s: float, budget_s: float) -> int:
    """How many of the rounds fit into the budget at the pace of the first; at least that one."""
    return rounds if first_s * rounds <= budget_s else max(1, int(budget_s / first_s))


def example(answers: Sequence[Answer]) -> Answer | None:
    """A hard puzzle that the policy got right: of most numbers, then least likely for the small backend."""
    right = [a for a in answers if a.offer == CHOSEN.name and a.right]
    return max(right, key=lambda a: (a.question.size, len(a.actions) > 1, -(a.p_small or 0.0)), default=None)
