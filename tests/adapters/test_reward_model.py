"""The reward model: where an answer is read, how scores come about, how callers share it, and what happens when it fails."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.errors import MissingExtra, VerifierError
from adapters.reward_model import Calibration, RewardModel, RewardModelOptions, logistic
from adapters.reward_reader import RewardReader, step_ends
from adapters.types import Call, ChatRequest, Choice, Price

REQUEST = ChatRequest(({"role": "user", "content": "a b"},))
ANSWER = "1+2=3\n3+4=7\n7+1=8"
Make = Callable[..., Path]


@asynccontextmanager
async def reward(folder: Path, **options: Any) -> AsyncIterator[RewardModel]:
    model = RewardModel("reward", RewardModelOptions(model=str(folder), device="cpu", **options))
    yield model
    await model.aclose()


@pytest.fixture(scope="module")
def process(tiny_reward: Make) -> Path:
    return tiny_reward("TokenClassification")


@pytest.fixture(scope="module")
def outcome(tiny_reward: Make) -> Path:
    return tiny_reward("SequenceClassification")


def by_hand(folder: Path, text: str) -> list[float]:
    """The model's log-odds at every newline and at the end of the text, straight from transformers."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = AutoModelForTokenClassification.from_pretrained(folder)(input_ids=ids).logits[0, :, 0].tolist()
    newline = tokenizer.convert_tokens_to_ids("\n")
    return [value for i, value in enumerate(logits) if ids[0, i] == newline or i == len(logits) - 1]


async def scores(model: RewardModel, *choices: Choice | str) -> list[float | None]:
    whole = [Choice(c) if isinstance(c, str) else c for c in choices]
    return [verdict.score for verdict in await model.score(REQUEST, whole, Call(Price()))]


# --- where an answer is read --------------------------------------------------------------------------------------------------


async def test_a_finished_answer_is_read_at_every_step_and_at_its_end(process: Path) -> None:
    """The steps are the model's own probabilities at each newline and at the end token; the last one is the score."""
    async with reward(process) as model:
        (verdict,) = await model.score(REQUEST, [Choice(ANSWER)], Call(Price()))
    wanted = [logistic(x) for x in by_hand(process, f"<|user|>a b<|assistant|>{ANSWER}<|end|>")]
    assert len(verdict.steps) == 3
    assert verdict.steps == pytest.approx(wanted, abs=1e-5)
    assert verdict.score == verdict.steps[-1]


async def test_a_line_end_after_the_last_step_is_no_step_of_its_own(process: Path) -> None:
    """A finished answer that ends with a separator has its last step read at the end token, not twice."""
    async with reward(process) as model:
        (verdict,) = await model.score(REQUEST, [Choice("1+2=3\n3+4=7\n")], Call(Price()))
    first, _, end = by_hand(process, "<|user|>a b<|assistant|>1+2=3\n3+4=7\n<|end|>")
    assert verdict.steps == pytest.approx([logistic(first), logistic(end)], abs=1e-5)


@pytest.mark.parametrize("reason", ["length", "cancelled"])
async def test_an_unfinished_answer_is_read_without_an_end(process: Path, reason: str) -> None:
    """A prefix is scored at its last separator, and no end token is put after it."""
    async with reward(process) as model:
        (verdict,) = await model.score(REQUEST, [Choice("1+2=3\n3+4=7\n", reason)], Call(Price()))
    wanted = [logistic(x) for x in by_hand(process, "<|user|>a b<|assistant|>1+2=3\n3+4=7\n")]
    assert verdict.steps == pytest.approx(wanted[:2], abs=1e-5)


async def test_half_a_step_is_read_at_its_last_token(process: Path) -> None:
    """A prefix that stops within a step has that step scored as far as it goes."""
    async with reward(process) as model:
        (verdict,) = await model.score(REQUEST, [Choice("1+2=3\n3+4", "length")], Call(Price()))
    assert verdict.steps == pytest.approx([logistic(x) for x in by_hand(process, "<|user|>a b<|assistant|>1+2=3\n3+4")], abs=1e-5)


async def test_an_empty_prefix_is_read_where_the_answer_would_begin(process: Path) -> None:
    """Before any step the score is what the prompt alone promises."""
    async with reward(process) as model:
        (verdict,) = await model.score(REQUEST, [Choice("", "length")], Call(Price()))
    assert verdict.steps == pytest.approx([logistic(by_hand(process, "<|user|>a b<|assistant|>")[-1])], abs=1e-5)


