"""What `outlay fit` learns of votes from a log: answers are compared as the plans compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.facts import Market
from policies.plans import BestOfN
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
