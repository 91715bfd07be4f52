"""Beside the requests: events in a log, feedback that changes what is believed, alarms that change who answers; none of it in the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.cache import MemoryCache, RedisCache
from adapters.event_log import EventWriter, FileSink, RedisSink
from adapters.scripted import ScriptedBackend, scripted
from adapters.sums import FileSums, RedisSums
from difficulty.belief import Belief
from difficulty.feedback import Fading
from policies.decide import decide
from router.assembly import assemble
from router.config import Config
from router.errors import BackendFailed, FeedbackUnavailable, InvalidRequest, UnknownDecision
from router.events import AlarmEvent, DecisionEvent, Event, FeedbackEvent, ShadowEvent, read_events
from router.lessons import Given, Lessons
from router.online import Online
from router.options import DriftOptions, FeedbackOptions, ShadowOptions
from router.pipeline import Router
from router.record import facts_from_json
from router.replay import requests_of
from router.shadow import Compared, Shadow
from router.watch import Watch
from tests.adapters.test_event_log import until
from tests.router.test_pipeline import LARGE, PLANS, SMALL, Exact, Probe, a_policy, a_router, an_ask

WRONG = "wrong"


class Events:
    """A sink that keeps its events; while `broken`, it takes none."""

    name = "kept"

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.broken = False

    def write(self, lines: Sequence[bytes]) -> int:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.lines += lines
        return len(lines)

    def close(self) -> None: ...


def beside(router: Router, online: Online) -> Router:
    """The router with all that goes on beside it."""
    router.online = online
    return router


@asynccontextmanager
async def logged(tmp_path: Path, **online: Any) -> AsyncIterator[tuple[Online, Callable[[], list[Event]]]]:
    """Something to go on beside a router, and what it has logged once it is closed."""
    path = tmp_path / "log.jsonl"
    beside = Online([EventWriter(FileSink(path))], **online)
    yield beside, lambda: list(read_events(str(path)))
    await beside.aclose()


# --- the log ------------------------------------------------------------------------------------------------------------


async def test_every_ending_of_a_request_is_an_event(tmp_path: Path) -> None:
    """Answered, cached, previewed, failed, left; in order, each with its block and tags; by default without a word of the prompt."""
    async with logged(tmp_path) as (online, events):
        router = beside(a_router(cache=MemoryCache()), online)
        asks = [an_ask("the secret question", tags={"domain": "maths"}) for _ in range(3)]
        await router.answer(asks[0])
        await router.answer(asks[1])
        await router.route(asks[2])
        broken = beside(a_router(scripted("small", fail_every=1), scripted("large", fail_every=1)), online)
        failing = an_ask()
        with pytest.raises(BackendFailed):
            await broken.answer(failing)
        waiting, leaving = beside(a_router(scripted("small", never=True), scripted("large", never=True)), online), an_ask()
        with pytest.raises(TimeoutError):  # by which `wait_for` says that it has cancelled it
            await asyncio.wait_for(waiting.answer(leaving), 0.05)
    found = [event for event in events() if isinstance(event, DecisionEvent)]
    assert [event.ending for event in found] == ["answered", "cached", "preview", "failed", "left"]
    assert [event.id for event in found] == [ask.id for ask in (*asks, failing, leaving)]
    assert [event.tags for event in found] == [{"domain": "maths"}] * 3 + [{}] * 2
    assert len(requests_of(events())) == 1  # what `outlay replay` reads: of all, the one that was answered
    assert found[0].block == (await router.decision(asks[0].id))
    assert found[0].steps
    assert "secret" not in (tmp_path / "log.jsonl").read_text()


async def test_prompts_are_logged_only_if_asked_for_and_then_redacted(tmp_path: Path) -> None:
    """The conversation without what should not lie about; nor do tags keep it."""
    async with logged(tmp_path, prompts=True) as (online, events):
        await beside(a_router(), online).answer(an_ask("mail ann@example.org the sum", tags={"user": "ann@example.org"}))
    (event,) = events()
    assert isinstance(event, DecisionEvent)
    assert "mail [email] the sum" in (event.prompt or "")
    assert event.tags == {"user": "[email]"}


async def test_a_full_disk_costs_events_and_no_request() -> None:
    """Requests go on; readiness names the trouble; what found no room is counted."""
    sink = Events()
    sink.broken = True
    writer = EventWriter(sink, size=2, retry_s=0.01, patience_s=0.05)
    router = beside(a_router(), Online([writer]))
    for _ in range(10):
        assert (await router.answer(an_ask())).candidates
    until(lambda: writer.trouble != "")
    assert "No space left on device" in (await router.ready())["log:kept"]
    await router.aclose()
    assert writer.counts["dropped"] == 10
    assert not sink.lines


async def test_a_redis_that_is_gone_costs_events_and_no_request(redis_server: Any, redis_url: str) -> None:
    """And what waited is there once it is back."""
    router = beside(a_router(), Online([EventWriter(RedisSink(redis_url, timeout_s=1), retry_s=0.02)]))
    redis_server.kill()
    assert (await router.answer(an_ask())).candidates
    redis_server.start()
    await router.aclose()
    assert [event.kind for event in read_events(redis_url)] == ["decision"]


# --- feedback -----------------------------------------------------------------------------------------------------------


CORRECTING = FeedbackOptions(correct=True)
TAGS = {"domain": "law"}


async def taught(router: Router, n: int, label: float, tags: dict[str, str] | None = None) -> None:
    """So many answers were judged so."""
    for _ in range(n):
        outcome = await router.answer(an_ask(tags=TAGS if tags is None else tags))
        await router.feedback(Given(outcome.id, label))
    await router.online.lessons.sync()


def easy() -> Router:
    """A router that believes in small, and is content with one answer of it."""
    policy = a_policy(plans=[PLANS[0], PLANS[3]])
    return a_router(scripted("small", WRONG, price=SMALL), policy=policy, probe=Probe(2.5))


async def test_labels_change_what_is_believed_and_done_in_their_domain() -> None:
    """Small is wrong about law again and again: law goes to large, and other domains less surely to small. The block says by how much."""
    router = beside(easy(), Online(lessons=Lessons(CORRECTING)))
    before = await router.answer(an_ask(tags=TAGS))
    assert (before.model, before.decision["corrections"]) == ("small", {})
    await taught(router, 60, 0.0)
    after = await router.answer(an_ask(tags=TAGS))
    assert after.model == "large"
    assert -2.0 <= after.decision["corrections"]["small"] < -1.0
    chances = [outcome.decision["estimate"]["p_correct"]["small"] for outcome in (before, after)]
    assert chances[1] < chances[0] - 0.15
    other = await router.route(an_ask(tags={"domain": "code"}))
    assert chances[1] < other["estimate"]["p_correct"]["small"] < chances[0]


async def test_a_corrected_decision_can_be_made_again_from_its_block() -> None:
    """What was added is in the belief that is logged."""
    router = beside(easy(), Online(lessons=Lessons(CORRECTING)))
    await taught(router, 60, 0.0)
    for row in (await router.route(an_ask(tags=TAGS)))["decisions"]:
        again = decide(
            router.parts.policies["balanced"], router.parts.market, facts_from_json(row["facts"]), Belief.from_json(row["belief"])
        )
        assert again.plan is not None
        assert again.plan.key == row["plan"]


async def test_corrections_settle_instead_of_running_away() -> None:
    """Judged again and again at what it is then believed to be, a backend's shift stays: labels are set against the belief without it."""
    router = a_router(scripted("small", WRONG, price=SMALL), policy=a_policy(plans=PLANS[:1]), probe=Probe(2.5))
    beside(router, Online(lessons=Lessons(FeedbackOptions(correct=True, prior_sd=5.0, max_shift=5.0))))
    for number in range(5):
        for i in range(40):
            outcome = await router.answer(an_ask(tags=TAGS))
            await router.feedback(Given(outcome.id, float(i % 2)))
        await router.online.lessons.sync()
        believed = (await router.route(an_ask(tags=TAGS)))["estimate"]["p_correct"]["small"]
        assert number == 0 or believed == pytest.approx(0.5, abs=0.06)