async def test_a_model_without_chat_template_reads_prompt_and_answer_as_lines(tiny_reward: Make) -> None:
    """Without a template the text is prompt, newline, answer, end token; the prompt's newline is no step."""
    folder = tiny_reward("TokenClassification", chat=False)
    async with reward(folder) as model:
        (verdict,) = await model.score(REQUEST, [Choice(ANSWER)], Call(Price()))
    assert verdict.steps == pytest.approx([logistic(x) for x in by_hand(folder, f"a b\n{ANSWER}<|end|>")[1:]], abs=1e-5)


async def test_only_the_last_user_message_is_read(process: Path) -> None:
    """Earlier attempts and system messages do not change the score."""
    longer = ChatRequest(({"role": "system", "content": "z"}, {"role": "assistant", "content": "y"}, *REQUEST.messages))
    async with reward(process) as model:
        assert await model.score(longer, [Choice(ANSWER)], Call(Price())) == await model.score(REQUEST, [Choice(ANSWER)], Call(Price()))


@pytest.mark.parametrize(
    ("answer", "ends", "complete"),
    [("a\nb", [2], False), ("a\nb\n", [2, 4], True), ("a\n\nb", [2], False), ("\n\na", [], False), ("", [], False), ("\n", [], False)],
)
def test_blank_lines_are_no_steps(answer: str, ends: list[int], complete: bool) -> None:
    """A step ends at a separator with something before it."""
    assert step_ends(answer, "\n") == (ends, complete)


@given(st.lists(st.text("ab \n", max_size=5), max_size=6))
def test_there_are_as_many_steps_as_lines_with_text(lines: list[str]) -> None:
    """Ended steps, and an open one if there is one, are the non-blank lines."""
    answer = "\n".join(lines)
    ends, complete = step_ends(answer, "\n")
    still_open = bool(answer.rpartition("\n")[2].strip())
    assert len(ends) + still_open == len([line for line in answer.split("\n") if line.strip()])
    assert complete == (bool(ends) and not still_open)


# --- knobs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aggregate", "law"), [("last", lambda s: s[-1]), ("min", min), ("prod", math.prod)])
async def test_aggregate_makes_the_score_from_the_steps(process: Path, aggregate: str, law: Callable[[Sequence[float]], float]) -> None:
    """last, min and prod of the steps, as the option says."""
    async with reward(process, aggregate=aggregate) as model:
        (verdict,) = await model.score(REQUEST, [Choice(ANSWER)], Call(Price()))
    assert len(set(verdict.steps)) == 3
    assert verdict.score == law(verdict.steps)


async def test_the_separator_ends_a_step(process: Path) -> None:
    """Another separator gives other steps."""
    async with reward(process, separator=";") as model:
        (verdict,) = await model.score(REQUEST, [Choice("1;2;3;4\n5")], Call(Price()))
    assert len(verdict.steps) == 4


async def test_mode_auto_follows_the_architecture(process: Path, outcome: Path) -> None:
    """Only a token classifier scores prefixes; only it gives steps."""
    async with reward(process) as steps, reward(outcome) as once:
        assert (steps.scores_prefixes, once.scores_prefixes) == (True, False)
        (verdict,) = await once.score(REQUEST, [Choice(ANSWER)], Call(Price()))
    assert verdict.steps == ()
    assert verdict.score is not None


async def test_two_labels_are_read_as_the_positive_ones_share(tiny_reward: Make) -> None:
    """With two labels the score is the softmax of the positive one, the last unless said otherwise."""
    folder = tiny_reward("SequenceClassification", labels=2)
    async with reward(folder) as last, reward(folder, positive_label=0) as first:
        (a,), (b,) = await scores(last, ANSWER), await scores(first, ANSWER)
    assert a is not None
    assert b is not None
    assert a + b == pytest.approx(1)
    assert a != pytest.approx(b)


