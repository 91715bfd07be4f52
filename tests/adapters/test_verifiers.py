"""Verifiers: one suite on every kind, then what each kind says of an answer."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from adapters.errors import BackendError, MissingExtra, VerifierError
from adapters.scripted import scripted
from adapters.types import Call, ChatRequest, Choice, Price, Verdict, Verifier
from adapters.verifiers import VERIFIERS, VerifierOptions, build_verifier

REQUEST = ChatRequest(({"role": "user", "content": "Use 1 2 3 to make 6."},))
PARSE: TypeAdapter[Any] = TypeAdapter(VerifierOptions)


def build(**options: Any) -> Verifier:
    """A verifier from options as they stand in YAML."""
    return build_verifier("check", PARSE.validate_python(options), {"llm": scripted("llm", "7")})


async def score(verifier: Verifier, *answers: str | Choice, request: ChatRequest = REQUEST) -> list[Verdict]:
    choices = [Choice(answer, logprobs=(-0.1,)) if isinstance(answer, str) else answer for answer in answers]
    return await verifier.score(request, choices, Call(verifier.price))


async def values(verifier: Verifier, *answers: str | Choice) -> list[float | None]:
    return [verdict.score for verdict in await score(verifier, *answers)]


# --- entries for the python verifier --------------------------------------------------------------------------------------------

HANG = threading.Event()
HUNG = threading.Semaphore(0)
CHECKED: list[str] = []


def ends_in_six(prompt: str, answer: str) -> bool:
    return answer.strip().endswith("6")


def behaves(prompt: str, answer: str) -> tuple[float | bool, str]:
    """Runs a sum or product, and signs with what it makes."""
    return (0.5, answer) if len(answer) > 64 else (eval(answer) == 6, str(eval(answer)))


def picky(prompt: str, answer: str) -> Any:
    """What a bad check can do: raise, hang, leave, give nonsense."""
    CHECKED.append(answer)
    match answer:
        case "raise":
            raise KeyError("oops")
        case "exit":
            raise SystemExit(1)
        case "hang":
            HUNG.release()
            HANG.wait(20)
        case "nan":
            return math.nan
        case "high":
            return 1.5
        case "none":
            return None
        case "unsigned":
            return 0.5, 7
        case "three":
            return 0.5, "a", "b"
    return 0.5


NOT_CALLABLE = 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module under a name that an entry can have."""
    monkeypatch.setitem(__import__("sys").modules, "checks_of_the_operator", __import__("sys").modules[__name__])


# --- conformance --------------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "judge": {"backend": "llm"},
    "python": {"entry": "checks_of_the_operator:ends_in_six"},
    "json_schema": {"schema": {"type": "object"}},
    "regex": {"pattern": "6"},
    "numeric": {},
    "votes": {},
    "confidence": {},
    "reward_model": {},
}


@pytest.fixture(params=list(KINDS))
async def verifier(request: pytest.FixtureRequest, tiny_reward: Callable[..., Path]) -> AsyncIterator[Verifier]:
    options = KINDS[request.param]
    if request.param == "reward_model":
        options = {"model": str(tiny_reward()), "device": "cpu"}
    built = build(kind=request.param, **options)
    yield built
    await built.aclose()


async def test_every_answer_gets_one_verdict_in_order(verifier: Verifier) -> None:
    """Batch in, batch out: as many verdicts as answers, each the one that the answer gets on its own place."""
    answers = ["1 6", '{"a": 1}', "no", "1 6", "2 3"]
    verdicts = await score(verifier, *answers)
    backwards = await score(verifier, *reversed(answers))
    assert len(verdicts) == len(answers)
    assert [v.score for v in verdicts] == pytest.approx([v.score for v in reversed(backwards)], abs=1e-5)


async def test_scores_are_within_zero_and_one(verifier: Verifier) -> None:
    """A score is a number from 0 to 1, also of strange answers."""
    for verdict in await score(verifier, "", " ", "6", "{}", "é" * 50, '{"a": [1, 2'):
        assert verdict.score is None or 0 <= verdict.score <= 1


