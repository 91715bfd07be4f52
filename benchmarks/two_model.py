"""`python -m benchmarks.two_model`: a cheap model or a dear one, decided before the first call, from the prompt alone.

On every recording with outcomes of two models or more: how much of the gap in quality is recovered for how many calls of the dear one,
by the general probe without a label of this data set, by the same probe fitted on 100, 300, 1,000 and all labels, and by what is
simpler. Five rotations of a 40/20/40 split by near-duplicate groups; figures are means over the rotations' test sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import general_probe
from benchmarks.encodings import ENCODER, HALFWAY, Kept
from benchmarks.general_probe import read_as
from benchmarks.harness import (
    CALIBRATE,
    DRAWS,
    PAGES,
    TEST,
    TRAIN,
    Array,
    Ints,
    command,
    groups,
    interval,
    parser,
    publish,
    recordings,
    sides,
    table,
)
from difficulty.conversation import CHARACTERS_PER_TOKEN
from difficulty.encoders import Encoder, open_encoder
from difficulty.fit import fit_probe
from difficulty.labels import Labelled
from difficulty.tiers import TIERS

PATTERNS = ("outcomes_rout*.jsonl.gz", "outcomes_cascade_mmlu*.jsonl.gz")
SHARES = np.linspace(0, 1, 11)
FORMS = {"apgr": ".3f", "cpt50": ".0f", "cpt80": ".0f"}
SHOWN = np.linspace(0, 1, 51)
SIZES = (100, 300, 1000)
NEIGHBOURS = (10, 30, 100, 300)
WIDTH = 0.7
"""Of the kernel on states: a distance between unit vectors."""
AIMS = {"outcomes_routellm_gsm8k": 0.66, "outcomes_routellm_mmlu_even": 0.68}
"""APGR that was aimed at, with the labels of the data set."""
CHEAP = 0.1
"""Of more than two models the dear one is the best, the cheap one the best of those that cost at most so much of it."""
PROBE_USD_PER_MTOK = 0.001
"""What the probe reads is charged with: 6 ms of one core (at 4 cents an hour) for 100 tokens."""
OURS, UNSEEN = "probe, all labels", "probe, no labels"
PUBLISHED = {
    "outcomes_routellm_mmlu_even": "Published, on all 57 subjects: RouteLLM's best has APGR .603, CPT(50) 35.4, CPT(80) 70.3; "
    "prompt length alone .586, 35.9, 69.1",
}


Figure = Callable[[Array, Array], float]
"""(share of dear calls, share of the gap recovered), each of shape [n + 1], to a figure."""


@dataclass(eq=False)
class Pair:
    """Two models on N prompts. `cheap` and `dear` are their quality in 0..1, shape [N]."""

    name: str
    models: tuple[str, str]
    prompts: list[str]
    cheap: Array
    dear: Array
    group: Ints
    others: Array
    """Quality of all other models on the same prompts, shape [N, K]."""
    subject: Ints
    """Number of each prompt's subject, where it is recorded; else all 0. Shape [N]."""
    cost_usd: Array | None
    """Shape [2, N]."""
    scores: dict[str, Array] = field(default_factory=dict)
    """By method and rotation, higher where the dear one is worth more; shape [5, N], NaN outside of the test side."""

    @property
    def gain(self) -> Array:
        """What the dear one adds, shape [N]."""
        return self.dear - self.cheap


def main() -> None:
    """Read, score by every method, judge, publish."""
    form = parser("two_model", (__doc__ or "").strip())
    form.add_argument("--pattern", nargs="+", default=PATTERNS, help="recordings to judge on")
    form.add_argument("--draws", type=int, default=DRAWS, help="of the bootstrap")
    args = form.parse_args()
    encoder = Kept(open_encoder(ENCODER))
    everything = recordings(args.data, "outcomes_*.jsonl.gz")
    pairs = [pair(name, rows, everything) for pattern in args.pattern for name, rows in recordings(args.data, pattern).items()]
    general = general_probe.labels(everything)
    judged = {}
    for one in pairs:
        score(one, encoder, general, args.seed)
        judged[one.name] = judge(one, args.draws, args.seed)
        print(one.name, {name: round(found["apgr"][0], 3) for name, found in judged[one.name]["methods"].items()}, flush=True)
    picture(judged)
    publish("two_model", {"sets": judged}, page(judged))