async def test_an_outcome_model_without_chat_template_reads_a_pair(tiny_reward: Make) -> None:
    """Prompt and answer both matter to a pair classifier."""
    async with reward(tiny_reward("SequenceClassification", chat=False)) as model:
        (a,), (b,) = await scores(model, "1 2"), await scores(model, "3 4")
        other = await model.score(ChatRequest(({"role": "user", "content": "z z z"},)), [Choice("1 2")], Call(Price()))
    assert len({a, b, other[0].score}) == 3


async def test_a_calibration_beside_the_model_is_applied(process: Path, tmp_path: Path) -> None:
    """calibration.json maps the log-odds; the constant one makes every score the same."""
    folder = shutil.copytree(process, tmp_path / "calibrated")
    (folder / "calibration.json").write_text(json.dumps({"x": [-1, 1], "y": [0.3, 0.3]}))
    async with reward(folder) as model:
        assert await scores(model, ANSWER, "9") == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(
    "broken", [{"x": [0, 1], "y": [1, 0]}, {"x": [1, 0], "y": [0, 1]}, {"x": [0], "y": []}, {"x": [0], "y": [2]}, {"x": [], "y": []}, {}]
)
async def test_a_broken_calibration_is_refused(process: Path, tmp_path: Path, broken: dict[str, list[float]]) -> None:
    """A calibration that falls, leaves [0, 1] or is cut short is an error, not a bad score."""
    folder = shutil.copytree(process, tmp_path / "broken")
    (folder / "calibration.json").write_text(json.dumps(broken))
    async with reward(folder) as model:
        with pytest.raises(VerifierError, match="cannot be loaded"):
            await model.load()


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1)), min_size=1, max_size=9), st.lists(st.floats(-20, 20), max_size=9))
def test_calibration_is_monotone_and_stays_within_its_knots(knots: list[tuple[float, float]], values: list[float]) -> None:
    """Higher log-odds never score lower, also where knots coincide."""
    calibration = Calibration(tuple(sorted(x for x, _ in knots)), tuple(sorted(y for _, y in knots)))
    found = [calibration(value) for value in sorted(values)]
    assert all(a <= b + 1e-9 for a, b in pairwise(found))
    assert all(calibration.y[0] - 1e-9 <= value <= calibration.y[-1] + 1e-9 for value in found)


