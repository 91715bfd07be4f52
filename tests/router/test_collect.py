"""`outlay collect`: a log that may be interrupted, cut off and gone on with, whose failures are asked again and whose ceiling binds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.errors import VerifierError
from adapters.scripted import ScriptedBackend, scripted
from adapters.types import Call, ChatRequest, Choice, Price, Verdict
from policies.plans import Revise
from router.collect import Collected, Collector, Labelled, Plans, Row, collect, finished, read_log
from tests.router.test_cli import Captured, outlay
from tests.router.test_pipeline import LARGE, SMALL, Exact, a_policy, a_router

PROMPTS = [f"question {i}" for i in range(8)]


class Truth(Exact):
    """Marks as `Exact` does; fails on prompts in which `unsure` stands."""

    def __init__(self, unsure: str = "nowhere") -> None:
        super().__init__("truth", Price())
        self.unsure = unsure

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        if self.unsure in request.prompt:
            raise VerifierError("truth", "the check raised KeyError: 3")
        return await super().score(request, choices, call)


def a_collector(large: ScriptedBackend | None = None, truth: Exact | None = None, **options: Any) -> Collector:
    small = scripted("small", "wrong a", "right b", price=SMALL)
    parts = a_router(small, large or scripted("large", "right", price=LARGE), policy=a_policy()).parts
    return Collector(parts, Plans({"small": 2, "large": 1}), truth or Truth(), **options)


def bought(row: Row) -> list[bool]:
    """Whether each trace of a row cost something in the run that wrote it."""
    return [trace["spent_usd"] > 0 for trace in row["traces"]]


async def collected(collector: Collector, out: Path, prompts: Sequence[str] = PROMPTS) -> Collected:
    return await collect(collector, [Labelled(prompt) for prompt in prompts], out, lambda done, usd: None)


# --- going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
async def test_a_log_may_be_gzipped_and_is_gone_on_with(name: str, tmp_path: Path) -> None:
    """Rows are appended to what is there, and prompts that are in it are not asked again, nor one that is given twice."""
    out = tmp_path / name
    for prompts, written in [(PROMPTS[:1], 1), (PROMPTS[:2] * 2, 1), (PROMPTS[:2], 0)]:
        assert (await collected(a_collector(), out, prompts)).written == written
    assert out.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    assert [row["prompt"] for row in read_log(out)] == PROMPTS[:2]
    assert read_log(tmp_path / "none.jsonl") == []


async def test_no_trace_reads_what_another_left_in_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that found its answers read by sixteen samples would look cheaper than it is in service."""
    chain, scopes, complete = Revise(backend="small", rounds=2, verifier="exact"), list[str](), ScriptedBackend.complete
    monkeypatch.setattr(ScriptedBackend, "complete", lambda self, request, call: scopes.append(call.scope) or complete(self, request, call))
    await replace(a_collector(), plans=Plans({"small": 2, "large": 1}, (chain,))).row(Labelled("question"))
    assert scopes == ["sample(small)"] * 2 + ["sample(large)"] + [chain.key] * 2


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
async def test_a_log_that_was_cut_off_anywhere_is_gone_on_with(name: str, share: float, tmp_path: Path) -> None:
    """What can be read of it stays, the rest is asked again, and in the end each row is there once and the file is whole."""
    out = tmp_path / name
    await collected(a_collector(), out, PROMPTS[:4])
    data = out.read_bytes()
    out.write_bytes(data[: int(share * len(data))])
    kept = read_log(out)
    assert kept == read_log(out)
    again = await collected(a_collector(), out)
    assert again.written == len(PROMPTS) - len(kept)
    assert sorted(row["prompt"] for row in read_log(out)) == PROMPTS
    text = gzip.decompress(out.read_bytes()) if name.endswith(".gz") else out.read_bytes()
    assert len([json.loads(line) for line in text.splitlines()]) == len(PROMPTS)


async def test_a_gzipped_log_that_was_appended_to_after_a_cut_is_read_past_it(tmp_path: Path) -> None:
    """A process that was killed leaves a member without its end; the rows of both sides of it are there."""
    first, second, out = (tmp_path / f"{name}.jsonl.gz" for name in ("first", "second", "log"))
    await collected(a_collector(), first, PROMPTS[:4])
    await collected(a_collector(), second, PROMPTS[4:])
    out.write_bytes(first.read_bytes()[:-9] + second.read_bytes())
    assert sorted(row["prompt"] for row in read_log(out)) == PROMPTS
    out.write_bytes(first.read_bytes()[:-40] + second.read_bytes())
    assert set(PROMPTS[4:]) < {row["prompt"] for row in read_log(out)}


