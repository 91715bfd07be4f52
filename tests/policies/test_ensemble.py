"""A plan of several backends: how it is written, what it is expected to give and cost, and what forbids it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from difficulty.belief import NODES, PRIOR, Belief
from policies.decide import decide
from policies.facts import Facts, Market, NothingToRun
from policies.forecast import outline, stages, worst
from policies.limits import unfit
from policies.outlook import Outlook, Tables, outlook
from policies.plans import Ensemble, Plan, Single
from policies.policy import Optimiser, Policy, Worth
from tests.policies.conftest import CURVES, PRICES, belief

MARKET = Market(PRICES, frozenset({"small", "large"}), CURVES)
FACTS = Facts(input_tokens=14)
SCORED = Ensemble(members={"small": 4, "large": 2}, select="best", verifier="reward")
MEMBERS = {"small": 4, "large": 1}
VOTED = Ensemble(members=MEMBERS)


def look(plan: Plan, ease: float = 0.0, facts: Facts = FACTS) -> Outlook:
    way = Tables(belief(ease), MARKET).way(outline(plan, MARKET, facts))
    return outlook(way, belief(ease).weights[None], None, np.array([0.9]))


def a_policy(*plans: Plan, value: float = 1e-2, **more: Any) -> Optimiser:
    return Optimiser(objective=Worth(value_of_correct_usd=value, **more), plans=plans)


# --- how it is written ------------------------------------------------------------------------------------------------


def test_it_reads_and_writes_as_the_yaml_has_it() -> None:
    """One key with its options; the name says all members; in a set it is itself again."""
    raw = {"ensemble": {"members": {"small": 4, "large": 2}, "select": "best", "verifier": "reward"}}
    plan = TypeAdapter(Plan).validate_python(raw)
    assert plan == SCORED
    assert plan.model_dump() == raw
    assert plan.key == "ensemble(small=4, large=2, select=best, verifier=reward)"
    assert plan in {SCORED}
    assert plan.backends == ("small", "large")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": {"small": 4}}, "at least 2"),
        ({"members": {"small": 4, "large": 0}}, "greater than or equal to 1"),
        ({"members": {"small": 4, "large": 1}, "select": "best"}, "needs a verifier"),
        ({"members": {"small": 4, "large": 1}, "batch": 2}, "batch"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    """One member, none of its samples, the best without a verifier, an option of another kind."""
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Policy).validate_python({"objective": {"value_of_correct_usd": 1}, "plans": [{"ensemble": options}]})


# --- what it is expected to give ----------------------------------------------------------------------------------------


def simulate(ease: float, times: int = 40_000) -> float:
    """Share of right answers of `SCORED` played out: of all draws the one that is likeliest right by score and backend is chosen."""
    rng, scores, b = np.random.default_rng(0), CURVES.scores["reward"], belief(ease)
    right, wrong = np.asarray(scores.right), np.asarray(scores.wrong)
    node = rng.choice(len(NODES), size=times, p=PRIOR)
    correct, ranks = [], []
    for name, n in SCORED.members.items():
        by_node = 1 / (1 + np.exp(-b.logits[name]))
        is_right = rng.random((times, n)) < by_node[node][:, None]
        bins = np.where(is_right, rng.choice(len(right), (times, n), p=right), rng.choice(len(wrong), (times, n), p=wrong))
        chance = (PRIOR @ (by_node[:, None] * right)) / (PRIOR @ (by_node[:, None] * right + (1 - by_node[:, None]) * wrong))
        correct.append(is_right)
        ranks.append(chance[bins])
    picked = (np.hstack(ranks) + rng.random((times, 6)) * 1e-9).argmax(axis=1)  # ties at random
    return float(np.hstack(correct)[np.arange(times), picked].mean())


@pytest.mark.parametrize("ease", [-2.0, -1.0, 0.0, 1.0])
def test_a_scored_pool_is_forecast_as_a_simulation_plays_it(ease: float) -> None:
    """The chance that the best of draws with different chances is right agrees with playing the plan 40,000 times."""
    assert look(SCORED, ease).quality == pytest.approx(simulate(ease), abs=0.012)


def test_a_pool_is_paid_whole_and_takes_as_long_as_its_slowest() -> None:
    """Costs and worst costs of the members add up, mean and worst seconds are the larger ones; all samples count as drawn."""
    (whole,) = stages(SCORED, MARKET, FACTS)
    alone = [stages(Single(backend=name, verifier="reward"), MARKET, FACTS)[0] for name in ("small", "large")]
    parts = [stages(SCORED, MARKET, replace(FACTS, down=frozenset({name})))[0] for name in ("large", "small")]
    assert whole.cost_usd == pytest.approx(sum(part.cost_usd for part in parts))
    assert whole.worst_usd == pytest.approx(sum(part.worst_usd for part in parts))
    assert (whole.latency_s, whole.worst_s) == (alone[1].latency_s, alone[1].worst_s)
    assert whole.worst_s == worst([whole])[1] > alone[0].worst_s
    assert look(SCORED).draws == pytest.approx(6)


def test_pools_of_the_same_members_keep_their_own_names() -> None:
    """In whatever order these stand, they are equal; what is kept of one is not taken for the other."""
    one, other = Ensemble(members={"small": 1, "large": 2}), Ensemble(members={"large": 2, "small": 1})
    assert one == other
    assert [outline(plan, MARKET, FACTS).plan.key for plan in (one, other)] == [one.key, other.key]
    assert one.key != other.key


def test_a_backend_that_is_down_is_left_out_of_the_forecast() -> None:
    """Without its large member the pool is cheaper, quicker and worse; without both there is no plan."""
    without = replace(FACTS, down=frozenset({"large"}))
    assert look(SCORED, facts=without).quality < look(SCORED).quality
    assert look(SCORED, facts=without).cost_usd < look(SCORED).cost_usd
    assert unfit(SCORED, without) == ""
    assert unfit(SCORED, replace(FACTS, down=frozenset({"small", "large"}))) == "backend 'small' and backend 'large' is down"
    assert unfit(SCORED, replace(FACTS, down=frozenset({"reward"}))) == "verifier 'reward' is down"


def test_how_it_selects_changes_what_it_is_worth() -> None:
    """By heads four samples of the small one outvote the large one; by weight they do not; a verifier's word is worth more still."""

    def worth(select: str, verifier: str | None = None) -> float:
        plan = TypeAdapter(Ensemble).validate_python({"members": MEMBERS, "select": select, "verifier": verifier})
        return float(look(plan).quality[0, 0])

    assert worth("majority") < worth("weighted") < worth("best", "reward") == worth("weighted", "reward")
    assert worth("majority", "reward") == worth("majority")  # the scores are seen, but heads decide