def pair(name: str, rows: Sequence[Mapping[str, Any]], everything: Mapping[str, Sequence[Mapping[str, Any]]]) -> Pair:
    """The two models of a recording; where there are more, by quality and price (see CHEAP)."""
    models = sorted({model for row in rows for model in row["outcomes"]})
    whole = [row for row in rows if len(row["outcomes"]) == len(models)]
    quality = {m: np.array([row["outcomes"][m]["correct"] for row in whole], dtype=np.float64) for m in models}
    costs = {m: np.array([row["outcomes"][m].get("cost_usd", np.nan) for row in whole], dtype=np.float64) for m in models}
    dear = max(models, key=lambda m: quality[m].mean())
    limit = CHEAP * costs[dear].mean() if len(models) > 2 else np.nan
    cheap = max((m for m in models if m != dear and not costs[m].mean() > limit), key=lambda m: quality[m].mean())
    prompts = [read_as(row["prompt"]) for row in whole]
    subject = np.unique([row.get("subject", "") for row in whole], return_inverse=True)[1]
    known = None if np.isnan(costs[dear]).any() else np.stack([costs[cheap], costs[dear]])
    others = _others(whole, {cheap, dear}, name, everything)
    return Pair(name, (cheap, dear), prompts, quality[cheap], quality[dear], groups(prompts), others, subject, known)


def _others(rows: Sequence[Mapping[str, Any]], two: set[str], name: str, everything: Mapping[str, Sequence[Mapping[str, Any]]]) -> Array:
    """Columns of the models that answered at least nine in ten of these prompts, here or in another recording."""
    by_prompt: dict[str, dict[str, float]] = {row["prompt"]: {} for row in rows}
    for file, found in everything.items():
        for row in found:
            if row.get("prompt") in by_prompt:
                seen = {f"{file}:{m}": float(o["correct"]) for m, o in row["outcomes"].items() if file != name or m not in two}
                by_prompt[row["prompt"]].update(seen)
    columns = sorted({m for seen in by_prompt.values() for m in seen})
    full = np.array([[by_prompt[row["prompt"]].get(m, np.nan) for m in columns] for row in rows]).reshape(len(rows), len(columns))
    full = full[:, np.isfinite(full).mean(axis=0) > 0.9]
    return np.asarray(np.nan_to_num(full, nan=0.5))


# --- methods ------------------------------------------------------------------------------------------------------------


def score(one: Pair, encoder: Encoder, general: tuple[list[Labelled], dict[str, set[str]]], seed: int) -> None:
    """Fills `scores`. Nothing of a rotation's test side is seen by what is judged on it."""
    read = encoder.encode(one.prompts, [HALFWAY])
    states = read.states[HALFWAY].astype(np.float64)
    length = read.tokens.astype(np.float64)
    alike = kernel(one, states, length)
    unseen = without_labels(one, encoder, general, seed)
    for side in rotations(one.group, seed):
        test = side == TEST
        _note(one, "prompt length", test, length)
        _note(one, UNSEEN, test, unseen)
        _note(one, "kNN", test, neighbours(one, states, side))
        _note(one, "TF-IDF + LR", test, words(one, side))
        _note(one, "kernels", test, kernels(one, alike, side))
        if one.subject.any():
            _note(one, "the subject, told", test, by_subject(one, side))
        pool = np.random.default_rng(seed).permutation(np.flatnonzero(~test))
        for size in (*(s for s in SIZES if s < len(pool)), len(pool)):
            name = OURS if size == len(pool) else f"probe, {size:,} labels"
            _note(one, name, test, in_domain(one, encoder, side, pool[:size], seed))
        if one.others.shape[1] >= 7:
            _note(one, "other models' answers", test, ceiling(one, side))


def rotations(group: Ints, seed: int) -> Iterator[Ints]:
    """Five 40/20/40 splits; every prompt is in the test side of two."""
    fifth = sides(group, seed, (0.2,) * 5)
    for turn in range(5):
        yield np.array([TEST, TEST, CALIBRATE, TRAIN, TRAIN])[(fifth - turn) % 5]


def _note(one: Pair, method: str, test: Any, scores: Array) -> None:
    row = np.where(test, scores, np.nan)[None]
    one.scores[method] = np.concatenate([one.scores[method], row]) if method in one.scores else row


