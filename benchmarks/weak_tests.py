"""An over-optimised verifier: programs chosen by tests that another model wrote (HumanEval, CodeGen-16B, tests by the same model).

    python -m benchmarks.weak_tests            files that fit samples_*codet*, or --files PATTERN: samples with `passes`; some minutes

Choosing the program that passes most tests gets better with the first few samples and then worse: the more are drawn, the likelier is a
wrong one that passes. Compared are ways to choose among the first k samples, in random orders; whatever is learned is learned on other
problems (five folds of groups of near-duplicates). Samples that pass the same tests are a cluster; one that does not run is of none.

`select: ...` is the product's own code (`router/strategies/best_of_n.py`), told by its verifier what the tests say and which answers behave
alike. `select: weighted` takes the odds of a cluster's score (calibrated on other problems), once, times the root of its votes; *by text*
is the same without clusters, where nearly every program is alone. Beside it stand CodeT's rule (share of tests passed times the root of the
votes), the sum of the scores of a cluster (DiVeRSe's weighted vote), and a logistic regression on score, votes and share of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from adapters.types import Choice
from benchmarks.harness import PAGES, Array, Ints, bootstrap, command, groups, interval, mean_of, parser, publish, recordings, table
from difficulty.belief import Belief, Scores, Success, logit, sigmoid
from difficulty.curves import Curves, Latency, Tokens
from difficulty.learn import fit_scores, fit_tempering
from difficulty.learn_success import fit_success
from policies.decide import next_draws
from policies.facts import Facts, Market
from policies.plans import BestOfN
from policies.policy import Optimiser, Worth
from router.candidates import Candidate
from router.strategies.best_of_n import AGREEMENT, choose

DRAWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100)
FOLDS = 5
BATCH = 2
PLAN = BestOfN(backend="coder", n=100, verifier="tests", batch=BATCH)
DIALS = (20.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
"""Values of a right answer, in samples."""
OURS = "`select: weighted`"
PEAK = 4
"""Samples after which choosing by tests is known to get no better (Chen et al. 2022, "CodeT", on these samples)."""
SEEN = 4


@dataclass(frozen=True)
class Problem:
    """All samples of one problem, each of shape [samples]."""

    right: Array
    passed: Array
    """Share of the tests that a sample passes; a sample that does not run passes none."""
    cluster: Ints
    """Number of its behaviour; a sample that does not run has one of its own."""
    runs: NDArray[np.bool_]
    text: Sequence[str]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Problem:
        """From one row of a file."""
        most = max(len(s["passes"] or ()) for s in row["samples"])
        passes = np.array([(list(s["passes"] or ()) + [0] * most)[:most] for s in row["samples"]], dtype=np.int64)
        kinds = np.unique(passes, axis=0, return_inverse=True)[1] if most else np.zeros(len(passes), np.int64)
        right = np.array([s["correct"] for s in row["samples"]], dtype=np.float64)
        runs = np.array([bool(s["passes"]) for s in row["samples"]])
        cluster = np.where(runs, np.asarray(kinds).reshape(-1), len(passes) + np.arange(len(passes)))
        return cls(right, passes.sum(axis=1) / max(most, 1), cluster, runs, [str(s["answer"]) for s in row["samples"]])


Choose = Callable[[Ints], int]
"""Of the samples drawn, the one chosen."""


@dataclass(frozen=True)
class Learned:
    """What the other folds say: the tests' score model, the latent difficulty, and the pooled estimate."""

    scores: Scores
    success: Success
    tempering: float
    pooled: LogisticRegression

    @classmethod
    def of(cls, problems: Sequence[Problem], rng: np.random.Generator) -> Learned:
        """Fitted by `difficulty.learn`; the pooled estimate by logistic regression on clusters among some of the samples."""
        passed, right = (np.concatenate([getattr(p, name) for p in problems]) for name in ("passed", "right"))
        scores = fit_scores(passed, right)
        flat, k, n = np.zeros(len(problems)), *(np.array([f(p) for p in problems], float) for f in (lambda p: p.right.sum(), _size))
        success = fit_success({"coder": flat}, {"coder": k}, {"coder": n})["coder"]
        clusters = [_clusters(p, scores, rng.permutation(len(p.right))[:drawn]) for p in problems for drawn in DRAWN]
        x = np.concatenate([features for features, _, _ in clusters])
        share, weight = (np.concatenate([c[i] / (len(c[2]) if i == 2 else 1) for c in clusters]) for i in (1, 2))
        model = LogisticRegression(C=10.0, max_iter=1000)
        model.fit(np.tile(x, (2, 1)), np.repeat([1, 0], len(x)), sample_weight=np.concatenate([share * weight, (1 - share) * weight]))
        return cls(scores, success, _tempering(problems, scores, success, k, n), model)

    def calibrated(self, problem: Problem, drawn: Ints) -> Array:
        """P(right | passed) of the samples drawn."""
        return np.array([self.scores.calibrated(s) for s in problem.passed[drawn]])

    def pool(self, problem: Problem, drawn: Ints) -> int:
        """The sample whose cluster the pooled estimate holds likeliest right."""
        kinds, first = np.unique(problem.cluster[drawn], return_index=True)
        chance = self.pooled.predict_proba(_clusters(problem, self.scores, drawn)[0])[:, 1]
        return int(drawn[first[chance.argmax()]]) if len(kinds) else int(drawn[0])

    def candidates(self, problem: Problem, *, clustered: bool = True) -> list[Candidate]:
        """The samples as the product has them once its verifier has spoken."""
        return [
            Candidate(
                Choice(text), "coder", PLAN.key, self.scores.calibrated(s), s, "tests", cluster=str(kind) if runs and clustered else ""
            )
            for text, s, kind, runs in zip(problem.text, problem.passed, problem.cluster, problem.runs, strict=True)
        ]


