"""Are several models together worth more than one of them? The router's own ensembles, played on recorded answers of real models.

Sets in which several models answered the same prompts: four sets of one answer each (`outcomes_zeroeval_*`, `outcomes_cascade_*`), and
dates of which GPT-3.5, GPT-4 and Llama 2 drew many (`samples_mot_date_*`). Everything is the service's: curves are fitted on the train
and calibrate sides (`difficulty.learn`), and each plan and policy is played on the test side through the whole pipeline
(`router.play`). Pools are chosen by rank on the sides that are learned from, not by how they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from typing import Any

import numpy as np

from adapters.answers import normalise
from adapters.scripted import scripted
from adapters.types import Price
from benchmarks import harness
from benchmarks.harness import TEST, Array, Ints
from benchmarks.ladder import estimate
from difficulty.curves import Curves, Tokens
from difficulty.learn_success import fit_success
from difficulty.learn_votes import Sampled, fit_agreement, fit_votes
from difficulty.probe import Estimate
from difficulty.votes import Votes
from policies.facts import Market
from policies.plans import BestOfN, Ensemble, Plan, Single
from policies.policy import Optimiser, Policy, Rule, Rules, When, Worth
from router.parts import Parts
from router.play import Played, play

NAME = "ensemble"
TOKENS = 100
"""Output tokens that every answer is played with; its price is what its model's answers cost on the mean."""
ORDERS = 1
"""How often each prompt with many draws is played, in other orders."""
DRAWN = 40
MOST = 250
"""Prompts of a set's test side that are played at most, so that all of it takes minutes."""
DATES = {"gpt35_80mix": ("gpt-3.5", 2.0), "llama2_13b_80mix": ("llama-2-13b", 0.5), "gpt4_12mix": ("gpt-4", 60.0)}
"""By file of dates: the model, and an assumed price in US dollars for a million output tokens (of four characters)."""
DATE_POOLS = ({"gpt-3.5": 4, "llama-2-13b": 4}, {"gpt-3.5": 4, "gpt-4": 1}, {"gpt-3.5": 3, "llama-2-13b": 3, "gpt-4": 1})
WORTH = (1e-3, 1e-2, 1e-1)
"""What a right answer is worth in US dollars, where the engine chooses."""

Answers = list[tuple[str, float]]
"""(number of the answer among those to its prompt, 1 if it is right)."""


@dataclass(frozen=True)
class Recorded:
    """Several models' answers to the same prompts."""

    name: str
    prompts: Sequence[str]
    answers: Mapping[str, Sequence[Answers]]
    """By model, by prompt."""
    usd: Mapping[str, float]
    """By model: an answer, on the mean."""
    priced: bool
    pools: Mapping[str, Mapping[str, int]]
    side: Ints
    group: Ints

    @cached_property
    def test(self) -> Ints:
        """The prompts that are played."""
        rows = np.flatnonzero(self.side == TEST)
        return np.sort(np.random.default_rng(len(rows)).permutation(rows)[:MOST])

    @property
    def orders(self) -> int:
        """How often each prompt is played."""
        return ORDERS if max(len(drawn[0]) for drawn in self.answers.values()) > 1 else 1

    def cost_usd(self, members: Mapping[str, int]) -> float:
        """What so many answers of each cost."""
        return sum(n * self.usd[name] for name, n in members.items())


def numbered(answer: Any, right: float, seen: dict[str, int]) -> tuple[str, float]:
    """All right answers to a prompt are one; wrong ones are told apart as the router does. No answer at all is like no other."""
    said = "" if right else f"none {len(seen)}" if answer in (None, "") else normalise(str(answer))
    return f"answer {0 if right else seen.setdefault(said, len(seen) + 1)}", float(right)


def of_outcomes(name: str, rows: Sequence[Mapping[str, Any]], seed: int) -> Recorded:
    """One answer of each model; pools by rank off the test side. Without recorded prices a call costs a tenth of a cent."""
    prompts = [row["prompt"] for row in rows]
    group = harness.groups(prompts)
    side = harness.sides(group, seed)
    learned = [row for row, where in zip(rows, side, strict=True) if where != TEST]
    models = list(rows[0]["outcomes"])
    strong = sorted(models, key=lambda model: -float(np.mean([row["outcomes"][model]["correct"] for row in learned])))
    middle = len(strong) // 2 - 2
    picked = {
        "five best": strong[:5],
        "five in the middle": strong[middle : middle + 5],
        "five over all ranks": [strong[round(i * (len(strong) - 1) / 4)] for i in range(5)],
    }
    used = list(dict.fromkeys(model for pool in picked.values() for model in pool))
    seen: list[dict[str, int]] = [{} for _ in rows]
    answers = {
        model: [[numbered(row["outcomes"][model].get("answer"), row["outcomes"][model]["correct"], seen[i])] for i, row in enumerate(rows)]
        for model in used
    }
    priced = "cost_usd" in rows[0]["outcomes"][models[0]]
    usd = {model: float(np.mean([row["outcomes"][model].get("cost_usd", 1e-3) for row in rows])) for model in used}
    pools = {label: dict.fromkeys(pool, 1) for label, pool in picked.items()}
    return Recorded(name, prompts, answers, usd, priced, pools, side, group)


