"""What `outlay fit` learns from the decision log: labelled answers that went out whatever they were, and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.event_log import RedisSink
from adapters.scripted import scripted
from difficulty.artifact import load_probe, located
from difficulty.belief import DEFAULT_SPREAD
from difficulty.curves import Curves
from difficulty.learn_success import fit_success
from policies.facts import Market
from router.events import DecisionEvent, Event, FeedbackEvent, line
from router.fit import LEAST, CurveFit
from router.fit_events import BETWEEN, CHOSEN, NO_PROMPT, NOT_MADE, SCORED, logged_rows
from router.pipeline_types import Outcome
from tests.difficulty.doubles import SignalEncoder, labelled
from tests.router.logs import rows as collected_rows
from tests.router.logs import write_config, write_log
from tests.router.test_cli import Captured, outlay
from tests.router.test_pipeline import LARGE, SMALL, a_policy, a_router, an_ask

PLAIN: list[dict[str, Any]] = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]
SCORED_ALONE: list[dict[str, Any]] = [{"single": {"backend": "small", "verifier": "exact"}}]
SCORED_BESIDE = [*SCORED_ALONE, {"single": {"backend": "large", "verifier": "exact"}}]
SEVERAL: list[dict[str, Any]] = [{"best_of_n": {"backend": "small", "n": 4, "batch": 4, "verifier": "exact"}}]


async def an_outcome(plans: Sequence[dict[str, Any]] = PLAIN, prompt: str = "a question", value: float = 1e-5) -> Outcome:
    small, large = scripted("small", "right", price=SMALL), scripted("large", "right", price=LARGE)
    return await a_router(small, large, policy=a_policy(value, list(plans))).answer(an_ask(prompt))


def generated(block: Mapping[str, Any]) -> Any:
    return next(call for call in block["calls"] if call["kind"] == "generate")


def a_decision(outcome: Outcome, prompt: str | None = "a question", ending: Any = "answered", **block: Any) -> DecisionEvent:
    return DecisionEvent(outcome.id, 1.0, ending, {**outcome.decision, **block}, prompt=prompt)


async def test_a_labelled_answer_is_a_draw_of_its_backend() -> None:
    """The prompt, whose answer it was, whether it was right, and its call; the last label of it holds."""
    outcome = await an_outcome()
    found = logged_rows([a_decision(outcome), FeedbackEvent(outcome.id, 2.0, 0.0), FeedbackEvent(outcome.id, 3.0, 1.0)])
    (row,) = found.rows
    (trace,) = row["traces"]
    call = generated(outcome.decision)
    assert (row["prompt"], trace["plan"]) == ("a question", "sample(small)")
    assert trace["answers"] == [{"id": outcome.id, "correct": 1.0, "scores": {}}]
    assert trace["calls"] == [["generate", "small", 1, call["input_tokens"], call["output_tokens"], call["latency_s"], 0]]
    assert (found.used, found.left_out) == (1, {})


async def test_equal_prompts_are_one_row() -> None:
    """Two requests with the same words: two draws of one prompt."""
    outcomes = [await an_outcome(), await an_outcome()]
    events: list[Event] = [event for o in outcomes for event in (a_decision(o), FeedbackEvent(o.id, 2.0, 1.0))]
    (row,) = logged_rows(events).rows
    assert [answer["correct"] for answer in row["traces"][0]["answers"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("plans", "why"),
    [(PLAIN, ""), (SCORED_ALONE, ""), (SCORED_BESIDE, SCORED), (SEVERAL, CHOSEN)],
    ids=["plain", "alone", "beside", "best"],
)
async def test_only_what_would_have_been_sent_in_any_case_counts(plans: list[dict[str, Any]], why: str) -> None:
    """A score decides nothing where there is no other plan; beside one it does, and so does a choice among several answers."""
    outcome = await an_outcome(plans)
    found = logged_rows([a_decision(outcome), FeedbackEvent(outcome.id, 2.0, 1.0)])
    assert found.left_out == ({why: 1} if why else {})
    assert found.used == len(found.rows) == (not why)


async def test_the_score_of_an_answer_that_was_sent_in_any_case_is_kept_beside_its_label() -> None:
    """So the verifier can be calibrated; two answers to one prompt are two, whatever they said."""
    outcomes = [await an_outcome(SCORED_ALONE), await an_outcome(SCORED_ALONE)]
    rows = logged_rows([event for o in outcomes for event in (a_decision(o), FeedbackEvent(o.id, 2.0, 1.0))]).rows
    assert [answer["scores"] for answer in rows[0]["traces"][0]["answers"]] == [{"exact": 1.0}] * 2
    one = [{**rows[0], "traces": [{**rows[0]["traces"][0], "answers": rows[0]["traces"][0]["answers"][:1]}]}]
    both, single = (CurveFit(found, {"small": np.zeros(1)}, Market(), []) for found in (rows, one))
    chance, ease = {"small": np.full(1, 0.5)}, np.zeros(1)
    assert both._scores(chance, ease)["exact"] != single._scores(chance, ease)["exact"]


@pytest.mark.parametrize(
    ("label", "changed", "why"),
    [
        (0.5, {}, BETWEEN),
        (1.0, {"prompt": None}, NO_PROMPT),
        (1.0, {"ending": "cached"}, NOT_MADE),
        (1.0, {"truncated_by": "deadline"}, NOT_MADE),
        (1.0, {"continued_from": "dec_0"}, NOT_MADE),
        (1.0, {"degraded": ["fallback:other"]}, NOT_MADE),
        (1.0, {"degraded": ["cache"]}, ""),
    ],
)
async def test_what_cannot_be_learned_from_is_counted_with_its_reason(label: float, changed: dict[str, Any], why: str) -> None:
    """No prompt, no clear label, or an answer that was not this backend's own and whole."""
    outcome = await an_outcome()
    found = logged_rows([a_decision(outcome, **changed), FeedbackEvent(outcome.id, 2.0, label)])
    assert found.left_out == ({why: 1} if why else {})


