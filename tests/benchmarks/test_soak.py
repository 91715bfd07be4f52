"""The soak in short: the real service under mixed load, with everything that goes wrong, and every law; and a crash that holds money."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import string
from pathlib import Path

import aiohttp
import pytest

from benchmarks.harness import ROOT
from benchmarks.soak.__main__ import PAGE, judged, play, told
from benchmarks.soak.answers import Wrong, read
from benchmarks.soak.clients import Clients
from benchmarks.soak.money import Group, ledger_is_log, providers_are_log
from benchmarks.soak.stage import Keys, Stage, used_usd

ONE_CALL_USD = 13e-6 + 60 * 2e-6
"""At worst, of the requests that are all alike."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("gateways", [1, 2])
async def test_every_law_holds_under_load_with_all_that_goes_wrong(tmp_path: Path, gateways: int) -> None:
    """Some seconds of what `python -m benchmarks.soak` does for minutes: Redis dies twice and hangs, providers misbehave, clients leave,
    200 ask at once on a nearly spent key, and SIGTERM comes under load; of one gateway, and of two that share keys and Redis."""
    keys = Keys.made(poor_usd=3 * ONE_CALL_USD, last_usd=20 * ONE_CALL_USD)
    stage = Stage(tmp_path, keys, seed=1, whole=False, many=gateways)
    played = await play(stage, 0.1, 12, rest_s=1)
    laws, _ = judged(played)
    assert all(law.holds for law in laws), told(laws)
    assert {seen.ending for seen in played.seen} == {"answered", "refused", "left"}
    assert {bill["happened"] for bill in played.bills} >= {"well", "error", "slow"}
    played.bills[0]["tokens_in"] += 1000  # and a law can be broken
    played.events.pop()
    assert not all(law.holds for law in (ledger_is_log(played), *providers_are_log(played)[:2]))


@pytest.mark.timeout(240)
async def test_what_a_killed_gateway_held_is_free_again_after_its_lease(tmp_path: Path) -> None:
    """Killed between reserving and settling, with all of the key's money held: the next process pays with it once the lease is over."""
    stage = Stage(tmp_path, Keys.made(1, last_usd=1.5 * ONE_CALL_USD), whole=False, lease_s=2)
    async with stage, aiohttp.ClientSession() as http:
        assert stage.provider is not None
        clients = Clients(stage, http, random.Random(0))
        await stage.calm(http)
        stage.provider.send_signal(signal.SIGSTOP)
        dying = asyncio.create_task(clients.ask("last", "last", {**clients.said(), "model": "small", "max_tokens": 60}))
        while not (await stage.receipts())["last"].held.nano_usd:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await stage.gateways[0].crash()
        assert (await dying).ending == "wrong"
        stage.provider.send_signal(signal.SIGCONT)
        await stage.gateways[0].open()
        after = await clients.ask("last", "last", {**clients.said(), "model": "small", "max_tokens": 60})
        assert (after.ending, after.code) == ("answered", "")
        receipt = (await stage.receipts())["last"]
        assert 0 < used_usd(receipt) <= ONE_CALL_USD
        assert not any(receipt.held)


@pytest.mark.parametrize("name", ["soak", "soak_2"])
def test_the_page_is_as_its_generator_writes_it(name: str) -> None:
    """All prose is the generator's, so that nothing written by hand is lost when the page is made anew."""
    line, lines = r"[^\n]*", r"[|-][^\n]*(?:\n[|-][^\n]*)*"
    kinds = dict.fromkeys(("laws", "kinds", "chaos", "apart"), lines)
    wanted = "".join(
        re.escape(text) + (kinds.get(name, line) if name else "") for text, name, *_ in string.Formatter().parse(PAGE.rstrip())
    )
    assert re.fullmatch(wanted, (ROOT / f"docs/benchmarks/{name}.md").read_text().rstrip())


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/event-stream", b'data: {"choices": []}\n\n'),
        (200, "text/event-stream", b"data: [DONE]\n"),
        (200, "application/json", b'{"object": "chat.completion", "usage": {"total_tokens": 1}, "choices": [], "outlay": {}}'),
        (500, "application/json", b'{"detail": "sorry"}'),
        (503, "text/html", b"<html>"),
    ],
)
def test_what_is_neither_an_answer_nor_a_refusal_is_seen(status: int, kind: str, body: bytes) -> None:
    """A stream without its end, an answer without a choice, an error in a shape of its own."""
    with pytest.raises(Wrong):
        read("chat", status, kind, body)


def test_only_calls_that_were_cut_off_may_differ() -> None:
    """A bill that both sides know has no bound but zero; one that was cut off may be as long as it might have become."""
    bill = {"model": "east", "happened": "well", "tokens_in": 10, "tokens_out": 5, "longest": 60, "accepted": True, "confirmed": True}
    assert Group(20e-6, [], [bill]).bound_usd == 0
    assert Group(20e-6, [], [bill]).apart_usd == pytest.approx(0)
    assert Group(10e-6, [("cancelled", 10e-6)], [{**bill, "confirmed": False}]).bound_usd == pytest.approx(10e-6 + 120e-6)