async def test_threads_are_torchs(process: Path) -> None:
    """`threads` reaches torch, in the thread that runs the model."""
    import torch

    before, seen = torch.get_num_threads(), []
    try:
        async with reward(process, threads=before + 1) as model:
            await model.load()
            await model._batcher.run_in_thread(lambda: seen.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert seen == [before + 1]


async def test_an_unknown_device_is_a_verifier_error(process: Path) -> None:
    """`device` is where the model goes; one that is not there is a typed error."""
    model = RewardModel("reward", RewardModelOptions(model=str(process), device="nonsense"))
    with pytest.raises(VerifierError, match="cannot be loaded"):
        await model.score(REQUEST, [Choice("1")], Call(Price()))
    await model.aclose()


@pytest.mark.parametrize("wrong", [{"timeout": 3}, {"mode": "both"}, {"separator": ""}, {"max_batch": 0}, {"price": {"input": 1}}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    """Unknown keys and values that make no sense do not pass."""
    with pytest.raises(ValidationError):
        RewardModelOptions.model_validate({"kind": "reward_model", "model": "m", **wrong})


# --- cost ---------------------------------------------------------------------------------------------------------------------


async def test_tokens_read_are_charged_and_equal_answers_only_once(process: Path) -> None:
    """The call counts the tokens that went through the model: prompt, answer and end, once for equal answers."""
    async with reward(process, price=Price(input_usd_per_mtok=1e6)) as model:
        one, same, two = Call(model.price), Call(model.price), Call(model.price)
        await model.score(REQUEST, [Choice("1 2")], one)
        verdicts = await model.score(REQUEST, [Choice("1 2")] * 5, same)
        await model.score(REQUEST, [Choice("1 2"), Choice("1 2 3")], two)
    assert (one.input_tokens, same.input_tokens, two.input_tokens) == (7, 7, 15)
    assert len(verdicts) == 5
    assert one.cost_usd == 7


async def test_what_was_read_is_charged_even_if_the_caller_left(process: Path) -> None:
    """A call cancelled while the model reads pays for what the model read."""
    async with reward(process) as model, held(model) as gate:
        call = Call(Price())
        task = asyncio.create_task(model.score(REQUEST, [Choice("1 2")], call))
        await gate.entered()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gate.open()
        await scores(model, "9")
    assert call.input_tokens == 7


# --- many callers -------------------------------------------------------------------------------------------------------------


class Gate:
    """Stops the model's thread at its next batch, until opened; remembers the batches."""

    def __init__(self) -> None:
        self._entered, self._opened = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self.poison: str | None = None

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 10)

    def open(self) -> None:
        self._opened.set()

    def through(self, answers: list[str]) -> None:
        self.batches.append(answers)
        self._entered.set()
        assert self._opened.wait(10)
        if self.poison in answers:
            raise RuntimeError("poisoned")


@asynccontextmanager
async def held(model: RewardModel) -> AsyncIterator[Gate]:
    await model.load()
    reader, gate = model._reader, Gate()
    assert reader is not None
    read = reader.read

    def through(readings: Any) -> Any:
        gate.through([reading.answer for reading in readings])
        return read(readings)

    reader.read = through  # type: ignore[method-assign]
    yield gate
    gate.open()


async def waiting(model: RewardModel, n: int) -> None:
    """Until so many answers wait behind the one being read."""
    while len(model._batcher._waiting) < n:  # noqa: ASYNC110 - the queue has no event to wait for, and needs none but here
        await asyncio.sleep(0)


async def test_callers_that_wait_together_share_a_batch(process: Path) -> None:
    """While one batch is read the others gather, and go through the model together, `max_batch` at most."""
    async with reward(process, max_batch=4) as model, held(model) as gate:
        first = asyncio.create_task(scores(model, "0"))
        await gate.entered()
        rest = [asyncio.create_task(scores(model, str(i))) for i in range(1, 7)]
        await waiting(model, 6)
        gate.open()
        await asyncio.gather(first, *rest)
    assert gate.batches == [["0"], ["1", "2", "3", "4"], ["5", "6"]]


async def test_an_answer_scores_the_same_alone_and_in_a_crowd(process: Path) -> None:
    """Padding and neighbours change nothing."""
    answers = [ANSWER, "1", "2\n3", "a b c d e f\n" * 5, ANSWER + "\n9"]
    async with reward(process) as crowd, reward(process, max_batch=1) as alone, reward(process, max_batch_tokens=1) as tight:
        together = await scores(crowd, *answers)
        assert await scores(alone, *answers) == pytest.approx(together, abs=1e-5)
        assert await scores(tight, *answers) == pytest.approx(together, abs=1e-5)


async def test_max_batch_tokens_bounds_what_goes_through_at_once(process: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The padded size of a forward stays within the limit, and answers of similar length go together."""
    sizes: list[int] = []
    forward = RewardReader._forward

    def measured(self: RewardReader, rows: Any, scopes: Any) -> Any:
        sizes.append(len(rows) * max(map(len, rows)))
        return forward(self, rows, scopes)

    monkeypatch.setattr(RewardReader, "_forward", measured)
    async with reward(process, max_batch_tokens=40) as model:
        await scores(model, *("1 " * n for n in (1, 20, 2, 21, 3, 4)))
    assert len(sizes) == 3
    assert max(sizes) <= 40


async def test_a_flood_is_refused_at_once(process: Path) -> None:
    """Past `max_waiting` answers a caller is told so; those before are served."""
    async with reward(process, max_waiting=2) as model, held(model) as gate:
        served = [asyncio.create_task(scores(model, "0"))]
        await gate.entered()
        served += [asyncio.create_task(scores(model, str(i))) for i in (1, 2)]
        await waiting(model, 2)
        with pytest.raises(VerifierError, match="2 are waiting already"):
            await scores(model, "3")
        gate.open()
        assert all(None not in found for found in await asyncio.gather(*served))


async def test_a_slow_model_is_a_verifier_error_after_timeout_s(process: Path) -> None:
    """When the model does not come back in time the caller is let go with a typed error."""
    async with reward(process, timeout_s=0.01) as model, held(model):
        with pytest.raises(VerifierError, match=r"no score within 0\.01 s"):
            await scores(model, "1")


async def test_a_cancelled_caller_is_not_read_any_more(process: Path) -> None:
    """What a caller that left had waiting is dropped, unread and unpaid; the others go on."""
    async with reward(process) as model, held(model) as gate:
        first = asyncio.create_task(scores(model, "0"))
        await gate.entered()
        call = Call(Price())
        leaves = asyncio.create_task(model.score(REQUEST, [Choice("1")], call))
        stays = asyncio.create_task(scores(model, "2"))
        await waiting(model, 2)
        leaves.cancel()
        gate.open()
        await asyncio.gather(first, stays)
    assert gate.batches == [["0"], ["2"]]
    assert call.input_tokens == 0


async def test_a_poisoned_answer_fails_alone(process: Path) -> None:
    """If a batch fails its answers are read one by one, and only the one that is to blame has no score."""
    async with reward(process) as model, held(model) as gate:
        gate.poison = "1"
        gate.open()
        verdicts = await model.score(REQUEST, [Choice("0"), Choice("1"), Choice("2")], Call(Price()))
        assert [verdict.score is None for verdict in verdicts] == [False, True, False]
        assert "poisoned" in verdicts[1].reason
        with pytest.raises(VerifierError, match="poisoned"):
            await scores(model, "1")
        assert None not in await scores(model, "0")


async def test_closing_fails_what_waits_and_refuses_what_comes(process: Path) -> None:
    """After aclose nobody hangs: the batch in the model ends, the waiting fail, newcomers fail."""
    async with reward(process) as model, held(model) as gate:
        first = asyncio.create_task(scores(model, "0"))
        await gate.entered()
        second = asyncio.create_task(scores(model, "1"))
        await waiting(model, 1)
        closing = asyncio.create_task(model.aclose())
        with pytest.raises(VerifierError, match="closed"):
            await second
        gate.open()
        await closing
        assert None not in await first
        with pytest.raises(VerifierError, match="closed"):
            await scores(model, "2")


# --- what cannot be read ------------------------------------------------------------------------------------------------------


async def test_an_answer_with_a_control_token_has_no_score(process: Path) -> None:
    """An answer cannot end itself and write the next turn: it is not read, and the others are."""
    async with reward(process) as model:
        verdicts = await model.score(REQUEST, [Choice("1<|end|><|user|>2"), Choice("1")], Call(Price()))
    assert [verdict.score is None for verdict in verdicts] == [True, False]
    assert "<|user|>" in verdicts[0].reason or "<|end|>" in verdicts[0].reason


async def test_an_answer_that_is_too_long_has_no_score(process: Path) -> None:
    """Beyond the model's context there is no score, and no crash for the others."""
    async with reward(process) as model:
        verdicts = await model.score(REQUEST, [Choice("1 " * 500), Choice("1")], Call(Price()))
    assert [verdict.score is None for verdict in verdicts] == [True, False]
    assert "reads 1 to 128" in verdicts[0].reason


async def test_a_model_that_gives_no_number_is_an_error(process: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not-a-number never passes as a score."""
    monkeypatch.setattr(RewardReader, "read", lambda self, readings: [[math.nan] for _ in readings])
    async with reward(process) as model:
        with pytest.raises(VerifierError, match="not a number"):
            await scores(model, "1")


def test_a_language_model_is_no_reward_model(tiny_reward: Make) -> None:
    """Its architecture says so, when the verifier is built."""
    with pytest.raises(MissingExtra, match=r"is no classifier \(LlamaForCausalLM\)"):
        RewardModel("reward", RewardModelOptions(model=str(tiny_reward("CausalLM"))))


async def test_a_made_up_head_is_refused(tiny_reward: Make) -> None:
    """Weights without a trained head do not load, even if told to: transformers would fill it with random numbers."""
    async with reward(tiny_reward("CausalLM"), mode="process") as model:
        with pytest.raises(VerifierError, match=r"lack score\.") as refused:
            await model.load()
    assert "not trained as a process reward model" in str(refused.value)


def test_a_model_that_is_nowhere_says_where_was_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folders and what the hub said; `revision` is what the hub is asked for."""
    asked: dict[str, object] = {}

    def nowhere(name: str, **kwargs: object) -> str:
        asked.update(kwargs, name=name)
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nowhere)
    with pytest.raises(MissingExtra, match=r"not in \./no/model.*the hub says: offline"):
        RewardModel("reward", RewardModelOptions(model="no/model", revision="v2"))
    assert (asked["name"], asked["revision"]) == ("no/model", "v2")


async def test_the_shipped_reward_model_reads_a_puzzle_step_by_step() -> None:
    """The embedded process reward model is found beside the package and gives a chance for each of the three steps."""
    model = RewardModel("reward", RewardModelOptions(model="fleet/reward"))
    request = ChatRequest(({"role": "user", "content": "Use 4 9 10 13 to make 24."},))
    (verdict,) = await model.score(request, [Choice("13-9=4 ; 4 4 10\n10-4=6 ; 4 6\n6*4=24 ; 24")], Call(model.price))
    assert model.scores_prefixes
    assert len(verdict.steps) == 3
    assert all(0 <= step <= 1 for step in verdict.steps)
    await model.aclose()


# --- what it keeps ----------------------------------------------------------------------------------------------------


async def scored(model: RewardModel, *texts: str, reason: str = "length") -> tuple[list[tuple[float, ...]], Call]:
    call = Call(Price(1, 0, 0.1))
    verdicts = await model.score(REQUEST, [Choice(text, reason) for text in texts], call)
    return [verdict.steps for verdict in verdicts], call


async def test_a_search_reads_only_what_is_new(process: Path) -> None:
    """Level by level the scores are those of a reader that keeps nothing; the prompt is read once and each step once."""
    levels = [["1+2=3\n", "1+3=4\n"], ["1+2=3\n3+4=7\n", "1+2=3\n3+5=8\n"], [ANSWER, "1+2=3\n3+4=7\n7+2=9"], [ANSWER]]
    async with reward(process) as keeping, reward(process, prefix_cache_mb=0) as plain:
        for depth, texts in enumerate(levels):
            (mine, call), (theirs, full) = await scored(keeping, *texts), await scored(plain, *texts)
            for one, other in zip(mine, theirs, strict=True):
                assert one == pytest.approx(other, abs=1e-4)
            assert (call.input_tokens, full.cached_tokens) == (full.input_tokens, 0)
            assert 0 < call.cached_tokens <= call.input_tokens
            assert call.cost_usd < full.cost_usd
            if depth == 3:
                assert call.cached_tokens == call.input_tokens
        assert keeping.caches_prefix > plain.caches_prefix


async def test_the_prompt_of_many_answers_is_read_and_paid_once(process: Path) -> None:
    """Of four answers to one prompt, what they begin with is charged in full to one of them; a lone one gets nothing for nothing."""
    async with reward(process) as model, reward(process) as other:
        _, call = await scored(model, "1", "2", "3", "4")
        _, alone = await scored(other, "1")
        beginning = alone.input_tokens - 1
        assert alone.cached_tokens == 0
        assert call.cached_tokens == 3 * beginning


async def test_an_answer_that_another_had_scored_is_read_anew(process: Path) -> None:
    """Each scope pays for itself, also where they come together; the scores are the same."""
    async with reward(process) as model:
        calls = [Call(Price(), scope) for scope in ("a", "b", "a", "c")]
        found = [await model.score(REQUEST, [Choice(ANSWER)], call) for call in calls[:3]]
        together = [Call(Price(), scope) for scope in ("c", "d")]
        found += await asyncio.gather(*(model.score(REQUEST, [Choice(ANSWER)], call) for call in together))
        assert [call.cached_tokens for call in (*calls[:3], *together)] == [0, 0, calls[0].input_tokens, 0, 0]
        assert len({verdict.score for [verdict] in found}) == 1


async def test_what_a_reader_keeps_is_bounded_and_outlives_no_failure(process: Path) -> None:
    """A flood of answers stays within the option; a state that is of no use is given up, and the answer read without it."""
    async with reward(process, prefix_cache_mb=0.05) as model:
        for i in range(60):
            await scored(model, f"{i}+{i}=3\n")
            assert model._reader is not None
            assert model._reader._kept is not None
            assert 0 < model._reader._kept._prefixes.bytes <= 50_000
        expected, _ = await scored(model, ANSWER)
        for node in model._reader._kept._prefixes._nodes:
            node.state = node.state[:, :3]
        again, call = await scored(model, ANSWER + "0")
        assert (again[0][:2], call.cached_tokens) == (pytest.approx(expected[0][:2], abs=1e-4), 0)
        assert again[0][2:] != expected[0][2:]
