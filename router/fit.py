"""`outlay fit`: from a log of `outlay collect`, or labelled answers of the decision log, to a probe, curves, and a report on both.

The probe is fitted and judged in `difficulty/fit.py` and `report.py`, the statistics of the curves are in `difficulty/learn.py`; here
the log is turned into their arrays, and what plans were seen to cost is set against the forecast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from adapters.answers import normalise
from difficulty.belief import EASE, Array, Channel, Scores
from difficulty.conversation import conversation_text
from difficulty.curves import Curves, Latency, PlanFit, Tokens
from difficulty.errors import FitError
from difficulty.fit import FittedProbe
from difficulty.labels import Labelled
from difficulty.learn import fit_channel, fit_latency, fit_scores, fit_tempering, fit_tokens, seen_from
from difficulty.learn_success import fit_success, posterior
from difficulty.learn_votes import Sampled, fit_agreement, fit_votes
from difficulty.votes import Votes
from policies.facts import Facts, Market
from policies.forecast import Stage, stages
from policies.plans import BestOfN, Ensemble, Plan, Revise, TreeSearch

Rows = Sequence[Mapping[str, Any]]
SAMPLE = "sample("
LEAST = 50
SEEN = 4
"""Answers from which the others are predicted, when the tempering of evidence is fitted."""


def labels(rows: Rows) -> Iterable[Labelled]:
    """How many independent samples of each backend were right, by prompt."""
    for row in rows:
        for backend, trace in samples(row).items():
            marks = [answer["correct"] for answer in trace["answers"]]
            if marks:
                yield Labelled(row["prompt"], backend, int(sum(marks)), len(marks), row["group"])


def samples(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By backend: the trace of its independent samples."""
    return {t["plan"].removeprefix(SAMPLE).removesuffix(")"): t for t in row["traces"] if t["plan"].startswith(SAMPLE)}


