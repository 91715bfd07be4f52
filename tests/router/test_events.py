"""The decision log as events: what is written is read back, and a decision can be made again from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.decide import decide
from router.errors import EventError
from router.events import AlarmEvent, DecisionEvent, FeedbackEvent, ShadowEvent, line, parse_events, read_events
from tests.router.test_pipeline import a_router, an_ask

FEEDBACK = FeedbackEvent("dec_1", 5.0, 1.0)


async def test_a_decision_read_back_can_be_made_again() -> None:
    """Facts and belief of each step give the plan that was run, which was certain."""
    router = a_router()
    outcome = await router.answer(an_ask())
    event = DecisionEvent(outcome.id, 1.0, "answered", outcome.decision, {"domain": "maths"}, "key_1", "a prompt")
    (back,) = parse_events([line(event)], "here")
    assert isinstance(back, DecisionEvent)
    assert (back.id, back.policy, back.tags, back.key, back.prompt) == (outcome.id, "balanced", {"domain": "maths"}, "key_1", "a prompt")
    assert back.propensity == 1.0
    assert len(back.steps) == len(outcome.decision["decisions"])
    for step in back.steps:
        again = decide(router.parts.policies["balanced"], router.parts.market, step.facts, step.belief)
        assert (again.plan.key if again.plan else None) == step.plan


def test_the_propensity_of_a_request_is_that_of_all_its_decisions() -> None:
    """Chances multiply; a block of before they were logged was certain."""
    block = {"policy": "p", "decisions": [{"propensity": 0.5}, {"propensity": 0.1}, {}]}
    assert DecisionEvent("dec_1", 1.0, "answered", block).propensity == pytest.approx(0.05)


@pytest.mark.parametrize(
    "event", [FEEDBACK, ShadowEvent("dec_1", 5.0, "large", 0.1, 0.2, "exact", 1.0, 0.0), AlarmEvent("length", 1.0, "prompts got longer")]
)
def test_every_kind_is_read_back_as_it_was_written(event: FeedbackEvent | ShadowEvent | AlarmEvent, tmp_path: Path) -> None:
    """Field by field, from a file."""
    (tmp_path / "log.jsonl").write_bytes(line(event) + b"\n")
    assert list(read_events(str(tmp_path / "log.jsonl"))) == [event]


def test_torn_lines_unknown_kinds_and_repetitions_are_left_out() -> None:
    """A crash, a newer version's event, and a write that was made twice."""
    unknown = json.dumps({"version": 1, "event": "weather", "id": "x"}).encode()
    assert list(parse_events([b'{"version": 1, "ev', b"[]", unknown, line(FEEDBACK), line(FEEDBACK)], "here")) == [FEEDBACK]


def test_another_version_is_refused_with_its_place() -> None:
    """Better no replay than a wrong one; so with fields that do not fit."""
    newer = json.dumps({"version": 9, "event": "feedback"}).encode()
    with pytest.raises(EventError, match=r"log: event 2 is of version 9; this Outlay reads version 1"):
        list(parse_events([line(FEEDBACK), newer], "log"))
    with pytest.raises(EventError, match="event 1"):
        list(parse_events([json.dumps({"version": 1, "event": "feedback", "id": "x"}).encode()], "log"))


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(EventError, match=r"none\.jsonl: No such file"):
        list(read_events(str(tmp_path / "none.jsonl")))
