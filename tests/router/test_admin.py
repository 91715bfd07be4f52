"""Another configuration for a running gateway: from its file, over HTTP, and back; nothing is lost, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml
from pydantic import BaseModel

from adapters.ledger import MemoryLedger
from adapters.options import BY_FILE
from adapters.types import Call, ChatRequest
from difficulty.versions import promote, rollback
from router import logs
from router.admin import Admin
from router.app import create_app
from router.assembly import parts
from router.certificate import Certificate, Setting, worth_of
from router.config import Config, load
from router.door import Door
from router.engine import engine
from router.keys import KeyRing, new_key
from router.keys_file import added
from router.live import FIXED, Live
from router.masks import MASK, masked, unmasked
from router.serve import _reloading
from router.teller import Teller
from tests.difficulty.test_versions import a_version
from tests.router.doubles import exploding, outcome
from tests.router.test_pipeline import an_ask

SECRET = "sk-upstream-secret"


def written(path: Path, answer: str = "one", **more: Any) -> Path:
    """A configuration whose only backend says `answer`, with another that has a secret."""
    raw = {
        "backends": {
            "small": {"kind": "scripted", "answers": [answer]},
            "paid": {"model": "openai/gpt-4o", "base_url": "http://127.0.0.1:9/v1", "api_key": SECRET},
        },
        "policies": {"balanced": {"objective": {"value_of_correct_usd": 0.01}, "plans": [{"single": {"backend": "small"}}]}},
        **more,
    }
    path.write_text(yaml.safe_dump(raw))
    return path


@dataclass
class Gateway:
    """A running gateway with an admin key."""

    live: Live
    admin: Admin
    http: httpx.AsyncClient
    path: Path
    door: Door

    async def says(self) -> str:
        """Its answer to a question."""
        return (await self.live.answer(an_ask())).candidates[0].text


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    path, keys = written(tmp_path / "outlay.yaml"), tmp_path / "keys.yaml"
    secret, key = new_key("root", admin=True)
    added(keys, key)
    config = load(path)
    live = Live(config)
    door = Door(KeyRing(keys, config.policies, config.backends), Teller(MemoryLedger(), 0))
    admin = Admin(live, path, door)
    transport = httpx.ASGITransport(create_app(live, config.server, door, admin))
    async with httpx.AsyncClient(transport=transport, base_url="http://outlay", headers={"authorization": f"Bearer {secret}"}) as http:
        yield Gateway(live, admin, http, path, door)
    await live.aclose()


async def test_a_configuration_put_is_used_at_once_and_can_be_rolled_back(gateway: Gateway) -> None:
    """With the ETag that it was read under; the file is left alone."""
    before = await gateway.http.get("/admin/config")
    raw = yaml.safe_load(gateway.path.read_text())
    raw["backends"]["small"]["answers"] = ["two"]
    put = await gateway.http.put("/admin/config", content=yaml.safe_dump(raw), headers={"if-match": before.headers["etag"]})
    assert (put.status_code, await gateway.says()) == (200, "two")
    assert put.headers["etag"] != before.headers["etag"]
    assert "two" not in gateway.path.read_text()
    back = await gateway.http.post("/admin/config/rollback")
    assert (back.headers["etag"], await gateway.says()) == (before.headers["etag"], "one")
    assert (await gateway.http.post("/admin/config/rollback")).status_code == 422


async def test_what_cannot_be_used_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    """No YAML or too much, a name that leads nowhere, an unknown key, a secret of no file: 422, with the place; another's ETag: 412."""
    good = yaml.safe_load(gateway.path.read_text())
    lost = {**good, "default": "nowhere"}
    unset = {**good, "backends": {**good["backends"], "paid": {**good["backends"]["paid"], "api_key": "os.environ/OUTLAY_UNSET"}}}
    wrong = {
        "a: [": "not valid YAML",
        exploding(): "more than 100,000 keys",
        yaml.safe_dump(lost): "no policy 'nowhere'",
        "polices: {}": "no such key",
    }
    for body, said in (wrong | {yaml.safe_dump(unset): "base_url with api_key"}).items():
        found = await gateway.http.put("/admin/config", content=body)
        assert (found.status_code, said in found.text) == (422, True), found.text
    stale = await gateway.http.put("/admin/config", content=yaml.safe_dump(good), headers={"if-match": '"another"'})
    assert stale.status_code == 412
    assert await gateway.says() == "one"


