"""The soak, played: `python -m benchmarks.soak [--gateways 2] [--minutes 10] [--concurrency 50]`. Exit code 1 if any law is broken."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
from tqdm import tqdm

from benchmarks import harness
from benchmarks.soak import laws, money
from benchmarks.soak.clients import PATHS, Clients
from benchmarks.soak.laws import Law, Played, State
from benchmarks.soak.stage import Keys, Stage, held, resident_mb
from router.events import DecisionEvent, read_events

BURST = 200
"""Requests at once on a key that is nearly spent."""
POOR_USD_A_MINUTE = 0.002
"""What the poor key has for each minute of load; should it not be spent by the end, up to so many requests more spend it."""
MOST_POOR = 1000
LAST_USD = 0.006


async def play(stage: Stage, minutes: float, concurrency: int, *, rest_s: float = 20, say: Callable[[], object] = lambda: None) -> Played:
    """Load, with all that goes wrong; a rest; a burst on a nearly spent key; and SIGTERM under load."""
    samples, chaos = list[State](), list[str]()
    async with stage, _session() as http:
        clients = Clients(stage, http, random.Random(stage.seed), on_end=say)
        await stage.calm(http)
        for clients.among in [[gateway] for gateway in stage.gateways]:
            for api in PATHS if stage.whole else ("chat",):
                await clients.ask("warm", "green", _first(api, clients), api=api)
        clients.among = stage.gateways
        before = await _at_rest(stage, http, rest_s)
        await stage.calm(http, on=False)
        async with _session() as clients.http:
            await _load(stage, clients, 60 * minutes, concurrency, samples, chaos)
            await stage.calm(http)
            for _ in range(MOST_POOR):
                if (await clients.poor()).code == "insufficient_quota":
                    break
        after = await _at_rest(stage, http, rest_s)
        metrics, at_rest = await _metrics(stage, http), _events(stage)
        async with _session() as clients.http:
            await asyncio.gather(*(clients.ask("last", "last", _last(clients)) for _ in range(BURST)))
            await stage.calm(http, on=False)
            exit_code = await _drained(stage, clients, concurrency)
        logged = "".join(gateway.log.read_text() for gateway in stage.gateways)
        return Played(
            clients.seen, _events(stage), await stage.bills(http), await stage.receipts(), stage.keys, metrics, at_rest,
            before, after, samples, stage.many, await _tally(stage), exit_code, logged, chaos,
        )  # fmt: skip


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))


def _first(api: str, clients: Clients) -> dict[str, Any]:
    said = clients.said()
    return {"model": "auto", "max_tokens": 40, **(said if api != "responses" else {"input": said["messages"][0]["content"]})}


def _last(clients: Clients) -> dict[str, Any]:
    return {**clients.said(), "model": "small", "max_tokens": 60}


async def _load(stage: Stage, clients: Clients, seconds: float, concurrency: int, samples: list[State], chaos: list[str]) -> None:
    began = time.monotonic()
    async with _session() as http, asyncio.TaskGroup() as beside:
        sampling = beside.create_task(_sample(stage, http, samples, began))
        breaking = beside.create_task(_break(stage, seconds, began, chaos))
        await clients.ask_until(lambda: time.monotonic() >= began + seconds, concurrency)
        await breaking
        sampling.cancel()


async def _break(stage: Stage, seconds: float, began: float, chaos: list[str]) -> None:
    """Redis dies with its memory, then without it, then hangs; the configuration is changed again and again."""

    async def at(share: float) -> None:
        await asyncio.sleep(max(0.0, began + share * seconds - time.monotonic()))

    async def redis() -> None:
        down_s = min(8.0, seconds / 12)
        for share, forget in ((0.25, False), (0.5, stage.many == 1)):
            await at(share)
            stage.redis.kill(forget=forget)
            chaos.append(f"{time.monotonic() - began:.0f} s: Redis is killed{', and its disk wiped' if forget else ''}")
            await asyncio.sleep(down_s)
            await stage.redis.start()
            chaos.append(f"{time.monotonic() - began:.0f} s: Redis is back")
        await at(0.75)
        stage.redis.stop()
        chaos.append(f"{time.monotonic() - began:.0f} s: Redis hangs for {down_s / 2:.0f} s")
        await asyncio.sleep(down_s / 2)
        stage.redis.go_on()

    async def reload() -> None:
        for share in (0.15, 0.35, 0.6, 0.8):
            await at(share)
            stage.configure()
            if share == 0.6:
                for gateway in stage.gateways:
                    os.kill(gateway.pid, signal.SIGHUP)
            chaos.append(f"{time.monotonic() - began:.0f} s: the configuration changes")

    await asyncio.gather(redis(), reload())


async def _sample(stage: Stage, http: aiohttp.ClientSession, samples: list[State], began: float) -> None:
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            samples.append(await _state(stage, http, began))
        await asyncio.sleep(laws.SAMPLE_S)


async def _state(stage: Stage, http: aiohttp.ClientSession, began: float) -> State:
    metrics, pids = await _metrics(stage, http), [gateway.pid for gateway in stage.gateways]
    decided = sum(value for (name, _), value in metrics.items() if name == "outlay_requests_total")
    files = sum((held(pid, stage.redis.port) for pid in pids), Counter[str]())
    return State(time.monotonic() - began, int(metrics["outlay_tasks", ()]), sum(map(resident_mb, pids)), files, int(decided))


async def _at_rest(stage: Stage, http: aiohttp.ClientSession, rest_s: float) -> State:
    """After a pause."""
    await asyncio.sleep(rest_s)
    return await _state(stage, http, time.monotonic())


async def _metrics(stage: Stage, http: aiohttp.ClientSession) -> Counter[tuple[str, tuple[tuple[str, str], ...]]]:
    """Of all gateways, summed."""
    headers = {"authorization": f"Bearer {stage.keys.secrets['admin']}", "connection": "close"}
    found: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    for gateway in stage.gateways:
        async with http.get(gateway.url + "/metrics", headers=headers) as response:
            found.update(laws.metrics_of(await response.text()))
    return found


async def _drained(stage: Stage, clients: Clients, concurrency: int) -> int | None:
    """SIGTERM under load. Who came in before it is answered or told; who comes after finds the door closed, which is no fault."""
    over, count = asyncio.Event(), len(clients.seen)
    asking = asyncio.create_task(clients.ask_until(over.is_set, concurrency))
    await asyncio.sleep(2)
    told = time.monotonic()
    processes = [gateway.process for gateway in stage.gateways if gateway.process]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    over.set()
    await asking
    for seen in clients.seen[count:]:
        if seen.ending == "wrong" and seen.began >= told and "connection" in seen.why.lower():
            seen.ending, seen.why = "refused", ""
    with suppress(subprocess.TimeoutExpired):
        codes = [await asyncio.to_thread(process.wait, 30) for process in processes]
        return next((code for code in codes if code), 0)
    return None


def _events(stage: Stage) -> list[DecisionEvent]:
    rows = chain.from_iterable(read_events(str(gateway.events)) for gateway in stage.gateways)
    return [event for event in rows if isinstance(event, DecisionEvent)]


async def _tally(stage: Stage) -> float:
    """What the budget of the policy `paced` has spent, as Redis has it."""
    import redis.asyncio as aioredis

    async with aioredis.Redis.from_url(stage.redis.url) as client:
        found = await client.get('outlay:tally:["paced", "day"]')
    return float(json.loads(found)["now"][0]) if found else 0.0


# --- the report ---------------------------------------------------------------------------------------------------------


def judged(played: Played) -> tuple[list[Law], list[list[str]]]:
    """Every law, and what is known of calls that were cut off."""
    exact, bounded, apart = money.providers_are_log(played)
    books = [law(played) for law in (money.ledger_is_log, money.metrics_are_log, money.tally_is_log)]
    keys = [law(played) for law in (money.nobody_overspends, money.nobody_is_refused_early)]
    others = [law(played) for law in (laws.tenants_are_apart, laws.nothing_leaks, laws.memory_is_bounded)]
    return [laws.ended(played), laws.own_faults(played), *books, exact, bounded, *keys, *others], apart


def told(found: Sequence[Law]) -> str:
    """For a terminal: each law, and the first things that broke it."""
    lines = []
    for law in found:
        lines.append(f"{'holds ' if law.holds else 'BROKEN'} {law.promise}: {law.figures}")
        lines += [f"         {fault[:600]}" for fault in law.faults[:8]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play it, publish it, and say whether all of it held."""
    parser = harness.parser("soak", __doc__ or "")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--gateways", type=int, default=1, help="several share one Redis, which then always keeps its disk")
    parser.add_argument("--keep", type=Path, help="folder for the gateway's log and the decision log; unset: thrown away")
    parser.add_argument("--dry", action="store_true", help="publish nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch, tqdm(unit=" requests", mininterval=1) as bar:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(folder, Keys.made(POOR_USD_A_MINUTE * options.minutes, LAST_USD), options.seed, many=options.gateways)
        played = asyncio.run(play(stage, options.minutes, options.concurrency, say=bar.update))
    found, apart = judged(played)
    print(told(found), file=sys.stderr)
    if options.keep:
        print("\n".join(" | ".join(row) for row in apart), file=sys.stderr)
    if not options.dry:
        publish(played, found, apart, options.minutes, options.concurrency)
    return 0 if all(law.holds for law in found) else 1


def publish(played: Played, found: Sequence[Law], apart: list[list[str]], minutes: float, concurrency: int) -> None:
    """The page and the figures."""
    kinds = Counter((seen.kind, seen.ending) for seen in played.seen)
    codes = Counter(seen.code for seen in played.seen if seen.ending == "refused")
    happened = Counter(bill["happened"] for bill in played.bills)
    figures = {
        "gateways": played.gateways,
        "minutes": minutes,
        "concurrency": concurrency,
        "requests": len(played.seen),
        "calls": len(played.bills),
        "laws": [{"promise": law.promise, "holds": law.holds, "figures": law.figures} for law in found],
        "kinds": {f"{kind} {ending}": count for (kind, ending), count in sorted(kinds.items())},
        "refusals": dict(codes.most_common()),
        "happened": dict(happened.most_common()),
        "chaos": played.chaos,
    }
    harness.publish(f"soak_{played.gateways}" if played.gateways > 1 else "soak", figures, page(played, found, apart, minutes, concurrency))


def page(played: Played, found: Sequence[Law], apart: list[list[str]], minutes: float, concurrency: int) -> str:
    """docs/benchmarks/soak.md."""
    happened = Counter(bill["happened"] for bill in played.bills)
    kinds, ended = Counter(seen.kind for seen in played.seen), Counter((seen.kind, seen.ending) for seen in played.seen)
    codes = Counter(seen.code for seen in played.seen if seen.ending == "refused")
    rows = [[kind, str(n), *(str(ended[kind, ending]) for ending in ("answered", "refused", "left"))] for kind, n in kinds.most_common()]
    verdicts = [[law.promise, "holds" if law.holds else "**broken**", law.figures] for law in found]
    lines = ["| | | |", "| --- | --- | --- |", *("| " + " | ".join(row) + " |" for row in verdicts)]
    several = played.gateways > 1
    return PAGE.format(
        title=f"A soak of {played.gateways} gateways" if several else "A soak",
        command=harness.command(f"soak --gateways {played.gateways}" if several else "soak"),
        served=SEVERAL_SERVED.format(played.gateways) if several else ONE_SERVED,
        dies="is killed twice, with its memory," if several else "is killed with its memory and without it,",
        not_said=SEVERAL_NOT_SAID if several else ONE_NOT_SAID,
        minutes=f"{minutes:g}",
        concurrency=concurrency,
        verdict="Every law held." if all(law.holds for law in found) else "Not every law held.",
        laws="\n".join(lines),
        kinds=harness.table(["asked", "requests", "answered", "refused", "left"], rows),
        codes=", ".join(f"{code} {count}" for code, count in codes.most_common()),
        calls=len(played.bills),
        happened=", ".join(f"{kind} {count}" for kind, count in happened.most_common()),
        chaos="\n".join(f"- {line}" for line in played.chaos),
        apart=harness.table(["what the provider did; how the call ended here", "questions", "booked $", "billed $", "apart"], apart),
    )


ONE_SERVED = "`outlay serve` as its user starts it, with Redis for cache, ledger, budgets and feedback,"
SEVERAL_SERVED = "`outlay serve` {} times, with one Redis for their cache, ledger, budgets and feedback; each request goes to any of them,"
ONE_NOT_SAID = (
    "One process of the gateway; a wiped Redis knows again what it knows. With several, Redis has to keep its disk ([keys](../keys.md))."
)
SEVERAL_NOT_SAID = (
    "Redis keeps its disk, and without its ledger nothing is bought (`when_down: refuse`), as it has to be where several are to keep to a "
    "budget ([keys](../keys.md)). [One gateway](soak.md) goes on without Redis, and lives through a wiped one."
)

PAGE = """# {title}

{command}

{served}
in front of providers that misbehave by a seeded dice, each in a process of its own; {minutes} minutes at {concurrency} clients at once, who
leave, repeat each other and send nonsense. Redis {dies} and hangs; the configuration changes under load; in the end come 200 requests at
once on a key that is nearly spent, and SIGTERM under load. {verdict}

## What has to hold

{laws}

Every answer of a provider begins with its question's name and has a number of its own, so that an answer that went astray is seen.
Where a call is cut off, nobody tells what it cost: the gateway books the prompt with what it had read of a stream, or with what such
answers come to on the mean; the provider bills what it had made. That is the uncertainty; its bound is the worst case of each such call.
Both count tokens by the same rule, so nothing else is in it. Errors in both directions cancel, so that what is left of many calls is far
less than their worst cases together: chance explains what a sum of so many stays below but once in a million.

What a request adds to the budget over time is on its way to Redis when that falls or hangs, time and again, and nobody knows whether it has
arrived. It is sent again under its number and counts once, so that this count is held to the nano-dollar as well
([decisions](../decisions.md)).

Before the first request a process holds PyTorch, LiteLLM and a reward model. What it keeps of requests is bounded, each part by number
and by bytes ([memory](../operate.md#memory)), and all but one part is full when growth is judged: answers that can still be judged are
remembered up to 100,000, 0.4 KB for each.

## What was asked

{kinds}

Refusals by code: {codes}.

## What went wrong on purpose

{calls} calls reached providers: {happened}.

{chaos}

## Calls that were cut off

Of questions with exactly one such call: what its provider did, what the gateway noted, and both bills.

{apart}

## What it does not say

- {not_said}
- The machine had other work; nothing here is a figure of speed.
- The providers speak OpenAI's protocol on loopback: no TLS, no proxies, no LiteLLM behind the backends.
"""


if __name__ == "__main__":
    sys.exit(main())