async def test_no_answers_no_verdicts(verifier: Verifier) -> None:
    """An empty set gives an empty list, and costs nothing."""
    call = Call(verifier.price)
    assert await verifier.score(REQUEST, [], call) == []
    assert (call.input_tokens, call.output_tokens) == (0, 0)


async def test_concurrent_callers_do_not_mix(verifier: Verifier) -> None:
    """Twenty callers at once get what each would have got alone."""
    sets = [["6"] * (i % 3 + 1) + ["no"] for i in range(20)]
    alone = [await values(verifier, *answers) for answers in sets[:3]]
    together = await asyncio.gather(*(values(verifier, *answers) for answers in sets))
    for i, found in enumerate(together):
        assert found == pytest.approx(alone[i % 3], abs=1e-5)


async def test_it_has_a_name_and_a_price(verifier: Verifier) -> None:
    """What the run meters by is there."""
    assert (verifier.name, verifier.price) == ("check", Price())
    assert isinstance(verifier.scores_prefixes, bool)


async def test_closing_twice_is_harmless(verifier: Verifier) -> None:
    """aclose is idempotent."""
    await verifier.aclose()
    await verifier.aclose()


# --- the table ----------------------------------------------------------------------------------------------------------------


def test_every_kind_is_in_the_suite_and_in_the_table() -> None:
    """A kind that is added is tested by the conformance suite, and can be built."""
    kinds = set(PARSE.json_schema()["discriminator"]["mapping"])
    assert kinds == set(KINDS)
    assert len(VERIFIERS) == len(KINDS) - 1


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k, o in KINDS.items() if k != "reward_model"])
def test_unknown_keys_are_refused(kind: str, options: dict[str, Any]) -> None:
    """Every kind refuses an option that it does not have."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        build(kind=kind, **options, surprise=1)


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    """The message lists the kinds."""
    with pytest.raises(ValidationError, match=r"'reward_model'.*'confidence'"):
        build(kind="oracle")


def test_a_judge_without_its_backend_says_which_there_are() -> None:
    """A judge's backend has to exist."""
    with pytest.raises(MissingExtra, match="verifier 'check': no backend 'llmm'; have 'llm'"):
        build(kind="judge", backend="llmm")


# --- python -------------------------------------------------------------------------------------------------------------------

ENTRY = "checks_of_the_operator:picky"


@pytest.fixture
def _hanging() -> Any:
    """A check that hangs until the test is over."""
    HANG.clear()
    yield
    HANG.set()


async def test_the_entry_decides() -> None:
    """True is 1, False is 0, a number is itself; the function gets prompt and answer."""
    assert await values(build(kind="python", entry="checks_of_the_operator:ends_in_six"), "1+2+3=6", "7") == [1, 0]
    assert await values(build(kind="python", entry=ENTRY), "anything") == [0.5]
    (verdict,) = await score(build(kind="python", entry="operator:contains"), "make 6")
    assert verdict.score == 1


async def test_a_check_may_say_which_answers_behave_alike() -> None:
    """A score with a signature: answers of one signature are one cluster. Of a long one the digest is kept; without one there is none."""
    verdicts = await score(build(kind="python", entry="checks_of_the_operator:behaves"), "1+2+3", "3*2*1", "1-2-3", "6" * 999, "6" * 998)
    assert [verdict.score for verdict in verdicts] == [1, 1, 0, 0.5, 0.5]
    same, alike, other, long, longer = (verdict.cluster for verdict in verdicts)
    assert same == alike == "6" != other
    assert len(long) == len(longer) == 64
    assert long != longer
    (silent,) = await score(build(kind="python", entry=ENTRY), "anything")
    assert silent.cluster == ""


BAD = {
    "raise": "KeyError",
    "exit": "SystemExit",
    "nan": "nan",
    "high": "1.5",
    "none": "TypeError",
    "unsigned": "signature of type int",
    "three": "ValueError",
}


