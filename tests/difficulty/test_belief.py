"""The belief is Bayes' rule on a latent difficulty that all backends share."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.belief import NODES, PLAIN, PRIOR, Belief, Channel, Evidence, Scores, Success, logit, sigmoid

LINES = {"small": (0.0, 1.5), "large": (1.0, 1.0)}


def test_the_nodes_integrate_a_standard_normal() -> None:
    """Weights add up to one, mean 0, variance 1, and a chance averaged over them is the integral."""
    assert PRIOR.sum() == pytest.approx(1)
    mean, variance = float(PRIOR @ NODES), float(PRIOR @ NODES**2)
    assert (mean, variance) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    u = np.random.default_rng(0).normal(size=400_000)
    assert Belief(LINES).p_correct("small") == pytest.approx(sigmoid(1.5 * u).mean(), abs=3e-3)


def test_an_answer_is_weighed_by_bayes_rule() -> None:
    """The chance that a scored answer is right is prior odds times likelihood ratio, averaged over the posterior."""
    belief = Belief({"m": (logit(0.3).item(), 0.0)}).after([Evidence("m", PLAIN, 0.6, 0.1)])
    assert belief.chances == (pytest.approx(0.3 * 0.6 / (0.3 * 0.6 + 0.7 * 0.1)),)
    assert belief.best == belief.chances[0]


def test_a_wrong_answer_of_one_backend_lowers_the_other() -> None:
    """The difficulty is shared: small's failure is news about large; and more so where small's spread is wide."""
    failed = Belief(LINES).after([Evidence("small", PLAIN, 0.0, 1.0)])
    assert failed.p_correct("large") < Belief(LINES).p_correct("large")
    narrow = {"small": (0.0, 0.1), "large": (1.0, 1.0)}
    change = Belief(narrow).p_correct("large") - Belief(narrow).after([Evidence("small", PLAIN, 0.0, 1.0)]).p_correct("large")
    assert change < Belief(LINES).p_correct("large") - failed.p_correct("large")


def test_sampling_is_seen_to_be_futile_where_errors_repeat() -> None:
    """After eight failures, a backend with a wide spread is given up, one without any is not."""
    failures = [Evidence("small", PLAIN, 1e-6, 1.0)] * 8
    assert Belief({"small": (0.0, 3.0)}).after(failures).p_correct("small") < 0.1
    assert Belief({"small": (0.0, 0.0)}).after(failures).p_correct("small") == pytest.approx(0.5)


@given(st.lists(st.tuples(st.sampled_from(["small", "large"]), st.floats(0.01, 1), st.floats(0.01, 1)), max_size=6))
def test_the_order_of_answers_does_not_matter(rows: list[tuple[str, float, float]]) -> None:
    """All at once, one by one, or backwards: the same weights."""
    answers = [Evidence(name, PLAIN, right, wrong) for name, right, wrong in rows]
    one_by_one = Belief(LINES)
    for answer in answers:
        one_by_one = one_by_one.after([answer])
    assert np.allclose(Belief(LINES).after(answers).weights, one_by_one.weights)
    assert np.allclose(Belief(LINES).after(answers[::-1]).weights, one_by_one.weights)
    assert one_by_one.before.weights is PRIOR


def test_tempering_weakens_evidence() -> None:
    """With an exponent below one the same answers move the belief less."""
    failures = [Evidence("small", PLAIN, 0.01, 1.0)] * 4
    full, half = (Belief(LINES, tempering=k).after(failures).p_correct("large") for k in (1.0, 0.5))
    assert full < half < Belief(LINES).p_correct("large")


def test_an_unscored_answer_is_as_right_as_its_backend() -> None:
    """Without a score the belief does not move, and the answer has the backend's chance."""
    seen = Belief(LINES).after([Evidence("large")])
    assert np.allclose(seen.weights, PRIOR)
    assert seen.best == pytest.approx(Belief(LINES).p_correct("large"))