# --- failures -----------------------------------------------------------------------------------------------------------


async def test_what_failed_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    """A backend that is down leaves its part of each row open; the next time only that is bought, and the last row of a prompt holds."""
    out = tmp_path / "log.jsonl"
    found = await collected(a_collector(scripted("large", "right", fail_every=1)), out)
    assert (found.written, found.failed) == (8, 8)
    assert "large" in found.trouble
    assert not any(finished(row) for row in read_log(out))
    assert await collected(a_collector(), out) == Collected(8, 0, 0, "")
    assert all(bought(row) == [False, True] for row in read_log(out))
    assert [len(trace["answers"]) for row in read_log(out) for trace in row["traces"]] == [2, 1] * 8
    assert (await collected(a_collector(), out)).written == 0


async def test_a_truth_that_fails_ends_it_and_what_was_bought_is_marked_later(tmp_path: Path) -> None:
    """No prompt is begun after it; which prompt it was is said; the next run marks the answers without buying them again."""
    out = tmp_path / "log.jsonl"
    found = await collected(a_collector(truth=Truth("question 2"), concurrency=1), out)
    assert (found.written, found.failed, found.left) == (3, 1, 5)
    assert "the check raised KeyError: 3" in found.trouble
    assert "question 2" in found.trouble
    assert (await collected(a_collector(), out, PROMPTS[:3])).written == 1
    assert [bought(row) for row in read_log(out)] == [[True, True], [True, True], [False, False]]
    marks = [[answer["correct"] for answer in trace["answers"]] for row in read_log(out) for trace in row["traces"]]
    assert marks == [[0.0, 1.0], [1.0]] * 3
    assert all(finished(row) for row in read_log(out))


class Half(Truth):
    """Has no verdict on some of the answers."""

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        return [Verdict(None, reason="it hung") if choice.text == "right b" else Verdict(1.0) for choice in choices]


async def test_an_answer_without_a_verdict_is_not_marked_wrong(tmp_path: Path) -> None:
    """The truth could not say of one answer: the row waits for it."""
    found = await collected(a_collector(truth=Half(), concurrency=1), tmp_path / "log.jsonl")
    assert (found.failed, found.left) == (1, 7)
    assert "it hung" in found.trouble


# --- the ceiling --------------------------------------------------------------------------------------------------------


async def test_the_ceiling_binds_and_counts_what_the_log_has_cost(tmp_path: Path) -> None:
    """However often it is run, and however many prompts are under way at once, rows that cost the same never go over it."""
    out, whole = tmp_path / "log.jsonl", a_collector()
    await collected(whole, tmp_path / "whole.jsonl")
    a_row = whole.spent_usd / len(PROMPTS)
    for _ in range(3):
        found = await collected(collector := a_collector(max_cost_usd=3.5 * a_row, concurrency=4), out)
        assert collector.spent_usd == pytest.approx(3 * a_row)
        assert found.left == 5
    assert found.written == 0
    assert (await collected(a_collector(max_cost_usd=5.5 * a_row), out)).written == 2
    assert (await collected(a_collector(max_cost_usd=0.0), tmp_path / "none.jsonl")).left == 8


async def test_a_row_that_is_taken_over_is_not_counted_again(tmp_path: Path) -> None:
    """What an earlier run paid for a prompt that was asked again is paid once, and so it counts."""
    out, straight = tmp_path / "log.jsonl", a_collector()
    await collected(straight, tmp_path / "straight.jsonl")
    await collected(a_collector(scripted("large", "right", fail_every=1, price=LARGE)), out)
    await collected(collector := a_collector(), out)
    assert collector.spent_usd == pytest.approx(straight.spent_usd)
    await collected(reader := a_collector(), out)
    assert reader.spent_usd == pytest.approx(collector.spent_usd)


# --- the command --------------------------------------------------------------------------------------------------------


RIGHT = {"five": 1.0}


