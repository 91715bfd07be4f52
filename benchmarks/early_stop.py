"""When is a vote among samples over? Accuracy and samples of self-consistency and of three ways to stop it early, on recorded samples.

For every set (`samples_*.jsonl.gz`) the samples of each prompt are voted on in many random orders. What the votes of a set are taken to be
like is learned on sets of other tasks alone; "own races" learns how races go on one half of the set's own prompts, for which no answer
need be marked, and is judged on the other, both ways; "own log" learns all of it there. The price of a sample is chosen so too, on one half
of the prompts of all sets. How far any rule could get: `best_stop.py`.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks import best_stop, harness
from benchmarks.best_stop import OURS, RACES
from benchmarks.harness import Array, Ints
from benchmarks.stopping import (
    LONGEST,
    MAY_LOSE,
    PRICES,
    Judged,
    Recorded,
    adaptive_consistency,
    esc,
    ours,
    self_consistency,
    sure,
)
from difficulty.learn_votes import fit_votes
from difficulty.votes import Votes

NAME = "early_stop"
AIMED = ("date_gpt35_80mix", "date_gpt35_cot1_40", "date_llama2_13b_80mix", "svamp_codex_sc", "gsm_gpt4_12mix", "asdiv_gpt4_12mix")
"""The sets that the aim is about; the others are reported beside them."""
LEAST_AGREEMENT = 0.25
LEARN_FROM = 200
"""Prompts of each set that are learned from, so that all sets weigh the same."""
LITTLE = 0.3
"""A lead that is worth less is spoken of on the page."""


# --- what is learned ------------------------------------------------------------------------------------------------------


def learned(sets: Sequence[Recorded]) -> Votes:
    """From the first prompts of each set alike."""
    return fit_votes([sampled for recorded in sets for sampled in recorded.sampled[:LEARN_FROM]])


def dearest(lost: Callable[[float], float]) -> float:
    """The highest price at which no more points are lost than may be; found by halving, as dearer samples lose more."""
    at = bisect_left(PRICES, True, key=lambda price: lost(price) > MAY_LOSE)
    return PRICES[max(at - 1, 0)]


def of_other_tasks(sets: Sequence[Recorded], votes: Votes) -> float:
    """The price by what the sets lose on their mean."""
    return dearest(lambda price: float(np.mean([100 * (self_consistency(s).right - ours(s, votes, price).right).mean() for s in sets])))


def of_half(sets: Sequence[Recorded], frontiers: Sequence[Mapping[float, Judged]], half: int) -> float:
    """The price by what one half of the prompts of all sets loses on their mean."""
    everything = [self_consistency(s).right for s in sets]

    def lost(price: float) -> float:
        rows = zip(sets, everything, frontiers, strict=True)
        return float(np.mean([100 * (right - frontier[price].right)[s.half == half].mean() for s, right, frontier in rows]))

    return dearest(lost)


def own_votes(recorded: Recorded) -> list[Votes]:
    """For each half of the prompts, by what the other half taught."""
    return [fit_votes([recorded.sampled[i] for i in np.flatnonzero(recorded.half != h)[:LEARN_FROM]]) for h in (0, 1)]


# --- the page -------------------------------------------------------------------------------------------------------------


Prices = tuple[float, float]
"""For each half of the prompts."""
Frontier = Mapping[float, Judged]
"""Ours by price."""


@dataclass(frozen=True)
class Learned:
    """What is learned for one set."""

    votes: Votes
    """On other tasks."""
    elsewhere: float
    """The price that other tasks would have."""
    own: Sequence[Votes]
    """For each half of its prompts, on the other."""


@dataclass(frozen=True)
class Finding:
    """One set, judged by every rule."""

    recorded: Recorded
    learned: Learned
    frontier: Frontier
    rules: Mapping[str, Judged]

    def against(self, rule: str, seed: int = 0) -> dict[str, tuple[float, float, float]]:
        """A rule's loss in points against self-consistency, and its samples over Adaptive-Consistency's, each with its interval."""
        rows, group = self.rules[rule], self.recorded.group
        everything, adaptive = self.rules[ALL], self.rules[ADAPTIVE]
        points = harness.bootstrap(harness.mean_of(100 * (rows.right - everything.right)), group, seed=seed)
        share = harness.bootstrap(lambda i: float(rows.samples[i].mean() / adaptive.samples[i].mean()), group, seed=seed)
        return {"points": points, "share": share}


ALL, ADAPTIVE, ESC = "self-consistency", "Adaptive-Consistency .95", "ESC 5"
BATCHES, OWN, ELSEWHERE = "ours, batches of 4", "ours, own log", "ours, price of other tasks"


def own_races(recorded: Recorded, known: Learned) -> Frontier:
    """Ours by price, when it knows from either half of the prompts how races go on the other."""
    rules = [replace(known.votes, contest=of_half.contest) for of_half in known.own]
    return {price: Judged.by_half(recorded.half, *(ours(recorded, rule, price) for rule in rules)) for price in PRICES}


def found(recorded: Recorded, known: Learned, prices: Mapping[str, Prices], frontiers: Sequence[Frontier]) -> Finding:
    """All rules on one set, with what was learned from others."""
    frontier, races = frontiers
    votes, own = known.votes, known.own

    def priced(rule: Callable[[int, float], Judged], by: str = OURS) -> Judged:
        return Judged.by_half(recorded.half, *(rule(h, price) for h, price in enumerate(prices[by])))

    rules = {
        ALL: self_consistency(recorded),
        ADAPTIVE: adaptive_consistency(recorded),
        ESC: esc(recorded),
        OURS: priced(lambda h, price: frontier[price]),
        BATCHES: priced(lambda h, price: ours(recorded, votes, price, batch=4)),
        RACES: priced(lambda h, price: races[price], RACES),
        OWN: priced(lambda h, price: ours(recorded, own[h], price)),
        ELSEWHERE: frontier[known.elsewhere],
        "without the number to come": priced(lambda h, price: ours(recorded, votes, price, left=lambda n: LONGEST)),
        "without a price": sure(recorded, votes, 0.97),
        "without votes learned": priced(lambda h, price: ours(recorded, Votes(), price)),
    }
    return Finding(recorded, known, frontier, rules)


def task(name: str) -> str:
    """Sets of one task share prompts: what is judged on one is learned on none of them."""
    return name.split("_")[0]


def page(findings: Mapping[str, Finding], means: Mapping[str, Any], prices: Mapping[str, Prices], bounds: Mapping[str, Any]) -> str:
    """The report."""
    short = (ALL, ADAPTIVE, ESC, OURS, RACES, BATCHES, OWN)
    rows = [[name, *(_pair(f.rules[rule]) for rule in short)] for name, f in findings.items()]
    mean = [[rule, *_intervals(both)] for rule, both in means.items()]
    by_set = {name: f.against(OURS) for name, f in findings.items()}
    each = [[name, *_intervals(by_set[name]), *_intervals(f.against(RACES))] for name, f in findings.items()]
    learnt = [[name, f"{f.learned.elsewhere:g}", *_learnt([f.learned.votes]), *_learnt(f.learned.own)] for name, f in findings.items()]
    aimed = ", ".join(name for name in AIMED if name in findings)
    return f"""# When a vote is over

