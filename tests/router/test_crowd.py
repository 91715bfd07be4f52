"""A crowd on one key before two gateways, as an operator starts them: processes of their own, one Redis, all timeouts at their defaults."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from adapters.accounts import METERS, NANO, Entry
from adapters.ledger import RedisLedger
from router.keys import Key, KeyFile, new_key

ROOT = Path(__file__).parents[2]
CROWD = 200
CALL_USD, WORST_USD, BUDGET_USD = 100e-6, 400e-6, 3000e-6
"""What an answer of five words costs, what the twenty cost that a request allows for, and what the key has."""
BODY = {"model": "large", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def key(tmp_path: Path, redis_url: str) -> tuple[str, Key]:
    """A key that is nearly spent, beside the configuration of a gateway that keeps its books in Redis."""
    secret, key = new_key("crowd", budget_usd={"month": BUDGET_USD})
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(KeyFile(keys=(key,)).model_dump(mode="json", exclude_defaults=True)))
    large = {"kind": "scripted", "answers": ["one two three four five"], "price": {"output_usd_per_mtok": 20}, "token_delay_s": 0.01}
    config = {
        "server": {"port": 0},
        "keys": {"path": str(tmp_path / "keys.yaml"), "ledger": redis_url, "wait_s": 60},
        "backends": {"large": large},
        "policies": {"p": {"rules": [{"otherwise": {"single": {"backend": "large"}}}]}},
    }
    (tmp_path / "outlay.yaml").write_text(yaml.safe_dump(config))
    return secret, key


@asynccontextmanager
async def gateway(config: Path, log: Path) -> AsyncIterator[str]:
    """The address of an `outlay serve`; all that it says goes to the file."""
    command = (sys.executable, "-c", "from router.cli import main; main()", "serve", "--config", str(config))
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=out, stderr=out)
    try:
        while not (found := re.search(r"listens on (http://\S+)/v1", said(log))):
            assert process.returncode is None, said(log)
            await asyncio.sleep(0.05)
        yield found[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def said(log: Path) -> str:
    """All of it."""
    return log.read_text()


async def test_a_crowd_before_two_gateways_spends_what_there_is(tmp_path: Path, key: tuple[str, Key], redis_url: str) -> None:
    """Two hundred at once, half of them at each process that has just started: Redis is not taken for gone, so nothing is overspent; and
    nobody is refused while there is the price of a call."""
    config, logs = tmp_path / "outlay.yaml", [tmp_path / "one.log", tmp_path / "two.log"]
    bearer, limits = {"authorization": f"Bearer {key[0]}"}, httpx.Limits(max_connections=CROWD)
    async with (
        gateway(config, logs[0]) as one,
        gateway(config, logs[1]) as two,
        httpx.AsyncClient(timeout=120, headers=bearer, limits=limits) as http,
    ):
        asked = (http.post(f"{(one, two)[i % 2]}/v1/chat/completions", json=BODY) for i in range(CROWD))
        answers = await asyncio.gather(*asked)
    served = [answer.json()["outlay"] for answer in answers if answer.status_code == 200]
    refused = [answer.json()["error"]["code"] for answer in answers if answer.status_code != 200]
    assert [line for log in logs for line in said(log).splitlines() if "does not answer" in line] == []
    assert not any(block["degraded"] for block in served)
    assert set(refused) == {"insufficient_quota"}
    ledger = RedisLedger(redis_url)
    state = await ledger.write(key[1].account, Entry("look"))
    await ledger.aclose()
    spent_usd = state.used[METERS.index(("usd", "month"))] / NANO
    assert spent_usd == pytest.approx(len(served) * CALL_USD)
    assert BUDGET_USD - WORST_USD < spent_usd <= BUDGET_USD
    assert state.held == (0, 0, 0)