def check(prompt: str, answer: str) -> float:
    """An operator's own check."""
    return RIGHT[answer]


def a_config(tmp_path: Path, **large: Any) -> str:
    price = {"input_usd_per_mtok": 100, "output_usd_per_mtok": 100}
    plans = [{"single": {"backend": name}} for name in ("small", "large")]
    config = {
        "backends": {
            "small": {"kind": "scripted", "answers": ["four", "five"], "price": price},
            "large": {"kind": "scripted", "answers": ["five"], "price": price, **large},
        },
        "verifiers": {"tests": {"kind": "python", "entry": "tests.router.test_collect:check"}},
        "policies": {"balanced": {"objective": {"value_of_correct_usd": 0.01}, "plans": plans}},
    }
    (tmp_path / "outlay.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt, "gold": "five"}) + "\n" for prompt in PROMPTS))
    return str(tmp_path / "outlay.yaml")


def command(tmp_path: Path, *more: str, **large: Any) -> list[str]:
    config, log = a_config(tmp_path, **large), str(tmp_path / "log.jsonl")
    return ["collect", "-c", config, "--prompts", str(tmp_path / "prompts.jsonl"), "--out", log, "--samples", "2", *more]


def test_failures_are_said_and_the_log_is_of_use_once_they_are_mended(tmp_path: Path, capsys: Captured) -> None:
    """Exit code 1 and how many failed; nothing is evaluated on such rows; with the backend back, the same command ends well."""
    assert outlay(*command(tmp_path, fail_every=1)) == 1
    said = capsys.readouterr().err
    assert "8 of 8 rows failed in part or whole, and the same command asks what failed again" in said
    assert "the first failure: best_of_n(large, n=3, select=majority, batch=3): backend 'large': scripted failure" in said
    evaluate = ["evaluate", "-c", str(tmp_path / "outlay.yaml"), "--log", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "out")]
    assert outlay(*evaluate) == 2
    assert "8 of 8 rows" in capsys.readouterr().err
    assert outlay(*command(tmp_path)) == 0
    assert "8 rows written" in capsys.readouterr().err
    assert outlay(*evaluate) == 0
    assert outlay(*command(tmp_path)) == 0
    assert "0 rows written" in capsys.readouterr().err


def test_the_ceiling_of_the_command(tmp_path: Path, capsys: Captured) -> None:
    """It holds for the log, so a third run buys no more than the first, and says what it left."""
    for _ in range(3):
        assert outlay(*command(tmp_path, "--max-cost-usd", "0.002")) == 0
        said = capsys.readouterr().err
    paid = [trace["spent_usd"] for row in read_log(tmp_path / "log.jsonl") for trace in row["traces"]]
    assert 0 < sum(paid) <= 0.002
    assert f"has cost ${sum(paid):.6f} in all" in said
    assert "prompts were not begun: they might cost more than --max-cost-usd leaves of $0.002" in said


def test_a_truth_that_raises_is_named(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which verifier, on which prompt, and what it raised; mended, the same command marks what was bought."""
    assert outlay(*command(tmp_path, "--truth", "tests")) == 1
    said = capsys.readouterr().err
    assert "stopped, for the truth failed: verifier 'tests': the check raised KeyError: 'four', of the prompt 'question" in said
    assert read_log(tmp_path / "log.jsonl")[0]["traces"][0]["answers"][0]["text"] == "four"
    monkeypatch.setitem(RIGHT, "four", 0.0)
    assert outlay(*command(tmp_path, "--truth", "tests")) == 0
    assert {answer["correct"] for row in read_log(tmp_path / "log.jsonl") for answer in row["traces"][0]["answers"]} == {0.0, 1.0}


@pytest.mark.parametrize(
    "held", ['{"prompt": "question 1", "gold": "five"}\n', '{"event": "decision", "id": "dec_1"}', "a shopping list", "{\n}", "3"]
)
def test_a_file_of_somebody_elses_is_left_alone(held: str, tmp_path: Path, capsys: Captured) -> None:
    """Neither appended to nor mended, nor read as a log: one line says what it is not."""
    (tmp_path / "log.jsonl").write_text(held)
    assert outlay(*command(tmp_path)) == 2
    assert "; a decision log is read by --events" in capsys.readouterr().err
    assert (tmp_path / "log.jsonl").read_text() == held