async def test_an_answer_that_came_after_a_failure_counts() -> None:
    """That small was down says nothing of whether large was right."""
    small, large = scripted("small", "right", price=SMALL, fail_every=1), scripted("large", "right", price=LARGE)
    outcome = await a_router(small, large, policy=a_policy(1e-5, PLAIN)).answer(an_ask("a question"))
    (row,) = logged_rows([a_decision(outcome), FeedbackEvent(outcome.id, 2.0, 1.0)]).rows
    assert [trace["plan"] for trace in row["traces"]] == ["sample(large)"]


def test_a_label_without_its_decision_is_left_out() -> None:
    """Its file was rotated away."""
    assert logged_rows([FeedbackEvent("dec_1", 2.0, 1.0)]).left_out == {NOT_MADE: 1}


# --- what the fit makes of them -----------------------------------------------------------------------------------------


def test_one_draw_a_prompt_says_nothing_of_how_draws_hang_together() -> None:
    """The default spread stands; with a second draw of some prompts it is learned."""
    rng = np.random.default_rng(0)
    right = rng.binomial(1, 0.5, 400).astype(float)
    feature, one = {"small": np.zeros(400)}, {"small": np.ones(400)}
    assert fit_success(feature, {"small": right}, one)["small"].spread == DEFAULT_SPREAD
    assert fit_success(feature, {"small": 2 * right}, {"small": 2 * one["small"]})["small"].spread > 2 * DEFAULT_SPREAD


def test_answers_without_text_leave_votes_and_tempering_to_those_that_have_one() -> None:
    """Rows of a decision log beside collected ones change neither: nothing is known of what their answers said."""
    collected = collected_rows(2 * LEAST)
    logged = [
        {
            "prompt": f"p{i}",
            "group": f"p{i}",
            "traces": [{"plan": "sample(small)", "answers": [{"id": "dec_1", "correct": 0.0}] * 9, "calls": []}],
        }
        for i in range(20)
    ]

    def learned(rows: list[dict[str, Any]]) -> tuple[Any, float]:
        features = {name: np.zeros(len(rows)) for name in ("small", "large")}
        fit = CurveFit(rows, features, Market(), [])
        return fit._votes(), fit._tempering(fit._scores(features, np.zeros(len(rows))), {n: np.zeros((len(rows), 21)) for n in features})

    (votes, tempering), (both_votes, both_tempering) = learned(collected), learned([*collected, *logged])
    assert both_votes == votes
    assert both_tempering == tempering != 1.0


async def a_log(prompts: int) -> list[bytes]:
    """Requests that were sent to one backend each, by turns, and what was said of them."""
    template, lines = (await an_outcome()).decision, []
    for number, each in enumerate(labelled(prompts, draws=1, backends=("small", "large"))):
        if number % 4 in (0, 3):  # each prompt once
            block = json.loads(json.dumps(template))
            block["plan"], generated(block)["target"] = f"single({each.backend})", each.backend
            lines += [line(DecisionEvent(f"dec_{number}", 1.0, "answered", block, prompt=each.prompt))]
            lines += [line(FeedbackEvent(f"dec_{number}", 2.0, float(each.successes)))]
    return lines


@pytest.fixture
def signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difficulty.encoders.open_encoder", lambda name, **options: SignalEncoder())


def command(tmp_path: Path, *more: str) -> list[str]:
    return ["fit", "-c", str(write_config(tmp_path / "outlay.yaml")), "--encoder", "signal", "--out", str(tmp_path / "out"), *more]


@pytest.mark.usefixtures("signal")
async def test_a_fit_from_a_stream_of_events(tmp_path: Path, redis_url: str, capsys: Captured) -> None:
    """Probe and curves come out, by which the backends differ as they did; and it is said how many labels were of use."""
    RedisSink(redis_url).write(await a_log(600))
    assert await asyncio.to_thread(outlay, *command(tmp_path, "--events", redis_url)) == 0
    assert "600 labelled answers of 600 prompts" in capsys.readouterr().err
    head, _ = load_probe(located(tmp_path / "out"))
    small, large = (head.slope * head.bias + head.shift)[[head.backends.index(name) for name in ("small", "large")]]
    assert large > small + 0.5
    curves = Curves.load(next((tmp_path / "out").rglob("curves.json")))
    assert {name: curve.spread for name, curve in curves.success.items()} == {"small": DEFAULT_SPREAD, "large": DEFAULT_SPREAD}


@pytest.mark.usefixtures("signal")
async def test_labels_of_real_requests_beside_a_collected_log(tmp_path: Path, capsys: Captured) -> None:
    """Both are learned from; what is missing or cannot be used is one line."""
    events, log = tmp_path / "events.jsonl", write_log(tmp_path / "log.jsonl", 200)
    events.write_bytes(b"\n".join(await a_log(100)))
    assert await asyncio.to_thread(outlay, *command(tmp_path, "--log", str(log), "--events", str(events))) == 0
    assert "300 prompts" in capsys.readouterr().err
    assert await asyncio.to_thread(outlay, *command(tmp_path)) == 2
    assert "by --log, or the decision log by --events" in capsys.readouterr().err
    events.write_bytes(line(FeedbackEvent("dec_1", 2.0, 1.0)))
    assert await asyncio.to_thread(outlay, *command(tmp_path, "--events", str(events))) == 2
    assert "1 left out: not made for their request" in capsys.readouterr().err