@dataclass(frozen=True)
class CurveFit:
    """A log and the probe's out-of-fold features for its prompts."""

    rows: Rows
    features: Mapping[str, Array]
    """e_m(x) by backend, out of fold, in the order of `rows`, shape [N]."""
    market: Market
    plans: Sequence[Plan]

    def curves(self, source: str) -> Curves:
        """All of it."""
        right, draws = self._counts()
        success = fit_success(self.features, right, draws)
        weights = {name: posterior(success, self.features, right, draws, name) for name in success}
        logits = {name: curve.logits(self.features[name]) for name, curve in success.items()}
        chance = {name: (weights[name] * expit(x)).sum(axis=1) for name, x in logits.items()}
        ease = posterior(success, self.features, right, draws) @ EASE
        found = Curves(success, self._tokens(), self._latency(), self._scores(chance, ease), source=source)
        chains = [plan for plan in self.plans if isinstance(plan, Revise | TreeSearch)]
        fits = {plan.key: PlanFit(self._channel(plan, logits, weights)) for plan in chains}
        return self._with_factors(replace(found, plans=fits, tempering=self._tempering(found.scores, logits), votes=self._votes()))

    def _counts(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Right draws and draws by backend, each of shape [N]."""
        marks = {name: [[answer["correct"] for answer in trace["answers"]] for trace in self._samples(name)] for name in self.features}
        right = {name: np.array([sum(m) for m in rows], dtype=np.float64) for name, rows in marks.items()}
        return right, {name: np.array([len(m) for m in rows], dtype=np.float64) for name, rows in marks.items()}

    def _samples(self, backend: str) -> Iterable[Mapping[str, Any]]:
        return (samples(row).get(backend, {"answers": [], "calls": []}) for row in self.rows)

    def _scores(self, chance: Mapping[str, Array], ease: Array) -> dict[str, Scores]:
        """Of every verifier, from the samples; `chance` [N] by backend is that of one more sample, `ease` [N] the prompt's for all.

        One answer to near-duplicate prompts counts once however often it was given: its scores are one score, and a verifier that likes
        it would seem to like as many wrong answers.
        """
        seen: dict[str, dict[tuple[str, str, str, float], tuple[float, ...]]] = defaultdict(dict)
        for backend, p in chance.items():
            for row, trace, *before in zip(self.rows, self._samples(backend), p, ease, strict=True):
                for answer in trace["answers"]:
                    once = row["group"], backend, answer["text"] if "text" in answer else answer["id"], answer["correct"]
                    for verifier, score in answer.get("scores", {}).items():
                        if score is not None:
                            seen[verifier].setdefault(once, (score, answer["correct"], *before))
        return {name: fit_scores(*np.array(list(rows.values())).T) for name, rows in seen.items()}

    def _tempering(self, scores: Mapping[str, Scores], logits: Mapping[str, Array]) -> float:
        """From the first scored samples of the backend that has most, predicting its others and those of all backends."""
        right, draws = self._counts()
        seen = max(draws, key=lambda name: draws[name].sum())
        traces = list(self._samples(seen))
        whole = [i for i, trace in enumerate(traces) if sum("text" in answer for answer in trace["answers"]) >= 2 * SEEN]
        verifier = next((name for name in scores if all(name in a.get("scores", {}) for i in whole for a in traces[i]["answers"])), None)
        if verifier is None or len(whole) < LEAST:
            return 1.0
        joint = np.stack([_evidence(scores[verifier], logits[seen][i], traces[i]["answers"][:SEEN], verifier) for i in whole])
        known = np.array([sum(a["correct"] for a in traces[i]["answers"][:SEEN]) for i in whole])
        right, draws = ({name: values[whole] for name, values in rows.items()} for rows in (right, draws))
        right[seen], draws[seen] = right[seen] - known, draws[seen] - SEEN
        there = {name: x[whole] if name == seen else seen_from(x[whole], joint.shape[1]) for name, x in logits.items()}
        return fit_tempering(there, joint, right, draws)

    def _votes(self) -> dict[str, Votes]:
        """Of every backend with several samples a prompt, or with others beside it; answers are compared as its plans compare them."""
        found, wrong = {}, [dict[str, list[str]]() for _ in self.rows]
        for name in self.features:
            pattern = next((plan.answer for plan in self.plans if isinstance(plan, BestOfN | Ensemble) and name in plan.backends), None)
            traces = list(self._samples(name))
            said = [[answer for answer in trace["answers"] if "text" in answer] for trace in traces]  # the decision log keeps no texts
            prompts = [_sampled(answers, pattern) for answers in said if len(answers) > 1]
            if len(prompts) >= LEAST:
                found[name] = fit_votes(prompts)
            for by_backend, answers in zip(wrong, said, strict=True):
                by_backend[name] = [normalise(answer["text"], pattern) for answer in answers if not answer["correct"]]
        agree = fit_agreement(wrong) if len(wrong) >= LEAST else {}
        return {name: replace(found.get(name, Votes()), agree=agree.get(name, Votes().agree)) for name in found.keys() | agree.keys()}

    def _calls(self, kind: str, n: int | None = None) -> dict[str, list[Sequence[Any]]]:
        """Calls of a kind by target (for `n` answers): [kind, target, n, input tokens, output tokens, seconds, cached tokens]."""
        found: dict[str, list[Sequence[Any]]] = defaultdict(list)
        for call in (c for row in self.rows for trace in row["traces"] for c in trace["calls"]):
            if call[0] == kind and n in (None, call[2]):
                found[call[1]].append(call)
        return found

    def _tokens(self) -> dict[str, Tokens]:
        first = {name: [trace["calls"][0] for trace in self._samples(name) if trace["calls"]] for name in self.features}
        return {name: fit_tokens([c[3] for c in calls], [c[4] for c in calls]) for name, calls in first.items() if calls}

    def _latency(self) -> dict[str, Latency]:
        answers = {name: fit_latency([c[4] for c in rows], [c[5] for c in rows]) for name, rows in self._calls("generate", 1).items()}
        return answers | {name: fit_latency([0] * len(rows), [c[5] for c in rows]) for name, rows in self._calls("score").items()}

    def _channel(self, plan: Revise | TreeSearch, logits: Mapping[str, Array], weights: Mapping[str, Array]) -> Channel:
        """Of a revision: every attempt after wrong ones alone, as after a right one none is asked for. Of a search: its chosen answer."""
        index: list[int] = []
        right: list[float] = []
        for i, row in enumerate(self.rows):
            for trace in (t for t in row["traces"] if t["plan"] == plan.key):
                marks = [answer["correct"] for answer in trace["answers"]]
                if isinstance(plan, TreeSearch) and trace.get("chosen") is not None:
                    index, right = [*index, i], [*right, marks[trace["chosen"]]]
                elif isinstance(plan, Revise):
                    after_wrong = [mark for i, mark in enumerate(marks) if i and not any(marks[:i])]
                    index, right = [*index, *[i] * len(after_wrong)], [*right, *after_wrong]
        return fit_channel(logits[plan.backend][index], weights[plan.backend][index], right)

    def _with_factors(self, curves: Curves) -> Curves:
        """The curves with each chain's cost and seconds over what the forecast says of it, as the ratio of sums; of a revision, beyond its
        first attempt, which is a plain sample."""
        market = replace(self.market, curves=curves)
        fits = dict(curves.plans)
        for plan in (p for p in self.plans if p.key in fits):
            seen, said = np.zeros(2), np.zeros(2)
            for row in self.rows:
                for trace in (t for t in row["traces"] if t["plan"] == plan.key and not t.get("failed")):
                    tokens = next(c[3] for c in next(iter(samples(row).values()))["calls"])
                    forecast = stages(plan, market, Facts(input_tokens=tokens))
                    plain = forecast[:1] if isinstance(plan, Revise) else ()
                    seen += np.array([trace["cost_usd"], trace["latency_s"]]) - _spent(plain)
                    said += _spent(forecast) - _spent(plain)
            ratio = np.where((said > 0) & (seen > 0), seen / np.maximum(said, 1e-12), 1.0)
            fits[plan.key] = replace(fits[plan.key], cost=float(ratio[0]) or 1.0, latency=float(ratio[1]) or 1.0)
        return replace(curves, plans=fits)


def _spent(rows: Sequence[Stage]) -> Array:
    """US dollars and seconds of stages, as expected, [2]."""
    return np.array([sum(row.cost_usd for row in rows), sum(row.latency_s for row in rows)], dtype=np.float64)


def learn_curves(rows: Rows, fitted: FittedProbe, market: Market, plans: Iterable[Plan], source: str) -> Curves:
    """Curves from the rows of a log. Raises FitError if there are too few."""
    if len(rows) < LEAST:
        raise FitError(f"{len(rows)} prompts to learn curves from; {LEAST} are the least, some hundreds give narrow intervals")
    place = {text: index for index, text in enumerate(fitted.table.prompts)}
    index = [place[fitted_text(row["prompt"])] for row in rows]
    distinct = {plan.key: plan for plan in plans}
    features = {name: e[index] for name, e in fitted.out_of_fold.items()}
    return CurveFit(rows, features, market, list(distinct.values())).curves(source)


def _evidence(scores: Scores, logits: Array, answers: Rows, verifier: str) -> Array:
    """Log likelihood at each node of what the verifier said of the answers, each once, shape [J]; nothing of one that it did not score."""
    p, once = expit(logits), {answer["text"]: answer for answer in answers}.values()
    right, wrong = scores.likelihoods(np.repeat(EASE, len(p) // len(EASE)) if scores.shared else p)
    said = [scores.bin(raw) for answer in once if (raw := answer["scores"][verifier]) is not None]
    return np.asarray(np.log(p[:, None] * right[:, said] + (1 - p[:, None]) * wrong[:, said]).sum(axis=1))


def _sampled(answers: Rows, pattern: str | None) -> Sampled:
    """A prompt's samples, equal answers under one number."""
    number: dict[str, int] = {}
    said = [number.setdefault(normalise(answer["text"], pattern), len(number)) for answer in answers]
    return Sampled(np.array(said), np.array([float(answer["correct"]) for answer in answers]))


def fitted_text(prompt: str) -> str:
    """A prompt as the probe reads it."""
    return conversation_text([{"role": "user", "content": prompt}])
