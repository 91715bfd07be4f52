"""Many samples, chains of thought, or a tree search: GPT-4's logs on the Game of 24, under a price.

    python -m benchmarks.samples_or_search            the three files samples_tot_game24_*; some minutes

100 puzzles with 100 plain samples, 100 samples with chain of thought and one search each, checked exactly. The engine is fitted on one half
of the puzzles and played on the other, then the other way round. It may buy plain samples, chains of thought, and the search, at recorded
completion tokens and OpenAI's list price for GPT-4 of the time (30 and 60 US dollars for a million tokens).

The logs hold the search's prompt tokens but not the samples'. Those are taken as 200 and 440 (`PROMPT_TOKENS`), an assumption; for each
batch of ten they are paid once. Every fixed plan stops at its first right answer too, since the check is free.

What came out: the engine is nowhere clearly above the best fixed plan, which is chosen in hindsight, and below it at most values. At $0.05
it is level since plans are forecast as far as they are worth going. At $0.2 and $0.4 it was 0.15 and 0.26 of the value below, and the cause
was its own: one latent difficulty for both kinds, fitted in one go, did not tell it soon enough that samples which fail go on failing, so
that it drew up to eighty chains. With a difficulty of each kind's own it loses half and a quarter of that. From $6.4 on it was 0.04 and
0.03 below, because ten chains that failed may send it to plain samples, and a plan that was left was not taken up again. Now it is, and
there is nothing between them; at $0.8 it costs 0.03, for chains that are taken up after all else failed are hopeless more often than it
believes. What is left at $0.1 is the first batch: on one half of the puzzles a chain is right nearly three times as often as on the other,
and each half is the other's teacher. That fixed plans may end after 10, 20 or 50 samples is no advantage: the engine's first batches are
weighed by themselves too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cascade import Means, hull
from benchmarks.harness import PAGES, Array, Ints, bootstrap, command, interval, mean_of, parser, publish, recordings, table
from difficulty.belief import PLAIN, Belief, Channel, Evidence, Scores
from difficulty.curves import Curves, Latency, PlanFit, Tokens
from difficulty.learn import fit_channel
from difficulty.learn_success import fit_success, posterior
from policies.decide import decide, next_draws
from policies.facts import Facts, Market
from policies.forecast import stages
from policies.plans import BestOfN, Plan, TreeSearch
from policies.policy import Optimiser, Worth

KINDS = ("standard", "cot")
PROMPT_TOKENS = {"standard": 200, "cot": 440}
USD_IN, USD_OUT = 30e-6, 60e-6
BATCH, N = 10, 100
ORDERS = 5
VALUES_USD = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
SAMPLES = {kind: BestOfN(backend=kind, n=N, verifier="exact", batch=BATCH) for kind in KINDS}
SEARCH = TreeSearch(backend="cot", verifier="exact")
RIGHT, WRONG = (1 - 1e-6, 1e-6), (1e-6, 1 - 1e-6)


@dataclass(frozen=True)
class Logs:
    """The three logs, by puzzle."""

    marks: Mapping[str, Array]
    """By kind of sample: right or not, shape [N, samples]."""
    batch_usd: Mapping[str, Array]
    """By kind: US dollars of a batch, shape [N]."""
    found: Array
    search_usd: Array

    @classmethod
    def of(cls, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> Logs:
        """From the rows of the three files, by the last word of their names."""
        rows = {kind: sorted(of, key=lambda row: row["id"]) for kind, of in files.items()}
        marks = {kind: np.array([[s["correct"] for s in row["samples"]] for row in rows[kind]], dtype=np.float64) for kind in KINDS}
        out = {kind: np.array([row["mean_completion_tokens"] for row in rows[kind]]) for kind in KINDS}
        batch = {kind: PROMPT_TOKENS[kind] * USD_IN + BATCH * out[kind] * USD_OUT for kind in KINDS}
        found = np.array([float(any(s["correct"] for s in row["samples"])) for row in rows["bfs"]])
        usd = np.array([row["prompt_tokens"] * USD_IN + row["completion_tokens"] * USD_OUT for row in rows["bfs"]])
        return cls(marks, batch, found, usd)


def fitted(logs: Logs, train: Ints, shared: bool) -> Market:
    """What `decide` is called with, from half of the puzzles."""
    features = dict.fromkeys(KINDS, np.zeros(len(train)))
    right = {kind: logs.marks[kind][train].sum(axis=1) for kind in KINDS}
    draws = {kind: np.full(len(train), float(logs.marks[kind].shape[1])) for kind in KINDS}
    success = fit_success(features, right, draws)
    if not shared:
        success = {kind: replace(curve, intercept=_level(right[kind], draws[kind]), spread=0.0) for kind, curve in success.items()}
    weights, line = posterior(success, features, right, draws, "cot"), success["cot"].logits(features["cot"])
    fit = PlanFit(fit_channel(line, weights, logs.found[train]))
    prompt_share = {kind: (logs.batch_usd[kind][train].mean() / BATCH) for kind in KINDS}
    free = dict.fromkeys(("exact", *KINDS), Latency(0.0, 0.0, 0.0))
    curves = Curves(
        success, dict.fromkeys(KINDS, Tokens(0.0, 0.0, 0.0)), free, {"exact": Scores.exact()}, {SEARCH.key: fit}, source="recorded"
    )
    market = Market({kind: (0.0, 1e6 * usd) for kind, usd in prompt_share.items()}, frozenset(KINDS), curves)
    [said] = stages(SEARCH, market, Facts(1))
    plans = {SEARCH.key: replace(fit, cost=float(logs.search_usd[train].mean() / said.cost_usd))}
    return replace(market, curves=replace(curves, plans=plans))


def _level(right: Array, draws: Array) -> float:
    share = (right.sum() + 0.5) / (draws.sum() + 1)
    return float(np.log(share / (1 - share)))


@dataclass(frozen=True)
class Player:
    """The service's decisions for one market; made once for each state, which is what was drawn and how much of it was right."""

    logs: Logs
    market: Market
    known: dict[Any, Any] = field(default_factory=dict)

    def play(self, row: int, orders: Mapping[str, Ints], value_usd: float) -> tuple[float, float]:
        """(right, US dollars) of one puzzle: buy what the service would, until it would stop."""
        policy = Optimiser(objective=Worth(value_of_correct_usd=value_usd), plans=(*SAMPLES.values(), SEARCH))
        belief = Belief.prior(dict.fromkeys(KINDS, 0.0), self.market.curves.success)
        facts, right, usd = Facts(1), 0.0, 0.0
        while plan := self._once(("next", policy, _stood(facts), belief), partial(_next, policy, self.market, facts, belief)):
            if isinstance(plan, TreeSearch):
                right, usd = max(right, self.logs.found[row]), usd + self.logs.search_usd[row]
                belief = belief.after([_seen("cot", self.market.curves.plan(plan.key).channel, self.logs.found[row])])
            else:
                for drawn in range(facts.begun.get(plan.key, 0) + BATCH, N + 1, BATCH):
                    marks = self.logs.marks[plan.backend][row, orders[plan.backend][drawn - BATCH : drawn]]
                    right, usd = max(right, marks.max()), usd + self.logs.batch_usd[plan.backend][row]
                    belief = belief.after([_seen(plan.backend, PLAIN, mark) for mark in marks])
                    state = (plan.key, drawn, policy, _stood(facts), belief)
                    if not self._once(state, partial(next_draws, policy, self.market, facts, belief, plan, drawn)):
                        break
                if drawn < N:
                    facts = replace(facts, begun={**facts.begun, plan.key: drawn})
                    continue
            facts = replace(facts, done=facts.done | {plan.key})
        return float(right), float(usd)

    def _once(self, state: tuple[Any, ...], decision: Callable[[], Any]) -> Any:
        *rest, belief = state
        key = (*rest, tuple(sorted(Counter((e.backend, e.channel, e.if_right) for e in belief.evidence).items(), key=str)))
        if key not in self.known:
            self.known[key] = decision()
        return self.known[key]


