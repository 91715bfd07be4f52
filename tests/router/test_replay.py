"""`outlay replay`: logged decisions made again, another policy's changes, and a value that explorations make honest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from adapters.scripted import scripted
from policies.policy import Policy
from router.assembly import assemble
from router.config import load
from router.events import DecisionEvent, FeedbackEvent, line
from router.pipeline import Router
from router.replay import Replayed, Request, replayed, requests_of, warnings
from tests.router.logs import write_config
from tests.router.test_cli import Captured, outlay
from tests.router.test_pipeline import LARGE, SMALL, Probe, a_policy, a_router, an_ask

PLANS: list[dict[str, Any]] = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]
CHEAP, DEAR = a_policy(1e-5, PLANS), a_policy(1e-2, PLANS)


def a_service(policy: Policy) -> Router:
    """Small is always wrong and large always right, though the probe thinks them nearly alike."""
    return a_router(scripted("small", "wrong", price=SMALL), scripted("large", "right", price=LARGE), policy=policy, probe=Probe(0.5))


async def traffic(policy: Policy, n: int, feedback: bool = True) -> list[Request]:
    """Requests as a service logged them, with what users said."""
    router, events = a_service(policy), []
    for i in range(n):
        outcome = await router.answer(an_ask(f"question number {i}"))
        events.append(DecisionEvent(outcome.id, float(i), "answered", outcome.decision))
        if feedback:
            events.append(FeedbackEvent(outcome.id, float(i), float("right" in outcome.candidates[0].text)))
    return requests_of(events)


async def tried(log: Policy, new: Policy, n: int, **more: Any) -> Replayed:
    router = a_service(log)
    return replayed(await traffic(log, n, **more), new, router.parts.market, {"balanced": log})


async def test_the_logged_policy_decides_as_it_did() -> None:
    """Nothing changes, nothing is doubtful, and its value is what was logged; explorations are made again from their draws."""
    same = await tried(CHEAP, CHEAP, 10)
    assert (same.changed, same.not_again, same.unsupported, same.effective) == (0, 0, 0, 10)
    assert same.right.mean == same.logged_right == 0.0
    explored = CHEAP.model_copy(update={"explore": 0.5})
    assert (await tried(explored, CHEAP, 30)).not_again == 0


async def test_a_policy_that_was_edited_since_is_noticed() -> None:
    """The log was written by another `balanced` than the one in the configuration."""
    found = replayed(await traffic(CHEAP, 5), CHEAP, a_service(CHEAP).parts.market, {"balanced": DEAR})
    assert found.not_again > 0


async def test_without_exploration_only_the_belief_speaks_and_it_is_said() -> None:
    """Every first plan would change, none of the new ones had a chance: two warnings, and the estimate is the belief's."""
    found = await tried(CHEAP, DEAR, 10)
    assert found.moves == (("single(small) -> single(large)", 10),)
    assert (found.unsupported, found.effective) == (1.0, 0.0)
    assert found.right == found.said_right
    assert [w.split(":")[0] for w in warnings(found)] == ["warning", "warning"]


async def test_explorations_correct_the_belief() -> None:
    """The belief thinks large good; explored requests show that it is always right, and cost what it costs."""
    found = await tried(CHEAP.model_copy(update={"explore": 0.5}), DEAR, 300)
    assert found.said_right.high < 0.9
    assert abs(found.right.mean - 1.0) < 2 * (found.right.high - found.right.mean)  # four standard errors
    assert found.unsupported == 0.0
    assert 30 < found.effective < 150


async def test_what_is_not_labelled_counts_as_the_belief_left_it() -> None:
    """Feedback overrules the belief's chance."""
    labelled, not_labelled = [await tried(CHEAP, CHEAP, 5, feedback=said) for said in (True, False)]
    assert (labelled.labelled, not_labelled.labelled) == (5, 0)
    assert labelled.logged_right == 0.0 < not_labelled.logged_right


async def test_requests_in_which_no_policy_had_a_say_are_left_out() -> None:
    """A named plan, a named backend, a preview, an answer from the cache."""
    router = a_service(CHEAP)
    named = await router.answer(an_ask(plan=CHEAP.all_plans[1]))
    backend = await router.answer(an_ask(model="small"))
    usual = await router.answer(an_ask())
    events = [DecisionEvent(o.id, 0.0, "answered", o.decision) for o in (named, backend, usual)]
    others = [DecisionEvent("x", 0.0, "cached", usual.decision), DecisionEvent("y", 0.0, "preview", usual.decision)]
    assert len(requests_of([*events, *others])) == 1


async def test_the_command_reads_a_log_and_prints(tmp_path: Path, capsys: Captured) -> None:
    """A log of events and a configuration in, a table out; a wrong policy, an empty log and a missing one are one line each."""
    config, log = str(write_config(tmp_path / "outlay.yaml")), tmp_path / "log.jsonl"
    outcome = await assemble(load(config)).answer(an_ask())
    log.write_bytes(line(DecisionEvent(outcome.id, 0.0, "answered", outcome.decision)) + b"\n")
    assert await asyncio.to_thread(outlay, "replay", "--events", str(log), "-c", config, "-p", "cheap") == 0
    said = capsys.readouterr().out
    assert "cheap, doubly robust" in said
    assert "effective requests" in said
    assert outlay("replay", "--events", str(log), "-c", config, "-p", "chep") == 2
    assert "did you mean 'cheap'?" in capsys.readouterr().err
    log.write_bytes(b"")
    assert outlay("replay", "--events", str(log), "-c", config, "-p", "cheap") == 2
    assert "no request in it" in capsys.readouterr().err


def test_a_missing_log_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    """With what to do about it."""
    config = str(write_config(tmp_path / "outlay.yaml"))
    assert outlay("replay", "--events", str(tmp_path / "none.jsonl"), "-c", config, "-p", "cheap") == 2
    assert "none.jsonl" in capsys.readouterr().err