async def test_secrets_are_masked_and_a_mask_sent_back_is_the_secret(gateway: Gateway) -> None:
    """What was read can be changed and sent; a mask where there was no secret is refused."""
    shown = await gateway.http.get("/admin/config")
    assert SECRET not in shown.text
    config = shown.json()["config"]
    assert config["backends"]["paid"]["api_key"] == MASK
    config["backends"]["small"]["answers"] = ["three"]
    put = await gateway.http.put("/admin/config", json=config)
    assert (put.status_code, await gateway.says()) == (200, "three"), put.text
    options: Any = gateway.live.config.backends["paid"]
    assert options.api_key.get_secret_value() == SECRET
    config["backends"]["fresh"] = {**config["backends"]["paid"]}
    assert (await gateway.http.put("/admin/config", json=config)).status_code == 422


def test_what_litellm_is_told_in_secret_is_masked() -> None:
    """By its name, and in headers; the rest is shown, and what was read can be sent back."""
    told = {"aws_secret_access_key": SECRET, "extra_headers": {"x-team": SECRET}, "region": "here", "max_tokens": 5}
    raw = {"backends": {"paid": {"model": "bedrock/x", "api_base": f"http://user:{SECRET}@host", "litellm_params": told}}}
    shown = masked(raw)
    assert SECRET not in str(shown)
    assert shown["backends"]["paid"]["litellm_params"] == {**told, "aws_secret_access_key": MASK, "extra_headers": {"x-team": MASK}}
    assert unmasked(shown, raw) == raw


async def test_a_file_that_changed_is_taken_and_a_wrong_one_is_not(gateway: Gateway) -> None:
    """By SIGHUP, and by looking; policy tests beside the file count too."""
    async with _reloading(gateway.admin, 0.01):
        written(gateway.path, "from the file")
        await _until(gateway, "from the file")
        gateway.path.write_text("backends: {")
        await asyncio.sleep(0.1)
        assert await gateway.says() == "from the file"
    failing = {"name": "f", "policy": "balanced", "p_correct": {"small": 0.5}, "expect": {"backend": "paid"}}
    tests = gateway.path.with_name("outlay_test.yaml")
    tests.write_text(yaml.safe_dump({"tests": [failing]}))
    written(gateway.path, "by a signal")
    async with _reloading(gateway.admin, 0):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.2)
        assert await gateway.says() == "from the file"
        tests.unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        await _until(gateway, "by a signal")


async def test_what_a_refused_file_waits_for_is_watched_too(gateway: Gateway) -> None:
    """A file refused for its policy test is taken once the test is mended; one refused for want of its certificate, once that is there."""
    tests = gateway.path.with_name("outlay_test.yaml")
    case = {"name": "f", "policy": "balanced", "p_correct": {"small": 0.5}, "expect": {"backend": "paid"}}
    async with _reloading(gateway.admin, 0.01):
        tests.write_text(yaml.safe_dump({"tests": [case]}))
        written(gateway.path, "with its tests")
        await asyncio.sleep(0.2)
        assert await gateway.says() == "one"
        tests.write_text(yaml.safe_dump({"tests": [{**case, "expect": {"backend": "small"}}]}))
        await _until(gateway, "with its tests")

        raw = yaml.safe_load(written(gateway.path, "with its proof").read_text())
        proof = gateway.path.with_name("proof.json")
        raw["policies"]["balanced"]["certificate"] = str(proof)
        gateway.path.write_text(yaml.safe_dump(raw))
        await asyncio.sleep(0.2)
        assert await gateway.says() == "with its tests"
        _certificate(load(gateway.path)).save(proof)
        await _until(gateway, "with its proof")


