"""What a policy is compared with, on the arrays of a log: each fixed plan, their hull, random mixing, routing by length, neighbours or the
probe before the first call, a tuned cascade, and an oracle that knows what each fixed plan will give.

A method is a frontier: right [S, N] and cost [S, N] of S settings on N prompts. Whatever is learned is learned on other prompts: on those
the fit saw, and on the other folds. Every verifier's and probe's reading is charged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from difficulty.labels import folds
from difficulty.probe import Estimate
from policies.facts import Market
from policies.policy import Policy
from router.fit import samples
from router.offline import Rows
from router.play import Answer, answers

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
STEPS = 21
"""Settings of a method that has a threshold."""
NEIGHBOURS = 20


@dataclass(frozen=True)
class Method:
    """One way to answer, over its settings."""

    name: str
    right: Array
    """Shape [S, N]."""
    cost: Array
    """US dollars, shape [S, N]."""


@dataclass(frozen=True)
class Log:
    """The rows of a log with what each backend and verifier charged."""

    rows: Rows
    market: Market
    estimates: Mapping[str, Estimate]
    probe_usd_per_token: float = 0.0
    judged: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Places of the rows that methods are judged on; the others are only learned from."""

    def backends(self) -> list[str]:
        """Those with samples in every row, the cheapest first."""
        everywhere = [name for name in samples(self.rows[0]) if all(samples(row).get(name, {}).get("answers") for row in self.rows)]
        return sorted(everywhere, key=lambda name: self.market.cost_usd(name, 1, 1))

    def drawn(self, backend: str) -> list[list[Answer]]:
        """The samples of a backend, by row."""
        return [answers(samples(row)[backend]) for row in self.rows]

    def marks(self, backend: str) -> list[Array]:
        """1 for right and 0 for wrong, of each sample, by row."""
        return [np.array([answer["correct"] for answer in samples(row)[backend]["answers"]]) for row in self.rows]

    @property
    def tokens(self) -> Array:
        """Input tokens of each prompt, shape [N]."""
        return np.array([next(iter(samples(row).values()))["calls"][0][3] for row in self.rows], dtype=np.float64)

    @property
    def features(self) -> Array:
        """The probe's estimates, shape [N, M]."""
        return np.array([list(self.estimates[row["prompt"]].features.values()) for row in self.rows])

    @property
    def probe_usd(self) -> Array:
        """What reading each prompt costs, shape [N]."""
        return np.array([self.estimates[row["prompt"]].tokens_read for row in self.rows]) * self.probe_usd_per_token


# --- fixed plans --------------------------------------------------------------------------------------------------------


def fixed(log: Log, policies: Sequence[Policy]) -> list[Method]:
    """Always one backend; best-of-n for every verifier that scored its samples; each recorded revision and search, run whole."""
    singles = [single(log, name) for name in log.backends()]
    return [*singles, *_best_of(log), *_chains(log, policies)]


def single(log: Log, backend: str) -> Method:
    """Always one answer of a backend: the mean of those recorded."""
    right = np.array([marks.mean() for marks in log.marks(backend)])
    out = np.array([np.mean([answer.tokens for answer in drawn]) for drawn in log.drawn(backend)])
    cost = np.array([log.market.cost_usd(backend, read, write) for read, write in zip(log.tokens, out, strict=True)])
    return Method(f"always {backend}", right[None], cost[None])


def _best_of(log: Log) -> Iterator[Method]:
    for backend in log.backends():
        drawn = log.drawn(backend)
        least = min(map(len, drawn))
        for verifier in sorted({name for answer in drawn[0] for name in answer.scores}):
            for n in (2**k for k in range(1, least.bit_length())):
                found = best_of(log, backend, verifier, n)
                yield Method(f"best of {n}, {backend} by {verifier}", found.right[None], found.cost[None])


@dataclass(frozen=True)
class Picked:
    """The best of n samples by a verifier, the mean over as many disjoint sets of n as there are; each of shape [N]."""

    right: Array
    cost: Array
    scores: list[Array]
    """Of the best in each set, by row."""
    marks: list[Array]
    """Whether it is right, by row."""