async def test_labels_do_nothing_unless_corrections_are_switched_on_and_no_more_than_they_may() -> None:
    """`correct` and `max_shift`."""
    for options, shift in ((FeedbackOptions(), 0.0), (FeedbackOptions(correct=True, max_shift=0.3), -0.3)):
        router = beside(easy(), Online(lessons=Lessons(options)))
        await taught(router, 60, 0.0)
        assert (await router.route(an_ask(tags=TAGS)))["corrections"].get("small", 0.0) == pytest.approx(shift)


async def test_the_domain_is_the_tag_that_the_configuration_names() -> None:
    """`domain_tag`."""
    router = beside(easy(), Online(lessons=Lessons(FeedbackOptions(correct=True, domain_tag="team"))))
    await taught(router, 60, 0.0, {"team": "legal", "domain": "x"})
    shifts = router.online.lessons.shifts
    assert shifts("legal")["small"] < shifts("x")["small"] - 0.2


async def test_a_label_counts_once_and_another_takes_its_place() -> None:
    """Sent twice it changes nothing; taken back, nothing of it is left."""
    router = beside(easy(), Online(lessons=Lessons(CORRECTING)))
    outcome = await router.answer(an_ask(tags=TAGS))
    said = [(await router.feedback(Given(outcome.id, label))).status for label in (0.0, 0.0, 1.0, 1.0)]
    assert said == ["recorded", "unchanged", "changed", "unchanged"]
    await router.online.lessons.sync()
    once = router.online.lessons.shifts("law")["small"]
    other = beside(easy(), Online(lessons=Lessons(CORRECTING)))
    await other.feedback(Given((await other.answer(an_ask(tags=TAGS))).id, 1.0))
    await other.online.lessons.sync()
    assert once == pytest.approx(other.online.lessons.shifts("law")["small"])
    assert once > 0


