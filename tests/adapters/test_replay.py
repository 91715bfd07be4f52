"""Replay: recorded answers come out as they went in, without replacement, with what they cost and without whether they were right."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import BackendRefused, MissingExtra
from adapters.pricing import estimate_input_tokens
from adapters.replay import ReplayBackend, ReplayOptions
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import BackendConformance, Failure, answered, streamed

ASK = ChatRequest(messages=({"role": "user", "content": "What is  2+3?\n"},), seed=7)
SAMPLES = [
    {
        "id": "a", "prompt": "What is 2+3?", "model": "m", "gold": "5",
        "samples": [{"answer": f"it is {i}", "correct": int(i == 5), "tokens": None, "chars": 40} for i in range(10)],
    },
    {"id": "b", "prompt": "Other", "model": "m", "samples": [{"answer": None, "correct": 0, "tokens": 3}]},
]  # fmt: skip
OUTCOMES = [
    {
        "id": "a", "prompt": "What is 2+3?",
        "outcomes": {
            "cheap": {"correct": 0, "answer": "6", "input_tokens": 11, "output_tokens": 7, "cost_usd": 0.01, "latency_ms": 1500.0},
            "dear": {"correct": 1, "answer": "5", "output_chars": 41},
            "judged": {"correct": 0.7},
        },
    },
    {"id": "b", "prompt": None, "outcomes": {"cheap": {"correct": 1}}},
]  # fmt: skip


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples_x.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(map(json.dumps, SAMPLES)))
    return path


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    path = tmp_path / "outcomes_x.jsonl"
    path.write_text("\n".join(map(json.dumps, OUTCOMES)))
    return path


def replay(path: Path, **options: Any) -> ReplayBackend:
    return ReplayBackend("recorded", ReplayOptions.model_validate({"path": path, **options}))


async def said(backend: ReplayBackend, request: ChatRequest) -> list[str]:
    return [choice.text for choice in (await answered(backend, request)).choices]


class TestConformance(BackendConformance):
    """A recording is a backend like any other, but for what it cannot obey."""

    ask = ASK
    honours = frozenset({"seed"})

    @pytest.fixture
    async def backend(self, samples: Path) -> ReplayBackend:
        return replay(samples, price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 2})

    @pytest.fixture
    async def failures(self, samples: Path) -> list[Failure]:
        unknown = ChatRequest(messages=({"role": "user", "content": "never asked"},))
        return [(replay(samples), unknown, BackendRefused)]


async def test_draws_come_without_replacement(samples: Path) -> None:
    """All ten answers come once before one comes twice: in one call, over seeds that count up, and over calls without a seed."""
    backend = replay(samples)
    everything = {f"it is {i}" for i in range(10)}
    assert set(await said(backend, ASK.but(n=10))) == everything
    assert {(await said(backend, ASK.but(seed=20 + i)))[0] for i in range(10)} == everything
    assert {(await said(backend, ASK.but(seed=None)))[0] for i in range(10)} == everything


async def test_the_seed_decides_the_order(samples: Path) -> None:
    """The same seed gives the same answers; seeds far apart give other orders."""
    orders = {tuple(await said(replay(samples), ASK.but(n=10, seed=seed))) for seed in (0, 0, 1000, -1000)}
    assert len(orders) == 3


async def test_an_exhausted_recording_begins_again_or_refuses(samples: Path) -> None:
    """`when_exhausted` decides what happens after the last answer."""
    assert len(await said(replay(samples), ASK.but(n=12))) == 12
    strict = replay(samples, when_exhausted="refuse")
    for request in (ASK.but(n=11), ASK.but(n=11, seed=None)):
        with pytest.raises(BackendRefused) as refused:
            await said(strict, request)
        assert refused.value.code == "recording_exhausted"
    assert len(await said(strict, ASK.but(n=10, seed=None))) == 10
    with pytest.raises(BackendRefused):
        await said(strict, ASK.but(seed=None))


async def test_an_unknown_prompt_is_refused(samples: Path) -> None:
    """What nobody asked when it was recorded has no answer; the code says so."""
    with pytest.raises(BackendRefused, match="no answer is recorded") as refused:
        await said(replay(samples), ChatRequest(messages=({"role": "user", "content": "2+4?"},)))
    assert refused.value.code == "not_recorded"


async def test_recorded_tokens_and_cost_are_taken_over(outcomes: Path) -> None:
    """Where tokens and cost were recorded, they are the call's; a configured price wins over the recorded cost."""
    call = await answered(replay(outcomes, model_key="cheap"), ASK)
    assert (call.input_tokens, call.output_tokens, call.estimated, call.cost_usd) == (11, 7, False, 0.01)
    assert (await answered(replay(outcomes, model_key="cheap"), ASK.but(n=3))).cost_usd == pytest.approx(0.03)
    priced = await answered(replay(outcomes, model_key="cheap", price={"output_usd_per_mtok": 1e6}), ASK)
    assert priced.cost_usd == 7


