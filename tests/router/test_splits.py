"""Splits: one name for several policies; who asks stays with an arm, shares are met, and every trace of a request says where it was."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.assembly import assemble
from router.config import Config, parse
from router.errors import ConfigError, Forbidden
from router.events import DecisionEvent, read_events
from router.keys import new_key
from router.lessons import Given
from router.live import Live
from router.pipeline import Router
from router.pipeline_types import Ask
from router.purse import Purse
from router.splits import assigned, position, subject
from tests.router.serving import served
from tests.router.test_metrics import value
from tests.router.test_pipeline import an_ask

BACKENDS = {name: {"kind": "scripted", "answers": [name]} for name in ("small", "large")}
POLICIES = {name: {"rules": [{"otherwise": {"single": {"backend": name}}}]} for name in ("small", "large")}


def raw(extra: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Two policies, each of its own backend, whose answer is its name; and copies of them, by name."""
    policies = {"cheap": POLICIES["small"], "dear": POLICIES["large"]}
    policies |= {name: policies[of] for name, of in (extra or {}).items()}
    return {"backends": BACKENDS, "policies": policies, "splits": {"main": {"cheap": 0.5, "dear": 0.5}}, **more}


def a_service(**more: Any) -> Router:
    return assemble(Config.model_validate(raw(**more)))


def users(n: int) -> list[Ask]:
    return [an_ask(model="outlay/main", extra={"user": f"user {i}"}) for i in range(n)]


def arms(shares: dict[str, float], n: int = 20_000, split: str = "main") -> list[str]:
    return [assigned(split, shares, ask).policy for ask in users(n)]


# --- who is assigned where ----------------------------------------------------------------------------------------------