def best_of(log: Log, backend: str, verifier: str, n: int) -> Picked:
    """Equal answers are read once by the verifier, and a prompt that a cache keeps is read from it after the first time, as in service."""
    read, reads = log.tokens, 1 if backend in log.market.shared_prompt else n
    scores, marks, cost = [], [], np.zeros(len(log.rows))
    for i, (drawn, right) in enumerate(zip(log.drawn(backend), log.marks(backend), strict=True)):
        sets = [range(start, start + n) for start in range(0, len(drawn) - n + 1, n)]
        raw = np.array([answer.scores.get(verifier) or 0.0 for answer in drawn])
        top = [max(places, key=raw.__getitem__) for places in sets]
        scores.append(raw[top])
        marks.append(right[top])
        written = np.mean([sum(drawn[k].tokens for k in places) for places in sets])
        distinct = [{drawn[k].text: drawn[k].tokens for k in places} for places in sets]
        scored = np.mean([sum(read[i] + tokens for tokens in texts.values()) for texts in distinct])
        again = {backend: reads - 1.0, verifier: float(np.mean([len(texts) for texts in distinct])) - 1}
        cached = {name: times * read[i] * (name in log.market.caches) for name, times in again.items()}
        cost[i] = log.market.cost_usd(backend, read[i] * reads, float(written), cached[backend])
        cost[i] += log.market.cost_usd(verifier, float(scored), 0.0, cached[verifier])
    return Picked(np.array([m.mean() for m in marks]), cost, scores, marks)


def _chains(log: Log, policies: Sequence[Policy]) -> Iterator[Method]:
    plans = {plan.key for policy in policies for plan in policy.all_plans}
    for key in sorted(plans):
        traces = [next((t for t in row["traces"] if t["plan"] == key and t["answers"]), None) for row in log.rows]
        found = [trace for trace in traces if trace is not None]
        if len(found) == len(traces):
            right = np.array([trace["answers"][trace.get("chosen") or 0]["correct"] for trace in found])
            yield Method(key, right[None], np.array([trace["cost_usd"] for trace in found])[None])


def hull(plans: Sequence[Method]) -> Method:
    """All fixed plans as one method: the best of them and of their mixtures at every price, known in hindsight."""
    return Method("hull of all fixed plans", np.concatenate([m.right for m in plans]), np.concatenate([m.cost for m in plans]))


# --- routers before the first call --------------------------------------------------------------------------------------


def random_mix(small: Method, large: Method) -> Method:
    """Large for a random share."""
    share = np.linspace(0, 1, STEPS)[:, None]
    return Method("random mix", small.right + share * (large.right - small.right), small.cost + share * (large.cost - small.cost))


def by_rank(name: str, gain: Array, small: Method, large: Method, extra_usd: Array | float = 0.0) -> Method:
    """Large for the prompts of the highest `gain` [N], at every share."""
    rank = np.argsort(np.argsort(-gain, kind="stable")) / len(gain)
    goes = rank < np.linspace(0, 1, STEPS)[:, None]
    return Method(name, np.where(goes, large.right, small.right), np.where(goes, large.cost, small.cost) + extra_usd)


def by_length(log: Log, small: Method, large: Method) -> Method:
    """Large for the longest prompts."""
    return by_rank("prompt length alone", log.tokens, small, large)


