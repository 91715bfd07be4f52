"""Requests answered by several backends together: what goes out, what it says of itself, and what happens when one of them fails."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from adapters.scripted import ScriptedBackend, scripted
from difficulty.belief import Belief
from policies.decide import decide
from policies.plans import Ensemble
from policies.policy import Policy
from router.errors import BackendFailed, Forbidden
from router.keys import Key
from router.options import SessionOptions
from router.pipeline import Router
from router.purse import Purse
from router.record import facts_from_json
from tests.router.test_pipeline import LARGE, SMALL, a_policy, a_router, an_ask

MEMBERS = {"small": 2, "large": 1}


def seven() -> ScriptedBackend:
    return scripted("small", "7", price=SMALL)


def six(**options: Any) -> ScriptedBackend:
    return scripted("large", "6", price=LARGE, **options)


def of(*plans: dict[str, Any], small: ScriptedBackend | None = None, large: ScriptedBackend | None = None, **options: Any) -> Router:
    ensemble = {"ensemble": {"members": MEMBERS, **options}}
    return a_router(small or seven(), large or six(), policy=a_policy(1.0, [ensemble, *plans]))


async def test_two_weak_answers_do_not_outvote_a_strong_one() -> None:
    """The small backend says 7 twice, the large one 6: by heads 7 goes out, by what is believed of them 6."""
    by_heads = await of(select="majority").answer(an_ask())
    by_weight = await of().answer(an_ask())
    assert (by_heads.candidates[0].text, by_heads.model) == ("7", "small")
    assert (by_weight.candidates[0].text, by_weight.model) == ("6", "large")
    assert by_heads.decision["chance"] < 0.5 < by_weight.decision["chance"]


async def test_what_was_bought_is_said_call_by_call() -> None:
    """Each member's call stands in the block under its own backend; cost, tokens and samples add up; every decision can be made again."""
    router = of()
    outcome = await router.answer(an_ask())
    calls = [call for call in outcome.decision["calls"] if call["kind"] == "generate"]
    assert sorted((call["target"], call["n"]) for call in calls) == [("large", 1), ("small", 2)]
    assert outcome.cost_usd == pytest.approx(sum(call["cost_usd"] for call in outcome.decision["calls"]))
    assert outcome.decision["actions"][0]["answers"] == 3
    assert outcome.plan == "ensemble(small=2, large=1)"
    for row in outcome.decision["decisions"]:
        facts, belief = facts_from_json(row["facts"]), Belief.from_json(row["belief"])
        again = decide(router.parts.policies["balanced"], router.parts.market, facts, belief)
        assert (again.plan.key if again.plan else None) == row["plan"]


async def test_a_vote_is_evidence_by_whom_the_leader_is_of() -> None:
    """The chance of the leader is what all voters make it, and the belief holds it as one answer of the backend that gave it."""
    outcome = await of().answer(an_ask())
    belief = Belief.from_json(outcome.decision["decisions"][-1]["belief"])
    (leader,) = belief.evidence
    assert leader.backend == "large"
    assert belief.best == pytest.approx(outcome.decision["chance"], abs=1e-4)
    assert belief.best < belief.before.p_correct("large")  # two others contradict it
    agreed = await of(small=scripted("small", "6", price=SMALL)).answer(an_ask())
    assert agreed.decision["chance"] > belief.before.p_correct("large")


async def test_scores_are_evidence_of_each_answers_own_backend() -> None:
    """A verifier that knows: the wrong small answer and the right large one count for whom they are of, and the right one goes out."""
    right = scripted("large", "the right one", price=LARGE)
    outcome = await of(select="best", verifier="exact", large=right).answer(an_ask())
    logged = Belief.from_json(outcome.decision["decisions"][-1]["belief"])
    assert {(answer.backend, answer.if_right > answer.if_wrong) for answer in logged.evidence} == {("small", False), ("large", True)}
    assert (outcome.candidates[0].text, outcome.decision["chance"] > 0.99) == ("the right one", True)


async def test_a_stream_gets_the_chosen_answer_whole() -> None:
    """Nothing goes out before all was heard; then the chosen one does."""
    seen: list[str] = []

    async def sink(delta: Any) -> None:
        seen.append(delta.text)

    outcome = await of().answer(an_ask(), sink)
    assert (outcome.candidates[0].text, "".join(seen)) == ("6", "")