def _certificate(config: Config) -> Certificate:
    """One that accepts the policy as it is."""
    policy = config.policies["balanced"]
    tested = Setting(multiplier=1, p_value=0.01, drop=0, cost_usd=0)
    promise: dict[str, Any] = {
        "epsilon": 0.1,
        "delta": 0.1,
        "against": "paid",
        "mean_cost_usd": None,
        "prompts": 1,
        "groups": 1,
        "data": "",
    }
    engine_now = engine(policy, config, parts(config))
    return Certificate(policy="balanced", engine=engine_now, objective=worth_of(policy), settings=(tested,), last=0, **promise)


async def test_a_promoted_version_is_taken_by_a_running_gateway(gateway: Gateway) -> None:
    """As soon as `current.json` points to it, and so is the one that is rolled back to; nobody touches the configuration."""
    folder = gateway.path.parent / "learned"
    a_version(folder, 1)
    second = a_version(folder, 2)
    written(gateway.path, curves=str(folder / "curves.json"))

    async def learned(source: str) -> None:
        async with asyncio.timeout(10):
            while gateway.live.router.parts.market.curves.source != source:  # noqa: ASYNC110 - what is waited for is what decides
                await asyncio.sleep(0.01)

    async with _reloading(gateway.admin, 0.01):
        await learned("1")
        promote(folder, second)
        await learned("2")
        rollback(folder)
        await learned("1")


async def _until(gateway: Gateway, answer: str) -> None:
    async with asyncio.timeout(10):
        while await gateway.says() != answer:  # noqa: ASYNC110 - what is waited for is what a client sees
            await asyncio.sleep(0.01)


async def test_what_did_not_change_stays_and_what_is_gone_is_closed_after_its_last_request(gateway: Gateway) -> None:
    """A request under way ends on the parts that it began with, though they are no longer configured."""
    raw = yaml.safe_load(gateway.path.read_text())
    small, paid = (gateway.live.router.parts.backends[name] for name in ("small", "paid"))
    begun, go_on, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    complete = small.complete

    async def slow(request: ChatRequest, call: Call) -> None:
        begun.set()
        await go_on.wait()
        assert not closed.is_set()
        await complete(request, call)

    async def close() -> None:
        closed.set()

    small.complete, small.aclose = slow, close  # type: ignore[method-assign]
    asked = asyncio.create_task(gateway.says())
    await begun.wait()
    raw["backends"]["small"]["answers"] = ["new"]
    await gateway.admin.put(yaml.safe_dump(raw), None)
    assert await gateway.says() == "new"
    assert gateway.live.router.parts.backends["paid"] is paid
    assert not closed.is_set()
    go_on.set()
    assert await asked == "one"
    await asyncio.wait_for(closed.wait(), 5)


async def test_reloads_under_load_lose_no_request(gateway: Gateway) -> None:
    """Two hundred requests while the configuration changes twenty times; metrics and decisions go on."""
    raw = yaml.safe_load(gateway.path.read_text())

    async def change() -> None:
        for i in range(20):
            raw["backends"]["small"]["answers"] = [f"answer {i}"]
            await gateway.admin.put(yaml.safe_dump(raw), None)

    async def ask() -> str:
        await asyncio.sleep(0)
        outcome = await gateway.live.answer(an_ask())
        assert await gateway.live.decision(outcome.id) is not None
        return outcome.candidates[0].text

    changing = asyncio.create_task(change())
    answers = [text for _ in range(20) for text in await asyncio.gather(*(ask() for _ in range(10)))]
    await changing
    assert len(answers) == 200
    assert await gateway.says() == "answer 19"
    assert "outlay_requests_total" in gateway.live.measured().decode()
    assert len(gateway.live._under_way) == 1