def by_neighbours(log: Log, small: Method, large: Method, seed: int = 0) -> Method:
    """Large where it was better than small on the most similar other prompts (tf-idf of words and numbers)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True).fit_transform([row["prompt"] for row in log.rows])
    difference = (large.right - small.right)[0]

    def learned(learn: Ints, ask: Ints) -> Array:
        near = np.argsort(-(words[ask] @ words[learn].T).toarray(), axis=1, kind="stable")[:, :NEIGHBOURS]
        return np.asarray(difference[learn][near].mean(axis=1))

    return by_rank("nearest neighbours", across(log, learned, seed), small, large)


def ex_ante(log: Log, plans: Sequence[Method], values: Array, seed: int = 0) -> Method:
    """The best fixed plan by the probe alone, without a second look: each plan's chance is learned from the probe's estimates."""
    from sklearn.linear_model import Ridge

    x = np.column_stack([log.features, 1 / (1 + np.exp(-log.features))])

    def learned(learn: Ints, ask: Ints) -> Array:
        chance = [Ridge(1.0).fit(x[learn], plan.right[0][learn]).predict(x[ask]) for plan in plans]
        return np.stack(
            [np.clip(chance, 0, 1), np.repeat([[plan.cost[0][learn].mean()] for plan in plans], len(ask), axis=1)], axis=-1
        ).swapaxes(0, 1)

    said = across(log, learned, seed)
    return _chosen("router before the first call", said[..., 0], said[..., 1], plans, values, log.probe_usd)


def oracle(plans: Sequence[Method], values: Array) -> Method:
    """The best fixed plan for every prompt, by what was recorded of it there: a bound for whoever chooses one plan and runs it whole. Who
    stops early, or goes on after a look at the answer, may pay less."""
    right, cost = (np.stack([getattr(plan, of)[0] for plan in plans], axis=1) for of in ("right", "cost"))
    return _chosen("oracle over fixed plans", right, cost, plans, values, 0.0)


def _chosen(name: str, right: Array, cost: Array, plans: Sequence[Method], values: Array, extra_usd: Array | float) -> Method:
    """The plan of the highest value * right - cost, as said by `right` and `cost` [N, P], with what it truly gives."""
    true_right, true_cost = (np.stack([getattr(plan, of)[0] for plan in plans], axis=1) for of in ("right", "cost"))
    best = np.stack([np.argmax(value * right - cost, axis=1) for value in values])
    rows = np.arange(len(right))
    return Method(name, true_right[rows, best], true_cost[rows, best] + extra_usd)


# --- after the first answer ---------------------------------------------------------------------------------------------


def cascade(log: Log, large: Method, values: Array, seed: int = 0) -> Method:
    """The cheapest backend's best of 1, 2 or 4 by a verifier, and large where its score is under a threshold; both tuned elsewhere."""
    backend, settings = log.backends()[0], list[tuple[Array, Array]]()
    drawn = log.drawn(backend)
    for verifier in sorted({name for answer in drawn[0] for name in answer.scores}):
        for n in (n for n in (1, 2, 4) if n <= min(map(len, drawn))):
            found = best_of(log, backend, verifier, n)
            cuts = np.quantile(np.concatenate(found.scores), np.linspace(0, 1, STEPS))
            settings += [_cut(found, large, cut) for cut in cuts]
    if not settings:
        return Method("tuned cascade", large.right, large.cost)
    right, cost = (np.stack(part) for part in zip(*settings, strict=True))

    def tuned(learn: Ints, ask: Ints) -> Array:
        best = [int(np.argmax(value * right[:, learn].mean(axis=1) - cost[:, learn].mean(axis=1))) for value in values]
        return np.repeat([best], len(ask), axis=0)

    best, rows = across(log, tuned, seed).astype(np.int64).T, np.arange(len(log.rows))
    return Method("tuned cascade", right[best, rows], cost[best, rows])


def _cut(found: Picked, large: Method, cut: float) -> tuple[Array, Array]:
    up = np.array([(scores < cut).mean() for scores in found.scores])
    kept = np.array([(marks * (scores >= cut)).mean() for marks, scores in zip(found.marks, found.scores, strict=True)])
    return kept + up * large.right[0], found.cost + up * large.cost[0]


def across(log: Log, learned: Callable[[Ints, Ints], Array], seed: int) -> Array:
    """What is said of every row by one who learned on the other folds; rows of a group are in one fold."""
    fold = folds([row["group"] for row in log.rows], seed)
    parts = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    said = [learned(learn, ask) for learn, ask in parts]
    place = np.argsort(np.concatenate([ask for _, ask in parts]))
    return np.asarray(np.concatenate(said)[place])


# --- all of them --------------------------------------------------------------------------------------------------------


def baselines(log: Log, policies: Sequence[Policy], against: str) -> list[Method]:
    """Every one, on the judged rows. `against` is the backend whose quality is to be matched."""
    plans, large = fixed(log, policies), single(log, against)
    small = single(log, log.backends()[0])
    values = np.array([float(large.cost.mean()) * 2.0**k for k in range(-3, 9)], dtype=np.float64)
    found = [
        *plans, hull(plans), random_mix(small, large), by_length(log, small, large), by_neighbours(log, small, large),
        ex_ante(log, plans, values), cascade(log, large, values), oracle(plans, values),
    ]  # fmt: skip
    return [Method(m.name, m.right[:, log.judged], m.cost[:, log.judged]) for m in found]


def cost_at(right: Array, cost: Array, target: Array) -> Array:
    """The least cost at which a frontier, or a mixture of two of its settings, reaches a target; infinity where it never does.

    `right` and `cost` are [S, D] and `target` [D], over D resamples.
    """
    reach = right >= target
    alone = np.where(reach, cost, np.inf).min(axis=0)
    step = right[:, None] - right[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = cost[None] + (cost[:, None] - cost[None]) * (target - right[None]) / step
    usable = reach[:, None] & ~reach[None] & (step > 0)
    return np.asarray(np.minimum(alone, np.where(usable, mixed, np.inf).min(axis=(0, 1))))