async def test_several_choices_are_the_distinct_answers_of_the_pool() -> None:
    """`n: 2` needs nothing more where two different answers were drawn."""
    outcome = await of().answer(an_ask(n=2))
    assert [candidate.text for candidate in outcome.candidates] == ["6", "7"]


# --- a member fails -----------------------------------------------------------------------------------------------------


async def test_a_dead_member_is_done_without_and_not_asked_again() -> None:
    """The rest of the pool answers, marked; a later plan of that backend alone is not tried."""
    dead = six(fail_every=1)
    outcome = await of({"single": {"backend": "large"}}, large=dead).answer(an_ask())
    assert (outcome.candidates[0].text, outcome.degraded) == ("7", ("backend:large",))
    assert len(dead.requests) == 1
    rows = {row["plan"]: row.get("refused") for row in outcome.decision["decisions"][-1]["considered"]}
    assert rows["single(large)"] == "backend 'large' is down"


async def test_a_pool_goes_on_with_whom_there_is() -> None:
    """Once the large one failed alone, an ensemble with it is forecast and run without it."""
    router = a_router(scripted("small", "right"), six(fail_every=1), policy=a_policy(1.0, [{"single": {"backend": "large"}}, ENSEMBLE]))
    outcome = await router.answer(an_ask(plan=None))
    assert outcome.candidates[0].text == "right"
    generated = [(call["target"], call["n"]) for call in outcome.decision["calls"] if call["kind"] == "generate"]
    assert generated.count(("large", 1)) == 1
    assert ("small", 2) in generated


ENSEMBLE = {"ensemble": {"members": MEMBERS, "select": "best", "verifier": "exact"}}


async def test_where_all_members_are_dead_the_backends_error_goes_out() -> None:
    """No answer of any is no answer: the failure is a backend's, not the policy's."""
    with pytest.raises(BackendFailed):
        await of(small=scripted("small", fail_every=1), large=six(fail_every=1)).answer(an_ask())


async def test_a_backend_that_was_outvoted_is_not_asked_again_alone() -> None:
    """One more answer of the large one would say what it said in the pool; it may not overrule the vote by being drawn twice."""
    pool = {"ensemble": {"members": MEMBERS, "select": "majority"}}
    rules = {"rules": [{"otherwise": [pool, {"single": {"backend": "large"}}]}], "until": 0.99}
    outcome = await a_router(seven(), six(), policy=TypeAdapter(Policy).validate_python(rules)).answer(an_ask())
    assert outcome.candidates[0].text == "7"
    rows = {row["plan"]: row.get("refused") for row in outcome.decision["decisions"][-1]["considered"]}
    assert rows["single(large)"] == "already run"


# --- who may ------------------------------------------------------------------------------------------------------------


async def test_a_key_must_be_allowed_all_members() -> None:
    """With one of them barred the plan is refused, by the policy and by name; another plan of the policy still answers."""
    purse = Purse(Key(id="0" * 8, digest="0" * 64, name="a", backends=("small",)))
    with pytest.raises(Forbidden, match="no backend of 'outlay/balanced'"):
        await of().answer(an_ask(purse=purse))
    with pytest.raises(Forbidden, match="may not use backend 'large'"):
        await of({"single": {"backend": "small"}}).answer(an_ask(purse=purse, plan=Ensemble(members=MEMBERS)))
    outcome = await of({"single": {"backend": "small"}}).answer(an_ask(purse=purse))
    assert outcome.plan == "single(small)"


async def test_a_conversation_stays_with_the_member_that_answered() -> None:
    """Where sessions are kept, the next request of one goes to the backend whose answer went out, alone."""
    ensemble = {"ensemble": {"members": MEMBERS}}
    router = a_router(seven(), six(), policy=a_policy(1.0, [ensemble]), sessions=SessionOptions(keep="always"))
    assert (await router.answer(an_ask(session="s1"))).model == "large"
    outcome = await router.answer(an_ask(session="s1"))
    assert (outcome.plan, outcome.decision["cause"]) == ("single(large)", "session")


async def test_a_caller_may_name_it() -> None:
    """A forced ensemble is run whole, within a policy that has none."""
    outcome = await a_router(seven(), six()).answer(an_ask(plan=Ensemble(members={"small": 3, "large": 1})))
    assert (outcome.decision["cause"], outcome.decision["actions"][0]["answers"]) == ("forced", 4)