def _size(problem: Problem) -> int:
    return len(problem.right)


def _clusters(problem: Problem, scores: Scores, drawn: Ints) -> tuple[Array, Array, Array]:
    """(features, share of right ones, 1 for each) of the clusters among the samples drawn: the calibrated score, size and their meeting."""
    _, first, place, size = np.unique(problem.cluster[drawn], return_index=True, return_inverse=True, return_counts=True)
    said = logit(np.array([scores.calibrated(s) for s in problem.passed[drawn[first]]]))
    much, share = np.log(size), np.log(size / len(drawn))
    right = np.bincount(place.reshape(-1), problem.right[drawn]) / size
    return np.column_stack([said, much, share, said * much, said * share]), right, np.ones(len(size))


def _tempering(problems: Sequence[Problem], scores: Scores, success: Success, right: Array, draws: Array) -> float:
    """As `outlay fit` does it: from the first few scored samples to the others."""
    known = np.array([p.right[:SEEN].sum() for p in problems])
    line = Belief.prior({"coder": 0.0}, {"coder": success}).logits["coder"]
    logits = {"coder": np.tile(line, (len(problems), 1))}
    p = sigmoid(line)
    if_right, if_wrong = scores.likelihoods(p)
    either = np.log(p[:, None] * if_right + (1 - p[:, None]) * if_wrong)
    evidence = np.stack([either[:, [scores.bin(s) for s in one.passed[:SEEN]]].sum(axis=1) for one in problems])
    return fit_tempering(logits, evidence, {"coder": right - known}, {"coder": draws - SEEN})


