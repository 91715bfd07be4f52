"""The service's engine played on recorded outcomes of several models, each called at most once: a ladder without a fixed order.

`difficulty.learn` fits it on one side of a split (the exponent on evidence on another), then `policies.decide` buys one model
after the other for each prompt; what a call costs, takes and says is what was recorded. A model's confidence is a verifier's score with
bins of its own. To save time a decision is made once for prompts of like length and like estimate (`LENGTHS`, `LEVELS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.harness import CALIBRATE, TEST, TRAIN, Array, Ints, engine_with, groups
from difficulty.belief import EASE, NODES, PRIOR, Belief, Scores, Success
from difficulty.curves import Curves, Latency
from difficulty.learn import GRID, fit_latency, fit_scores, fit_tokens
from difficulty.learn_success import fit_success, posterior
from policies.decide import decide
from policies.facts import Facts, Market, NothingToRun
from policies.plans import Single
from policies.policy import Optimiser, Worth

LEVELS, LENGTHS = 5, 3
"""How many values the estimate and the prompt's length are rounded to, by quantiles of the training sides."""
BINS = 12
FEWEST_IN_BIN = 15


@dataclass(frozen=True)
class Recorded:
    """One file as arrays, prompts by models, models from the cheapest to the dearest."""

    names: tuple[str, ...]
    prompts: Sequence[str]
    group: Ints
    right: Array
    confidence: Array
    """The chance of being right that the model gives itself."""
    usd: Array
    seconds: Array
    tokens_in: Array
    tokens_out: Array

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Recorded:
        """From the rows of a file."""

        def column(field_name: str, names: Sequence[str]) -> Array:
            return np.array([[row["outcomes"][name][field_name] for name in names] for row in rows], dtype=np.float64)

        names = list(rows[0]["outcomes"])
        names = [names[m] for m in np.argsort(column("cost_usd", names).mean(axis=0), kind="stable")]
        prompts = [row["prompt"] for row in rows]
        fields = ("correct", "confidence", "cost_usd", "latency_ms", "input_tokens", "output_tokens")
        right, confidence, usd, ms, tokens_in, tokens_out = (column(name, names) for name in fields)
        return cls(tuple(names), prompts, groups(prompts), right, np.exp(confidence), usd, ms / 1e3, tokens_in, tokens_out)

    def by_name(self, values: Array, rows: Ints) -> dict[str, Array]:
        """Columns of some rows, by model."""
        return {name: values[rows, m] for m, name in enumerate(self.names)}


# --- the engine ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """The engine, or the engine without one of its parts."""

    probe: bool = True
    shared: bool = True
    calibrated: bool = True
    tempered: bool = True
    by_ease: bool = True
    """Two tables of scores, for easy and hard prompts."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Constants of `policies.optimise` that are others in it."""


