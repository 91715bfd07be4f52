"""Another configuration for a running gateway: from its file, over HTTP, and back; nothing is lost, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from adapters.ledger import MemoryLedger
from adapters.types import Call, ChatRequest
from router import logs
from router.admin import Admin
from router.app import create_app
from router.config import load
from router.door import Door
from router.keys import KeyRing, new_key
from router.keys_file import added
from router.live import Live
from router.masks import MASK
from router.serve import _reloading
from router.teller import Teller
from tests.router.doubles import outcome
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
        yield Gateway(live, admin, http, path)
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
    """Not YAML, a name that leads nowhere, an unknown key, a secret that is not there: 422, with the place; another's ETag: 412."""
    good = yaml.safe_load(gateway.path.read_text())
    lost = {**good, "default": "nowhere"}
    unset = {**good, "backends": {**good["backends"], "paid": {**good["backends"]["paid"], "api_key": "os.environ/OUTLAY_UNSET"}}}
    wrong = {"a: [": "not valid YAML", yaml.safe_dump(lost): "no policy 'nowhere'", "polices: {}": "no such key"}
    for body, said in (wrong | {yaml.safe_dump(unset): "OUTLAY_UNSET"}).items():
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