async def test_only_answers_that_went_out_can_be_judged_and_only_by_whom_they_went_to() -> None:
    """Unknown ids, choices that were not sent, and another tenant's answers are refused."""
    router = a_router()
    outcome = await router.answer(an_ask())
    with pytest.raises(UnknownDecision, match="dec_none"):
        await router.feedback(Given("dec_none", 1.0))
    with pytest.raises(InvalidRequest, match="1 choices"):
        await router.feedback(Given(outcome.id, 1.0, candidate=1))
    with pytest.raises(UnknownDecision):
        await router.feedback(Given(outcome.id, 1.0, key="another"))
    preview = an_ask()
    await router.route(preview)
    with pytest.raises(UnknownDecision):
        await router.feedback(Given(preview.id, 1.0))


async def test_an_answer_can_be_judged_for_as_long_as_configured() -> None:
    """`ttl_days`."""
    router = beside(a_router(), Online(lessons=Lessons(FeedbackOptions(ttl_days=1e-9))))
    outcome = await router.answer(an_ask())
    with pytest.raises(UnknownDecision, match="ttl_days"):
        await router.feedback(Given(outcome.id, 1.0))


async def test_an_answer_of_a_named_backend_or_of_the_cache_teaches_nothing_but_is_logged(tmp_path: Path) -> None:
    """Nothing was believed of them."""
    async with logged(tmp_path, lessons=Lessons(CORRECTING)) as (online, events):
        router = beside(a_router(cache=MemoryCache()), online)
        for ask in (an_ask(model="large"), an_ask(), an_ask()):
            outcome = await router.answer(ask)
            if outcome.cached or ask.model == "large":
                assert (await router.feedback(Given(outcome.id, 0.0))).status == "recorded"
        await online.lessons.sync()
        assert online.lessons.shifts("") == {}
    assert [event.label for event in events() if isinstance(event, FeedbackEvent)] == [0.0, 0.0]


async def test_feedback_tells_how_good_a_verifier_is() -> None:
    """One that scores wrong answers high has false positives; a sound one has none."""
    router = beside(a_router(), Online(lessons=Lessons(CORRECTING)))
    await taught(router, 10, 1.0)
    assert router.online.lessons.health["exact"].agreement == 1.0
    await taught(router, 30, 0.0)
    found = router.online.lessons.health["exact"]
    assert found.labels == pytest.approx(40)
    assert found.false_positive_rate == pytest.approx(1.0)


