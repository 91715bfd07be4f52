"""What `outlay fit` learns from a log of votes, whose answers are compared as the plans compare them, and of verifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.facts import Market
from policies.plans import BestOfN, Ensemble, Revise
from router.fit import LEAST, CurveFit


def a_log(prompts: int) -> list[dict[str, Any]]:
    """Eight samples a prompt that say the same in other words, all right or all wrong."""
    answers = [{"text": f"way {i}: the answer is {i % 2}. So x=7", "correct": 1.0} for i in range(8)]
    wrong = [{**answer, "correct": 0.0} for answer in answers]
    return [{"traces": [{"plan": "sample(small)", "answers": wrong if i % 2 else answers, "calls": []}]} for i in range(prompts)]


def votes_of(prompts: int, pattern: str | None) -> Any:
    plan = BestOfN(backend="small", n=8, select="majority", answer=pattern)
    return CurveFit(a_log(prompts), {"small": np.zeros(prompts)}, Market(), [plan])._votes()


def test_the_pattern_of_the_plan_says_what_agrees() -> None:
    """By the pattern all samples agree, so that no leader is ever replaced; without it they are an even race of two."""
    agreed, split = (votes_of(LEAST, pattern)["small"] for pattern in (r"x=(\d)", None))
    assert agreed.contest < split.contest
    assert agreed.base_rate == pytest.approx(0.5)


def test_a_log_that_is_too_short_teaches_nothing_of_votes() -> None:
    """Below the least number of prompts the defaults stand."""
    assert votes_of(LEAST - 1, None) == {}


def test_how_often_wrong_answers_agree_is_learned_across_backends() -> None:
    """Two backends that make the same mistakes, by the pattern of the ensemble that has them; where they differ, less."""
    names = ("small", "large")
    wrong = {name: [{"text": f"{name}: 6. So x=7", "correct": 0.0}] for name in names}
    rows = [{"traces": [{"plan": f"sample({name})", "answers": wrong[name], "calls": []} for name in names]}] * 2 * LEAST
    features = {name: np.zeros(len(rows)) for name in names}
    by_pattern, by_text = (
        CurveFit(rows, features, Market(), [Ensemble(members={"small": 1, "large": 1}, answer=pattern)])._votes()
        for pattern in (r"x=(\d)", r"^(\w+)")
    )
    assert by_pattern["small"].agree == by_pattern["large"].agree > 0.9 > 0.1 > by_text["small"].agree


def test_one_answer_that_a_verifier_likes_is_one_mistake_however_often_it_is_given() -> None:
    """A wrong answer in all samples of one prompt, and of the same prompt in other words, says no more than in one of them."""

    def row(number: int, group: str, answers: list[tuple[str, bool, float]]) -> dict[str, Any]:
        said = [{"text": text, "correct": float(right), "scores": {"reward": score}} for text, right, score in answers]
        return {"prompt": f"{number}", "group": group, "traces": [{"plan": "sample(small)", "answers": said, "calls": []}]}

    def scores_of(repeated: int, phrasings: int) -> Any:
        rng, liked = np.random.default_rng(0), [("the same mistake", False, 0.95)]
        scores = [(f"{i}", right, float(rng.beta(8, 2) if right else rng.beta(2, 8))) for i in range(400) for right in (True, False)]
        rows = [row(i, f"group {i}", scores[8 * i : 8 * i + 8]) for i in range(100)]
        rows += [row(100 + i, "one", liked * repeated) for i in range(phrasings)]
        p = np.full(len(rows), 0.5)
        return CurveFit(rows, {"small": np.zeros(len(rows))}, Market(), [])._scores({"small": p}, p)["reward"]

    assert scores_of(16, 4) == scores_of(1, 1)


def test_a_revision_is_learned_from_attempts_that_would_be_asked_for() -> None:
    """What a recorded chain did to an answer that was right says nothing of one after wrong answers alone."""
    plan = Revise(backend="small", verifier="reward")

    def channel(chains: list[list[float]]) -> Any:
        rows = [{"traces": [{"plan": plan.key, "answers": [{"correct": mark} for mark in marks]}]} for marks in chains]
        fit = CurveFit(rows, {"small": np.zeros(len(rows))}, Market(), [plan])
        return fit._channel(plan, {"small": np.zeros((len(rows), 1))}, {"small": np.ones((len(rows), 1))})

    assert channel([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]) == channel([[0.0, 1.0], [0.0, 0.0, 1.0]])