def _stood(facts: Facts) -> tuple[Any, ...]:
    """Which plans were run, and how far."""
    return facts.done, frozenset(facts.begun.items())


def _next(policy: Optimiser, market: Market, facts: Facts, belief: Belief) -> Plan | None:
    return decide(policy, market, facts, belief).plan


def _seen(backend: str, channel: Channel, right: float) -> Evidence:
    return Evidence(backend, channel, *(RIGHT if right else WRONG))


def fixed(logs: Logs, row: int, orders: Mapping[str, Ints]) -> dict[str, tuple[float, float]]:
    """(right, US dollars) of every fixed plan on one puzzle, each until its first right answer."""
    found: dict[str, tuple[float, float]] = {"search": (logs.found[row], logs.search_usd[row])}
    for kind in KINDS:
        marks = logs.marks[kind][row, orders[kind]].reshape(-1, BATCH).max(axis=1)
        for batches in (1, 2, 5, 10):
            right = float(marks[:batches].max())
            paid = (int(marks[:batches].argmax()) + 1 if right else batches) * logs.batch_usd[kind][row]
            found[f"{kind}, {batches * BATCH}"] = (right, paid)
            found[f"{kind}, {batches * BATCH}, then search"] = (max(right, logs.found[row]), paid + (1 - right) * logs.search_usd[row])
    return found