def in_domain(one: Pair, encoder: Encoder, side: Ints, labelled: Ints, seed: int) -> Array:
    """P(dear is right) - P(cheap is right) by the product's probe, fitted on the labels of some prompts."""
    keep = np.union1d(labelled, np.flatnonzero(side == TEST))
    rows = [row for i in keep for row in _labels(one, i)]
    return _difference(one, rows, {str(g): int(s) for g, s in zip(one.group, side, strict=True)}, encoder, seed)


def without_labels(one: Pair, encoder: Encoder, general: tuple[list[Labelled], dict[str, set[str]]], seed: int) -> Array:
    """The same by the recipe of `difficulty/general`, with every label left out whose prompt is in this data set or near one of it."""
    rows, _ = general
    mine, theirs = set(one.prompts), {row.group for row in rows if read_as(row.prompt) in set(one.prompts)}
    rest = [row for row in rows if row.group not in theirs and read_as(row.prompt) not in mine]
    part = sides([row.group for row in rest], seed, (0.75, 0.25))
    split = {row.group: int(s) for row, s in zip(rest, part, strict=True)}
    asked = [Labelled(prompt, tier, 0, 1, "asked") for prompt in one.prompts for tier in TIERS]
    return _difference(one, rest + asked, split | {"asked": TEST}, encoder, seed)


def _difference(one: Pair, rows: Sequence[Labelled], split: Mapping[str, int], encoder: Encoder, seed: int) -> Array:
    fitted = fit_probe(rows, encoder, seed=seed, split=split)
    e = np.column_stack([fitted.out_of_fold[tier] for tier in fitted.head.backends])
    p = dict(zip(fitted.head.backends, fitted.head.p_correct(e).T, strict=True))
    place = {prompt: i for i, prompt in enumerate(fitted.table.prompts)}
    at = np.array([place.get(prompt, 0) for prompt in one.prompts])
    return np.asarray((p["strong"] - p["weak"])[at])


def _labels(one: Pair, i: int) -> Iterator[Labelled]:
    for tier, marks in zip(TIERS, (one.cheap, one.dear), strict=True):
        draws = 1 if marks[i] in (0, 1) else general_probe.DRAWS
        yield Labelled(one.prompts[i], tier, round(draws * marks[i]), draws, str(one.group[i]))


def neighbours(one: Pair, states: Array, side: Ints) -> Array:
    """Mean gain of the k nearest prompts by cosine of their states; k is the best on the calibration side."""
    unit = states - states.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def from_rows(rows: Ints, k: int) -> Array:
        near = np.argpartition(-(unit @ unit[rows].T), min(k, len(rows)) - 1, axis=1)[:, :k]
        return np.asarray(one.gain[rows][near].mean(axis=1))

    train, check = np.flatnonzero(side == TRAIN), np.flatnonzero(side == CALIBRATE)
    tried = {k: _on(one, from_rows(train, k), check) for k in NEIGHBOURS if k < len(train)}
    return from_rows(np.flatnonzero(side != TEST), max(tried, key=lambda k: tried[k]))


def words(one: Pair, side: Ints) -> Array:
    """Logistic regression of each model's outcome on tf-idf of words and pairs; the penalty is the best on the calibration side."""
    from sklearn.linear_model import LogisticRegression

    x = tfidf(one.prompts)

    def fitted(rows: Ints, strength: float) -> Array:
        def chance(right: Any) -> Any:
            if right[rows].all() or not right[rows].any():
                return np.full(len(right), float(right[rows].mean()))
            return LogisticRegression(C=strength, max_iter=500).fit(x[rows], right[rows]).predict_proba(x)[:, 1]

        return np.asarray(chance(one.dear > 0.5) - chance(one.cheap > 0.5))

    train, check = np.flatnonzero(side == TRAIN), np.flatnonzero(side == CALIBRATE)
    tried = {c: _on(one, fitted(train, c), check) for c in (0.01, 0.1, 1.0)}
    return fitted(np.flatnonzero(side != TEST), max(tried, key=lambda c: tried[c]))