{harness.command(NAME)}

Samples of real models, voted on in many random orders. Accuracy in %, mean number of samples:

{harness.table(["set", *short], rows)}

![accuracy against samples]({NAME}.png)

Against self-consistency (points) and Adaptive-Consistency (samples), mean of the sets {aimed};
95 % intervals over groups of prompts:

{harness.table(["rule", "points", "samples, share"], mean)}

The same for ours by set:

{harness.table(["set", "points", "samples, share", "own races: points", "samples, share"], each)}

What was learned from the sets of other tasks, with the price of a sample that lost {MAY_LOSE:g} points there at most, and from each
half of the set's own prompts:

{harness.table(["set", "price there", "contest", "lead worth", "own contest", "own lead worth"], learnt)}

{reading(findings, means, by_set, prices)}

{best_stop.section(bounds)}
"""


def reading(findings: Mapping[str, Finding], means: Mapping[str, Any], by_set: Mapping[str, Any], prices: Mapping[str, Prices]) -> str:
    """What follows from the figures, whatever they are; below it what is so whatever they are."""
    both, races, own, elsewhere = (means[rule] for rule in (OURS, RACES, OWN, ELSEWHERE))
    more = [name for name, one in by_set.items() if one["share"][0] > 1]
    lose = [name for name, one in by_set.items() if one["points"][0] < -MAY_LOSE]
    sure = [name for name in lose if by_set[name]["points"][2] < 0]
    orders = sorted(f.recorded.orders for f in findings.values())
    price = " and ".join(f"{price:g}" for price in sorted(set(prices[OURS])))
    known = "".join(
        f" On {name} it sees that a lead is worth little ({_learnt(f.learned.own)[1]}), and takes {_pair(f.rules[OWN])} instead of"
        f" {_pair(f.rules[OURS])} (accuracy, samples)."
        for name, f in findings.items()
        if max(votes.lead_worth for votes in f.learned.own) < LITTLE
    )
    sets = (
        _named("More samples are taken on", more) or "Every set takes fewer samples.",
        _named(f"More than {MAY_LOSE:g} point is lost on", lose) or f"No set loses more than {MAY_LOSE:g} point.",
        _named("The interval of the loss does not reach 0 on", sure),
    )
    return harness.prose(
        f"""The aim was self-consistency's accuracy within {MAY_LOSE:g} point with at least 30 % fewer samples than Adaptive-Consistency,
        and no set worse. What is reached on the mean is {_reached(both)}. {" ".join(sets)} Who also
        knows how races go on the very task ("own races"), for which no answer need be marked, reaches {_reached(races)}.""",
        f"""One price holds for all sets ({price} of what a right answer is worth): for each half of the prompts the highest that loses
        {MAY_LOSE:g} point at most on the other half, on the mean of the sets that the aim is about. Were it chosen on other tasks alone, as
        all else is, it would be {_reached(elsewhere)}: what a price loses differs between tasks. A service chooses none, but is told what
        a right answer is worth.""",
        f"""What is learned from the very task ("own log") comes to {_reached(own)}.{known} A log in which few leaders ever change says
        little of what a lead is worth.""",
        """On CRUXEval, where a vote is no likelier right than one answer, the aim was to stop at one or two samples. It is missed: votes
        alone do not show that they are of no use. Other tasks say that a lead is worth much, and even what the own log says it is worth
        pays for a third sample at this price; that it is worth nothing shows in marks only.""",
        f"""Each prompt was voted on in {orders[0]} to {orders[-1]} orders, which the intervals do not hold. The form of the rule was chosen
        among some dozens of variants that were tried on these same sets, so its figures are on the friendly side; that a leader is likelier
        right the more it leads, however the race came there, was seen on them too.""",
    )


def _reached(both: Mapping[str, tuple[float, float, float]]) -> str:
    (points, low, high), (share, _, _) = both["points"], both["share"]
    return f"{100 * (1 - share):.0f} % fewer samples at {points:+.2f} points ({low:+.2f} to {high:+.2f})"


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what} {', '.join(names)}." if names else ""


def _pair(judged: Judged) -> str:
    return f"{100 * judged.right.mean():.2f}, {judged.samples.mean():.1f}"


def _intervals(both: Mapping[str, tuple[float, float, float]]) -> tuple[str, str]:
    return harness.interval(both["points"], "+.2f"), harness.interval(both["share"], ".2f")


def _learnt(votes: Sequence[Votes]) -> tuple[str, str]:
    return " / ".join(f"{v.contest:g}" for v in votes), " / ".join(f"{v.lead_worth:.2f}" for v in votes)


def picture(findings: Mapping[str, Finding]) -> None:
    """Accuracy against samples for every set: each rule's frontier over its own knob."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 4
    figure, axes = pyplot.subplots(-(-len(findings) // columns), columns, figsize=(15, 3.4 * -(-len(findings) // columns)), squeeze=False)
    for axis in axes.flat[len(findings) :]:
        axis.axis("off")
    for axis, (name, f) in zip(axes.flat, findings.items(), strict=False):
        recorded = f.recorded
        curves = {
            "first n samples": ([self_consistency(recorded, n) for n in range(1, recorded.n + 1)], "0.6", "-"),
            "Adaptive-Consistency": (
                [adaptive_consistency(recorded, at) for at in (0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.99)],
                "tab:orange",
                "o-",
            ),
            "ESC": ([esc(recorded, w) for w in (2, 3, 4, 5, 8) if w <= recorded.n], "tab:green", "s-"),
            "ours": (list(f.frontier.values()), "tab:blue", ".-"),
        }
        for label, (judged, colour, style) in curves.items():
            axis.plot([j.samples.mean() for j in judged], [100 * j.right.mean() for j in judged], style, color=colour, label=label, ms=4)
        for rule, colour, mark in ((OURS, "tab:blue", "*"), (OWN, "tab:red", "*")):
            axis.plot(f.rules[rule].samples.mean(), 100 * f.rules[rule].right.mean(), mark, color=colour, ms=13, label=rule)
        axis.axhline(100 * f.rules[ALL].right.mean(), color="0.8", lw=0.8)
        axis.set(title=name, xscale="log", xlabel="samples", ylabel="right, %")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    harness.PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(harness.PAGES / f"{NAME}.png", dpi=80)


def mean_of(findings: Mapping[str, Finding], rule: str) -> dict[str, tuple[float, float, float]]:
    """A rule over the sets that are aimed at, each counting alike, prompts of all of them resampled by group."""
    aimed = [f for name, f in findings.items() if name in AIMED]
    group = harness.groups([prompt for f in aimed for prompt in f.recorded.prompts])
    place = np.concatenate([np.full(len(f.recorded.prompts), i) for i, f in enumerate(aimed)])
    points = np.concatenate([100 * (f.rules[rule].right - f.rules[ALL].right) for f in aimed])
    samples, adaptive = (np.concatenate([f.rules[r].samples for f in aimed]) for r in (rule, ADAPTIVE))

    def by_set(values: Array, rows: Ints) -> Array:
        return np.asarray(np.bincount(place[rows], values[rows], len(aimed)), dtype=np.float64)

    lost = harness.bootstrap(lambda i: float((by_set(points, i) / by_set(np.ones_like(points), i)).mean()), group)
    return {"points": lost, "share": harness.bootstrap(lambda i: float((by_set(samples, i) / by_set(adaptive, i)).mean()), group)}


def _figures(f: Finding) -> dict[str, Any]:
    rules = {rule: {"accuracy": float(j.right.mean()), "samples": float(j.samples.mean())} for rule, j in f.rules.items()}
    return {"prompts": len(f.recorded.prompts), "orders": f.recorded.orders, "learned": asdict(f.learned), "rules": rules}


def main() -> None:
    """From the files to the page."""
    form = harness.parser(NAME, str(__doc__))
    form.add_argument("--votes", type=int, default=120_000, help="random orders over all prompts of a set; a prompt has 10 at least")
    options = form.parse_args()
    rows = {name.removeprefix("samples_"): rows for name, rows in harness.recordings(options.data, "samples_*.jsonl.gz").items()}
    sets = {n.removeprefix("mot_").removeprefix("pot_"): Recorded.of(n, r, max(10, options.votes // len(r))) for n, r in rows.items()}
    sets = {name: s for name, s in sets.items() if s.n >= 10 and s.agreement >= LEAST_AGREEMENT}
    aimed = {name: s for name, s in sets.items() if name in AIMED}
    of_task = {}
    for of in {task(name) for name in sets}:
        others = [s for name, s in aimed.items() if task(name) != of]
        of_task[of] = (votes := learned(others)), of_other_tasks(others, votes)
    known = {name: Learned(*of_task[task(name)], own_votes(s)) for name, s in sets.items()}
    findings, bounds, frontiers = {}, {}, {}
    for name, s in sets.items():
        print(f"{name}: {len(s.prompts)} prompts, {s.n} samples, {s.orders} orders", file=sys.stderr)
        frontiers[name] = {price: ours(s, known[name].votes, price) for price in PRICES}, own_races(s, known[name])
    prices = {}
    for i, rule in enumerate((OURS, RACES)):
        of_aimed = [frontiers[name][i] for name in aimed]
        prices[rule] = of_half(list(aimed.values()), of_aimed, 1), of_half(list(aimed.values()), of_aimed, 0)
    for name, s in sets.items():
        findings[name] = found(s, known[name], prices, frontiers[name])
        if name in aimed:
            print(f"{name}: the best rules", file=sys.stderr)
            ours_too = {rule: list(of.values()) for rule, of in zip((OURS, RACES), frontiers[name], strict=True)}
            bounds[name] = best_stop.frontiers(s, ours_too)
    means = {rule: mean_of(findings, rule) for rule in next(iter(findings.values())).rules}
    picture(findings)
    figures = {
        "mean": means,
        "prices": prices,
        "sets": {name: _figures(f) for name, f in findings.items()},
        "best": {"prices": PRICES, "sets": bounds},
    }
    harness.publish(NAME, figures, page(findings, means, prices, bounds))


if __name__ == "__main__":
    main()