@pytest.mark.parametrize(("bad", "why"), BAD.items())
async def test_a_check_that_fails_leaves_the_answer_unscored(bad: str, why: str) -> None:
    """Its own answer has no score and says why; alone it is an error."""
    verifier = build(kind="python", entry=ENTRY)
    failed, fine = await score(verifier, bad, "fine")
    assert (failed.score, fine.score) == (None, 0.5)
    assert why in failed.reason
    with pytest.raises(VerifierError, match=why):
        await score(verifier, bad)


@pytest.mark.usefixtures("_hanging")
async def test_a_check_that_hangs_costs_timeout_s_and_keeps_what_was_checked() -> None:
    """After `timeout_s` the answers checked before keep their scores; a set that only hung is an error."""
    verifier = build(kind="python", entry=ENTRY, timeout_s=0.05)
    assert await values(verifier, "fine", "hang", "late") == [0.5, None, None]
    with pytest.raises(VerifierError, match=r"no verdict within 0\.05 s"):
        await score(verifier, "hang")


@pytest.mark.usefixtures("_hanging")
async def test_what_nobody_waits_for_any_more_is_not_checked() -> None:
    """When the time is over, the answers behind the one that hung are left alone."""
    CHECKED.clear()
    await values(build(kind="python", entry=ENTRY, timeout_s=0.05), "fine", "hang", "late")
    HANG.set()
    for thread in threading.enumerate():
        if thread.name == "verifier-check":
            await asyncio.to_thread(thread.join, 10)
    assert CHECKED == ["fine", "hang"]


@pytest.mark.usefixtures("_hanging")
async def test_the_event_loop_goes_on_while_a_check_runs() -> None:
    """A check blocks a thread, never the loop; and one that hangs keeps one of `max_concurrency` places."""
    verifier = build(kind="python", entry=ENTRY, max_concurrency=2)
    narrow = build(kind="python", entry=ENTRY, max_concurrency=1, timeout_s=0.05)
    while HUNG.acquire(blocking=False):
        pass
    hanging = asyncio.create_task(score(verifier, "hang"))
    assert await asyncio.to_thread(HUNG.acquire, timeout=10)
    assert await values(verifier, "fine") == [0.5]
    with pytest.raises(VerifierError):
        await score(narrow, "hang")
    with pytest.raises(VerifierError):
        await score(narrow, "fine")
    HANG.set()
    assert [verdict.score for verdict in await hanging] == [0.5]


async def test_a_checks_price_is_its_own() -> None:
    """A price can be given, for a check that costs."""
    assert build(kind="python", entry=ENTRY, price={"input_usd_per_mtok": 2}).price == Price(2, 0)


WRONG_ENTRIES = {
    "no_such_module:f": "No module named",
    "checks_of_the_operator:nothing": "nothing",
    "checks_of_the_operator:NOT_CALLABLE": "is a int",
}


@pytest.mark.parametrize(("entry", "why"), WRONG_ENTRIES.items())
def test_a_wrong_entry_is_found_when_built(entry: str, why: str) -> None:
    """Not at the first request, but at the start."""
    with pytest.raises(MissingExtra, match=why):
        build(kind="python", entry=entry)


# --- json_schema --------------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


async def test_valid_json_of_the_right_form_is_one() -> None:
    """Anything else is 0 and says what is wrong."""
    good, wrong, missing, prose, nan = await score(
        build(kind="json_schema", schema=SCHEMA), '{"a": 1}', '{"a": "x"}', "{}", "a is 1", '{"a": NaN}'
    )
    assert [v.score for v in (good, wrong, missing, prose, nan)] == [1, 0, 0, 0, 0]
    assert "$.a" in wrong.reason
    assert "'a' is a required property" in missing.reason
    assert "not JSON" in prose.reason


async def test_fences_are_accepted_only_if_asked_for() -> None:
    """`strip_fences` reads JSON out of a Markdown block; without it a client would have to."""
    fenced = 'Here:\n```json\n{"a": 1}\n```'
    assert await values(build(kind="json_schema", schema=SCHEMA), fenced) == [0]
    assert await values(build(kind="json_schema", schema=SCHEMA, strip_fences=True), fenced, '{"a": 2}') == [1, 1]


def asking_for(response_format: Any) -> ChatRequest:
    return REQUEST.but(extra={"response_format": response_format})