def tfidf(prompts: Sequence[str]) -> Any:
    """Words and pairs, shape [N, W]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(prompts)


def kernel(one: Pair, states: Array, length: Array) -> NDArray[np.float32]:
    """How alike any two prompts are: by state, by words and by length, added up. Shape [N, N]."""
    unit = (states - states.mean(axis=0)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = np.exp((unit @ unit.T - 1) / WIDTH**2)
    x = tfidf(one.prompts).astype(np.float32)
    found += (x @ x.T).toarray()
    log = np.log1p(length).astype(np.float32)
    return np.asarray(found + np.exp(-(((log[:, None] - log) / log.std()) ** 2) / 2))


def kernels(one: Pair, alike: NDArray[np.float32], side: Ints) -> Array:
    """Kernel ridge regression of the gain itself; the penalty is the best on the calibration side, by squared error."""
    from scipy.linalg import solve

    def fitted(rows: Ints, penalty: float) -> Array:
        square = alike[np.ix_(rows, rows)] + penalty * np.eye(len(rows), dtype=np.float32)
        mean = one.gain[rows].mean()
        return np.asarray(mean + alike[:, rows] @ solve(square, (one.gain[rows] - mean).astype(np.float32), assume_a="pos"))

    train, check = np.flatnonzero(side == TRAIN), np.flatnonzero(side == CALIBRATE)
    missed = {penalty: float(((fitted(train, penalty) - one.gain)[check] ** 2).mean()) for penalty in (3.0, 10.0, 30.0)}
    return fitted(np.flatnonzero(side != TEST), min(missed, key=lambda penalty: missed[penalty]))


def by_subject(one: Pair, side: Ints) -> Array:
    """Mean gain of the prompt's recorded subject, drawn to that of all as by ten prompts more."""
    seen = side != TEST
    total, count = np.bincount(one.subject[seen], one.gain[seen]), np.bincount(one.subject[seen])
    mean = (total + 10 * one.gain[seen].mean()) / (count + 10)
    return np.asarray(mean[one.subject])


def _on(one: Pair, scores: Array, rows: Ints) -> float:
    """APGR of scores on some rows."""
    order = rows[np.argsort(-scores[rows], kind="stable")]
    return apgr(*Ranked(order, one.gain[order]).curve(np.ones(len(one.prompts), dtype=np.int64)))


def ceiling(one: Pair, side: Ints) -> Array:
    """No router: what the recorded answers of all other models to this very prompt say, by ridge regression of the gain."""
    from sklearn.linear_model import RidgeCV

    seen = side != TEST
    return np.asarray(RidgeCV(np.logspace(0, 4, 9)).fit(one.others[seen], one.gain[seen]).predict(one.others))


# --- figures ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The test side of one rotation, the prompt that is worth the dear model most first; shape [n] each."""

    rows: Ints
    gain: Array

    def curve(self, counts: Ints) -> tuple[Array, Array]:
        """(share of dear calls, share of the gap recovered), where prompt i occurs counts[i] times."""
        weight = counts[self.rows]
        share, recovered = np.cumsum(weight), np.cumsum(weight * self.gain)
        return np.concatenate([[0.0], share / share[-1]]), np.concatenate([[0.0], recovered / (recovered[-1] or np.nan)])


def ranked(one: Pair, scores: Array) -> list[Ranked]:
    """One for each rotation."""
    orders = [np.argsort(-row, kind="stable")[: int(np.isfinite(row).sum())] for row in scores]
    return [Ranked(order, one.gain[order]) for order in orders]


def apgr(share: Array, recovered: Array) -> float:
    """Mean share of the gap over eleven shares of dear calls (trapezoids), as RouteLLM has it; .5 is a coin."""
    return float(np.trapezoid(np.interp(SHARES, share, recovered), SHARES))


def cpt(target: float) -> Figure:
    """Percent of dear calls that recover `target` of the gap, on the monotone hull."""
    return lambda share, recovered: float(share[np.argmax(np.maximum.accumulate(recovered) >= target)] * 100)


FIGURES: dict[str, Figure] = {"apgr": apgr, "cpt50": cpt(0.5), "cpt80": cpt(0.8)}