def test_shares_are_met() -> None:
    """Within four standard errors of a binomial; a share of 0 gets nobody."""
    counts = Counter(arms({"a": 0.7, "b": 0.2, "c": 0.1, "d": 0.0}))
    for name, share in {"a": 0.7, "b": 0.2, "c": 0.1}.items():
        assert abs(counts[name] / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    assert counts["d"] == 0


def test_a_change_of_shares_moves_as_few_as_it_must() -> None:
    """From 0.9 and 0.1 to 0.8 and 0.2 a tenth moves, all the same way; a new arm takes from the others and nobody else moves."""
    before, after = arms({"a": 0.9, "b": 0.1}), arms({"a": 0.8, "b": 0.2})
    moved = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    assert moved.keys() == {("a", "b")}
    assert moved["a", "b"] / 20_000 == pytest.approx(0.1, abs=4 * (0.09 / 20_000) ** 0.5)
    with_third = arms({"c": 0.5, "b": 0.05, "a": 0.45})
    assert {new for old, new in zip(before, with_third, strict=True) if old != new} == {"c"}


def test_neither_the_order_of_arms_nor_another_split_is_of_matter() -> None:
    """The same shares written in another order assign alike; under another name everybody is assigned anew."""
    assert arms({"a": 0.3, "b": 0.7}, 2000) == arms({"b": 0.7, "a": 0.3}, 2000)
    other = zip(arms({"a": 0.5, "b": 0.5}, 2000), arms({"a": 0.5, "b": 0.5}, 2000, split="other"), strict=True)
    assert 0.4 < sum(one == two for one, two in other) / 2000 < 0.6


def test_who_asks_is_the_session_else_the_user_else_the_key_else_the_request_alone() -> None:
    """Each only where the one before is not given; names of one kind are not taken for those of another."""
    purse = Purse()
    purse.key = new_key("web")[1]
    nobody = an_ask(id="dec_1")
    assert subject(nobody) == "request:dec_1"
    assert subject(keyed := replace(nobody, purse=purse)) == f"key:{purse.key.id}"
    assert subject(user := replace(keyed, request=keyed.request.but(extra={"user": "ann"}))) == "user:ann"
    assert subject(replace(keyed, request=keyed.request.but(extra={"safety_identifier": "bob"}))) == "user:bob"
    assert subject(replace(keyed, request=keyed.request.but(extra={"user": {"not": "a name"}}))).startswith("key:")
    assert subject(replace(user, session="s1")) == "session:s1"


def test_every_process_assigns_alike() -> None:
    """Whatever its hash seed."""
    code = "from router.splits import position; print(position('main', 'cheap', 'user:ann'))"
    seeds = ({"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)} for seed in ("1", "2"))
    said = {subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout for env in seeds}
    assert said == {f"{position('main', 'cheap', 'user:ann')}\n"}


# --- what follows -------------------------------------------------------------------------------------------------------


async def test_a_user_stays_with_an_arm_and_a_reload_changes_nothing() -> None:
    """Until shares change."""
    live = Live(Config.model_validate(raw()))
    first = [(await live.answer(ask)).policy for ask in users(20)]
    assert set(first) == {"cheap", "dear"}
    await live.use(Config.model_validate(raw(cache={"url": "memory://"})))
    assert [(await live.answer(ask)).policy for ask in users(20)] == first
    await live.use(Config.model_validate(raw(splits={"main": {"cheap": 1.0, "dear": 0.0}})))
    assert {(await live.answer(ask)).policy for ask in users(20)} == {"cheap"}
    await live.aclose()


async def test_block_events_and_metrics_say_split_and_arm(tmp_path: Path) -> None:
    """And with feedback how often each arm was right; a request that names the policy itself is in no arm."""
    router = a_service(log={"path": str(tmp_path / "log.jsonl")})
    outcomes = [await router.answer(ask) for ask in users(20)]
    await router.answer(an_ask(model="outlay/cheap"))
    for outcome in outcomes:
        assert outcome.decision["split"] == {"name": "main", "arm": outcome.policy}
        await router.feedback(Given(outcome.id, float(outcome.policy == "dear")))
    n = Counter(outcome.policy for outcome in outcomes)
    for arm in ("cheap", "dear"):
        of = {"split": "main", "arm": arm}
        assert value(router, "outlay_split_requests_total", **of, status="answered") == n[arm]
        assert value(router, "outlay_split_feedback_total", **of) == n[arm]
        assert value(router, "outlay_split_feedback_right_total", **of) == (n[arm] if arm == "dear" else 0)
        believed = sum(outcome.decision["chance"] for outcome in outcomes if outcome.policy == arm)
        assert value(router, "outlay_split_believed_total", **of) == pytest.approx(believed)
    await router.aclose()
    found = [event for event in read_events(str(tmp_path / "log.jsonl")) if isinstance(event, DecisionEvent)]
    assert [event.block["split"] for event in found] == [outcome.decision["split"] for outcome in outcomes] + [None]


async def test_the_answer_tells_its_arm_and_the_list_of_models_the_split() -> None:
    """In headers and in the block; `default` may be a split."""
    import httpx

    router = a_service(default="main")
    async with served(router) as url, httpx.AsyncClient() as http:
        body = {"model": "auto", "user": "ann", "messages": [{"role": "user", "content": "a"}]}
        response = await http.post(f"{url}/chat/completions", json=body)
        cards = {card["id"]: card["outlay"] for card in (await http.get(f"{url}/models")).json()["data"]}
    arm = response.json()["outlay"]["split"]["arm"]
    assert (response.headers["x-outlay-split"], response.headers["x-outlay-arm"]) == ("main", arm)
    assert cards["outlay/main"] == {"kind": "split", "description": "50 % cheap, 50 % dear"}
    assert cards["auto"]["description"] == "outlay/main"


async def test_arms_share_the_cache_with_their_policy_and_not_with_each_other() -> None:
    """An answer out of the cache says the arm of the request that it went to, not of the one that it was made for."""
    router = a_service(cache={"url": "memory://"})
    asks = {assigned("main", {"cheap": 0.5, "dear": 0.5}, ask).policy: ask for ask in users(20)}
    for policy, ask in asks.items():
        bare = await router.answer(replace(ask, id=f"dec_bare_{policy}", model=f"outlay/{policy}"))
        assert (bare.cached, bare.decision["split"]) == (False, None)
        again = await router.answer(replace(ask, id=f"dec_{policy}"))
        assert (again.cached, again.policy, again.decision["split"]) == (True, policy, {"name": "main", "arm": policy})


async def test_a_key_sees_a_split_as_a_name_of_its_own() -> None:
    """One that may name the split gets its arms and not the policies; one that may name a policy does not get the split."""
    router = a_service()
    for models, may, may_not in ((("outlay/main",), "outlay/main", "outlay/cheap"), (("outlay/cheap",), "outlay/cheap", "outlay/main")):
        purse = Purse()
        purse.key = new_key("web", models=models)[1]
        assert [card.id for card in router.models(purse.key) if card.id.startswith("outlay/")] == [*models]
        await router.answer(an_ask(model=may, purse=purse))
        with pytest.raises(Forbidden):
            await router.answer(an_ask(model=may_not, purse=purse))


def test_mistakes_in_a_split_are_named() -> None:
    """Shares that do not add up, a policy that is not there, a name that is a policy's, a share above 1."""
    wrong = {
        "the shares must add up to 1; found 0.9": {"main": {"cheap": 0.5, "dear": 0.4}},
        "splits.main: no policy 'chep'; have 'cheap', 'dear'; did you mean 'cheap'": {"main": {"chep": 0.5, "dear": 0.5}},
        "splits.cheap: a policy has this name too": {"cheap": {"dear": 1.0}},
        "splits.main.cheap": {"main": {"cheap": 1.5, "dear": -0.5}},
    }
    for said, splits in wrong.items():
        with pytest.raises(ConfigError, match=said):
            parse(raw(splits=splits), "outlay.yaml")
    assert parse(raw(default="main"), "outlay.yaml").default_policy == "main"
