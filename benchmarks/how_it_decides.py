"""The picture of docs/how-it-decides.md: one hard puzzle, what is believed of it, and what each plan is then worth, as answers fail.

    python -m benchmarks.how_it_decides         a few seconds; draws docs/how-it-decides.png

Beliefs and decisions are the service's own, with the fleet's curves and its policy `balanced`; what the answers score is made up.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.decide import fleet
from benchmarks.harness import ROOT, Array
from difficulty.belief import Belief
from policies.decide import decide
from policies.facts import Decision, Facts, Market
from policies.policy import Optimiser

EASE = {"small": -1.2, "large": -0.6}
"""The probe's word on the puzzle."""
LOW, HIGH = 0.02, 0.99
ANSWERS: dict[str, tuple[float, ...]] = {
    "before the first call": (),
    f"after 4 answers that score {LOW}": (LOW,) * 4,
    f"after 12 answers that score {LOW}": (LOW,) * 12,
    f"after one more, that scores {HIGH}": (*(LOW,) * 12, HIGH),
}
"""What small's answers scored: four of a chain of revisions, then samples."""
BINS: Array = np.linspace(0, 1, 11)
PICTURE = ROOT / "docs" / "how-it-decides.png"
CHOSEN, OTHER, STOP = "#c1440e", "#9db4c0", "#253237"


@dataclass(frozen=True)
class Moment:
    """What stands after some answers."""

    title: str
    belief: Belief
    decision: Decision


def main() -> None:
    """Decide, and draw."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog="python -m benchmarks.how_it_decides", description=__doc__, formatter_class=form).parse_args()
    policy, market = fleet()
    draw([moment(policy, market, title, said) for title, said in ANSWERS.items()], policy.objective.value_of_correct_usd)
    print(PICTURE)


def moment(policy: Optimiser, market: Market, title: str, said: tuple[float, ...]) -> Moment:
    """The service's belief and decision after these scores."""
    curves, facts = market.curves, Facts(input_tokens=14, deadline_s=8.0, ceiling_usd=0.01)
    scores, revised = curves.scores_of("reward"), next(plan for plan in policy.plans if plan.kind == "revise")
    channel = curves.plan(revised.key).channel
    answers = [scores.seen("small", score, *([channel] if 0 < i < 4 else [])) for i, score in enumerate(said)]
    sampled = next(plan for plan in policy.plans if plan.kind == "best_of_n")
    done = frozenset({revised.key}) if said else frozenset()
    begun = {sampled.key: len(said) - 4} if len(said) > 4 else {}
    belief = Belief.prior(EASE, curves.success, tempering=curves.tempering).after(answers)
    facts = replace(facts, done=done, begun=begun, read=market.caches if said else frozenset())
    return Moment(title, belief, decide(policy, market, facts, belief))


def draw(moments: list[Moment], value_usd: float) -> None:
    """A column for each moment: the belief above, the plans below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(moments), figsize=(14, 5.6), height_ratios=(1, 1.5), sharex="row", sharey="row")
    for column, now in zip(axes.T, moments, strict=True):
        _believed(column[0], now)
        _worth(column[1], now, value_usd)
    axes[0, 0].set_ylabel("belief, %")
    axes[1, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


def _believed(axis: Any, now: Moment) -> None:
    """How likely each chance of the next sample of small is."""
    share, _ = np.histogram(now.belief.by_node("small"), BINS, weights=now.belief.weights_of("small"))
    axis.bar(BINS[:-1] + 0.05, 100 * share, width=0.09, color=OTHER)
    axis.axvline(now.belief.p_correct("small"), color=STOP, linewidth=1.2)
    axis.set_title(now.title, fontsize=11)
    axis.set(xlabel="chance of one more sample of small")


def _worth(axis: Any, now: Moment, value_usd: float) -> None:
    """Utility of every plan, and of stopping, in millionths of a dollar."""
    rows = now.decision.considered
    chosen = now.decision.plan
    for y, row in enumerate(rows):
        what = CHOSEN if chosen is not None and row.plan.key == chosen.key else OTHER
        if row.refused:
            axis.text(0, y, f" {row.refused}", va="center", fontsize=8, color="0.4")
            continue
        axis.barh(y, 1e6 * row.utility_usd, color=what, height=0.65)
        text = f" right {row.quality:.2f}, \\${1e6 * row.cost_usd:.0f} a million"
        axis.text(max(0.0, 1e6 * row.utility_usd), y, text, va="center", fontsize=7.5)
    y = len(rows)
    axis.barh(y, 1e6 * value_usd * now.belief.best, color=CHOSEN if chosen is None else STOP, height=0.65)
    axis.text(1e6 * value_usd * now.belief.best, y, f" right {now.belief.best:.2f}", va="center", fontsize=7.5)
    axis.set(xlim=(min(0.0, axis.get_xlim()[0]), 1.75e6 * value_usd), xlabel="utility, millionths of a dollar")
    names = [f"{row.plan.kind} ({row.plan.backends[0]})".replace("_", " ") for row in rows]
    axis.set_yticks(range(y + 1), [*names, "stop"])


if __name__ == "__main__":
    main()
