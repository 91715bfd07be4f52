"""Who is worth the dear model: the product's probe, what is simpler, and what is told more than a router can know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import general_probe
from benchmarks.encodings import HALFWAY
from benchmarks.general_probe import read_as
from benchmarks.harness import CALIBRATE, TEST, TRAIN, Array, Ints, sides
from benchmarks.two_model.figures import apgr, curve
from benchmarks.two_model.pairs import Pair, rotations
from difficulty.encoders import Encoder
from difficulty.fit import fit_probe
from difficulty.labels import Labelled
from difficulty.tiers import TIERS

SIZES = (100, 300, 1000)
NEIGHBOURS = (10, 30, 100, 300)
WORDS = 300
"""Directions that are kept of tf-idf."""
PROBE, DIFFERENCE, UNSEEN = "probe, all labels", "difference, all labels", "probe, no labels"
SUBJECT, OTHERS, AGAIN = "the subject, told", "other models' answers", "the cheap model, asked elsewhere"
WORDED, TOLD = "difference, words too", "difference, words and subject too"
ENOUGH = 7
"""Other models; of fewer, the answers say too little to be called a ceiling."""


def score(one: Pair, encoder: Encoder, general: Sequence[Labelled], seed: int) -> None:
    """Fills `scores`. No label of a rotation's test side is seen by what is judged on it."""
    read = encoder.encode(one.prompts, [HALFWAY])
    states, text = unit(read.states[HALFWAY]), words(one.prompts)
    unseen = without_labels(one, encoder, general, seed)
    for side in rotations(one.group, seed):
        test, seen = side == TEST, np.flatnonzero(side != TEST)
        one.note("prompt length", test, read.tokens.astype(np.float64))
        one.note(UNSEEN, test, unseen)
        one.note("kNN", test, neighbours(one, states, side))
        one.note("difference, words only", test, ridge(text, one.gain, seen))
        pool = np.random.default_rng(seed).permutation(seen)
        for size in (*(s for s in SIZES if s < len(pool)), len(pool)):
            labels = "all labels" if size == len(pool) else f"{size:,} labels"
            one.note(f"probe, {labels}", test, in_domain(one, encoder, side, pool[:size], seed))
            one.note(f"difference, {labels}", test, ridge(states, one.gain, pool[:size]))
        one.note(WORDED, test, ridge(np.hstack([states, text]), one.gain, seen))
        if one.subject.any():
            one.note(SUBJECT, test, by_subject(one, seen))
            one.note(TOLD, test, ridge(np.hstack([states, text, subjects(one)]), one.gain, seen))
        if len(one.others) >= ENOUGH:
            one.note(OTHERS, test, ridge(np.column_stack(list(one.others.values())), one.gain, seen))
        if (again := asked_again(one, seed)) is not None:
            one.note(AGAIN, test, again)


# --- the product's probe ------------------------------------------------------------------------------------------------


def in_domain(one: Pair, encoder: Encoder, side: Ints, labelled: Ints, seed: int) -> Array:
    """P(dear is right) - P(cheap is right) by the product's probe, fitted on the labels of some prompts."""
    keep = np.union1d(labelled, np.flatnonzero(side == TEST))
    rows = [row for i in keep for row in _labels(one, i)]
    return _by_probe(one, rows, {str(g): int(s) for g, s in zip(one.group, side, strict=True)}, encoder, seed)


def without_labels(one: Pair, encoder: Encoder, general: Sequence[Labelled], seed: int) -> Array:
    """The same by the recipe of `difficulty/general`, with every label left out whose prompt is in this data set or near one of it."""
    mine = set(one.prompts)
    theirs = {row.group for row in general if read_as(row.prompt) in mine}
    rest = [row for row in general if row.group not in theirs]
    part = sides([row.group for row in rest], seed, (0.75, 0.25))
    split = {row.group: int(s) for row, s in zip(rest, part, strict=True)}
    asked = [Labelled(prompt, tier, 0, 1, "asked") for prompt in one.prompts for tier in TIERS]
    return _by_probe(one, rest + asked, split | {"asked": TEST}, encoder, seed)


def _by_probe(one: Pair, rows: Sequence[Labelled], split: Mapping[str, int], encoder: Encoder, seed: int) -> Array:
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


# --- what is simpler ----------------------------------------------------------------------------------------------------


def ridge(x: Array, y: Array, rows: Ints) -> Array:
    """Ridge regression of y, fitted on some rows; the penalty is the one under which their y is likeliest (MacKay's evidence)."""
    from sklearn.linear_model import BayesianRidge

    return np.asarray(BayesianRidge().fit(x[rows], y[rows]).predict(x))


def neighbours(one: Pair, states: Array, side: Ints) -> Array:
    """Mean gain of the k nearest prompts by cosine of their states; k is the best on the calibration side."""

    def from_rows(rows: Ints, k: int) -> Array:
        near = np.argpartition(-(states @ states[rows].T), min(k, len(rows)) - 1, axis=1)[:, :k]
        return np.asarray(one.gain[rows][near].mean(axis=1))

    def reached(scores: Array) -> float:
        order = check[np.argsort(-scores[check], kind="stable")]
        return apgr(*curve(one.gain[order]))

    train, check = np.flatnonzero(side == TRAIN), np.flatnonzero(side == CALIBRATE)
    tried = {k: reached(from_rows(train, k)) for k in NEIGHBOURS if k < len(train)}
    return from_rows(np.flatnonzero(side != TEST), max(tried, key=lambda k: tried[k]))


def by_subject(one: Pair, seen: Ints) -> Array:
    """Mean gain of the prompt's recorded subject, drawn to that of all as by ten prompts more."""
    size = int(one.subject.max()) + 1
    total, count = np.bincount(one.subject[seen], one.gain[seen], size), np.bincount(one.subject[seen], minlength=size)
    mean = (total + 10 * one.gain[seen].mean()) / (count + 10)
    return np.asarray(mean[one.subject])


def asked_again(one: Pair, seed: int) -> Array | None:
    """No router: whether the cheap model was right on this very prompt in another recording. Equal ones in random order."""
    base = one.models[0].rpartition("/")[2]
    marks = next((marks for name, marks in one.others.items() if name.partition(":")[2] == base), None)
    return None if marks is None else 1e-6 * np.random.default_rng(seed).random(len(marks)) - marks


# --- columns ------------------------------------------------------------------------------------------------------------


def unit(states: NDArray[Any]) -> Array:
    """Directions from the mean state, shape [N, D]."""
    from_mean = states.astype(np.float64) - states.mean(axis=0)
    return np.asarray(from_mean / np.linalg.norm(from_mean, axis=1, keepdims=True))


def words(prompts: Sequence[str]) -> Array:
    """Words and pairs of words: the first directions of tf-idf, shape [N, WORDS]."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(prompts)
    return np.asarray(TruncatedSVD(min(WORDS, counted.shape[1] - 1), random_state=0).fit_transform(counted))


def subjects(one: Pair) -> Array:
    """A column for each subject; its length beside that of a state says how much is known of it before any label."""
    return 0.5 * np.eye(int(one.subject.max()) + 1)[one.subject]
