"""What a decision costs: CPU milliseconds with the fleet's plans and with twice as many, over beliefs and answers seen.

    python -m benchmarks.decide                 a minute of one core

CPU time of the process, so that other work on the machine counts as little as it can; beside it a fixed piece of numpy work is measured
in turn with the decisions, and the ratio to it is given, which says more than milliseconds of a busy or another machine. Every decision is
from a belief of its own; what is kept of plans' costs for prompts of one size is of use only where that is said.
"""

from __future__ import annotations

import cProfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from benchmarks.fleet_log import CONFIG
from benchmarks.harness import ROOT, Array, command, parser, publish, table
from difficulty.belief import Belief
from difficulty.curves import Curves
from policies.decide import decide
from policies.facts import Facts, Market
from policies.plans import BestOfN, Plan
from policies.policy import Optimiser
from router.assembly import parts
from router.config import load
from router.learning import without_probe

NAME = "decide"
EASES: Array = np.linspace(-2, 2, 30)
FAILED = (0, 2, 6)
MORE: tuple[Plan, ...] = tuple(
    BestOfN(backend=name, n=n, verifier="reward") for name, sizes in (("small", (2, 4, 8)), ("large", (2, 4))) for n in sizes
)
YARDSTICK: Array = np.random.default_rng(0).random((21, 12))

WHY = """\
*21 nodes*: the same curves without a difficulty of each model's own, so that the tables of `small` are a seventh as large. What the
decision takes then is the number of its steps, not their size: with ten plans it is {calls:,} calls of Python and numpy functions (by
cProfile, of a size seen, two failed), each a microsecond or less."""

BEFORE = """\
Until what a plan costs was kept apart from what is believed, and a belief became one product with tables that all plans share, this
measurement gave 2.6 to 2.8 yardsticks with five plans and 5.1 to 5.4 with ten (that code and this one in turn, twice, on a machine with
other work). The decisions are the same: of 4,000 at random, with all their forecasts, those that differed by more than rounding were
between plans worth the same to the last digit. The aim of 2 ms with ten plans is not reached. Before that, this page was made without
the fleet's curves, so that it showed two grids of 21 nodes where the fleet has two of 147: 2.0 to 2.2 yardsticks with ten plans."""


def main() -> None:
    """Measure and publish."""
    cli = parser(NAME, __doc__ or "")
    cli.add_argument("--repeat", type=int, default=5, help="decisions at each belief")
    options = cli.parse_args()
    policy, market = fleet()
    ten = policy.model_copy(update={"plans": (*policy.plans, *MORE)})
    plain = {name: replace(curve, own=0.0) for name, curve in market.curves.success.items()}
    fewer = replace(market, curves=replace(market.curves, success=plain))
    rows = [
        {"plans": f"{len(one.plans)} plans{nodes}", "failed": failed, **measured(one, sold, failed, options.repeat)}
        for one, sold, nodes in ((policy, market, ""), (ten, market, ""), (ten, fewer, ", 21 nodes"))
        for failed in FAILED
    ]
    calls = calls_of(ten, market)
    publish(NAME, {"beliefs": len(EASES), "repeat": options.repeat, "rows": rows, "calls": calls}, page(rows, calls))


def fleet() -> tuple[Optimiser, Market]:
    """The fleet's policy `balanced`, and its market."""
    config = load(CONFIG)
    policy = config.policies["balanced"]
    assert isinstance(policy, Optimiser), "balanced is an optimiser"
    assert config.curves is not None, "the fleet has curves"
    return policy, replace(parts(without_probe(config)).market, curves=Curves.load(ROOT / config.curves))


def measured(policy: Optimiser, market: Market, failed: int, repeat: int) -> dict[str, float]:
    """Of all beliefs and repetitions: milliseconds, and the median of their ratios to the yardstick beside them."""
    sizes, eases = count(10**6), [float(ease) for ease in EASES] * repeat
    (spent, beside), (again, beside_again) = (
        np.array([(_ms(partial(decide, policy, market, *state(market, ease, failed, size))), _ms(yardstick)) for ease, size in each]).T
        for each in (list(zip(eases, sizes, strict=False)), [(ease, 10**6) for ease in eases])
    )
    return {
        "median_ms": float(np.median(spent)),
        "p95_ms": float(np.quantile(spent, 0.95)),
        "yardstick_ms": float(np.median(beside)),
        "ratio": float(np.median(spent / beside)),
        "ratio_again": float(np.median(again / beside_again)),
    }


def calls_of(policy: Optimiser, market: Market) -> int:
    """Function calls of one decision, on the mean of the beliefs."""
    states = [state(market, float(ease), 2, 10**6) for ease in EASES]
    for facts, belief in states:  # their sizes are not new then
        decide(policy, market, facts, belief)
    profile = cProfile.Profile()
    for facts, belief in states:
        profile.runcall(decide, policy, market, facts, replace(belief))
    return round(sum(entry.callcount for entry in profile.getstats()) / len(states))


def state(market: Market, ease: float, failed: int, size: int) -> tuple[Facts, Belief]:
    """A puzzle of that ease as both models see it, of which so many answers of small scored badly; `size` is a limit on tokens far above
    what is drawn, so that it changes nothing but what can be kept."""
    curves = market.curves
    prior = Belief.prior({"small": ease, "large": ease}, curves.success, tempering=curves.tempering)
    answers = [curves.scores_of("reward").seen("small", 0.02 + 0.001 * i) for i in range(failed)]
    facts = Facts(input_tokens=14, max_tokens=size, deadline_s=8.0, ceiling_usd=0.01)
    done = frozenset({"single(small)"}) if failed else frozenset()
    return replace(facts, done=done), prior.after(answers)


def yardstick() -> float:
    """Two hundred small products, powers and sums, of the size and kind of a forecast's."""
    found = 0.0
    for _ in range(200):
        found += float(((YARDSTICK @ YARDSTICK.T) ** 3).cumsum(axis=1).sum())
    return found


def _ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def page(rows: Sequence[dict[str, Any]], calls: int) -> str:
    """docs/benchmarks/decide.md."""
    head = ["plans, answers that failed", "median, ms", "95th percentile, ms", "yardstick, ms", "decision / yardstick", "of a size seen"]
    numbers = "median_ms", "p95_ms", "yardstick_ms", "ratio", "ratio_again"
    lines = [[f"{row['plans']}, {row['failed']} failed", *(f"{row[of]:.2f}" for of in numbers)] for row in rows]
    return "\n".join(
        [
            "# What a decision costs",
            "",
            f"{command(NAME)} CPU time of one decision by `balanced` over {len(EASES)} beliefs (e from {EASES[0]:g} to {EASES[-1]:g}),",
            "with the fleet's curves and its five plans, and with five more of best-of-n. Each is from a belief of its own and for a",
            "prompt of a size of its own; what the plans cost for a size is kept, so that for one that was seen, as after the first",
            "decision of a request, it is less. The yardstick is a fixed piece of numpy work, measured in turn with the decisions: the",
            "ratio says how much of the time is the machine's.",
            "",
            table(head, lines),
            "",
            WHY.format(calls=calls),
            "",
            BEFORE,
        ]
    )


if __name__ == "__main__":
    main()