async def test_the_requests_own_schema_is_used_where_none_is_configured() -> None:
    """response_format gives the schema; json_object any object; without either there is no score."""
    verifier = build(kind="json_schema")
    typed = asking_for({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})
    assert [v.score for v in await score(verifier, '{"a": 1}', "{}", request=typed)] == [1, 0]
    assert [v.score for v in await score(verifier, "{}", "[]", request=asking_for({"type": "json_object"}))] == [1, 0]
    for none in ({"type": "text"}, "nonsense", {"type": "json_schema", "json_schema": 3}):
        assert [v.score for v in await score(verifier, "{}", request=asking_for(none))] == [None]


@pytest.mark.parametrize("schema", [{"type": "no such type"}, [], 3, {"$ref": "#/nowhere"}, {"$ref": "#"}, {"pattern": "("}])
async def test_a_schema_that_cannot_be_applied_is_an_error(schema: Any) -> None:
    """A client's broken schema is a typed error, not a crash and not a bad score for the answer."""
    wanted = asking_for({"type": "json_schema", "json_schema": {"schema": schema}})
    with pytest.raises(VerifierError, match="schema"):
        await score(build(kind="json_schema"), '"text"', request=wanted)


async def test_a_schema_cannot_make_us_fetch_a_url() -> None:
    """A reference out of the schema is refused without a connection being made."""
    connections = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    schema = {"$ref": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/schema.json"}
    with pytest.raises(VerifierError, match="cannot be applied"):
        await score(build(kind="json_schema"), "{}", request=asking_for({"type": "json_schema", "json_schema": {"schema": schema}}))
    await asyncio.sleep(0)
    assert connections == 0
    server.close()
    await server.wait_closed()


async def test_json_nested_beyond_reason_is_no_json() -> None:
    """A hostile answer is scored 0, not a crash."""
    assert await values(build(kind="json_schema", schema=SCHEMA), "[" * 100_000) == [0]


def test_a_broken_schema_in_the_configuration_is_refused() -> None:
    """It is found when the configuration is read, with the place."""
    with pytest.raises(ValidationError, match="not a JSON Schema"):
        build(kind="json_schema", schema={"type": "no such type"})


# --- regex and numeric ----------------------------------------------------------------------------------------------------------


async def test_the_pattern_is_found_or_not() -> None:
    """1 with it, 0 without."""
    verdicts = await score(build(kind="regex", pattern=r"(?i)^answer: \d"), "Answer: 6", "6")
    assert [(v.score, v.reason) for v in verdicts] == [(1, ""), (0, "the pattern is not in it")]


@pytest.mark.parametrize(("kind", "option"), [("regex", "pattern"), ("votes", "pattern"), ("numeric", "expected")])
def test_a_broken_pattern_is_refused(kind: str, option: str) -> None:
    """When the configuration is read, not when the first answer comes."""
    with pytest.raises(ValidationError, match="not a regular expression"):
        build(kind=kind, **{option: "("})


async def test_a_final_number_within_bounds_is_one() -> None:
    """Bounds turn a number into a wrong one; no number is wrong in any case."""
    assert await values(build(kind="numeric"), "so 42", "none", "The answer is -1") == [1, 0, 1]
    verdicts = await score(build(kind="numeric", min=0, max=40), "so 42", "so 40", "-1")
    assert [v.score for v in verdicts] == [0, 1, 0]
    assert verdicts[0].reason == "42 is not between 0 and 40"


async def test_the_number_expected_is_taken_from_the_prompt() -> None:
    """`expected` finds it in the prompt, `tolerance` says how near is near enough; a prompt without one gives no score."""
    strict, near = (build(kind="numeric", expected=r"make (\d+)", tolerance=tolerance) for tolerance in (0, 0.5))
    assert await values(strict, "1+2+3=6", "6.4", "7") == [1, 0, 0]
    assert await values(near, "1+2+3=6", "6.4", "7") == [1, 1, 0]
    (verdict,) = await score(strict, "6", request=ChatRequest(({"role": "user", "content": "hello"},)))
    assert verdict.score is None


@pytest.mark.parametrize("wrong", [{"min": 2, "max": 1}, {"tolerance": 1}, {"expected": "make 6"}])
def test_numeric_options_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    """Bounds crossed, a tolerance without anything expected, a pattern without a group."""
    with pytest.raises(ValidationError):
        build(kind="numeric", **wrong)


# --- votes and confidence -------------------------------------------------------------------------------------------------------


async def test_votes_are_shares_of_the_same_answer() -> None:
    """Answers that say the same share their votes, however they say it."""
    assert await values(build(kind="votes"), "6", "The answer is 6.0", "7", "six") == [0.5, 0.5, 0.25, 0.25]


async def test_an_unfinished_answer_has_no_vote() -> None:
    """What was cut off is neither counted nor scored."""
    assert await values(build(kind="votes"), "6", Choice("6", "length"), Choice("6", "cancelled"), "7") == [0.5, None, None, 0.5]


async def test_the_pattern_says_what_is_voted_on() -> None:
    """With a pattern, another part of the text is the answer."""
    answers = ("first 1 last 6", "first 2 last 6")
    assert await values(build(kind="votes"), *answers) == [1, 1]
    assert await values(build(kind="votes", pattern=r"first (\d)"), *answers) == [0.5, 0.5]


@given(st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=20))
def test_the_shares_of_different_answers_add_up_to_one(answers: Sequence[str]) -> None:
    """Votes are a distribution over the answers."""
    found = asyncio.run(values(build(kind="votes"), *answers))
    assert math.fsum(dict(zip(answers, found, strict=True)).values()) == pytest.approx(1)  # type: ignore[arg-type]