# --- when it is bought --------------------------------------------------------------------------------------------------


def test_it_is_bought_where_time_is_dear_and_either_alone_is_not_enough() -> None:
    """With dear seconds both are asked at once rather than one after the other; where a right answer is worth little, one is."""
    scored = {name: Single(backend=name, verifier="exact") for name in ("small", "large")}
    both = Ensemble(members={"small": 4, "large": 2}, select="best", verifier="exact")
    assert decide(a_policy(*scored.values(), both, value_of_second_usd=1e-2), MARKET, FACTS, belief(-1)).plan == both
    assert decide(a_policy(*scored.values(), both, value=1e-6), MARKET, FACTS, belief(-1)).plan == scored["small"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"barred": frozenset({"large"})}, "this key may not use backend 'large'"),
        ({"single_only": True}, "one answer only"),
        ({"greedy": True}, "temperature 0"),
        ({"done": frozenset({VOTED.key})}, "already run"),
    ],
)
def test_what_forbids_it(facts: dict[str, Any], reason: str) -> None:
    """One barred member bars it; a request for one answer and one that says temperature 0 forbid it; it is run once."""
    assert reason in unfit(VOTED, replace(FACTS, **facts))


def test_one_sample_each_is_no_repetition() -> None:
    """At temperature 0 samples of one backend are alike, those of several are not."""
    assert unfit(Ensemble(members={"small": 1, "large": 1}), replace(FACTS, greedy=True)) == ""


def test_limits_hold_for_all_of_it() -> None:
    """The sum of its members must be payable and the slowest in time; the reason names what is over."""
    policy = a_policy(VOTED)
    worst_usd, worst_s = worst(stages(VOTED, MARKET, FACTS))
    for facts, reason in (({"ceiling_usd": worst_usd * 0.9}, "may cost"), ({"ceiling_usd": worst_usd, "deadline_s": 0.05}, "may take")):
        with pytest.raises(NothingToRun, match=reason):
            decide(policy, MARKET, replace(FACTS, **facts), belief(0))
    assert decide(policy, MARKET, replace(FACTS, ceiling_usd=worst_usd, deadline_s=worst_s), belief(0)).plan == VOTED


def test_several_at_once_need_no_other_in_reserve() -> None:
    """A single first step must leave time for the other backend, should it fail; an ensemble has it at work already."""
    plans = (Single(backend="large", verifier="reward"), Single(backend="large"), Single(backend="small"), VOTED)
    seconds = sum(stages(plan, MARKET, FACTS)[0].worst_s for plan in plans[1:3])
    rows = decide(a_policy(*plans), MARKET, replace(FACTS, deadline_s=seconds), belief(0)).considered
    assert [bool(row.refused) for row in rows] == [True, False, False, False]


def test_where_only_single_answers_may_go_out_each_member_is_offered() -> None:
    """A policy of ensembles alone still answers a request with tools: once, by one of its members."""
    decision = decide(a_policy(VOTED), MARKET, replace(FACTS, single_only=True), belief(0))
    assert [row.plan for row in decision.considered] == [Single(backend="small"), Single(backend="large")]


def test_the_decision_is_the_same_from_what_was_logged() -> None:
    """A belief that went through JSON decides alike."""
    policy = a_policy(SCORED, Single(backend="small", verifier="reward"))
    assert decide(policy, MARKET, FACTS, Belief.from_json(belief(0).as_json())) == decide(policy, MARKET, FACTS, belief(0))