@pytest.mark.parametrize("where", ["file", "redis"])
async def test_what_was_learned_outlives_the_process_and_is_shared(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Another router starts with it; with Redis, it can take feedback on the first one's answers."""
    url = request.getfixturevalue("redis_url") if where == "redis" else ""

    def lessons() -> Lessons:
        shared = RedisCache(url, "answers:", timeout_s=5) if url else None
        return Lessons(CORRECTING, RedisSums(url) if url else FileSums(tmp_path / "state.json"), shared)

    first, second = beside(easy(), Online(lessons=lessons())), beside(easy(), Online(lessons=lessons()))
    await taught(first, 20, 0.0)
    last = await first.answer(an_ask(tags=TAGS))
    await first.aclose()
    await second.load()
    assert second.online.lessons.shifts("law") == first.online.lessons.shifts("law") != {}
    if url:
        assert (await second.feedback(Given(last.id, 0.0))).status == "recorded"
    await second.aclose()


async def test_while_redis_is_gone_requests_go_on_and_labels_wait(redis_server: Any, redis_url: str) -> None:
    """Own answers are judged from memory; of others it is said that nobody knows; all is handed in once Redis is back."""
    shared = RedisCache(redis_url, "answers:", timeout_s=1, retry_s=0.0)
    router = beside(easy(), Online(lessons=Lessons(CORRECTING, RedisSums(redis_url, timeout_s=1), shared)))
    redis_server.kill()
    outcome = await router.answer(an_ask(tags=TAGS))
    assert (await router.feedback(Given(outcome.id, 0.0))).status == "recorded"
    with pytest.raises(FeedbackUnavailable):
        await router.feedback(Given("dec_elsewhere", 0.0))
    await router.online.lessons.sync()
    assert "redis" in (await router.ready())["feedback"]
    redis_server.start()
    await router.online.lessons.sync()
    assert "feedback" not in await router.ready()
    assert router.online.lessons.shifts("law")["small"] < 0
    await router.aclose()


# --- drift --------------------------------------------------------------------------------------------------------------


async def test_answers_that_are_worse_than_believed_give_alarm_and_send_all_to_another_backend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In readiness, in the log of events, in that of the server; and `then` answers from now on, marked."""
    watch = Watch(DriftOptions(then="large"))
    async with logged(tmp_path, watch=watch) as (online, events):
        router = beside(easy(), online)
        assert (await router.answer(an_ask())).model == "small"
        await taught(router, 40, 0.0)
        assert "less often than believed" in (await router.ready())["drift:calibration:small"]
        outcome = await router.answer(an_ask())
        assert (outcome.model, outcome.degraded, outcome.decision["cause"]) == ("large", ("drift",), "fallback")
    assert [event.id for event in events() if isinstance(event, AlarmEvent)] == ["calibration:small"]
    assert "'large' answers everything now" in caplog.text


async def test_without_then_and_without_harm_an_alarm_only_tells() -> None:
    """The policy goes on; so it does where answers are better than believed."""
    for label, watch in ((0.0, Watch(DriftOptions())), (1.0, Watch(DriftOptions(then="large", tolerance=0.0)))):
        router = beside(easy(), Online(watch=watch))
        await taught(router, 200 if label else 40, label)
        assert watch.alarms.keys() == {"calibration:small"}
        assert (await router.answer(an_ask())).model == "small"


def test_prompts_that_change_give_alarm() -> None:
    """Harder or longer than the first thousand; `tolerance`, `reference` and `alpha` say when."""

    def alarms(**options: Any) -> set[str]:
        watch = Watch(DriftOptions(**options))
        for i in range(1000):
            watch.asked("probe", i % 10, 100)
        for i in range(60):
            watch.asked("probe", i % 10 - 8.0, 500)
        return set(watch.alarms)

    assert alarms(reference=500) == {"difficulty:probe", "length"}
    assert alarms(reference=2000) == set()
    assert alarms(reference=500, tolerance=0.49) == set()
    assert alarms(reference=500, alpha=1e-12) == set()


async def test_each_request_is_seen_by_the_watch() -> None:
    """One that names its backend, or is answered from the cache, is none of the policy's traffic."""
    seen: list[tuple[str, float, int]] = []

    class Noting(Watch):
        def asked(self, source: str, ease: float, input_tokens: int) -> None:
            seen.append((source, ease, input_tokens))

    router = beside(a_router(probe=Probe(0.0), cache=MemoryCache()), Online(watch=Noting(None)))
    for ask in (an_ask(), an_ask(), an_ask(model="small")):
        await router.answer(ask)
    assert seen == [("probe", 0.5, router.parts.backends["small"].count_tokens(an_ask().request))]


# --- shadow calls -------------------------------------------------------------------------------------------------------


def shadowed(router: Router, dice: float = 0.0, clock: Callable[[], float] = lambda: 0.0, **options: Any) -> tuple[Router, list[Compared]]:
    """The router with a shadow for every request, and what it found."""
    told: list[Compared] = []
    shadow = Shadow(ShadowOptions(backend="large", **options), router.parts, told.append, dice=lambda: dice, clock=clock, after_s=0.0)
    return beside(router, Online(shadow=lambda tell: shadow)), told


async def soon(holds: Callable[[], bool]) -> None:
    """Let other tasks work until it holds."""
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that within five seconds")


def requests(router: Router, name: str) -> int:
    backend = router.parts.backends[name]
    assert isinstance(backend, ScriptedBackend)
    return len(backend.requests)


async def test_a_shadow_is_asked_after_the_answer_and_both_are_scored() -> None:
    """The answer does not wait; the event holds both scores, the shadow's cost, and the decision's id; the client pays nothing of it."""
    router, told = shadowed(a_router(scripted("small", WRONG, price=SMALL), policy=a_policy(1e-9)))
    outcome = await router.answer(an_ask())
    assert (outcome.model, requests(router, "large")) == ("small", 0)
    await soon(lambda: bool(told))
    event = told[0].event
    assert (event.id, event.backend, event.verifier, event.error) == (outcome.id, "large", "exact", "")
    assert (event.score, event.answered_score) == (1.0, 0.0)
    assert event.cost_usd > 14 * outcome.cost_usd / 5
    assert outcome.cost_usd == pytest.approx(sum(call["cost_usd"] for call in outcome.decision["calls"]))
    await router.aclose()


async def test_only_its_share_of_the_traffic_is_shadowed_and_nothing_that_named_its_backend() -> None:
    """`share` against the dice."""
    for dice, queued in ((0.29, 1), (0.3, 0)):
        router, _ = shadowed(a_router(), dice, share=0.3)
        await router.answer(an_ask(model="small"))
        await router.answer(an_ask())
        assert router.online.shadow is not None
        assert router.online.shadow.waiting == queued
        await router.aclose()


async def test_a_shadow_keeps_to_its_purse_and_gets_a_new_one_each_hour() -> None:
    """What the next call might cost must be left; else it is skipped and counted."""
    now = [0.0]
    router, told = shadowed(a_router(), clock=lambda: now[0], max_usd_per_hour=0.0185)
    shadow = router.online.shadow
    assert shadow is not None
    for _ in range(4):
        await router.answer(an_ask(max_tokens=1000))
    await soon(lambda: sum(shadow.counts.values()) == 4)
    assert 0 < sum(found.event.cost_usd for found in told) <= 0.0185
    assert shadow.counts == {"called": 2, "skipped": 2}
    now[0] += 3600
    await router.answer(an_ask(max_tokens=1000))
    await soon(lambda: sum(shadow.counts.values()) == 5)
    assert shadow.counts == {"called": 3, "skipped": 2}
    await router.aclose()


async def test_a_shadow_that_fails_hangs_or_is_cut_off_harms_nobody() -> None:
    """A broken backend, a deadline, a verifier that is gone, the end of the process: each is an event with its reason."""
    cases: list[tuple[ScriptedBackend, dict[str, Any], str]] = [
        (scripted("large", fail_every=1, price=LARGE), {}, "BackendUnavailable"),
        (scripted("large", never=True, price=LARGE), {"timeout_s": 0.05}, "deadline limit"),
        (scripted("large", never=True, price=LARGE), {}, "cancelled"),
    ]
    for large, options, error in cases:
        router, told = shadowed(a_router(large=large, policy=a_policy(1e-9)), **options)
        await router.answer(an_ask())
        await soon(lambda large=large: bool(large.requests))  # type: ignore[misc]
        if error != "cancelled":
            await soon(lambda told=told: bool(told))  # type: ignore[misc]
        await router.aclose()
        assert [found.event.error for found in told] == [error]
    router, told = shadowed(a_router(verifier=Exact(fails=True), policy=a_policy(1e-9)))
    await router.answer(an_ask())
    await soon(lambda: bool(told))
    assert (told[0].event.score, told[0].event.error) == (None, "")
    await router.aclose()


async def test_what_a_shadow_finds_is_told_to_the_log_in_use(tmp_path: Path) -> None:
    """A configuration that is tried beside it takes the shadow over once it serves, and not before: it may never come to serve."""
    files = [tmp_path / "old.jsonl", tmp_path / "new.jsonl"]
    logs, router, options = [EventWriter(FileSink(file)) for file in files], a_router(), ShadowOptions(backend="large", share=1.0)
    old = Online(logs[:1], shadow=lambda tell: Shadow(options, router.parts, tell, after_s=0.0))
    shadow = old.shadow
    assert shadow is not None
    new = Online(logs[1:], shadow=lambda _: shadow)
    for calls in (1, 2):
        outcome = await beside(router, old).answer(an_ask())
        await soon(lambda calls=calls: shadow.counts["called"] == calls)  # type: ignore[misc]
        new.adopt(router.parts)
    await new.aclose()
    await old.aclose(keep=[shadow])
    kinds = [[event.kind for event in read_events(str(file))] for file in files]
    assert kinds == [["decision", "shadow", "decision"], ["shadow"]]
    assert [event.id for event in read_events(str(files[1]))] == [outcome.id]


async def test_answers_that_are_worse_than_the_shadows_give_alarm(tmp_path: Path) -> None:
    """What the verifier says of both is the evidence."""
    router = a_router(scripted("small", WRONG, price=SMALL), policy=a_policy(1e-9))
    options = ShadowOptions(backend="large", share=1.0)
    watch = Watch(DriftOptions())
    async with logged(tmp_path, watch=watch, shadow=lambda tell: Shadow(options, router.parts, tell, after_s=0.0, dice=lambda: 0.0)) as (
        online,
        events,
    ):
        beside(router, online)
        for number in range(40):
            await router.answer(an_ask())
            await soon(lambda number=number: online.shadow.counts["called"] > number)  # type: ignore[misc, union-attr]
        assert "worse than the shadow's" in watch.alarms["quality"]
    assert {event.kind for event in events()} == {"decision", "shadow", "alarm"}
    assert sum(isinstance(event, ShadowEvent) for event in events()) == 40


# --- as configured ------------------------------------------------------------------------------------------------------


def configured(**more: Any) -> Router:
    """A router assembled from a configuration."""
    policy = {"objective": {"value_of_correct_usd": 0.01}, "plans": [{"single": {"backend": "small"}}]}
    backends = {name: {"kind": "scripted", "answers": [name]} for name in ("small", "large")}
    return assemble(Config.model_validate({"backends": backends, "policies": {"balanced": policy}, **more}))


async def test_the_log_goes_where_the_configuration_says(tmp_path: Path, redis_url: str) -> None:
    """To a file that is rotated and thinned out, and to a stream of that name and length; prompts only if asked for."""
    path = tmp_path / "log.jsonl"
    file = {"path": str(path), "max_mb": 1e-6, "keep": 2, "prompts": True}
    router = configured(log={**file, "redis": redis_url, "stream": "mine", "max_events": 10})
    router.online.writers[0].counts.clear()
    for number in range(5):
        await router.answer(an_ask(f"question {number}"))
        until(lambda number=number: router.online.writers[0].counts["written"] == number + 1)  # type: ignore[misc]
    await router.aclose()
    assert len(os.listdir(tmp_path)) == 3
    kept = [event for event in read_events(str(path)) if isinstance(event, DecisionEvent)]
    assert ["question 4" in (event.prompt or "") for event in kept] == [False, False, True]
    assert len(list(read_events(f"{redis_url}?stream=mine"))) == 5
    assert [type(state) for state in (await router.ready()).values()] == [str] * 4
    quiet = configured(log={"path": str(tmp_path / "quiet.jsonl")})
    await quiet.answer(an_ask("a secret"))
    await quiet.aclose()
    assert "secret" not in (tmp_path / "quiet.jsonl").read_text()


async def test_feedback_drift_and_shadow_are_built_as_configured(tmp_path: Path, redis_url: str) -> None:
    """What one process learned, the next one starts with, from a file or from Redis; a shadow is asked; a test watches."""
    for state in (str(tmp_path / "state.json"), redis_url):
        for number in range(2):
            feedback = {"state": state, "correct": True, "refresh_s": 0.01, "prior_sd": 2.0}
            router = configured(feedback=feedback, drift={"then": "large"}, shadow={"backend": "large", "share": 1.0})
            await router.load()
            assert bool(router.online.corrections(an_ask())) == bool(number)
            outcome = await router.answer(an_ask())
            assert router.online.shadow is not None
            assert router.online.shadow.waiting == 1
            await router.feedback(Given(outcome.id, 0.0))
            await soon(lambda router=router: bool(router.online.corrections(an_ask())))  # type: ignore[misc]
            await router.aclose()
    assert router.online.watch.options == DriftOptions(then="large")


def test_how_fast_labels_fade_and_how_far_one_moves_is_configured() -> None:
    """`half_life_days` and `prior_sd`."""
    assert Lessons(FeedbackOptions(half_life_days=10, prior_sd=0.1)).fading == Fading(10, 0.1, 2.0)


async def test_a_decision_can_be_looked_up_while_it_is_one_of_the_last() -> None:
    """`server.decisions` says how many those are."""
    for decisions, first_is_there in ((1, False), (2, True)):
        router, asks = configured(server={"decisions": decisions}), [an_ask("one"), an_ask("two")]
        for ask in asks:
            await router.answer(ask)
        assert [await router.decision(ask.id) is not None for ask in asks] == [first_is_there, True]
        await router.aclose()