def sure(*logprobs: float) -> Choice:
    return Choice("x", logprobs=logprobs)


async def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities() -> None:
    """exp of the mean log-probability; no score without any."""
    half = math.log(0.5)
    found = await values(build(kind="confidence"), sure(half, half), sure(0.0, 2 * half), Choice("x"), sure())
    assert found == [pytest.approx(0.5), pytest.approx(0.5), None, None]


async def test_a_window_takes_the_least_certain_stretch() -> None:
    """With a window a short doubt is not averaged away; a window longer than the answer is the whole answer."""
    doubt = sure(0.0, 0.0, -2.0, -2.0, 0.0, 0.0)
    assert await values(build(kind="confidence"), doubt) == [pytest.approx(math.exp(-4 / 6))]
    assert await values(build(kind="confidence", window=2), doubt) == [pytest.approx(math.exp(-2))]
    assert await values(build(kind="confidence", window=99), doubt) == [pytest.approx(math.exp(-4 / 6))]


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=30), st.integers(1, 10))
def test_a_window_is_never_more_confident_than_all_of_it(logprobs: list[float], window: int) -> None:
    """The least certain stretch of an answer bounds the mean of equal stretches, so it is no higher than the best token."""
    whole, least = (asyncio.run(values(build(kind="confidence", **o), sure(*logprobs)))[0] for o in ({}, {"window": 1}))
    windowed = asyncio.run(values(build(kind="confidence", window=window), sure(*logprobs)))[0]
    assert whole is not None
    assert least is not None
    assert windowed is not None
    assert least - 1e-9 <= windowed <= math.exp(max(logprobs)) + 1e-9
    assert least - 1e-9 <= whole


@pytest.mark.parametrize(("logprobs", "score_"), [((-math.inf, 0.0), 0.0), ((math.nan,), None), ((0.001,), 1.0), ((-1e9,) * 3, 0.0)])
async def test_impossible_log_probabilities_do_not_leave_the_range(logprobs: tuple[float, ...], score_: float | None) -> None:
    """Minus infinity is 0, not-a-number is no score, and rounding above 0 is 1."""
    assert await values(build(kind="confidence"), sure(*logprobs)) == [score_]


# --- errors -------------------------------------------------------------------------------------------------------------------


def test_a_verifiers_error_is_no_backends_error() -> None:
    """Whoever catches the one does not catch the other."""
    assert not issubclass(VerifierError, BackendError)