def test_a_channel_shifts_the_odds_of_a_draw() -> None:
    """A draw through a channel with a positive shift is likelier right than a plain one."""
    assert Belief(LINES).p_correct("small", Channel(1.0)) > Belief(LINES).p_correct("small")
    assert Belief(LINES).p_correct("small", Channel(0.0, 1.0)) == Belief(LINES).p_correct("small")


@given(st.floats(0, 1))
def test_scores_are_calibrated_at_the_base_rate(score: float) -> None:
    """A verifier taken at its word says about its score; an exact one says 0 or 1; both rise with the score."""
    assert Scores.unfitted().calibrated(score) == pytest.approx(score, abs=0.0626)
    assert Scores.exact().calibrated(score) == pytest.approx(float(score >= 0.5), abs=1e-5)


def test_a_belief_survives_the_log() -> None:
    """Written as JSON and read back it has the same weights and chances."""
    answers = [Evidence("small", Channel(0.2), 0.7, 0.1), Evidence("small", PLAIN, 0.7, 0.1, 0.3, 0.2)]
    answers += [replace(answers[1], shared=True)]
    belief = Belief.prior({"small": 0.3, "new": -1.0}, {"small": Success(0.1, 0.9, 1.3)}).after(answers)
    again = Belief.from_json(json.loads(json.dumps(belief.as_json())))
    assert np.array_equal(again.weights, belief.weights)
    assert again.chances == belief.chances
    assert again.evidence == belief.evidence


def test_a_middling_score_says_more_of_a_hard_prompt() -> None:
    """Where right answers to hard prompts get middling scores, one such score after failures is likelier right than the easy table says."""
    scores = Scores((0.3, 0.8), (0.02, 0.08, 0.9), (0.9, 0.09, 0.01), 0.5, (0.02, 0.9, 0.08), (0.9, 0.09, 0.01))
    same = replace(scores, right_hard=(), wrong_hard=())
    failed = Belief({"small": (-2.0, 1.0)}).after([scores.seen("small", 0.1)] * 3)
    told, untold = failed.after([scores.seen("small", 0.5)]), failed.after([same.seen("small", 0.5)])
    assert told.best > 2 * untold.best
    right, wrong = scores.likelihoods(np.array([0.0, 0.5, 1.0]))
    assert (right.sum(axis=1), wrong.sum(axis=1)) == (pytest.approx(np.ones(3)), pytest.approx(np.ones(3)))
    assert right[1] == pytest.approx((right[0] + right[2]) / 2)


def test_a_score_that_falls_with_what_is_hard_for_all_says_more_of_others() -> None:
    """A backend that is nearly always right says with a middling score that the prompt is hard, though not for itself: the chance of a
    weaker one falls where hard is what is hard for all, and next to nothing where it is what is hard for the backend itself."""
    own = Scores((0.5,), (0.1, 0.9), (0.5, 0.5), 0.9, (0.6, 0.4), (0.5, 0.5))
    before = Belief({"sure": (6.0, 1.0), "weak": (0.0, 1.0)})
    by_own, by_all = (before.after([scores.seen("sure", 0.2)]).p_correct("weak") for scores in (own, replace(own, shared=True)))
    assert by_own == pytest.approx(before.p_correct("weak"), abs=0.02)
    assert by_all < before.p_correct("weak") - 0.1


def test_what_all_share_is_on_the_grid_of_a_backend_with_a_part_of_its_own_as_well() -> None:
    """It is the same whatever the own part is, and falls as the shared difficulty rises."""
    belief = Belief({"own": (0.0, 1.0, 2.0), "plain": (0.0, 1.0)})
    there = belief.ease("own", shared=True).reshape(len(NODES), -1)
    assert (there == belief.ease("plain", shared=True)[:, None]).all()
    assert (np.diff(there[:, 0]) >= 0).all()
    assert (belief.ease("own", shared=False) == belief.by_node("own")).all()


OWN = {"small": (0.0, 0.8, 1.5), "large": (0.5, 0.6, 1.2), "sharing": (0.2, 1.0)}
FAILURES = [Evidence("small", PLAIN, 0.1, 0.9)] * 3 + [Evidence("large", PLAIN, 0.2, 0.7), Evidence("sharing", PLAIN, 0.3, 0.6)]