def of_dates(files: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> Recorded:
    """Many draws of three models."""
    by_prompt = {file: {row["prompt"]: row["samples"] for row in files[f"samples_mot_date_{file}"]} for file in DATES}
    prompts = [prompt for prompt in by_prompt["gpt4_12mix"] if all(prompt in rows for rows in by_prompt.values())]
    group, seen = harness.groups(prompts), [dict[str, int]() for _ in prompts]
    answers = {
        model: [
            [numbered(sample["answer"], sample["correct"], seen[i]) for sample in by_prompt[file][prompt][:DRAWN]]
            for i, prompt in enumerate(prompts)
        ]
        for file, (model, _) in DATES.items()
    }
    usd = {
        model: usd_per_mtok * float(np.mean([s["chars"] for rows in by_prompt[file].values() for s in rows])) / 4 / 1e6
        for file, (model, usd_per_mtok) in DATES.items()
    }
    pools = {", ".join(f"{n} {model}" for model, n in pool.items()): pool for pool in DATE_POOLS}
    return Recorded("mot_date", prompts, answers, usd, True, pools, harness.sides(group, seed), group)


# --- playing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A set with what was learned of it, ready to be played."""

    data: Recorded
    parts: Parts
    estimates: Mapping[str, Estimate]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def learned(cls, data: Recorded, seed: int) -> World:
        """Curves from all that is not the test side."""
        right = {name: np.array([sum(mark for _, mark in drawn) for drawn in rows]) for name, rows in data.answers.items()}
        draws = {name: np.array([float(len(drawn)) for drawn in rows]) for name, rows in data.answers.items()}
        share = np.mean([right[name] / draws[name] for name in right], axis=0)
        e, known = estimate(data.prompts, share, data.group, data.side), data.side != TEST
        success = fit_success(dict.fromkeys(right, e[known]), *({name: of[name][known] for name in of} for of in (right, draws)))
        votes = learned_votes(data, np.flatnonzero(known))
        tokens = dict.fromkeys(right, Tokens(log(TOKENS), 0.0, 0.0))
        prices = {name: (0.0, usd / TOKENS * 1e6) for name, usd in data.usd.items()}
        backends = {name: scripted(name, price=Price(*prices[name])) for name in right}
        market = Market(prices, frozenset(right), Curves(success, tokens, votes=votes, source="recorded"))
        estimates = {prompt: Estimate(dict.fromkeys(right, float(e[i])), {}, "probe", TOKENS) for i, prompt in enumerate(data.prompts)}
        rng = np.random.default_rng(seed)
        rows = [_row(data, int(i), rng) for i in data.test for _ in range(data.orders)]
        return cls(data, Parts(backends, {}, "", market), estimates, rows)

    def play(self, policy: Policy) -> list[Played]:
        return play(self.parts, policy, self.rows, self.estimates)

    def run(self, plan: Plan) -> list[Played]:
        """One plan, whole."""
        return self.play(Rules(rules=(Rule(when=When(), then=(plan,)),), until=1.0))

    def alone(self, name: str) -> Array:
        """1 for each row of which a model's one answer is right."""
        place = list(self.data.answers).index(name)
        return np.array([row["traces"][place]["answers"][0]["correct"] for row in self.rows])

    def with_votes(self, **values: float) -> World:
        """The same, believing this of every model's votes."""
        votes = {name: replace(of_one, **values) for name, of_one in self.parts.market.curves.votes.items()}
        curves = replace(self.parts.market.curves, votes=votes)
        return replace(self, parts=replace(self.parts, market=replace(self.parts.market, curves=curves)))


def learned_votes(data: Recorded, rows: Ints) -> dict[str, Votes]:
    """From some prompts: of models with many draws how they vote, of all how often wrong answers are alike."""
    agree = fit_agreement([{name: [text for text, mark in of[i] if not mark] for name, of in data.answers.items()} for i in rows])
    many = {name: of for name, of in data.answers.items() if len(of[0]) > 1}
    votes = {name: fit_votes([_sampled(of[i]) for i in rows]) for name, of in many.items()}
    return {name: replace(votes.get(name, Votes()), agree=agree.get(name, Votes().agree)) for name in data.answers}


def _sampled(drawn: Answers) -> Sampled:
    return Sampled(np.array([int(text.split()[1]) for text, _ in drawn]), np.array([mark for _, mark in drawn]))


def _row(data: Recorded, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """A prompt as `outlay collect` would have logged it, its draws in a random order."""
    traces = []
    for name, rows in data.answers.items():
        drawn = [rows[i][k] for k in rng.permutation(len(rows[i]))]
        answers = [{"text": text, "correct": mark} for text, mark in drawn]
        calls = [["generate", name, len(drawn), TOKENS, TOKENS * len(drawn), 1.0]]
        traces.append({"plan": f"sample({name})", "answers": answers, "calls": calls})
    return {"prompt": data.prompts[i], "group": str(data.group[i]), "traces": traces}


# --- judging ------------------------------------------------------------------------------------------------------------


def of(found: Sequence[Played], what: str) -> Array:
    return np.array([float(getattr(one, what)) for one in found])


def log_loss(found: Sequence[Played]) -> float:
    """Of the chance that is said of each answer that went out."""
    chance, right = np.clip(of(found, "chance"), 1e-3, 1 - 1e-3), of(found, "right")
    return float(-(right * np.log(chance) + (1 - right) * np.log(1 - chance)).mean())


def expected(found: Sequence[Played]) -> float:
    """What the plan was expected to be right before it was run, on the mean."""
    return float(np.mean([one.decision["decisions"][0]["considered"][0]["quality"] for one in found]))


def judged(world: World, label: str, members: Mapping[str, int]) -> dict[str, Any]:
    """A pool against each of its members alone, also at equal cost, and against heads."""
    data, group = world.data, np.array([int(row["group"]) for row in world.rows])
    single = {name: world.alone(name) for name in members}
    best = max(single, key=lambda name: float(_learned_right(data, name)))
    runs = {"weighted": world.run(Ensemble(members=dict(members))), "heads": world.run(Ensemble(members=dict(members), select="majority"))}
    usd = data.cost_usd(members)
    equal = {}
    for name in members:
        n = min(round(usd / data.usd[name]), min(map(len, data.answers[name])))
        if n > 1:
            equal[f"{n} of {name}"] = world.run(BestOfN(backend=name, n=n, batch=n, select="majority"))
    right = {what: of(found, "right") for what, found in runs.items()}

    def against(other: Array) -> tuple[float, float, float]:
        return harness.bootstrap(harness.mean_of(100 * (right["weighted"] - other)), group)

    return {
        "pool": dict(members),
        "usd": usd,
        "alone": {name: float(right.mean()) for name, right in single.items()},
        "best": best,
        "right": {what: float(values.mean()) for what, values in right.items()},
        "equal_cost": {what: float(of(found, "right").mean()) for what, found in equal.items()},
        "over_best": against(single[best]),
        "over_heads": against(right["heads"]),
        "over_equal_cost": {what: against(of(found, "right")) for what, found in equal.items()},
        "expected": {what: expected(found) for what, found in runs.items()},
        "said": {what: float(of(found, "chance").mean()) for what, found in runs.items()},
        "log_loss": log_loss(runs["weighted"]),
        "ablations": ablated(world, members),
    }


def ablated(world: World, members: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """(share right, log loss) of the weighted vote with the default agreement of wrong answers, and with samples taken for independent."""
    plan, found = Ensemble(members=dict(members)), {}
    found["default agreement"] = world.with_votes(agree=Votes().agree).run(plan)
    if (most := max(members.values())) > 1:
        found["samples independent"] = world.with_votes(slope=(most - 1) / log(most)).run(plan)
    return {what: (float(of(runs, "right").mean()), log_loss(runs)) for what, runs in found.items()}


def _learned_right(data: Recorded, name: str) -> float:
    """Share of right answers off the test side: by it the best member is named."""
    return float(np.mean([np.mean([mark for _, mark in data.answers[name][int(i)]]) for i in np.flatnonzero(data.side != TEST)]))


def chosen(world: World) -> list[dict[str, Any]]:
    """The engine with and without ensembles among its plans: what a right answer brings over what was paid."""
    data, group, found = world.data, np.array([int(row["group"]) for row in world.rows]), []
    singles: list[Plan] = [Single(backend=name) for name in data.answers]
    votes: list[Plan] = [BestOfN(backend=name, n=8, select="majority") for name, rows in data.answers.items() if len(rows[0]) > 1]
    pools: list[Plan] = [Ensemble(members=dict(members)) for members in data.pools.values()]
    for value in WORTH:
        objective = Worth(value_of_correct_usd=value)
        runs = [world.play(Optimiser(objective=objective, plans=tuple(plans))) for plans in (singles + votes, singles + votes + pools)]
        without, with_pools = ({what: of(run, what) for what in ("right", "cost_usd")} for run in runs)
        gain = value * (with_pools["right"] - without["right"]) - (with_pools["cost_usd"] - without["cost_usd"])
        used = float(np.mean([any(action.startswith("ensemble") for action in one.actions) for one in runs[1]]))
        means = [{what: float(values.mean()) for what, values in run.items()} for run in (without, with_pools)]
        share = harness.bootstrap(harness.mean_of(gain / value), group)
        found.append({"value_usd": value, "without": means[0], "with": means[1], "ensembles_used": used, "gain_share": share})
    return found


# --- the page -----------------------------------------------------------------------------------------------------------


def page(findings: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"# Several models together\n\n{harness.command(NAME)}\n\n{ABOUT}\n{CUT}\n\n![accuracy of pools]({NAME}.png)\n"]
    for name, found in findings.items():
        rows = [_line(label, pool) for label, pool in found["pools"].items()]
        parts.append(f"## {name}\n\n{found['prompts']} test prompts.\n\n{harness.table(HEAD, rows)}\n")
        equal = [
            (label, what, f"{100 * share:.1f}", harness.interval(pool["over_equal_cost"][what], "+.1f"))
            for label, pool in found["pools"].items()
            for what, share in pool["equal_cost"].items()
        ]
        if equal:
            parts.append(f"At the pool's cost:\n\n{harness.table(('pool', 'best of', 'right', 'pool has more'), equal)}\n")
        said = [_said(label, pool) for label, pool in found["pools"].items()]
        parts.append(f"{harness.table(('pool', 'expected', 'said of the answer', 'right', 'log loss', *ABLATIONS), said)}\n")
        if found["engine"]:
            engine = harness.table(ENGINE, map(_engine, found["engine"]))
            parts.append(f"The engine, without and with these pools among its plans:\n\n{engine}\n")
    return "\n".join([*parts, reading(findings)])


HEAD = ("pool", "best alone", "others alone", "heads", "weighted", "over the best, points", "over heads, points")
ABLATIONS = ("default agreement", "samples independent")
ENGINE = ("a right answer, $", "right without", "with", "$/1,000 without", "with", "uses a pool", "gain, % of a right answer")


def _line(label: str, pool: Mapping[str, Any]) -> Sequence[str]:
    best = pool["best"]
    others = ", ".join(f"{100 * share:.1f}" for name, share in pool["alone"].items() if name != best)
    heads, weighted = (f"{100 * pool['right'][what]:.1f}" for what in ("heads", "weighted"))
    intervals = (harness.interval(pool[what], "+.1f") for what in ("over_best", "over_heads"))
    return label, f"{100 * pool['alone'][best]:.1f} ({best})", others, heads, weighted, *intervals


def _said(label: str, pool: Mapping[str, Any]) -> Sequence[str]:
    shares = (pool["expected"]["weighted"], pool["said"]["weighted"], pool["right"]["weighted"])
    ablations = (pool["ablations"].get(what) for what in ABLATIONS)
    losses = (f"{100 * right[0]:.1f} / {right[1]:.2f}" if right else "" for right in ablations)
    return label, *(f"{100 * share:.1f}" for share in shares), f"{pool['log_loss']:.2f}", *losses


def _engine(row: Mapping[str, Any]) -> Sequence[str]:
    right, usd = ([row[side][what] for side in ("without", "with")] for what in ("right", "cost_usd"))
    gain = harness.interval([100 * share for share in row["gain_share"]], "+.2f")
    shares, dollars = (f"{100 * share:.1f}" for share in right), (f"{1e3 * each:.3f}" for each in usd)
    return f"{row['value_usd']:g}", *shares, *dollars, f"{100 * row['ensembles_used']:.0f} %", gain


ABOUT = """\
Each pool is asked at once, the router's `ensemble` plan; *weighted* is its vote by how likely each voice is to be right, *heads* the plain
majority. The best member is the one that is best off the test side. Accuracy in %, intervals 95 % over groups of prompts, paired."""
CUT = f"Of a set's test side {MOST} prompts are played at most, drawn at random; where models were drawn many times, {DRAWN} of the draws."


def reading(findings: Mapping[str, Mapping[str, Any]]) -> str:
    """What follows from the figures, whatever they are."""
    pools = {f"{name}: {label}": pool for name, found in findings.items() for label, pool in found["pools"].items()}
    engine = [(name, row) for name, found in findings.items() for row in found["engine"]]
    equal = {f"{label} against {what}": over for label, pool in pools.items() for what, over in pool["over_equal_cost"].items()}
    over = {label: 100 * (pool["expected"]["weighted"] - pool["right"]["weighted"]) for label, pool in pools.items()}
    most = max(over, key=lambda label: over[label])
    learned = sum(pool["log_loss"] < pool["ablations"]["default agreement"][1] for pool in pools.values())
    told = [f"{name} at {row['value_usd']:g} dollars ({_changed(row)})" for name, row in engine if not _straddles(row["gain_share"])]
    used = sum(row["ensembles_used"] > 0 for _, row in engine)
    return harness.prose(
        f"""Right answers, by the intervals. Weights against heads: {_told({label: pool["over_heads"] for label, pool in pools.items()})}
        A pool against its best member alone: {_told({label: pool["over_best"] for label, pool in pools.items()})} A pool against more
        samples of one member at its cost: {_told(equal)}""",
        f"""What a pool is expected to give is {np.mean(list(over.values())):+.1f} points off on the mean, and at most {over[most]:+.1f}
        ({most}). Learned agreement of wrong answers lowers the log loss of what is said in {learned} of {len(pools)} pools.""",
        f"""With pools among its plans the engine used one in {used} of {len(engine)} cases (a set and a value of a right answer). What
        right answers bring over what was paid then differs, by its interval, on {"; ".join(told) or "none"}.""",
        CONCLUSION,
    )


CONCLUSION = """\
So where a pool does not gain on its best member, and more is expected of it than it gives, it belongs into a policy that names it for a
reason (models known to err apart, or seconds that are dear), not into every list of plans."""


def _straddles(interval: Sequence[float]) -> bool:
    return interval[1] <= 0 <= interval[2]


def _told(found: Mapping[str, Sequence[float]]) -> str:
    """How often there are more, and fewer, and where."""

    def named(up: bool) -> str:
        there = [f"{label}, {one[0]:+.1f}" for label, one in found.items() if not _straddles(one) and (one[0] > 0) == up]
        return f"{len(there)} ({'; '.join(there)})" if there else "none"

    return f"more in {named(True)} of {len(found)}, fewer in {named(False)}, the others not told apart."


def _changed(row: Mapping[str, Any]) -> str:
    return f"{100 * row['gain_share'][0]:+.1f} % of a right answer, a pool used for {100 * row['ensembles_used']:.0f} %"


def picture(findings: Mapping[str, Mapping[str, Any]]) -> None:
    """By pool: each member, heads, and the weighted vote."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pools = [(f"{name}: {label}", pool) for name, found in findings.items() for label, pool in found["pools"].items()]
    figure, axis = pyplot.subplots(figsize=(9, 0.42 * len(pools) + 1))
    for y, (_, pool) in enumerate(reversed(pools)):
        axis.plot([100 * share for share in pool["alone"].values()], [y] * len(pool["alone"]), "o", color="0.75", label="a member alone")
        axis.plot(100 * pool["right"]["heads"], y, "|", color="tab:orange", ms=14, mew=3, label="heads")
        axis.plot(100 * pool["right"]["weighted"], y, "|", color="tab:blue", ms=14, mew=3, label="weighted")
    axis.set_yticks(range(len(pools)), [label for label, _ in reversed(pools)], fontsize=7)
    axis.set_xlabel("right, %")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[:3], labels[:3], fontsize=7, loc="lower left")
    figure.tight_layout()
    harness.PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(harness.PAGES / f"{NAME}.png", dpi=80)


def main() -> None:
    """From the files to the page."""
    options = harness.parser(NAME, str(__doc__)).parse_args()
    once = ("outcomes_zeroeval_*.jsonl.gz", "outcomes_cascade_*.jsonl.gz")
    outcomes = {name: rows for pattern in once for name, rows in harness.recordings(options.data, pattern).items()}
    sets = [of_outcomes(name.removeprefix("outcomes_"), rows, options.seed) for name, rows in outcomes.items()]
    sets.append(of_dates(harness.recordings(options.data, "samples_mot_date_*.jsonl.gz"), options.seed))
    findings = {}
    for data in sets:
        world = World.learned(data, options.seed)
        pools = {label: judged(world, label, members) for label, members in data.pools.items()}
        findings[data.name] = {"prompts": len(data.test), "pools": pools, "engine": chosen(world) if data.priced else []}
    picture(findings)
    harness.publish(NAME, {"sets": findings}, page(findings))


if __name__ == "__main__":
    main()