def ways(learned: Learned, problem: Problem) -> dict[str, Choose]:
    """The ways to choose among samples of a problem."""

    def selected(select: str, pool: Sequence[Candidate]) -> Choose:
        plan, place = PLAN.model_copy(update={"select": select}), {id(answer.choice): i for i, answer in enumerate(pool)}
        return lambda drawn: place[id(choose(plan, [pool[i] for i in drawn]).choice)]

    def voted(drawn: Ints) -> int:
        place = np.unique(problem.cluster[drawn], return_inverse=True)[1].reshape(-1)
        return int(drawn[np.bincount(place, learned.calibrated(problem, drawn))[place].argmax()])

    def codet(drawn: Ints) -> int:
        place = np.unique(problem.cluster[drawn], return_inverse=True)[1].reshape(-1)
        return int(drawn[(np.sqrt(np.bincount(place)[place]) * problem.passed[drawn]).argmax()])

    behaving, by_text = learned.candidates(problem), learned.candidates(problem, clustered=False)
    return {
        "most tests passed": lambda drawn: int(drawn[problem.passed[drawn].argmax()]),
        "`select: best`": selected("best", behaving),
        "`select: majority`": selected("majority", behaving),
        "`select: weighted`, by text": selected("weighted", by_text),
        OURS: selected("weighted", behaving),
        "sum of scores": voted,
        "logistic regression": lambda drawn: learned.pool(problem, drawn),
        "CodeT's rule": codet,
    }


def exponent(problems: Sequence[Problem], scores: Scores, rng: np.random.Generator) -> float:
    """On the votes of a cluster, beside the odds of its score: the likeliest, where exactly one cluster among some samples is right."""
    seen: list[tuple[Array, Array, int]] = []
    for p in problems:
        for drawn in (rng.permutation(len(p.right))[:k] for k in (PEAK, 4 * PEAK, 16 * PEAK)):
            features, right, _ = _clusters(p, scores, drawn)
            if (right > 0.5).sum() == 1:
                seen.append((features[:, 0], features[:, 1], int(right.argmax())))

    def loss(power: float) -> float:
        return float(sum(logsumexp(said + power * votes) - said[i] - power * votes[i] for said, votes, i in seen))

    return float(minimize_scalar(loss, bounds=(0, 3), method="bounded").x)


def stopped(learned: Learned, problem: Problem, order: Ints, value: float) -> int:
    """How many samples the engine draws, a sample's price being 1."""
    curves = Curves(
        {"coder": learned.success},
        {"coder": Tokens(0.0, 0.0, 0.0)},
        {"tests": Latency(0.0, 0.0, 0.0)},
        {"tests": learned.scores},
        source="recorded",
    )
    policy = Optimiser(objective=Worth(value_of_correct_usd=value), plans=(PLAN,))
    market, scores = Market({"coder": (0.0, 1e6)}, curves=curves), learned.scores
    belief, drawn = Belief.prior({"coder": 0.0}, curves.success, tempering=learned.tempering), 0
    while drawn < len(order):
        fresh = problem.passed[order[drawn : drawn + BATCH]]
        belief = belief.after([scores.seen("coder", score) for score in fresh])
        drawn += len(fresh)
        if not next_draws(policy, market, Facts(1), belief, PLAN, drawn):
            break
    return drawn


def study(rows: Sequence[Mapping[str, Any]], orders: int, seed: int) -> dict[str, Any]:
    """All figures of one file."""
    problems, group = [Problem.of(row) for row in rows], groups([row["prompt"] for row in rows])
    rng = np.random.default_rng(seed)
    fold = rng.permutation(group.max() + 1)[group] % FOLDS
    sizes = [k for k in DRAWN if k <= min(map(_size, problems))]
    found: dict[str, Array] = {}
    exponents: list[float] = []
    halted = np.zeros((len(DIALS), 2, len(problems)))
    for number in range(FOLDS):
        others = [p for p, f in zip(problems, fold, strict=True) if f != number]
        learned = Learned.of(others, rng)
        exponents.append(exponent(others, learned.scores, rng))
        for i in np.flatnonzero(fold == number):
            chosen_by = ways(learned, problems[i])
            for turn in range(orders):
                order = rng.permutation(len(problems[i].right))
                for name, choice in chosen_by.items():
                    marks = [problems[i].right[choice(order[:k])] for k in sizes]
                    found.setdefault(name, np.zeros((len(sizes), len(problems))))[:, i] += np.array(marks) / orders
                if turn < 2:
                    for d, value in enumerate(DIALS):
                        n = stopped(learned, problems[i], order, value)
                        halted[d, :, i] += np.array([problems[i].right[chosen_by[OURS](order[:n])], n]) / min(2, orders)
    return _figures(found, halted, sizes, group) | {"exponents": exponents}