def integrated(backend: str, answers: list[Evidence], lines: dict[str, tuple[float, ...]]) -> float:
    """Chance that the backend's next draw is right, by Bayes' rule on a fine grid of u and of every own part."""
    x = np.linspace(-6, 6, 121)
    weights = np.exp(-(x**2) / 2)
    joint, ahead = weights.copy(), np.ones(len(x))
    for name, (centre, spread, *own) in lines.items():
        p = sigmoid(centre + spread * x[:, None] + (own[0] if own else 0.0) * x)
        seen = np.prod([p * a.if_right + (1 - p) * a.if_wrong for a in answers if a.backend == name], axis=0) * np.ones_like(p)
        joint *= seen @ weights
        if name == backend:
            ahead = ((p * seen) @ weights) / (seen @ weights)
    return float((joint * ahead).sum() / joint.sum())


@pytest.mark.parametrize("backend", list(OWN))
def test_own_parts_are_integrated_out(backend: str) -> None:
    """Chances before and after five answers of three backends are those of an integral over u and each own part on a fine grid."""
    for answers in ([], FAILURES):
        assert Belief(OWN).after(answers).p_correct(backend) == pytest.approx(integrated(backend, answers, OWN), abs=4e-3)


@given(st.floats(0.5, 2.0), st.floats(1.0, 4.0), st.integers(1, 6))
def test_a_failure_says_more_of_its_own_backend(spread: float, own: float, times: int) -> None:
    """Of two backends alike in all, the one that failed loses more of its chance than the other, which loses some too."""
    before = Belief({"a": (0.0, spread, own), "b": (0.0, spread, own)})
    after = before.after([Evidence("a", PLAIN, 1e-6, 1 - 1e-6)] * times)
    assert after.p_correct("a") < after.p_correct("b") - 0.01
    assert after.p_correct("b") < before.p_correct("b")


def test_without_an_own_part_nothing_has_changed() -> None:
    """A part of 0 is none: the same line, the same weights to the last bit, and the rows that a log has always had."""
    features = {"small": 0.3, "large": -0.2}
    answers = [Evidence("small", PLAIN, 0.2, 0.7), Evidence("large", Channel(0.4, 0.8), 0.6, 0.1)]
    belief = Belief.prior(features, {"small": Success(0.1, 0.9, 1.3, own=0.0)}).after(answers)
    weights = PRIOR
    for answer in answers:
        centre, slope = belief.lines[answer.backend]
        p = answer.channel.p(centre + slope * NODES)
        weights = weights * (p * answer.if_right + (1 - p) * answer.if_wrong) ** 1.0
        weights = weights / weights.sum()
    assert np.array_equal(belief.weights, weights)
    assert all(len(line) == 2 for line in belief.as_json()["lines"].values())


def test_a_belief_with_own_parts_survives_the_log() -> None:
    """Written as JSON and read back it believes the same of every backend and answer, to the last bit; `before` forgets all of it."""
    belief = Belief(OWN, tempering=0.7).after(FAILURES)
    again = Belief.from_json(json.loads(json.dumps(belief.as_json())))
    assert again.chances == belief.chances
    assert [again.p_correct(name) for name in OWN] == [belief.p_correct(name) for name in OWN]
    assert belief.before.p_correct("small") == Belief(OWN).p_correct("small")


@pytest.mark.parametrize("origin", list(OWN))
@pytest.mark.parametrize("backend", list(OWN))
def test_a_belief_is_the_same_on_every_grid(origin: str, backend: str) -> None:
    """Seen from another backend, the chance that the best answer is right and what is believed of the other stay as they were."""
    belief = Belief(OWN).after(FAILURES)
    right = belief.right_by_node(next(answer for answer in FAILURES if answer.backend == origin))
    weights, held = belief.carried(belief.weights_of(origin)[None], right[None], origin, backend)
    assert np.allclose(weights[0], belief.weights_of(backend))
    assert weights[0] @ held[0] == pytest.approx(belief.weights_of(origin) @ right)