async def test_tokens_that_were_not_recorded_are_estimated(outcomes: Path, samples: Path) -> None:
    """From the recorded length, which is that of the whole answer and not of what was kept of it; marked as an estimate."""
    call = await answered(replay(outcomes, model_key="dear"), ASK)
    assert (call.output_tokens, call.input_tokens, call.estimated) == (11, estimate_input_tokens(ASK), True)
    assert (await answered(replay(samples), ASK)).output_tokens == 10


async def test_whether_it_was_right_is_known_to_the_evaluation_only(outcomes: Path, samples: Path) -> None:
    """`correct` looks an answer up; nothing of it is in the choice. An answer that was judged but not kept can be looked up too."""
    recorded = replay(samples)
    assert recorded.correct("What is 2+3?", " it is\n5") == 1
    assert recorded.correct("What is 2+3?", "it is 4") == 0
    assert recorded.correct("What is 2+3?", "eleven") is None
    assert recorded.prompts() == ("What is 2+3?", "Other")
    judged = replay(outcomes, model_key="judged")
    (choice,) = (await answered(judged, ASK)).choices
    assert choice.message is None
    assert judged.correct(ASK.prompt, choice.text) == 0.7
    assert "7" not in choice.text


async def test_an_answer_that_could_not_be_read_is_empty(samples: Path) -> None:
    """A recorded null is an empty answer, with the tokens that it took."""
    call = await answered(replay(samples), ChatRequest(messages=({"role": "user", "content": "Other"},)))
    assert (call.choices[0].text, call.output_tokens) == ("", 3)


@pytest.mark.parametrize(("real_time", "slept"), [(False, []), (True, [1.5])])
async def test_latency_is_replayed_on_demand(outcomes: Path, real_time: bool, slept: list[float]) -> None:
    """`real_time` waits as long as the model took; without it answers come at once."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    options = ReplayOptions(path=outcomes, model_key="cheap", real_time=real_time)
    await streamed(ReplayBackend("recorded", options, sleep=sleep), ASK)  # type: ignore[arg-type]
    assert waited == slept


def test_a_recording_that_is_not_there_is_said_at_once(tmp_path: Path, outcomes: Path) -> None:
    """A missing file, a broken line and a model without answers stop the building, with the place and what there is."""
    with pytest.raises(MissingExtra, match="No such file"):
        replay(tmp_path / "none.jsonl")
    (tmp_path / "broken.jsonl").write_text(json.dumps(SAMPLES[0]) + "\n{")
    with pytest.raises(MissingExtra, match=r"broken\.jsonl:2: not a line of JSON"):
        replay(tmp_path / "broken.jsonl")
    (tmp_path / "odd.jsonl").write_text(json.dumps({"prompt": "x", "n": 3}))
    with pytest.raises(MissingExtra, match=r"odd\.jsonl:1: neither samples nor outcomes"):
        replay(tmp_path / "odd.jsonl")
    with pytest.raises(MissingExtra, match="have 'cheap', 'dear', 'judged'"):
        replay(outcomes, model_key="other")


async def test_samples_can_be_narrowed_to_one_model(tmp_path: Path) -> None:
    """With rows of several models in one file, `model_key` chooses; without it all are served."""
    rows = [{**SAMPLES[1], "model": model, "samples": [{"answer": model, "correct": 1}]} for model in ("x", "y")]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    ask = ChatRequest(messages=({"role": "user", "content": "Other"},), n=2)
    assert set(await said(replay(path, model_key="y"), ask)) == {"y"}
    assert set(await said(replay(path), ask)) == {"x", "y"}
    assert (await answered(replay(path), ask)).cost_usd == Call(Price()).cost_usd == 0