EVIL = "http://127.0.0.1:9/elsewhere"
PAID = {"model": "openai/gpt-4o", "base_url": "http://127.0.0.1:9/v1", "api_key": SECRET}
BEYOND: list[tuple[str, dict[str, Any], str]] = [
    ("code", {"verifiers": {"v": {"kind": "python", "entry": "timeit:timeit"}}}, "verifiers.v: entry"),
    ("model in the process", {"backends": {"new": {"kind": "local", "model": "fleet/small"}}}, "backends.new: model"),
    ("reward model", {"verifiers": {"v": {"kind": "reward_model", "model": "hub/any"}}}, "verifiers.v: model"),
    ("address for a known key", {"backends": {"paid": {**PAID, "base_url": EVIL}}}, "backends.paid: base_url with api_key"),
    ("another key's name", {"backends": {"paid": {**PAID, "api_key": "os.environ/PATH"}}}, "backends.paid: base_url with api_key"),
    ("secret in a header", {"backends": {"paid": {**PAID, "headers": {"x": "os.environ/PATH"}}}}, "backends.paid: base_url with"),
    ("deployment", {"backends": {"p": {"deployments": {"a": {"model": "m", "base_url": EVIL}}}}}, "backends.p.deployments.a: base_url"),
    ("provider", {"backends": {"new": {"model": "anthropic/x"}}}, "backends.new: model"),
    ("file to write", {"log": {"path": "/etc/cron.d/x", "prompts": True}}, "log: path"),
    ("file to read", {"curves": "/etc/passwd"}, "the configuration: curves"),
    ("state in a file", {"feedback": {"state": "/tmp/x.json"}}, "feedback: state"),
    ("Redis", {"cache": {"url": "redis://127.0.0.1:1/0"}}, "cache: url"),
    ("probe", {"probe": {"encoder": "hub/any", "artifact": "fleet/probe"}}, "probe: encoder with artifact"),
    ("encoder", {"cache": {"semantic": {"encoder": "hub/any"}}}, "cache.semantic: encoder"),
]