def _figures(found: Mapping[str, Array], halted: Array, sizes: Sequence[int], group: Ints) -> dict[str, Any]:
    at, last = sizes.index(PEAK), len(sizes) - 1
    return {
        "problems": len(group),
        "drawn": sizes,
        "right": {name: values.mean(axis=1).tolist() for name, values in found.items()},
        "last": {name: bootstrap(mean_of(values[last]), group) for name, values in found.items()},
        "ours_over": {name: bootstrap(mean_of(found[OURS][last] - values[last]), group) for name, values in found.items()},
        "last_over_peak": {name: bootstrap(mean_of(values[last] - values[at]), group) for name, values in found.items()},
        "stopped": [
            {"value": value, "right": bootstrap(mean_of(right), group), "drawn": float(drawn.mean())}
            for value, (right, drawn) in zip(DIALS, halted, strict=True)
        ],
    }


def page(files: Mapping[str, Any]) -> str:
    """The page, as Markdown."""
    parts = [
        "# A verifier that can be over-optimised",
        command("weak_tests"),
        *(__doc__ or "").strip().split("\n\n")[2:],
        "![right against samples](weak_tests.png)",
    ]
    for name, one in files.items():
        last = one["drawn"][-1]
        rows = [
            [way, *(f"{100 * v:.1f}" for v, k in zip(values, one["drawn"], strict=True) if k in (1, PEAK, 16)), *_ends(one, way)]
            for way, values in one["right"].items()
        ]
        stops = [[f"{s['value']:g} samples", interval([100 * v for v in s["right"]], ".1f"), f"{s['drawn']:.1f}"] for s in one["stopped"]]
        parts += [
            f"## {name}",
            f"{one['problems']} problems; right, %.",
            table(["chosen by", "of 1", f"of {PEAK}", "of 16", f"of {last}", f"from {PEAK} to {last}", f"ours has more, of {last}"], rows),
            f"The exponent on a cluster's votes is {AGREEMENT:g} in the product; the likeliest one on the other problems lies"
            f" between {min(one['exponents']):.2f} and {max(one['exponents']):.2f}, by fold.",
            "The engine's own stop (`policies.next_draws` after every two samples), the answer chosen by `select: weighted`:",
            table(["a right answer is worth", "right, %", "samples drawn"], stops),
        ]
    return "\n\n".join(parts)


def _ends(one: Mapping[str, Any], way: str) -> list[str]:
    return [interval([100 * v for v in one[key][way]], ".1f") for key in ("last", "last_over_peak", "ours_over")]


def picture(files: Mapping[str, Any]) -> None:
    """Accuracy against the number of samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(files), figsize=(7 * len(files), 4.5), squeeze=False)
    for axis, (name, one) in zip(axes[0], files.items(), strict=True):
        for way, values in one["right"].items():
            axis.plot(one["drawn"], [100 * v for v in values], "o-", label=way.replace("`", ""), lw=2.5 if way == OURS else 1.2, ms=4)
        axis.plot(
            [s["drawn"] for s in one["stopped"]], [100 * s["right"][0] for s in one["stopped"]], "k*", ms=10, label="the engine's stop"
        )
        axis.set(xscale="log", xlabel="samples drawn", ylabel="right, %", title=name)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / "weak_tests.png", dpi=110)


def main() -> None:
    """Every file that fits, then page, picture and figures."""
    arguments = parser("weak_tests", __doc__ or "")
    arguments.add_argument("--files", default="samples_*codet*", help="pattern of files whose samples have `passes`")
    arguments.add_argument("--orders", type=int, default=4, help="random orders of the samples of each problem")
    options = arguments.parse_args()
    files = {name: study(rows, options.orders, options.seed) for name, rows in recordings(options.data, options.files).items()}
    picture(files)
    publish("weak_tests", {"files": files}, page(files))


if __name__ == "__main__":
    main()
