"""Decisions: hard limits first, then utility; rules in their order; and the same inputs always give the same decision."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from difficulty.belief import PLAIN, Belief, Evidence
from policies.decide import decide, next_draws
from policies.facts import Considered, Facts, Market, NothingToRun
from policies.forecast import stages
from policies.plans import Plan, Single
from policies.policy import Policy
from tests.policies.conftest import CURVES, PRICES, belief

MARKET = Market(PRICES, frozenset({"small", "large"}), CURVES)
FACTS = Facts(input_tokens=14)
PLANS: list[dict[str, Any]] = [
    {"single": {"backend": "small"}},
    {"revise": {"backend": "small", "rounds": 4, "verifier": "reward"}},
    {"best_of_n": {"backend": "small", "n": 16, "verifier": "reward"}},
    {"tree_search": {"backend": "small", "verifier": "reward"}},
    {"single": {"backend": "large"}},
]
WRONG = Evidence("small", PLAIN, 0.001, 0.4)
RIGHT = Evidence("small", PLAIN, 0.4, 0.001)


def policy(value: float = 3e-4, second: float = 1e-5, plans: list[dict[str, Any]] | None = None, **more: Any) -> Policy:
    objective = {"value_of_correct_usd": value, "value_of_second_usd": second}
    return TypeAdapter(Policy).validate_python({"objective": objective, "plans": plans or PLANS, **more})


def rules(*rows: dict[str, Any], **more: Any) -> Policy:
    return TypeAdapter(Policy).validate_python({"rules": rows, **more})


SMALL, LARGE = {"single": {"backend": "small", "verifier": "reward"}}, {"single": {"backend": "large"}}


def test_effort_follows_difficulty() -> None:
    """An easy prompt gets a short plan, a hard one a longer one, and a hopeless one the least."""
    hopeless, hard, easy = (decide(policy(), MARKET, FACTS, belief(e)) for e in (-9.0, -2.0, 1.0))
    assert hopeless.plan.kind == "single"
    costs = [next(c.cost_usd for c in one.considered if c.plan == one.plan) for one in (hopeless, easy, hard)]
    assert costs == sorted(costs)


def test_a_right_answer_that_is_worth_more_buys_more() -> None:
    """Raising the value of a right answer raises what is spent and the quality expected."""
    chosen = []
    for value in (1e-6, 1e-4, 1e-2):
        decision = decide(policy(value), MARKET, FACTS, belief(-2.0))
        chosen.append(next(c for c in decision.considered if c.plan == decision.plan))
    assert [c.quality for c in chosen] == sorted(c.quality for c in chosen)
    assert chosen[0].cost_usd < chosen[2].cost_usd


def test_a_second_that_is_worth_more_buys_a_faster_plan() -> None:
    """With dear seconds the plan is the quicker one."""

    def seconds(value: float) -> float:
        decision = decide(policy(second=value), MARKET, FACTS, belief(-2.0))
        return next(c for c in decision.considered if c.plan == decision.plan).latency_s

    assert seconds(1e-2) < seconds(0.0)


@given(st.floats(-5, 5), st.floats(1e-6, 1e-3), st.floats(0.05, 5.0))
@settings(max_examples=60, deadline=None)
def test_no_decision_breaks_a_hard_limit(ease: float, ceiling: float, deadline: float) -> None:
    """The worst case of the chosen plan fits under the ceiling, and before the deadline unless that is true of none."""
    facts = replace(FACTS, ceiling_usd=ceiling, deadline_s=deadline)
    try:
        decision = decide(policy(), MARKET, facts, belief(ease))
    except NothingToRun:
        return
    chosen = next(c for c in decision.considered if c.plan == decision.plan)
    assert chosen.cost_q95_usd <= ceiling
    assert chosen.latency_q95_s <= deadline or all(c.refused for c in decision.considered)


def test_where_nothing_is_sure_to_be_in_time_the_quickest_is_tried() -> None:
    """A likely answer beats a certain refusal; but only while there is none, and only if the usual time is short enough."""
    plans = [{"single": {"backend": name}} for name in ("large", "small")]
    usual_s = next(c for c in decide(policy(plans=plans), MARKET, FACTS, belief(0)).considered if c.plan.backend == "small").latency_s
    tight = replace(FACTS, deadline_s=usual_s * 1.1)
    decision = decide(policy(plans=plans), MARKET, tight, belief(0))
    assert all(c.refused for c in decision.considered)
    assert decision.plan == Single(backend="small")
    assert "no plan is sure" in decision.reason
    assert decide(policy(plans=plans), MARKET, tight, belief(0).after([WRONG])).plan is None
    with pytest.raises(NothingToRun):
        decide(policy(plans=plans), MARKET, replace(FACTS, deadline_s=usual_s * 0.9), belief(0))
    with pytest.raises(NothingToRun):
        decide(policy(plans=plans), MARKET, replace(tight, ceiling_usd=1e-9), belief(0))


def test_a_first_step_leaves_time_for_another_backend() -> None:
    """While nothing is answered no step is begun after whose failure the deadline would be missed; where no step could leave the time for
    another backend, all that are sure to be in time may try."""

    def refusals(deadline_s: float, plans: list[dict[str, Any]], answers: tuple[Evidence, ...] = (), **facts: Any) -> list[str]:
        limited = replace(FACTS, deadline_s=deadline_s, **facts)
        return [c.refused for c in decide(policy(1.0, 0.0, plans), MARKET, limited, belief(0.0).after(answers)).considered]

    both = [{"single": {"backend": name}} for name in ("small", "large")]
    small_s, large_s = (c.latency_q95_s for c in decide(policy(plans=both), MARKET, FACTS, belief(0.0)).considered)
    enough, too_little = small_s + large_s + 1e-6, small_s + large_s - 1e-6
    assert refusals(enough, both) == ["", ""]
    assert refusals(too_little, [*both, SMALL]) == ["", "", ""], "no step could leave the time, so all of them may try"
    assert "leaves 'large' less than" in refusals(enough, [*both, SMALL])[2], "a quicker step of small would"
    assert refusals(enough, [*both, SMALL], (WRONG,)) == ["", "", ""], "an answer is what a reserve is for"
    assert refusals(enough, [both[0], SMALL]) == ["", ""], "without another backend there is none to keep time for"
    assert refusals(enough, [*both, SMALL], down=frozenset({"large"}))[2] == ""


def test_with_an_answer_in_hand_a_scored_step_need_only_usually_be_in_time() -> None:
    """What comes late costs money and nothing else, for the answer in hand goes out: so it is weighed by its chance, while it is better
    than even. What is not scored may be streamed as it comes, and has to be sure."""
    scored, plain = {"single": {"backend": "large", "verifier": "reward"}}, {"single": {"backend": "large"}}

    def look(deadline_s: float, value: float = 1.0) -> tuple[Plan | None, list[Considered]]:
        decision = decide(policy(value, 0.0, [scored, plain]), MARKET, replace(FACTS, deadline_s=deadline_s), belief(0.0).after([WRONG]))
        return decision.plan, list(decision.considered)

    _, (first, second) = look(60.0)
    usual_s = stages(first.plan, MARKET, FACTS)[0].latency_s
    for deadline_s, refused in ((second.latency_q95_s * 0.99, [False, True]), (usual_s * 0.99, [True, True])):
        assert [bool(c.refused) for c in look(deadline_s)[1]] == refused
    soon = usual_s * 1.05
    assert look(soon)[1][0].quality < first.quality - 0.1
    worth = 1.2 * first.cost_usd / (first.quality - belief(0.0).after([WRONG]).best)
    assert look(60.0, worth)[0] is not None
    assert look(soon, worth)[0] is None, "too dear for a chance of little more than a half"
    assert look(soon)[0] is not None


def test_a_plan_that_was_left_is_taken_up_where_it_was_left() -> None:
    """Samples that were left for another plan can be gone on with: what is left of them is looked at. A plan that the caller names, or a
    rule has, is over however it ended."""
    plans = [{"best_of_n": {"backend": "small", "n": 16, "verifier": "reward"}}, LARGE]
    (samples, _), left = policy(1e-2, plans=plans).all_plans, replace(FACTS, begun={"best_of_n(small, n=16, verifier=reward)": 15})
    assert samples.key in left.begun
    seen = belief(-2.0).after([WRONG] * 15)
    fresh, rest = (decide(policy(1e-2, plans=plans), MARKET, facts, seen).considered[0] for facts in (FACTS, left))
    assert not rest.refused
    assert rest.cost_q95_usd < fresh.cost_q95_usd / 4
    assert next_draws(policy(10.0, plans=plans), MARKET, left, belief(0.0).after([WRONG]), samples, 15) == 1
    assert decide(policy(), MARKET, replace(left, forced=samples), seen).plan is None
    assert decide(rules({"otherwise": plans}), MARKET, left, seen).considered[0].refused == "already run"


def test_what_was_spent_counts_against_the_ceiling() -> None:
    """With the ceiling nearly spent nothing more is bought, and the answer at hand stands."""
    facts = replace(FACTS, ceiling_usd=1e-4, spent_usd=0.99e-4)
    decision = decide(policy(), MARKET, facts, belief(0).after([WRONG]))
    assert decision.plan is None
    assert all("is left" in c.refused for c in decision.considered)


def test_nothing_affordable_and_nothing_answered_is_said_with_every_reason() -> None:
    """A ceiling below the cheapest plan raises, naming each plan and what it may cost."""
    with pytest.raises(NothingToRun, match=r"single\(small\): may cost"):
        decide(policy(), MARKET, replace(FACTS, ceiling_usd=1e-9), belief(0))


def test_the_floor_rules_out_cheap_plans_and_is_named_where_no_plan_reaches_it() -> None:
    """With a floor the plan reaches it; where none can, the best inside the limits runs and the reason says so."""
    cheap = policy(1e-6)
    assert decide(cheap, MARKET, FACTS, belief(-1.0)).plan == cheap.all_plans[0]
    lifted = decide(cheap, MARKET, replace(FACTS, quality_floor=0.8), belief(-1.0))
    assert next(c for c in lifted.considered if c.plan == lifted.plan).quality >= 0.8
    beyond = decide(cheap, MARKET, replace(FACTS, quality_floor=0.999), belief(-3.0))
    assert beyond.cause == "floor"
    assert "no plan reaches" in beyond.reason


def test_an_answer_that_is_good_enough_ends_the_request() -> None:
    """After an answer that the verifier is sure of, the decision is to stop, and its reason gives the chance."""
    decision = decide(policy(), MARKET, replace(FACTS, done=frozenset({"revise(small, verifier=reward)"})), belief(1.0).after([RIGHT]))
    assert decision.plan is None
    assert "chance 1.00" in decision.reason or "chance 0.99" in decision.reason


def test_failures_lead_up() -> None:
    """After many answers that scored badly, no more of the same is bought; what is left to gain goes to another plan."""
    plans = [PLANS[2], PLANS[4]]
    tried = belief(0.0).after([WRONG] * 16)
    key = "best_of_n(small, n=16, verifier=reward)"
    decision = decide(policy(3e-3, plans=plans), MARKET, replace(FACTS, done=frozenset({key})), tried)
    assert decision.plan == Single(backend="large")


def test_what_is_down_is_not_chosen() -> None:
    """A backend or verifier that failed takes its plans with it."""
    decision = decide(policy(), MARKET, replace(FACTS, down=frozenset({"reward"})), belief(-2.0))
    assert decision.plan is not None
    assert decision.plan.verifier is None
    alone = decide(policy(), MARKET, replace(FACTS, down=frozenset({"small"})), belief(-2.0))
    assert alone.plan == Single(backend="large")


def test_the_last_decision_says_what_kept_the_others_from_being_run() -> None:
    """A backend that is down is no limit."""
    both = [{"single": {"backend": name}} for name in ("small", "large")]
    tried = belief(0.0).after([Evidence("small")])
    for down, why in ((frozenset({"large"}), "single(large): backend 'large' is down"), (frozenset(), "every plan was run")):
        done = frozenset({"single(small)"} if down else {"single(small)", "single(large)"})
        stop = decide(policy(plans=both), MARKET, replace(FACTS, down=down, done=done), tried)
        assert (stop.plan, stop.reason) == (None, f"nothing else may be run: {why}")


def test_a_request_that_must_be_answered_once_gets_one_answer() -> None:
    """Tool calls and the like (`single_only`) leave only plans of one answer."""
    decision = decide(policy(), MARKET, replace(FACTS, single_only=True), belief(-2.0))
    assert isinstance(decision.plan, Single)


def test_a_cheap_try_is_worth_the_option_to_go_up() -> None:
    """A scored small answer with the large one behind it is worth more than its own quality."""
    plans = [SMALL, LARGE]
    considered = decide(policy(3e-3, 0.0, plans), MARKET, FACTS, belief(0.0)).considered
    assert considered[0].quality > belief(0.0).p_correct("small") + 0.05
    assert considered[0].quality > belief(0.0).p_correct("large")


def test_a_plan_under_way_ends_when_its_next_batch_is_not_worth_its_price() -> None:
    """After a sure answer no further batch is drawn; after poor ones it is, while hope is worth the money."""
    plan = policy().all_plans[2]
    assert not next_draws(policy(), MARKET, FACTS, belief(0.0).after([RIGHT]), plan, 4)
    assert next_draws(policy(), MARKET, FACTS, belief(0.0).after([WRONG]), plan, 4)


def test_the_only_plan_of_a_policy_goes_on_too() -> None:
    """Nothing can follow it, and what its next answers may score is still told apart."""
    only = policy(plans=[PLANS[2]])
    (plan,) = only.all_plans
    assert next_draws(only, MARKET, FACTS, belief(-2.0).after([WRONG]), plan, 4)
    assert not next_draws(policy(), MARKET, FACTS, belief(0.0).after([WRONG] * 16), plan, 16)
    assert not next_draws(policy(1e-7), MARKET, FACTS, belief(0.0).after([WRONG]), plan, 4)


@given(st.floats(-4, 4), st.lists(st.sampled_from([WRONG, RIGHT]), max_size=3), st.floats(1e-5, 1e-2))
@settings(max_examples=30, deadline=None)
def test_a_logged_decision_can_be_made_again(ease: float, answers: list[Evidence], ceiling: float) -> None:
    """Facts and belief written as JSON and read back give the same decision."""
    from router.record import facts_as_json, facts_from_json

    facts, now = replace(FACTS, ceiling_usd=ceiling, tags={"task": "math"}), belief(ease).after(answers)
    again = facts_from_json(json.loads(json.dumps(facts_as_json(facts)))), Belief.from_json(json.loads(json.dumps(now.as_json())))
    try:
        first = decide(policy(), MARKET, facts, now)
    except NothingToRun:
        with pytest.raises(NothingToRun):
            decide(policy(), MARKET, *again)
        return
    assert decide(policy(), MARKET, *again) == first


# --- rules ------------------------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_is_followed() -> None:
    """Conditions on tags, on the estimate and on length; the rest falls to `otherwise`."""
    book = rules(
        {"when": {"tags": {"task": "chat"}}, "then": SMALL},
        {"when": {"p_correct": {"small": {"min": 0.8}}}, "then": {"single": {"backend": "small"}}},
        {"when": {"input_tokens": {"min": 1000}}, "then": PLANS[3]},
        {"otherwise": LARGE},
    )

    def plan(ease: float, **facts: Any) -> str:
        return decide(book, MARKET, replace(FACTS, **facts), belief(ease)).plan.key

    assert plan(-3.0, tags={"task": "chat"}) == "single(small, verifier=reward)"
    assert plan(3.0) == "single(small)"
    assert plan(-3.0, input_tokens=2000) == "tree_search(small, verifier=reward)"
    assert plan(-3.0) == "single(large)"


def test_a_list_of_plans_is_a_cascade() -> None:
    """The next plan runs only while no answer reaches `until`."""
    book = rules({"otherwise": [SMALL, LARGE]}, until=0.8)
    done = replace(FACTS, done=frozenset({"single(small, verifier=reward)"}))
    assert decide(book, MARKET, FACTS, belief(0)).plan.backend == "small"
    assert decide(book, MARKET, done, belief(0).after([WRONG])).plan == Single(backend="large")
    assert decide(book, MARKET, done, belief(0).after([RIGHT])).plan is None
    strict = rules({"otherwise": [SMALL, LARGE]}, until=1.0)
    assert decide(strict, MARKET, done, belief(0).after([RIGHT])).plan == Single(backend="large")


def test_rules_stay_inside_the_limits() -> None:
    """Where the rule's plan may not run, one answer of the likeliest backend that may is bought instead."""
    book = rules({"otherwise": PLANS[3]})
    decision = decide(book, MARKET, replace(FACTS, ceiling_usd=5e-5), belief(0))
    assert decision.plan == Single(backend="small")