@dataclass(frozen=True)
class Engine:
    """The service's engine fitted on one split: what `decide` is called with, and the recorded calls it is played on."""

    data: Recorded
    market: Market
    feature: Array
    """e(x) of every prompt, rounded, shape [N]."""
    length: Ints
    """Input tokens of every prompt, rounded, shape [N]."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As in its `Variant`."""
    known: dict[Any, Single | None] = field(default_factory=dict)
    """Decisions made already. Those under a deadline are not kept: the time that has passed differs."""

    @classmethod
    def fit(cls, data: Recorded, side: Ints, variant: Variant) -> Engine:
        """Curves from train and calibrate; the tempering from how those of train alone do on calibrate."""
        seen, train = np.flatnonzero(side != TEST), np.flatnonzero(side == TRAIN)
        e = estimate(data.prompts, data.right.mean(axis=1), data.group, side) if variant.probe else np.zeros(len(side))
        tokens = {name: fit_tokens(data.tokens_in[seen, m], data.tokens_out[seen, m]) for m, name in enumerate(data.names)}
        latency = {name: fit_latency(data.tokens_out[seen, m], data.seconds[seen, m]) for m, name in enumerate(data.names)}
        free = {judge(name): Latency(0.0, 0.0, 0.0) for name in data.names}
        tempered = 1.0
        if variant.tempered:
            success, scores = _believed(data, e, train, variant)
            tempered = _tempering(data, np.flatnonzero(side == CALIBRATE), e, Curves(success, scores=scores))
        success, scores = _believed(data, e, seen, variant)
        curves = Curves(success, tokens, latency | free, scores, source="recorded")
        prices = {name: _price(data, m, seen) for m, name in enumerate(data.names)}
        length = rounded(data.tokens_in.mean(axis=1), seen, LENGTHS).astype(np.int64)
        return cls(data, Market(prices, curves=replace(curves, tempering=tempered)), rounded(e, seen, LEVELS), length, variant.settings)

    def play(self, row: int, policy: Optimiser, deadline_s: float = float("inf")) -> Played:
        """One prompt: decide, buy, see the confidence, decide again. A call that is under way at the deadline is paid and cut off."""
        names, curves = self.data.names, self.market.curves
        belief = Belief.prior(dict.fromkeys(names, self.feature[row]), curves.success, tempering=curves.tempering)
        facts, usd = Facts(int(self.length[row]), deadline_s=deadline_s), 0.0
        bought: list[int] = []
        while plan := self._next(policy, facts, belief):
            m = names.index(plan.backend)
            usd, elapsed = usd + self.data.usd[row, m], facts.elapsed_s + self.data.seconds[row, m]
            facts = replace(facts, done=facts.done | {plan.key}, elapsed_s=elapsed)
            if elapsed > deadline_s:
                break
            scores = curves.scores_of(judge(plan.backend))
            belief = belief.after([scores.seen(plan.backend, self.data.confidence[row, m])])
            bought = [*bought, m]
        if not bought:
            return Played(0.0, usd, min(facts.elapsed_s, deadline_s), True, 0)
        best = bought[int(np.argmax(belief.chances))]
        return Played(self.data.right[row, best], usd, min(facts.elapsed_s, deadline_s), False, len(bought))

    def before(self, name: str) -> Array:
        """Chance before the first call that a model is right, for every prompt, shape [N]."""
        return _before(self.market.curves.success[name], self.feature)

    def _next(self, policy: Optimiser, facts: Facts, belief: Belief) -> Single | None:
        """The service's decision."""
        seen = frozenset((e.backend, e.if_right) for e in belief.evidence)
        key = (policy.objective, facts.input_tokens, next(iter(belief.lines.values())), seen)
        timed = facts.deadline_s < float("inf")
        if timed or key not in self.known:
            try:
                with engine_with(self.settings):
                    plan = decide(policy, self.market, facts, belief).plan
            except NothingToRun:
                plan = None
            assert plan is None or isinstance(plan, Single)
            if timed:
                return plan
            self.known[key] = plan
        return self.known[key]


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one prompt."""

    right: float
    usd: float
    seconds: float
    unanswered: bool
    calls: int


def judge(name: str) -> str:
    """The name of a model's confidence among the verifiers."""
    return f"confidence of {name}"


def policy(names: Sequence[str], value_usd: float) -> Optimiser:
    plans = tuple(Single(backend=name, verifier=judge(name)) for name in names)
    return Optimiser(objective=Worth(value_of_correct_usd=value_usd), plans=plans)