def merged(raw: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The sections of `more` in those of `raw`."""
    return raw | {name: raw.get(name, {}) | part if isinstance(part, dict) else part for name, part in more.items()}


@pytest.mark.parametrize(("more", "said"), [case[1:] for case in BEYOND], ids=[case[0] for case in BEYOND])
async def test_an_admin_key_brings_in_nothing_that_the_file_does_not_name(gateway: Gateway, more: dict[str, Any], said: str) -> None:
    """Neither code nor models nor files, nor another place for requests and secrets: 422 with the place, no secret, and nothing changed."""
    etag = gateway.admin.etag
    raw = merged(yaml.safe_load(gateway.path.read_text()), more)
    put = await gateway.http.put("/admin/config", content=yaml.safe_dump(raw))
    assert (put.status_code, f"body: {said}" in put.text, "from there alone" in put.text) == (422, True, True), put.text
    assert SECRET not in put.text
    assert gateway.admin.etag == etag


async def test_an_admin_key_changes_all_the_rest(gateway: Gateway) -> None:
    """Policies, limits, prices, timeouts, models of a known address, caches in memory; and what the file names may stand elsewhere too."""
    raw = yaml.safe_load(gateway.path.read_text())
    raw["backends"]["paid"] |= {"model": "openai/gpt-5", "timeout_s": 7, "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}}
    raw["backends"]["second"] = {**raw["backends"]["paid"], "max_tokens": 9}
    raw["backends"]["script"] = {"kind": "scripted"}
    raw["verifiers"] = {"v": {"kind": "regex", "pattern": "x"}, "j": {"kind": "judge", "backend": "second"}}
    raw["policies"]["new"] = {"rules": [{"otherwise": {"single": {"backend": "script", "verifier": "v"}}}], "limits": {"cost_usd": 1}}
    raw |= {"cache": {"ttl_s": 5}, "default": "new", "splits": {"main": {"new": 0.5, "balanced": 0.5}}}
    put = await gateway.http.put("/admin/config", content=yaml.safe_dump(raw))
    assert put.status_code == 200, put.text


async def test_what_the_file_names_by_now_is_known(gateway: Gateway) -> None:
    """A verifier's code that was refused over HTTP is taken once the file that was read last has it, under any name."""
    raw = yaml.safe_load(gateway.path.read_text())
    put = yaml.safe_dump(merged(raw, {"verifiers": {"v": {"kind": "python", "entry": "math:floor"}}}))
    assert (await gateway.http.put("/admin/config", content=put)).status_code == 422
    written(gateway.path, verifiers={"floor": {"kind": "python", "entry": "math:floor"}})
    await gateway.admin.reload()
    assert (await gateway.http.put("/admin/config", content=put)).status_code == 200


@pytest.mark.parametrize(("may", "small", "large"), [("read", 403, 403), ("change", 200, 422), ("extend", 200, 200)])
async def test_the_file_says_what_an_admin_key_may_do(gateway: Gateway, may: str, small: int, large: int) -> None:
    """Nothing, what brings in nothing, all; a configuration sent over HTTP cannot loosen that."""
    written(gateway.path, server={"admin_may": may})
    admin = Admin(Live(load(gateway.path)), gateway.path)
    app = create_app(admin._live, load(gateway.path).server, gateway.door, admin)
    raw = yaml.safe_load(gateway.path.read_text()) | {"server": {"admin_may": "extend"}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://outlay", headers=gateway.http.headers) as http:
        assert (await http.get("/admin/config")).status_code == 200
        for more, status in (({"default": "balanced"}, small), ({"verifiers": {"v": {"kind": "python", "entry": "math:floor"}}}, large)):
            assert (await http.put("/admin/config", content=yaml.safe_dump(raw | more))).status_code == status
        if may == "read":
            assert (await http.post("/admin/config/rollback")).status_code == 403
    await admin._live.aclose()


LEADS_OUT = re.compile(r"entry|path|url|model|encoder|artifact|api_|headers|redis|state|curves|params|revision|fields")
LEADS_NOWHERE = {
    "OpenAIOptions.model": "the known address is asked for it",
    "OpenAIOptions.max_tokens_field": "one of two words",
    "ScriptedOptions.model": "a name only",
    "LiteLLMOptions.drop_params": "yes or no",
    "ReplayOptions.model_key": "a key of the recording",
}


def test_every_option_that_leads_out_is_marked() -> None:
    """Whoever adds one is asked here."""
    found = dict(_options(Config))
    named = {name for name in found if LEADS_OUT.search(name.partition(".")[2]) and name not in LEADS_NOWHERE}
    assert {name for name in named if not found[name]} == set()
    assert LEADS_NOWHERE.keys() <= found.keys()


def _options(model: type[BaseModel], seen: frozenset[type] = frozenset()) -> Iterator[tuple[str, bool]]:
    """Every option that has an effect before a restart, and whether it is marked."""
    for name, field in model.model_fields.items():
        if model is Config and name in FIXED:
            continue
        yield f"{model.__name__}.{name}", BY_FILE in field.metadata
        for inner in _models(field.annotation):
            if inner not in seen:
                yield from _options(inner, seen | {inner})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


async def test_what_needs_a_restart_is_named(gateway: Gateway) -> None:
    """The port is taken when the process starts."""
    raw = yaml.safe_load(gateway.path.read_text()) | {"server": {"port": 9999}}
    put = await gateway.http.put("/admin/config", content=yaml.safe_dump(raw))
    assert put.json()["restart_needed_for"] == ["server"]


def test_a_line_of_the_log_is_json_with_the_decisions_id(caplog: pytest.LogCaptureFixture) -> None:
    """With what was bought, in fields of their own."""
    ask = an_ask()
    with caplog.at_level("INFO", "outlay"):
        logs.answered(ask, outcome(ask), with_prompt=False)
    line = json.loads(logs.Json().format(caplog.records[-1]))
    assert (line["decision_id"], line["plan"], line["cost_usd"]) == (ask.id, "single(small)", 0.000042)
    assert "prompt" not in line