def study(logs: Logs, seed: int) -> tuple[dict[str, Any], dict[str, Means]]:
    """(figures, points of every method)."""
    rng, size = np.random.default_rng(seed), len(logs.found)
    half = rng.permutation(size) % 2
    ours = {name: np.zeros((len(VALUES_USD), 2, size)) for name in ("ours", "ours, no latent difficulty")}
    plans: dict[str, Array] = {}
    for fold in (0, 1):
        players = {name: Player(logs, fitted(logs, np.flatnonzero(half != fold), shared=name == "ours")) for name in ours}
        for row in np.flatnonzero(half == fold):
            for _ in range(ORDERS):
                orders = {kind: rng.permutation(logs.marks[kind].shape[1])[:N] for kind in KINDS}
                for name, player in players.items():
                    for v, value in enumerate(VALUES_USD):
                        ours[name][v, :, row] += np.array(player.play(int(row), orders, value)) / ORDERS
                for name, pair in fixed(logs, int(row), orders).items():
                    plans.setdefault(name, np.zeros((2, size)))[:, row] += np.array(pair) / ORDERS
    points = {name: Means(values[:, 0], values[:, 1]) for name, values in ours.items()}
    points["fixed plans"] = Means(*(np.stack([plans[name][i] for name in plans]) for i in (0, 1)))
    return _figures(points, list(plans)), points


def _figures(points: Mapping[str, Means], names: Sequence[str]) -> dict[str, Any]:
    fixed_points, group = points["fixed plans"], np.arange(points["fixed plans"].right.shape[1])

    def gain(value: float, ours: Means, v: int) -> tuple[float, float, float]:
        """Utility of ours over that of the fixed plan that is best in hindsight, in units of the value."""
        other = (value * fixed_points.right - fixed_points.usd).mean(axis=1).argmax()
        mine, theirs = (value * of.right[i] - of.usd[i] for of, i in ((ours, v), (fixed_points, other)))
        return bootstrap(mean_of((mine - theirs) / value), group)

    return {
        "puzzles": len(group),
        "fixed": {
            name: {"right": bootstrap(mean_of(fixed_points.right[i]), group), "usd": float(fixed_points.usd[i].mean())}
            for i, name in enumerate(names)
        },
        **{
            name: [
                {
                    "value_usd": value,
                    "right": bootstrap(mean_of(points[name].right[v]), group),
                    "usd": float(points[name].usd[v].mean()),
                    "over_best_fixed": gain(value, points[name], v),
                }
                for v, value in enumerate(VALUES_USD)
            ]
            for name in points
            if name != "fixed plans"
        },
    }


def page(figures: Mapping[str, Any]) -> str:
    """The page, as Markdown."""
    plans = [[name, interval(one["right"], ".2f"), f"{one['usd']:.3f}"] for name, one in figures["fixed"].items()]
    parts = [
        "# Samples, or a search?",
        command("samples_or_search"),
        *(__doc__ or "").strip().split("\n\n")[2:],
        "![accuracy against cost](samples_or_search.png)",
    ]
    for name in ("ours", "ours, no latent difficulty"):
        rows = [
            [f"${p['value_usd']:g}", interval(p["right"], ".2f"), f"{p['usd']:.3f}", interval(p["over_best_fixed"], ".3f")]
            for p in figures[name]
        ]
        head = ["a right answer is worth", "right", "$ a puzzle", "utility over the best fixed plan in hindsight, share of the value"]
        parts += [f"{name}, {figures['puzzles']} puzzles:", table(head, rows)]
    return "\n\n".join([*parts, "Fixed plans:", table(["plan", "right", "$ a puzzle"], plans)])


def picture(points: Mapping[str, Means]) -> None:
    """Accuracy against dollars: ours, and the hull of all fixed plans."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5))
    for i, (name, of) in enumerate(points.items()):
        usd, right = of.usd.mean(axis=1), of.right.mean(axis=1)
        axis.plot(usd, 100 * right, "o", color=f"C{i}", ms=4)
        x, y = hull(usd, right)
        axis.plot(x, 100 * y, "-", color=f"C{i}", lw=2 if name == "ours" else 1.2, label=name)
    axis.set(xlabel="US dollars a puzzle", ylabel="right, %", title="Game of 24, GPT-4")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / "samples_or_search.png", dpi=110)


def main() -> None:
    """The three files, then page, picture and figures."""
    options = parser("samples_or_search", __doc__ or "").parse_args()
    files = {name.rsplit("_", 1)[1]: rows for name, rows in recordings(options.data, "samples_tot_game24_*").items()}
    figures, points = study(Logs.of(files), options.seed)
    picture(points)
    publish("samples_or_search", figures, page(figures))


if __name__ == "__main__":
    main()