def _believed(data: Recorded, e: Array, rows: Ints, variant: Variant) -> tuple[dict[str, Success], dict[str, Scores]]:
    """What some rows say of every model's chances, and of what its confidence is worth: as `outlay fit` learns it."""
    right, once = data.by_name(data.right, rows), dict.fromkeys(data.names, np.ones(len(rows)))
    features = dict.fromkeys(data.names, e[rows])
    if variant.shared:
        success = fit_success(features, right, once)
    else:
        alone = {name: _logistic(e[rows], right[name]) for name in data.names}
        success = {name: Success(float(intercept), float(slope), 0.0) for name, (intercept, slope) in alone.items()}
    if not variant.calibrated:
        return success, {judge(name): Scores.unfitted() for name in data.names}
    weights, bins, scores = posterior(success, features, right, once), min(BINS, len(rows) // FEWEST_IN_BIN), {}
    for m, name in enumerate(data.names):
        chance = (weights * expit(success[name].logits(e[rows]))).sum(axis=1)
        given, ease = (chance, weights @ EASE) if variant.by_ease else (None, None)
        scores[judge(name)] = fit_scores(data.confidence[rows, m], right[name], given, ease, bins)
    return success, scores


def _logistic(e: Array, right: Array) -> tuple[float, float]:
    """(intercept, slope), with half an answer of each kind added: on a small side a model may have no wrong one."""
    x, y = np.append(e, [0.0, 0.0])[:, None], np.append(right, [0.0, 1.0])
    model = LogisticRegression(C=1.0).fit(x, y, sample_weight=np.append(np.ones(len(e)), [0.5, 0.5]))
    return model.intercept_[0], model.coef_[0, 0]


def _before(curve: Success, e: Array) -> Array:
    """Chance before the first call that a model is right, for every prompt, shape [N]."""
    return np.asarray(expit((curve.intercept + curve.slope * e)[:, None] + curve.spread * NODES) @ PRIOR)


def _price(data: Recorded, m: int, seen: Ints) -> tuple[float, float]:
    """US dollars for a million tokens in and out: what was billed, as a multiple of all tokens (confidence may cost a second call)."""
    each = 1e6 * data.usd[seen, m].sum() / (data.tokens_in[seen, m] + data.tokens_out[seen, m]).sum()
    return each, each


def _tempering(data: Recorded, rows: Ints, e: Array, curves: Curves) -> float:
    """The exponent under which the confidence of the cheaper models predicts best the next dearer one."""

    def loss(exponent: float) -> float:
        weights, total = np.tile(PRIOR, (len(rows), 1)), 0.0
        for m, name in enumerate(data.names):
            curve, scores = curves.success[name], curves.scores_of(judge(name))
            p = expit((curve.intercept + curve.slope * e[rows])[:, None] + curve.spread * NODES)
            chance, y = np.clip((weights * p).sum(axis=1), 1e-6, 1 - 1e-6), data.right[rows, m]
            total -= float((y * np.log(chance) + (1 - y) * np.log1p(-chance)).sum())
            k = np.searchsorted(scores.edges, data.confidence[rows, m], side="right")
            ease = [EASE] * len(rows) if scores.shared else p
            if_right, if_wrong = (np.stack(tables) for tables in zip(*map(scores.likelihoods, ease), strict=True))
            here = np.arange(len(rows))
            weights = weights * (p * if_right[here, :, k] + (1 - p) * if_wrong[here, :, k]) ** exponent
            weights /= weights.sum(axis=1, keepdims=True)
        return total

    return min(GRID, key=loss)


def estimate(prompts: Sequence[str], share: Array, group: Ints, side: Ints, folds: int = 5) -> Array:
    """e(x): logit of the share of answers that are right, by logistic regression on words and pairs; out of fold off the test side."""
    known = [prompts[int(i)] for i in np.flatnonzero(side != TEST)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(known)
    x, seen = words.transform(prompts), side != TEST
    fold = np.where(seen, group % folds, folds)

    def logits(fit_on: NDArray[np.bool_], of: NDArray[np.bool_]) -> Array:
        weight = np.concatenate([share[fit_on], 1 - share[fit_on]])
        rows, y = np.tile(np.flatnonzero(fit_on), 2), np.repeat([1, 0], fit_on.sum())
        return np.asarray(LogisticRegression(C=1.0).fit(x[rows], y, sample_weight=weight).decision_function(x[of]))

    e = np.empty(len(side))
    for number in range(folds + 1):
        mine = fold == number
        if mine.any():
            e[mine] = logits(seen & ~mine, mine)
    return np.asarray(e - e[seen].mean())


def rounded(values: Array, seen: Ints, levels: int) -> Array:
    """Each value replaced by the median of its quantile class among the rows seen."""
    edges = np.unique(np.quantile(values[seen], np.linspace(0, 1, levels + 1)[1:-1]))
    place = np.searchsorted(edges, values, side="right")
    medians = np.array([np.median(values[seen][place[seen] == k]) if (place[seen] == k).any() else 0.0 for k in range(len(edges) + 1)])
    return medians[place]