def test_a_plan_that_the_caller_names_is_run_once() -> None:
    """A forced plan runs whatever it is worth, then the request ends; a plan that is down cannot be forced."""
    forced = replace(FACTS, forced=Single(backend="large"))
    assert decide(policy(), MARKET, forced, belief(9.0)).cause == "forced"
    assert decide(policy(), MARKET, replace(forced, done=frozenset({"single(large)"})), belief(9.0).after([Evidence("large")])).plan is None
    with pytest.raises(NothingToRun, match="is down"):
        decide(policy(), MARKET, replace(forced, down=frozenset({"large"})), belief(9.0))


def test_a_plan_that_the_caller_names_is_run_whole() -> None:
    """What the policy would rather do next does not cut a forced plan short, as it does a plan of its own choice."""
    best_of = TypeAdapter(Plan).validate_python(PLANS[2])
    sure = belief(9.0).after([RIGHT])
    assert not next_draws(policy(), MARKET, FACTS, sure, best_of, 4)
    assert next_draws(policy(), MARKET, replace(FACTS, forced=best_of), sure, best_of, 4)


# --- what a policy may not say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"rules": [{"when": {"tags": {"a": "b"}}, "then": SMALL}]}, "otherwise"),
        ({"rules": [{"then": SMALL}]}, "otherwise"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": [SMALL, SMALL]}, "stands twice"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": []}, "at least 1"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": [{"best_of_n": {"backend": "small", "n": 4}}]}, "needs a verifier"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": [SMALL], "goal": 1}, "goal"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": [{"guess": {"backend": "small"}}]}, "'guess'; a plan is one of single"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": [{**SMALL, "revise": {}}]}, "'single' and 'revise'; a plan is one of"),
        ({"objective": {"value_of_correct_usd": 1}, "plans": ["single"]}, "'single'; a plan is one of"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(raw: dict[str, Any], said: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Policy).validate_python(raw)


def test_a_plan_reads_as_it_is_written() -> None:
    """A plan written as YAML's one key comes back the same, and its key names every option that differs from the default."""
    plan = policy().all_plans[2]
    assert plan.model_dump() == {"best_of_n": {"backend": "small", "n": 16, "verifier": "reward"}}
    assert plan.key == "best_of_n(small, n=16, verifier=reward)"