def aiq(one: Pair, turn: Ranked) -> float:
    """Mean quality under the concave hull, over normalised cost: dollars where they are recorded (the probe's own charged), else calls."""
    n = len(turn.rows)
    quality = np.concatenate([[0.0], np.cumsum(turn.gain)]) / n + one.cheap[turn.rows].mean()
    cost = np.arange(n + 1) / n
    if one.cost_usd is not None:
        cheap, dear = one.cost_usd[:, turn.rows]
        read = sum(len(one.prompts[i]) for i in turn.rows) / CHARACTERS_PER_TOKEN * PROBE_USD_PER_MTOK / 1e6
        spent = np.concatenate([[0.0], np.cumsum(np.maximum(dear - cheap, 0))])
        cost = (spent + read) / spent[-1]
    return float(np.interp(np.linspace(0, 1, 101), *hull(cost, quality)).mean())


def hull(x: Array, y: Array) -> tuple[Array, Array]:
    """Upper concave hull of points sorted by x: what a coin between two settings reaches."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1 and (y[kept[-1]] - y[kept[-2]]) * (x[i] - x[kept[-2]]) <= (y[i] - y[kept[-2]]) * (x[kept[-1]] - x[kept[-2]]):
            kept.pop()
        kept.append(i)
    return x[kept], y[kept]


def judge(one: Pair, draws: int, seed: int) -> dict[str, Any]:
    """Figures of every method with intervals, and what the probe has more than each other, on the same resampled prompts."""
    turns = {name: ranked(one, scores) for name, scores in one.scores.items()}
    once = np.ones(len(one.prompts), dtype=np.int64)
    found = {name: [_figures(turns[name], once)] for name in turns}
    for counts in resampled(one.group, draws, seed):
        for name, rows in found.items():
            rows.append(_figures(turns[name], counts))
    by_method = {name: np.array(rows) for name, rows in found.items()}

    def figures(name: str) -> dict[str, Any]:
        mine = dict(zip(FIGURES, map(_interval, by_method[name].T), strict=True))
        shown = np.mean([np.interp(SHOWN, *turn.curve(once)) for turn in turns[name]], axis=0)
        area = float(np.mean([aiq(one, turn) for turn in turns[name]]))
        more = _interval(by_method[OURS][:, 0] - by_method[name][:, 0])
        return {**mine, "aiq": area, "probe_has_more": more, "curve": [round(float(v), 4) for v in shown]}

    return {
        "models": list(one.models),
        "prompts": len(one.prompts),
        "quality": [float(one.cheap.mean()), float(one.dear.mean())],
        "dear_does_worse": float((one.gain < 0).mean()),
        "labels": round(float(np.isnan(one.scores[OURS]).sum(axis=1).mean())),
        "other_models": int(one.others.shape[1]),
        "methods": {name: figures(name) for name in turns},
    }


def resampled(group: Ints, draws: int, seed: int) -> Iterator[Ints]:
    """How often each prompt occurs, whole groups drawn with replacement."""
    place, rng = np.unique(group, return_inverse=True)[1], np.random.default_rng(seed)
    size = int(place.max()) + 1
    for _ in range(draws):
        yield np.bincount(rng.integers(0, size, size), minlength=size)[place]


def _figures(turns: Sequence[Ranked], counts: Ints) -> Array:
    """All of FIGURES, each the mean over rotations."""
    curves = [turn.curve(counts) for turn in turns]
    return np.array([np.mean([figure(*curve) for curve in curves]) for figure in FIGURES.values()])


def _interval(values: Array) -> tuple[float, float, float]:
    """(the first value, 95 % interval of the others; a resample of a small set may have no gap to recover, and is left out)."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


# --- the page -----------------------------------------------------------------------------------------------------------


