"""What a decision costs: CPU milliseconds with the fleet's plans and with twice as many, over beliefs and answers seen.

    python -m benchmarks.decide                 a minute of one core

CPU time of the process, so that other work on the machine counts as little as it can; beside it a fixed piece of numpy work is measured
in turn with the decisions, and the ratio to it is given, which says more than milliseconds of a busy or another machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.fleet_log import CONFIG
from benchmarks.harness import Array, command, parser, publish, table
from difficulty.belief import Belief
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

BEFORE = """\
Each plan was forecast by itself until this page was made; the same measurement of that code, a minute before on the same machine, gave
decisions of 1.38 to 1.48 yardsticks with five plans and 3.24 to 3.32 with ten. Now those on one grid of the latent difficulty are forecast
in one go, from tables that they share. The aim of 2 ms with ten plans is not reached on this machine, which had other work. Before the
fleet's curves held a difficulty of each backend's own (two grids of seven times as many nodes), and before what may follow a plan was told
apart in up to four cases, it was 0.92 to 0.99 yardsticks with five plans and 1.51 to 1.57 with ten."""


def main() -> None:
    """Measure and publish."""
    cli = parser(NAME, __doc__ or "")
    cli.add_argument("--repeat", type=int, default=5, help="decisions at each belief")
    options = cli.parse_args()
    config = load(CONFIG)
    policy, market = config.policies["balanced"], parts(without_probe(config)).market
    assert isinstance(policy, Optimiser), "balanced is an optimiser"
    ten = policy.model_copy(update={"plans": (*policy.plans, *MORE)})
    rows = [
        {"plans": len(one.plans), "failed": failed, **measured(one, market, failed, options.repeat)}
        for one in (policy, ten)
        for failed in FAILED
    ]
    publish(NAME, {"beliefs": len(EASES), "repeat": options.repeat, "rows": rows}, page(rows))


def measured(policy: Optimiser, market: Market, failed: int, repeat: int) -> dict[str, float]:
    """Of all beliefs and repetitions: milliseconds, and the median of their ratios to the yardstick beside them."""
    work = [partial(decide, policy, market, *state(market, float(ease), failed)) for ease in EASES]
    work[0]()  # what is made once for a market is not the decision's
    pairs = np.array([(_ms(one), _ms(yardstick)) for _ in range(repeat) for one in work])
    spent, beside = pairs.T
    return {
        "median_ms": float(np.median(spent)),
        "p95_ms": float(np.quantile(spent, 0.95)),
        "yardstick_ms": float(np.median(beside)),
        "ratio": float(np.median(spent / beside)),
    }


def state(market: Market, ease: float, failed: int) -> tuple[Facts, Belief]:
    """A puzzle of that ease as both models see it, of which so many answers of small scored badly."""
    curves = market.curves
    prior = Belief.prior({"small": ease, "large": ease}, curves.success, tempering=curves.tempering)
    answers = [curves.scores_of("reward").seen("small", 0.02 + 0.001 * i) for i in range(failed)]
    facts = Facts(input_tokens=14, deadline_s=8.0, ceiling_usd=0.01)
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


def page(rows: Sequence[dict[str, Any]]) -> str:
    """docs/benchmarks/decide.md."""
    head = ["plans, answers that failed", "median, ms", "95th percentile, ms", "yardstick, ms", "decision / yardstick"]
    lines = [
        [f"{row['plans']} plans, {row['failed']} failed", *(f"{row[of]:.2f}" for of in ("median_ms", "p95_ms", "yardstick_ms", "ratio"))]
        for row in rows
    ]
    return "\n".join(
        [
            "# What a decision costs",
            "",
            f"{command(NAME)} CPU time of one decision by `balanced` over {len(EASES)} beliefs (e from {EASES[0]:g} to {EASES[-1]:g}),",
            "with the fleet's five plans and with five more of best-of-n. The yardstick is a fixed piece of numpy work, measured in turn",
            "with the decisions: the ratio says how much of the time is the machine's.",
            "",
            table(head, lines),
            "",
            BEFORE,
        ]
    )


if __name__ == "__main__":
    main()
