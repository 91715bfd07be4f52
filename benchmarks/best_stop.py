"""How far could any rule get that stops a vote by its counts alone? The best such rule, made from the very votes that it is judged on.

For every state of the counts it takes the better of stopping and of going on, by backward induction from the last sample. As the order of
samples says nothing, no rule on those counts does better on these prompts, but for the chance of the orders drawn. So the truth lies
between two figures: of the rule made from all orders, which knows that chance too, and of one made from half of the orders and judged on
the other half, which was led astray by it. Made from half of the prompts and judged on the others, it shows what was known of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Array, Ints
from benchmarks.stopping import MAY_LOSE, PRICES, Judged, Recorded, adaptive_consistency, self_consistency

Bools = NDArray[np.bool_]
Point = tuple[float, float]
"""(points against self-consistency, samples over Adaptive-Consistency's)."""
AIM = 0.7
"""Samples over Adaptive-Consistency's that the aim was."""
OURS, RACES = "ours", "ours, own races"
VIEWS = ("leader, runner-up", "all counts")
MADE = ("these votes", "other orders")
OTHERS, SHARES = "other prompts", "other prompts, by shares"
RULES = (OURS, RACES, *(f"{view}: {made}" for view in VIEWS for made in MADE), OTHERS, SHARES)


@dataclass(frozen=True)
class Seen:
    """All votes on a set as a rule sees them; arrays are [n, votes]."""

    state: Ints
    """After each sample a number for what is seen of the counts."""
    worth: Array
    """What it is worth to stop there."""

    @classmethod
    def of(cls, code: Ints, worth: Array) -> Seen:
        """From [votes, n]; what has the same code after the same sample is the same state."""
        numbered = [np.unique(column, return_inverse=True)[1] for column in code.T]
        return cls(np.array(numbered, dtype=np.int32), np.ascontiguousarray(worth.T))

    def stops(self, price: float, known: Bools | None = None) -> Bools:
        """Whether each vote would be stopped after each sample, [votes, n], by the rule that is the best for the `known` votes. A state
        that none of them was in goes on."""
        votes = slice(None) if known is None else known
        stops, paid = np.ones(self.state.shape, dtype=bool), self.worth[-1, votes]
        for n in range(len(stops) - 2, -1, -1):
            state, stopped, gone_on = self.state[n, votes], self.worth[n, votes], paid - price
            size = int(self.state[n].max()) + 1
            better = (np.bincount(state, stopped - gone_on, size) >= 0) & (np.bincount(state, minlength=size) > 0)
            stops[n], paid = better[self.state[n]], np.where(better[state], stopped, gone_on)
        return stops.T

    def in_halves(self, price: float, half: Ints) -> Bools:
        """Each half of the votes stopped by what is the best for the other one."""
        return np.where((half == 0)[:, None], self.stops(price, half == 1), self.stops(price, half == 0))


def all_counts(answer: Ints) -> Ints:
    """A code for the counts of all answers whatever they are called, [votes, n]: the sum of a random number for each count."""
    votes, n = answer.shape
    of = np.append(0, np.random.default_rng(0).integers(0, 1 << 62, n))
    counts, code, rows = np.zeros((votes, int(answer.max()) + 1), dtype=np.int64), np.zeros((votes, n), dtype=np.int64), np.arange(votes)
    for i in range(n):
        had = counts[rows, answer[:, i]]
        counts[rows, answer[:, i]] = had + 1
        code[:, i] = code[:, i - 1] + of[had + 1] - of[had]
    return code


def frontiers(recorded: Recorded, ours: dict[str, list[Judged]]) -> dict[str, list[Point]]:
    """Every rule at each of the prices: ours, as it did, and the best."""
    everything, adaptive = self_consistency(recorded), adaptive_consistency(recorded)
    of_orders = np.tile(np.arange(recorded.orders) % 2, len(recorded.prompts))
    of_prompts = np.repeat(recorded.half, recorded.orders)
    answer, votes = recorded.answers[0], recorded.votes
    as_ours = votes.first * 256 + votes.second
    seen = {VIEWS[0]: Seen.of(as_ours, votes.right), VIEWS[1]: Seen.of(all_counts(answer), votes.right)}
    stops: dict[str, Callable[[float], Bools]] = {f"{view}: {MADE[0]}": one.stops for view, one in seen.items()}
    stops |= {f"{view}: {MADE[1]}": partial(one.in_halves, half=of_orders) for view, one in seen.items()}
    stops[OTHERS] = partial(seen[VIEWS[0]].in_halves, half=of_prompts)
    stops[SHARES] = partial(Seen.of(as_ours, shares(answer, votes.leader)).in_halves, half=of_prompts)
    best = {name: [recorded.judged(rule(price)) for price in PRICES] for name, rule in stops.items()}
    return {name: [each.against(everything, adaptive) for each in rows] for name, rows in (ours | best).items()}


def shares(answer: Ints, leader: Ints) -> Array:
    """The leader's share of all samples of the vote, [votes, n]."""
    votes, n = answer.shape
    width = int(answer.max()) + 1
    counts = np.bincount((np.arange(votes)[:, None] * width + answer).ravel(), minlength=votes * width).reshape(votes, width)
    return np.asarray(np.take_along_axis(counts, leader, axis=1) / n)


def fewest(points: Sequence[Point]) -> Point | None:
    """The fewest samples at which no more is lost than may be, if there are any."""
    return min((point for point in points if point[0] >= -MAY_LOSE), key=lambda point: point[1], default=None)


def mean(sets: Mapping[str, Mapping[str, Sequence[Point]]], rule: str) -> list[Point]:
    """Of all sets at each of the prices."""
    points, share = np.mean([found[rule] for found in sets.values()], axis=0).T
    return list(zip(points.tolist(), share.tolist(), strict=True))


# --- on the page --------------------------------------------------------------------------------------------------------


def section(sets: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    """What the best rules reach, and what of it is within reach."""
    rows = [[name, *(_cell(found[rule]) for rule in RULES)] for name, found in sets.items()]
    one_price = {rule: mean(sets, rule) for rule in RULES}
    rows.append(["mean, one price for all", *(_cell(one_price[rule]) for rule in RULES)])
    prices = [[f"{price:g}", *(_point(one_price[rule][i]) for rule in RULES)] for i, price in enumerate(PRICES)]
    about = harness.prose(
        f"""The best rule there is for the very votes it is judged on, by backward induction over the states that it sees: *leader,
        runner-up* and how many samples, as ours does, or *all counts*. Made from *these votes* it knows the prompts and also the orders in
        which their samples came: no rule does better. Made from half of the orders (*other orders*) it knows the prompts only, and has had
        less to learn from: the best that could be done with the prompts known lies between the two. Made from half of the *other prompts*
        it is a rule that could be had, which sees what ours does; by *shares* it takes an answer to be worth its share of all samples,
        right or wrong, which fewer prompts tell. Samples over Adaptive-Consistency's (points in brackets) at each rule's best price, at
        which it takes the fewest and loses {MAY_LOSE:g} point at most; where every price loses more, the least that is lost:"""
    )
    return f"""## How far any rule on the counts could get

{about}

{harness.table(["set", *RULES], rows)}

The mean of these sets by the price of a sample, over the value of a right answer:

{harness.table(["price", *RULES], prices)}

{_reading(one_price)}"""


def _cell(points: Sequence[Point]) -> str:
    found = fewest(points)
    return _point(found) if found else f"none ({max(points)[0]:+.2f})"


def _point(point: Point) -> str:
    return f"{point[1]:.2f} ({point[0]:+.2f})"


def _reading(mean: Mapping[str, Sequence[Point]]) -> str:
    """What follows from the figures, whatever they are."""
    found = {rule: fewest(points) for rule, points in mean.items()}
    reached = {rule: _said(point) for rule, point in found.items()}
    (best, had), (best_of_all, had_of_all) = ([f"{view}: {made}" for made in MADE[:2]] for view in VIEWS)
    if _share(found[best]) > AIM:
        verdict = f"The aim's {AIM:g} is fewer than any rule can do with that sees no more than ours does."
    elif _share(found[had]) > AIM:
        verdict = f"Whether the aim's {AIM:g} can be had with the prompts known is not told by so many orders."
    else:
        verdict = f"The aim's {AIM:g} can be had by who knows the prompts."
    other = f"it takes {reached[OTHERS]}" if found[OTHERS] else f"it loses {-max(mean[OTHERS])[0]:.2f} points or more at every price"
    return harness.prose(
        f"""At one price for all sets ours takes {reached[OURS]} of Adaptive-Consistency's samples, with its own races {reached[RACES]}. Who
        sees as much of the votes and knows the prompts cannot do with less than {reached[best]}, and was seen to do with {reached[had]};
        with all counts in sight the two are {reached[best_of_all]} and {reached[had_of_all]}. {verdict}""",
        f"""To know the prompts is what no rule can in service. Made from other prompts of the same set, {other}, and by shares it takes
        {reached[SHARES]}: a table of states also learns the chance of the prompts that it is made from. Ours learns two numbers, and with
        its own races it is {_from(found[RACES], found[SHARES])} from that table and {_from(found[RACES], found[best])} from the least that
        can be done with.""",
    )


def _from(one: Point | None, other: Point | None) -> str:
    return f"{one[1] - other[1]:+.2f}" if one and other else "an unknown number"


def _share(point: Point | None) -> float:
    return point[1] if point else 1.0


def _said(point: Point | None) -> str:
    return f"{point[1]:.2f}" if point else "more than any price here allows"