def page(judged: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/benchmarks/two_model.md."""
    return "\n\n".join([_head(), *(_section(name, found) for name, found in judged.items())])


def _head() -> str:
    return f"""# A cheap model or a dear one, before the first call

{command("two_model")}

A router sees the prompt only and sends a share of all prompts to the dear model. PGR is the share of the gap in quality that it recovers;
APGR its mean over shares from 0 to 1 (a coin has .5); CPT(50) and CPT(80) the percent of dear calls that recover 50 and 80 percent of the
gap (a coin needs 50 and 80); AIQ the mean quality over normalised cost. Splits are 40/20/40 by near-duplicate group in five rotations,
intervals 95 % from a bootstrap over groups.

`probe` is the product's: MiniLM's third layer on ONNX Runtime int8, the prompt's length, a calibrated logistic regression for each model
(`difficulty/fit.py`); what it reads is charged. With *no labels* it is fitted by the recipe of `difficulty/general` on the other data sets
only, with every near-duplicate of this one left out: what somebody has on the first day. *Kernels* is not in the product: kernel ridge
regression of the gain itself on the same state, words, pairs and length. *The subject, told* knows each prompt's subject as recorded, and
the mean gain of each. *Other models' answers* is no router but a ceiling: it is told how all the other recorded models did on this very
prompt.

The layer was picked by looking at GSM8K and MMLU, test sides included (layers 1 to 6 lie within .02 of APGR), so the probe's figures
there are favoured by that much at most; everything else is chosen on the calibration sides.

![share of the gap recovered](two_model.png)"""


def _section(name: str, found: Mapping[str, Any]) -> str:
    cheap, dear = found["models"]
    low, high = found["quality"]
    head = ("method", "APGR", "CPT(50)", "CPT(80)", "AIQ", "the probe has more APGR")
    rows = [
        [method, *(interval(m[key], form) for key, form in FORMS.items()), f"{m['aiq']:.3f}", interval(m["probe_has_more"])]
        for method, m in sorted(found["methods"].items(), key=lambda item: item[1]["apgr"][0])
    ]
    published = f"\n\n{PUBLISHED[name]}." if name in PUBLISHED else ""
    aimed = f"\n\n{_aimed(AIMS[name], found)}" if name in AIMS else ""
    return f"""## {name.removeprefix("outcomes_")}

{cheap} ({low:.1%}) or {dear} ({high:.1%}), {found["prompts"]:,} prompts; on {found["dear_does_worse"]:.1%} of them the dear one did worse.

{table(head, rows)}{published}{aimed}"""


def _aimed(aim: float, found: Mapping[str, Any]) -> str:
    """Whether the aim is met; if not, what the labels, and the best of all methods, say about it."""
    methods = found["methods"]
    reached, low, high = methods[OURS]["apgr"]
    if reached >= aim:
        return f"The aim of {aim:.2f} is met, with an interval that reaches down to {low:.3f}."
    best = max((name for name in methods if name != "other models' answers"), key=lambda name: methods[name]["apgr"][0])
    curve = [(n, methods[name]["apgr"][0]) for n in SIZES if (name := f"probe, {n:,} labels") in methods]
    (n0, a0), (n1, a1) = [*curve, (found["labels"], reached)][-2:]
    needed = n1 * (n1 / n0) ** ((aim - a1) / (a1 - a0)) if a1 > a0 else float("inf")
    told = methods.get("other models' answers")
    ceiling = f" Told how {found['other_models']} other models answer this very prompt, one reaches {told['apgr'][0]:.3f}." if told else ""
    return (
        f"The aim of {aim:.2f} is missed by {aim - reached:.3f} (the interval reaches {high:.3f}). The best that was tried is *{best}*"
        f" with {methods[best]['apgr'][0]:.3f}.{ceiling} From {n0:,} to {n1:,} labels the probe gained {a1 - a0:.3f}; if every factor"
        f" of {n1 / n0:.1f} gained as much, which is more than such curves do, the aim would take {needed:,.0f} labelled prompts."
    )


def picture(judged: Mapping[str, Mapping[str, Any]]) -> None:
    """A panel for each data set: share of dear calls against share of the gap recovered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    styles = {"prompt length": "#999999", UNSEEN: "#e08a1e", OURS: "#1f5fa8", "other models' answers": "#2d8a4e"}
    figure = Canvas(figsize=(4.2 * len(judged), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (name, found) in zip(figure.subplots(1, len(judged), squeeze=False)[0], judged.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1, label="coin")
        for method, color in styles.items():
            if method in found["methods"]:
                m = found["methods"][method]
                axis.plot(SHOWN, m["curve"], color=color, label=f"{method} ({m['apgr'][0]:.2f})")
        axis.set(title=name.removeprefix("outcomes_"), xlabel="share of calls to the dear model", xlim=(0, 1), ylim=(0, 1.12))
        axis.legend(loc="lower right", fontsize=8, frameon=False)
    figure.axes[0].set_ylabel("share of the gap in quality recovered")
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / "two_model.png", dpi=130)


if __name__ == "__main__":
    main()
