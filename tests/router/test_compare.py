"""`outlay compare`: the arms of a split and the disagreements of a shadow, read from the log that a service wrote."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from router.compare import compared
from router.events import DecisionEvent, Ending, FeedbackEvent, read_events
from router.lessons import Given
from router.splits import Arm
from tests.router.test_cli import Captured, outlay
from tests.router.test_shadow_policies import idle
from tests.router.test_splits import a_service, users


async def test_the_log_of_a_service_shows_arms_and_disagreements(tmp_path: Path, capsys: Captured) -> None:
    """Requests, judged answers and intervals by arm; of the shadow its agreements, its changes, and ids to look at."""
    path = str(tmp_path / "log.jsonl")
    router = a_service(log={"path": path}, shadow_policies={"cheap": {"dear": 1.0}, "dear": {"dear_too": 1.0}}, extra={"dear_too": "dear"})
    outcomes = [await router.answer(ask) for ask in users(40)]
    for outcome in outcomes[:30]:
        await router.feedback(Given(outcome.id, float(outcome.policy == "dear")))
    await router.feedback(Given(outcomes[0].id, 0.75))
    await idle(router)
    await router.aclose()

    found, n, judged = compared(read_events(path), 3), *(Counter(o.policy for o in some) for some in (outcomes, outcomes[:30]))
    for name in ("cheap", "dear"):
        arm = found.arms[Arm("main", name)]
        assert (arm.answers, arm.judged) == (n[name], judged[name])
        assert arm.cost_usd == pytest.approx(sum(o.cost_usd for o in outcomes if o.policy == name))
    said_since = outcomes[0].policy == "cheap"  # of it somebody changed their mind
    assert (found.arms[Arm("main", "cheap")].right, found.arms[Arm("main", "dear")].right) == (said_since, judged["dear"])
    differing, agreeing = found.shadows["cheap", "dear"], found.shadows["dear", "dear_too"]
    assert dict(differing.moves) == {("single(small)", "single(large)"): n["cheap"]}
    assert differing.examples["single(small)", "single(large)"] == [o.id for o in outcomes if o.policy == "cheap"][:3]
    assert (agreeing.moves.total(), agreeing.tally.decisions["first", "agreed"]) == (0, n["dear"])

    assert _compare(path) == 0
    said = capsys.readouterr().out
    assert re.search(rf"dear +{n['dear']} +0 +[\d.]+ +[\d.]+% +{judged['dear']} +100.0% \([\d.]+% to 100.0%\)", said)
    assert f"dear in shadow of cheap: {n['cheap']} requests; it agrees on 0 of {n['cheap']} (0.0%) first decisions" in said
    assert f"{n['cheap']} x single(small) -> single(large)  dec_" in said


def test_who_leaves_counts_neither_as_an_answer_nor_as_a_failure() -> None:
    """An arm whose clients are impatient is charged for what they cost."""
    block = {"split": {"name": "main", "arm": "dear"}, "cost_usd": 1.0, "chance": 0.5}
    endings: tuple[Ending, ...] = ("answered", "cached", "failed", "left")
    (arm,) = compared([DecisionEvent(f"dec_{ending}", 0.0, ending, block) for ending in endings]).arms.values()
    assert (arm.answers, arm.failed, arm.cost_usd) == (2, 1, 4.0)


def _compare(path: str) -> int:
    return outlay("compare", "--events", path)


def test_the_interval_is_wilsons_and_says_nothing_where_nothing_is_judged() -> None:
    """As in the book: 81 of 263."""
    from router.compare import ArmResults

    assert ArmResults(judged=263, right=81).interval() == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert ArmResults().interval() == (0.0, 1.0)


def test_a_log_in_which_nothing_was_tried_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    """With what would make it otherwise; so is a log that is not there."""
    from router.events import line

    log = tmp_path / "log.jsonl"
    log.write_bytes(line(FeedbackEvent("dec_1", 0.0, 1.0)) + b"\n")
    assert _compare(str(log)) == 2
    assert "`splits` and `shadow_policies` try policies out" in capsys.readouterr().err
    assert _compare(str(tmp_path / "none.jsonl")) == 2
    assert "none.jsonl" in capsys.readouterr().err
